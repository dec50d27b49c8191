"""The features of a text are exactly what their plain formula says, as trained estimators rest on them."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from modelfleet_core.estimation.features import FEATURES, LEXICAL, features

WHOLE = (1 << 64) - 1
BASE = 0x5851F42D4C957F2D
MARKS = b"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"
WORDS, PAIRS, RUNS = 512, 256, 192
TEXTS = st.text(
    st.one_of(st.sampled_from("aA1 .\n\x7f_é漢🙂\ud800"), st.characters()), max_size=60
) | st.builds(lambda text, times: text * times, st.text(max_size=30), st.integers(0, 300))


def mixed(value: int) -> int:
    value ^= value >> 30
    value = value * 0xBF58476D1CE4E5B9 & WHOLE
    value ^= value >> 27
    return value * 0x94D049BB133111EB & WHOLE


def kind(byte: int) -> str:
    if byte < 33 or byte == 127:
        return "blank"
    if byte >= 128 or chr(byte).isalpha():
        return "letter"
    return "digit" if chr(byte).isdigit() else "mark"


def value(byte: int) -> int:
    if byte < 33:
        byte = 32
    elif 65 <= byte < 91:
        byte += 32
    elif 48 <= byte < 58:
        byte = 48
    return mixed((byte + 1) * 0x9E3779B97F4A7C15 & WHOLE) | 1


def counted(hashes: list[int], buckets: int) -> list[int]:
    counts = Counter((mixed(one) >> 33) * buckets >> 31 for one in hashes)
    return [counts[bucket] for bucket in range(buckets)]


def plainly(text: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    shown = text if len(text) <= 6144 else f"{text[:4096]}\n{text[-2048:]}"
    data = shown.encode("utf-8", "surrogatepass")
    if not data:
        return np.zeros(FEATURES)
    runs: list[tuple[str, list[int]]] = []
    for what, group in itertools.groupby(data, kind):
        letters = list(group)
        runs += [(what, [one]) for one in letters] if what == "mark" else [(what, letters)]
    words = [
        sum(value(byte) * pow(BASE, place, WHOLE + 1) for place, byte in enumerate(run)) & WHOLE
        for what, run in runs
        if what != "blank"
    ]
    pairs = [(one * BASE + two) & WHOLE for one, two in itertools.pairwise(words)]
    values = [value(byte) for byte in data]
    threes = [
        ((one * BASE + two) * BASE + three) & WHOLE
        for one, two, three in zip(values, values[1:], values[2:], strict=False)
    ]
    size, lines = len(data), data.count(b"\n")
    sizes = {what: [len(run) for one, run in runs if one == what] for what in ("letter", "digit", "blank")}
    upper, lower = sum(65 <= byte < 91 for byte in data), sum(97 <= byte < 123 for byte in data)
    lexical = [
        len(text),
        len(sizes["letter"]),
        len(sizes["digit"]),
        max(sizes["digit"], default=0),
        sum(sizes["digit"]),
        lines,
        size / (1 + lines),
        upper,
        sum(sizes["letter"]) / len(sizes["letter"]) if sizes["letter"] else 0.0,
        max(sizes["letter"], default=0),
        max(sizes["blank"], default=0),
        10.0 * upper / (1 + upper + lower),
        10.0 * (upper + lower) / size,
        10.0 * sum(sizes["digit"]) / size,
        10.0 * sum(byte >= 128 for byte in data) / size,
        10.0 * sum(sizes["blank"]) / size,
        *(data.count(mark) for mark in MARKS),
    ]
    blocks = [counted(words, WORDS), counted(pairs, PAIRS), counted(threes, RUNS)]
    result = np.log1p(np.array(list(itertools.chain(lexical, *blocks)), dtype=np.float64))
    start = LEXICAL
    for block in blocks:
        part = result[start : start + len(block)]
        length = math.sqrt(float(part @ part))
        part *= 10.0 / length if length > 0.0 else 1.0
        start += len(block)
    return result


@settings(max_examples=40, deadline=None)
@given(TEXTS)
@example("")
@example("a")
@example("7.")
@example("\n" * 7000)
@example("Is 3.5 > 2,5? " * 600)
def test_features_are_those_of_the_plain_formula(text: str) -> None:
    assert np.array_equal(features(text), plainly(text))
