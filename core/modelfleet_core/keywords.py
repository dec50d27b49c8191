"""Stage assign, part of the rules: words and phrases in a text, whole and in any case.

In: a text. Out: `Words`, which tells which keywords occur in it. Next: `rules`.

A keyword occurs where its letters do, in any case and with any white space between its words, unless a letter
at its edge goes on as a letter of the text. Han, kana, Hangul, Thai, Lao, Khmer, Burmese and Tibetan are
written without spaces, or with endings joined to words: a keyword of theirs may stand anywhere.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import cached_property
from typing import NamedTuple

_UNSPACED = (
    "\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1100-\u11ff\u1780-\u17ff\u3005-\u3007\u3041-\u30ff\u3131-\u318e"
    "\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\ua960-\ua97f\uac00-\ud7fb\uf900-\ufaff"
)
_MARKS = (
    "\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7\u0610-\u061a\u064b-\u065f"
    "\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed\u0900-\u0963\u0971-\u0dff"
)
"""Vowel signs and accents, which Python's `\\w` leaves out, with the whole Indic blocks around them."""


def _letters() -> str:
    """Return the class of the characters that words are made of: one class is searched four times as fast as
    three that take from each other."""
    every = "".join(map(chr, range(0x10000)))
    runs = re.finditer(rf"(?:[^\W{_UNSPACED}]|[{_MARKS}])+", every)
    return "[" + "".join(f"\\u{run.start():04x}-\\u{run.end() - 1:04x}" for run in runs) + "]"


_LETTER = re.compile(_letters())
_WORD = re.compile(f"{_LETTER.pattern}+")
_APART = str.maketrans(
    {chr(code): " " for code in range(128) if not (chr(code).isalnum() or code == ord("_"))}
)


class Words:
    """The words of one text."""

    def __init__(self, text: str) -> None:
        self._text = text

    @cached_property
    def folded(self) -> str:
        """The text as keywords are compared with it."""
        return folded(self._text)

    @cached_property
    def _set(self) -> frozenset[str]:
        return frozenset(words(self.folded))

    def first(self, keywords: Keywords) -> str:
        """Return one of `keywords` that occurs; empty: none does."""
        if found := keywords.words & self._set:
            return min(found)
        return next((phrase.text for phrase in keywords.phrases if self._has(phrase)), "")

    def all(self, keywords: Keywords) -> bool:
        """Return whether every one of `keywords` occurs."""
        return keywords.words <= self._set and all(map(self._has, keywords.phrases))

    def _has(self, phrase: Phrase) -> bool:
        if not phrase.words <= self._set:
            return False
        text = self.folded
        at = text.find(phrase.text)
        while at >= 0:
            end = at + len(phrase.text)
            if not (_joined(text, at) or _joined(text, end)):
                return True
            at = text.find(phrase.text, at + 1)
        return False


class Phrase(NamedTuple):
    """A keyword that is more or less than one word."""

    text: str
    words: frozenset[str]
    """Words in it: where it occurs, they do."""


class Keywords:
    """Keywords as `Words` looks for them: whole words by their set, all else by search."""

    def __init__(self, keywords: Iterable[str]) -> None:
        every = sorted({folded(keyword) for keyword in keywords})
        self.words = frozenset(word for word in every if _WORD.fullmatch(word))
        self.phrases = tuple(Phrase(text, frozenset(words(text))) for text in every if text not in self.words)

    def __bool__(self) -> bool:
        return bool(self.words or self.phrases)


def words(text: str) -> list[str]:
    """Return the words of `text` in their order, without those of scripts that do not part them."""
    return text.translate(_APART).split() if text.isascii() else _WORD.findall(text)


def folded(text: str) -> str:
    """Return `text` in one case and one form of each character, with single spaces."""
    plain = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return " ".join(plain.casefold().split())


def _joined(text: str, at: int) -> bool:
    """Return whether the characters before and at `at` are letters of one word."""
    return 0 < at < len(text) and bool(_LETTER.match(text, at - 1) and _LETTER.match(text, at))
