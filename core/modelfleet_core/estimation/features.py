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


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return 64-bit values whose upper bits depend on all bits of `values` (Steele et al. 2014, splitmix)."""
    x = values ^ (values >> np.uint64(30))
    x = x * np.uint64(0xBF58476D1CE4E5B9)
    x = x ^ (x >> np.uint64(27))
    result: npt.NDArray[np.uint64] = x * np.uint64(0x94D049BB133111EB)
    return result


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
    return _mixed((same + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)) | np.uint64(1)


def _powers(base: int) -> npt.NDArray[np.uint64]:
    powers = np.full(_MOST_BYTES, base, dtype=np.uint64)
    powers[0] = 1
    return np.multiply.accumulate(powers)


_CLASS = _classes()
_VALUE = _byte_values()
_BASE = 0x5851F42D4C957F2D
_POWER = _powers(_BASE)
_INVERSE = _powers(pow(_BASE, -1, 1 << 64))
_MARK_BYTES = np.frombuffer(_MARKS, dtype=np.uint8)


def features(text: str) -> FloatArray:
    """Return (FEATURES,) figures of `text`, all finite and at least 0; no text at all gives zeros."""
    shown = text if len(text) <= _START + _END else f"{text[:_START]}\n{text[-_END:]}"
    data = np.frombuffer(shown.encode("utf-8", "surrogatepass"), dtype=np.uint8)
    result = np.zeros(FEATURES)
    if not data.size:
        return result
    kinds = _CLASS[data]
    values = _VALUE[data]
    begins = np.empty(data.size, dtype=np.bool_)
    begins[0] = True
    np.not_equal(kinds[1:], kinds[:-1], out=begins[1:])
    begins |= kinds == _MARK
    starts = np.flatnonzero(begins)
    hashes = np.add.reduceat(values * _POWER[: data.size], starts) * _INVERSE[starts]
    kept = kinds[starts] != _SPACE
    words = hashes[kept]
    hashed = result[LEXICAL:]
    hashed[:_WORDS] = _counts(words, _WORDS)
    if words.size > 1:
        hashed[_WORDS : _WORDS + _PAIRS] = _counts(words[:-1] * np.uint64(_BASE) + words[1:], _PAIRS)
    if data.size > 2:
        runs = (values[:-2] * np.uint64(_BASE) + values[1:-1]) * np.uint64(_BASE) + values[2:]
        hashed[_WORDS + _PAIRS :] = _counts(runs, _RUNS)
    _lexical(result, len(text), data, kinds[starts], np.diff(starts, append=data.size))
    np.log1p(result, out=result)
    for first, last in _BLOCKS:
        block = result[first:last]
        length = math.sqrt(float(block @ block))
        if length > 0.0:
            block *= _SIZE / length
    return result


def feature_matrix(texts: Sequence[str]) -> FloatArray:
    """Return (n, FEATURES): `features` of each text."""
    rows = np.empty((len(texts), FEATURES))
    for row, text in zip(rows, texts, strict=True):
        row[:] = features(text)
    return rows


def _counts(values: npt.NDArray[np.uint64], buckets: int) -> npt.NDArray[np.int64]:
    scaled = ((_mixed(values) >> np.uint64(33)) * np.uint64(buckets)) >> np.uint64(31)
    return np.bincount(scaled.astype(np.int64), minlength=buckets)


def _lexical(
    result: FloatArray,
    length: int,
    data: npt.NDArray[np.uint8],
    kinds: npt.NDArray[np.uint8],
    sizes: npt.NDArray[np.int64],
) -> None:
    """Fill the lexical figures: counts, and shares times ten, so that logarithms keep them apart."""
    by_byte = np.bincount(data, minlength=256)
    letters, numbers = sizes[kinds == _LETTER], sizes[kinds == _DIGIT]
    blanks = sizes[kinds == _SPACE]
    upper, lower = int(by_byte[65:91].sum()), int(by_byte[97:123].sum())
    other = int(by_byte[128:].sum())
    lines = int(by_byte[10])
    size = data.size
    result[:16] = (
        length,
        letters.size,
        numbers.size,
        numbers.max(initial=0),
        int(numbers.sum()),
        lines,
        size / (1 + lines),
        upper,
        letters.mean() if letters.size else 0.0,
        letters.max(initial=0),
        blanks.max(initial=0),
        10.0 * upper / (1 + upper + lower),
        10.0 * (upper + lower) / size,
        10.0 * int(numbers.sum()) / size,
        10.0 * other / size,
        10.0 * int(blanks.sum()) / size,
    )
    result[16:LEXICAL] = by_byte[_MARK_BYTES]
