"""Stage assign, part of the profile: one look at a text, and the signs in it.

In: text. Out: `Signs`, counts of what was seen and nothing of the text itself. Next: `subject`, `profile`.

Every step is one pass over at most `LOOKED_AT` characters in C; a giant text costs no more than a long one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from modelfleet_core.estimation.lexicon import PHRASES, WORDS
from modelfleet_core.estimation.script import letters_by_script
from modelfleet_core.keywords import words

FIRST, LAST = 3072, 1024
LOOKED_AT = FIRST + LAST
"""Characters of a text that are looked at: the first and the last, as questions stand before or after what
they are about."""

_Sign = tuple[tuple[str, ...], tuple[tuple[str, str], ...]]


def _groups() -> tuple[dict[str, int], list[_Sign]]:
    """Return the number of every word's group, and of each group what its words speak for and which phrases,
    with what these speak for, they are the longest word of."""
    kinds: dict[str, tuple[str, ...]] = {}
    phrases: dict[str, tuple[tuple[str, str], ...]] = {}
    for kind, listed in WORDS.items():
        for word in listed.split():
            kinds[word] = (*kinds.get(word, ()), kind)
    for kind, texts in PHRASES.items():
        for phrase in texts:
            longest = max(words(phrase), key=len)
            phrases[longest] = (*phrases.get(longest, ()), (phrase, kind))
    groups: dict[_Sign, int] = {((), ()): 0}  # so that those of words begin at 1
    of_word = {
        word: groups.setdefault((kinds.get(word, ()), phrases.get(word, ())), len(groups))
        for word in kinds.keys() | phrases.keys()
    }
    return of_word, list(groups)


_GROUP, _GROUPS = _groups()
_GROUP_OF_ASCII = {word.encode(): group for word, group in _GROUP.items() if word.isascii()}
_ASCII_WORDS = bytes(
    ord(chr(code).lower()) if chr(code).isalnum() or chr(code) == "_" else ord(" ") for code in range(128)
) + bytes([ord(" ")] * 128)
"""What stands for each byte where words of ASCII are parted, as `keywords.words` does it."""
_ONLY_DIGITS = bytes(code if chr(code) in "0123456789" else ord(" ") for code in range(256))
_FORMULA = re.compile(r"[=+*/^<>≤≥√∑∫]\s*-?\d")
_FORMULA_MARKS = bytes(
    ord("=") if chr(code) in "=+*/^<>" else ord("0") if chr(code) in "0123456789" else code
    for code in range(128)
) + bytes([0] * 128)
_BLANKS = bytes(code for code in range(128) if chr(code).isspace())
_CODE_MARKS = (
    (";", ";\n"),
    (":", "):\n"),
    ("{", ") {"),
    ("{", "){"),
    ("L", "SELECT "),
    (">", " => "),
    ("#", "#include"),
)
"""Each after one of its characters: most texts lack that, which is found out many times faster."""
_MOST = 50
"""Signs of one kind count no further: who repeats a word a thousand times gains nothing by it."""


@dataclass(frozen=True, slots=True)
class Signs:
    """What was counted in one text."""

    words: int
    numbers: int
    """Runs of digits."""
    formulas: int
    """Operators before a number."""
    code: int
    """Blocks, ends of statements and heads of functions."""
    letters: Mapping[str, int]
    """By script; only those that occur."""
    kinds: Mapping[str, int]
    """Words and phrases by what they speak for (`lexicon`); only those that occur."""

    def of(self, kind: str) -> int:
        return self.kinds.get(kind, 0)


def excerpt(text: str) -> str:
    """Return the part of `text` that is looked at."""
    return text if len(text) <= LOOKED_AT else f"{text[:FIRST]}\n{text[-LAST:]}"


def signs(text: str) -> Signs:
    """Return the signs in `text`."""
    text = excerpt(text)
    lower = text.lower()
    groups: Iterable[int | None]
    if text.isascii():  # as bytes they are parted faster
        parted = text.encode().translate(_ASCII_WORDS).split()
        count, groups = len(parted), map(_GROUP_OF_ASCII.get, parted)
    else:
        found = words(lower)
        count, groups = len(found), map(_GROUP.get, found)
    kinds: dict[str, int] = {}
    for number, times in Counter(filter(None, groups)).items():
        speaks_for, phrases = _GROUPS[number]
        for kind in speaks_for:
            kinds[kind] = kinds.get(kind, 0) + times
        for phrase, kind in phrases:
            if again := lower.count(phrase):
                kinds[kind] = kinds.get(kind, 0) + again
    numbers = len(text.encode("ascii", "replace").translate(_ONLY_DIGITS).split())
    blocks = max(0, text.count("```") - text.count("```json")) if "`" in text else 0
    if max(kinds.values(), default=0) > _MOST:
        kinds = {kind: min(_MOST, times) for kind, times in kinds.items()}
    return Signs(
        words=count,
        numbers=numbers,
        formulas=_formulas(text, numbers),
        code=blocks + sum([text.count(mark) for sign, mark in _CODE_MARKS if sign in text]),
        letters=letters_by_script(text),
        kinds=kinds,
    )


def _formulas(text: str, numbers: int) -> int:
    """Return how many operators of `text`, with so many numbers, stand before one."""
    if not text.isascii():
        return len(_FORMULA.findall(text))
    if not numbers:
        return 0
    marks = text.encode().translate(_FORMULA_MARKS, _BLANKS)  # which is searched many times faster
    if b"=-0" in marks:  # blanks may have stood behind the minus, where they part it from the number
        return len(_FORMULA.findall(text))
    return marks.count(b"=0")
