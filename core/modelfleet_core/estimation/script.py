"""Stage assign, part of the profile: in which script a text is written.

In: text. Out: the name of the Unicode script of most of its letters. Next: `rules`, `profile`.

A table of blocks, not of characters: what it takes for a letter may be an unassigned place of the script's
block. Digits, punctuation and signs belong to no script.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

_BLOCKS = (
    ("Latin", 0x41, 0x5A),
    ("Latin", 0x61, 0x7A),
    ("Latin", 0xAA, 0xAA),
    ("Latin", 0xBA, 0xBA),
    ("Latin", 0xC0, 0xD6),
    ("Latin", 0xD8, 0xF6),
    ("Latin", 0xF8, 0x2B8),
    ("Greek", 0x370, 0x3FF),
    ("Cyrillic", 0x400, 0x52F),
    ("Armenian", 0x531, 0x58A),
    ("Hebrew", 0x591, 0x5F4),
    ("Arabic", 0x620, 0x65F),
    ("Arabic", 0x66E, 0x6D3),
    ("Arabic", 0x6D5, 0x6EF),
    ("Arabic", 0x6FA, 0x6FF),
    ("Arabic", 0x750, 0x77F),
    ("Arabic", 0x8A0, 0x8FF),
    ("Devanagari", 0x900, 0x963),
    ("Devanagari", 0x971, 0x97F),
    ("Bengali", 0x980, 0x9E5),
    ("Gurmukhi", 0xA01, 0xA65),
    ("Gujarati", 0xA81, 0xAE5),
    ("Oriya", 0xB01, 0xB65),
    ("Tamil", 0xB82, 0xBE5),
    ("Telugu", 0xC00, 0xC65),
    ("Kannada", 0xC80, 0xCE5),
    ("Malayalam", 0xD00, 0xD65),
    ("Sinhala", 0xD81, 0xDE5),
    ("Thai", 0xE01, 0xE3A),
    ("Thai", 0xE40, 0xE4E),
    ("Lao", 0xE81, 0xECD),
    ("Tibetan", 0xF00, 0xF1F),
    ("Tibetan", 0xF34, 0xFFF),
    ("Myanmar", 0x1000, 0x103F),
    ("Myanmar", 0x1050, 0x109F),
    ("Georgian", 0x10A0, 0x10FF),
    ("Hangul", 0x1100, 0x11FF),
    ("Ethiopic", 0x1200, 0x135F),
    ("Khmer", 0x1780, 0x17D3),
    ("Mongolian", 0x1820, 0x18AA),
    ("Latin", 0x1E00, 0x1EFF),
    ("Greek", 0x1F00, 0x1FFE),
    ("Han", 0x3005, 0x3007),
    ("Hiragana", 0x3041, 0x309F),
    ("Katakana", 0x30A1, 0x30FA),
    ("Katakana", 0x30FC, 0x30FF),
    ("Hangul", 0x3131, 0x318E),
    ("Katakana", 0x31F0, 0x31FF),
    ("Han", 0x3400, 0x4DBF),
    ("Han", 0x4E00, 0x9FFF),
    ("Hangul", 0xAC00, 0xD7FB),
    ("Han", 0xF900, 0xFAFF),
    ("Arabic", 0xFB50, 0xFDFF),
    ("Arabic", 0xFE70, 0xFEFC),
    ("Latin", 0xFF21, 0xFF3A),
    ("Latin", 0xFF41, 0xFF5A),
    ("Katakana", 0xFF66, 0xFF9D),
)
SCRIPTS: tuple[str, ...] = tuple(sorted({name for name, _, _ in _BLOCKS}))

_NONE = len(SCRIPTS)
"""Stands for no script."""
_PLANE = 0x10000
_OF_CODE = np.full(_PLANE, _NONE, dtype=np.intp)
"""Number of each character's script in the first plane; beyond it there is Han."""
for _name, _first, _last in _BLOCKS:
    _OF_CODE[_first : _last + 1] = SCRIPTS.index(_name)
_HAN, _HAN_FIRST, _HAN_LAST = SCRIPTS.index("Han"), 0x20000, 0x323AF
_NOT_LETTERS = bytes(code for code in range(128) if not chr(code).isalpha())


def letters_by_script(text: str) -> dict[str, int]:
    """Return how many letters of `text` are of which script; only scripts that occur."""
    if text.isascii():
        letters = len(text.encode("ascii").translate(None, _NOT_LETTERS))
        return {"Latin": letters} if letters else {}
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype="<u4")
    beyond = codes >= _PLANE
    counts = np.bincount(_OF_CODE[np.where(beyond, 0, codes)], minlength=_NONE + 1)
    if beyond.any():
        counts[_HAN] += np.count_nonzero((codes >= _HAN_FIRST) & (codes <= _HAN_LAST))
    return {name: int(count) for name, count in zip(SCRIPTS, counts[:-1], strict=True) if count}


def most_of(counts: Mapping[str, int]) -> str:
    """Return the script of most letters, of equal ones the first by name; empty: there are none."""
    return max(counts, key=counts.__getitem__, default="")
