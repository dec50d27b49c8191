"""Stage assign, what training and estimates see of a text: a fixed number of figures.

In: a text. Out: a vector of `FEATURES` figures, logarithms of counts: lexical ones, then hashed words, pairs
of words and runs of three bytes, each of these blocks scaled to one length. Next: `training`, `trained`,
`embedding`.

All by whole-array operations on UTF-8 bytes, so that the time does not depend on what the text says; of a
giant text only its start and its end are looked at. The hash is a polynomial over 64-bit values of bytes: the
same on every machine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

_START, _END = 4096, 2048
"""Characters that are looked at."""
_WORDS, _PAIRS, _RUNS = 512, 256, 192
"""Buckets of hashed words, pairs of words and runs of three bytes."""
_SPACE, _LETTER, _DIGIT, _MARK = 0, 1, 2, 3
_MARKS = b"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
LEXICAL = 16 + len(_MARKS)
FEATURES = LEXICAL + _WORDS + _PAIRS + _RUNS
"""Length of a vector."""
_BLOCKS = (
    (LEXICAL, LEXICAL + _WORDS),
    (LEXICAL + _WORDS, LEXICAL + _WORDS + _PAIRS),
    (LEXICAL + _WORDS + _PAIRS, FEATURES),
)
_SIZE = 10.0
"""Euclidean length of each block of hashed counts: what a text says does not depend on how long it is."""
_MOST_BYTES = 4 * (_START + _END + 1)
_KIND_BITS = _MOST_BYTES.bit_length()
_KIND_KEYS = np.arange(4, dtype=np.int64) << _KIND_BITS


_FIRST_MIX, _SECOND_MIX = (np.array(mix, dtype=np.uint64) for mix in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB))
_SHIFTS = tuple([np.array(shift, dtype=np.uint64) for shift in (30, 27, 31, 33)])
"""Arrays, since a scalar is made one in each call."""


def _mix(values: npt.NDArray[np.uint64]) -> None:
    """Make of 64-bit values, in place, some whose upper bits depend on all bits (Steele et al. 2014)."""
    shifted = values >> _SHIFTS[0]
    np.bitwise_xor(values, shifted, out=values)
    np.multiply(values, _FIRST_MIX, out=values)
    np.right_shift(values, _SHIFTS[1], out=shifted)
    np.bitwise_xor(values, shifted, out=values)
    np.multiply(values, _SECOND_MIX, out=values)


def _classes() -> npt.NDArray[np.uint8]:
    table = np.full(256, _MARK, dtype=np.uint8)
    table[:33] = _SPACE
    table[127] = _SPACE
    table[128:] = _LETTER
    for first, last, kind in ((b"a", b"z", _LETTER), (b"A", b"Z", _LETTER), (b"0", b"9", _DIGIT)):
        table[first[0] : last[0] + 1] = kind
    return table


def _byte_values() -> npt.NDArray[np.uint64]:
    """Return a value for each byte: one for both cases of a letter, one for all digits, one for blanks."""
    same = np.arange(256, dtype=np.uint64)
    same[65:91] += np.uint64(32)
    same[48:58] = 48
    same[:33] = 32
    mixed = (same + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    _mix(mixed)
    return mixed | np.uint64(1)


def _powers(base: int) -> npt.NDArray[np.uint64]:
    powers = np.full(_MOST_BYTES, base, dtype=np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


_CLASS = _classes().tobytes()
_VALUE = _byte_values()
_BASE = 0x5851F42D4C957F2D
_TIMES = np.array(_BASE, dtype=np.uint64)
_TIMES_WORDS, _TIMES_PAIRS, _TIMES_RUNS, _BEFORE_RUNS = (
    np.array(number, dtype=np.uint64) for number in (_WORDS, _PAIRS, _RUNS, _WORDS + _PAIRS)
)
_POWER = _powers(_BASE)
_INVERSE = _powers(pow(_BASE, -1, 1 << 64))
_MARK_BYTES = np.frombuffer(_MARKS, dtype=np.uint8).astype(np.intp)


def features(text: str) -> FloatArray:
    """Return (FEATURES,) figures of `text`, all finite and at least 0; no text at all gives zeros."""
    shown = text if len(text) <= _START + _END else f"{text[:_START]}\n{text[-_END:]}"
    raw = shown.encode("utf-8", "surrogatepass")
    result = np.zeros(FEATURES)
    size = len(raw)
    if not size:
        return result
    # As indices at once: each table below is asked by them.
    data = np.frombuffer(raw, dtype=np.uint8).astype(np.intp)
    kinds = np.frombuffer(raw.translate(_CLASS), dtype=np.uint8)
    values = _VALUE.take(data)
    cuts = np.empty(size + 1, dtype=np.bool_)
    np.not_equal(kinds[1:], kinds[:-1], out=cuts[1:-1])
    cuts[:-1] |= kinds == _MARK
    cuts[0] = cuts[-1] = True
    bounds = cuts.nonzero()[0]
    starts = bounds[:-1]
    kinds = kinds.take(starts)
    powers = values * _POWER[:size]
    hashes = np.add.reduceat(powers, starts)
    hashes *= _INVERSE.take(starts)
    words = hashes.compress(kinds != _SPACE)
    result[LEXICAL:] = _hashed(words, values)
    _lexical(result, len(text), np.bincount(data, minlength=256), kinds, bounds[1:] - starts, size)
    np.log1p(result, out=result)
    for first, last in _BLOCKS:
        block = result[first:last]
        length = math.sqrt(block.dot(block))
        if length > 0.0:
            block *= _SIZE / length
    return result


def feature_matrix(texts: Sequence[str]) -> FloatArray:
    """Return (n, FEATURES): `features` of each text."""
    rows = np.empty((len(texts), FEATURES))
    for row, text in zip(rows, texts, strict=True):
        row[:] = features(text)
    return rows


def _hashed(words: npt.NDArray[np.uint64], values: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """Return counts of hashed words, pairs of words and runs of three of `values`, each in its buckets."""
    pairs = len(words) + max(0, len(words) - 1)
    every = np.empty(pairs + max(0, len(values) - 2), dtype=np.uint64)
    every[: len(words)] = words
    couples = every[len(words) : pairs]
    np.multiply(words[:-1], _TIMES, out=couples)
    couples += words[1:]
    if len(values) > 2:
        runs = every[pairs:]
        np.multiply(values[:-2], _TIMES, out=runs)
        runs += values[1:-1]
        runs *= _TIMES
        runs += values[2:]
    _mix(every)
    every >>= _SHIFTS[3]
    for first, last, buckets in (
        (0, len(words), _TIMES_WORDS),
        (len(words), pairs, _TIMES_PAIRS),
        (pairs, None, _TIMES_RUNS),
    ):
        every[first:last] *= buckets
    every >>= _SHIFTS[2]
    every[len(words) : pairs] += _TIMES_WORDS
    every[pairs:] += _BEFORE_RUNS
    return np.bincount(every.view(np.int64), minlength=FEATURES - LEXICAL)


def _longest(runs: Sequence[int], kinds: npt.NDArray[np.uint8], sizes: npt.NDArray[np.int64]) -> list[int]:
    """Return the size of the longest run of each kind, 0 where there is none; `runs` counts them."""
    keys = _KIND_KEYS.take(kinds)
    keys |= sizes
    keys.sort()  # by kind, then by size: one pass is faster than a search for each kind
    longest, last = [], -1
    for count in runs:
        last += count
        longest.append(int(keys[last]) & ((1 << _KIND_BITS) - 1) if count else 0)
    return longest


def _lexical(
    result: FloatArray,
    length: int,
    by_byte: npt.NDArray[np.int64],
    kinds: npt.NDArray[np.uint8],
    sizes: npt.NDArray[np.int64],
    size: int,
) -> None:
    """Fill the lexical figures: counts, and shares times ten, so that logarithms keep them apart.

    `by_byte` (256,) counts of bytes, `size` in all; `kinds`, `sizes` of the runs of characters of one kind.
    """
    runs = np.bincount(kinds, minlength=4).tolist()
    longest = _longest(runs, kinds, sizes)
    counts = by_byte.tolist()
    upper, lower, other = sum(counts[65:91]), sum(counts[97:123]), sum(counts[128:])
    digits, blanks, lines = sum(counts[48:58]), sum(counts[:33]) + counts[127], counts[10]
    letters = upper + lower + other
    result[:16] = (
        length,
        runs[_LETTER],
        runs[_DIGIT],
        longest[_DIGIT],
        digits,
        lines,
        size / (1 + lines),
        upper,
        letters / runs[_LETTER] if letters else 0.0,
        longest[_LETTER],
        longest[_SPACE],
        10.0 * upper / (1 + upper + lower),
        10.0 * (upper + lower) / size,
        10.0 * digits / size,
        10.0 * other / size,
        10.0 * blanks / size,
    )
    result[16:LEXICAL] = by_byte.take(_MARK_BYTES)
