"""Rules match what plain Python says they match, whatever the rules and the text."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelfleet_core.estimation.script import SCRIPTS, letters_by_script, most_of
from modelfleet_core.keywords import Keywords, Words
from modelfleet_core.policy import Rule, RuleMatch
from modelfleet_core.rules import Asking, Rules, compiled

pytestmark = pytest.mark.property

LETTERS = "abé_1Ж使ไ कि-+. \n"
TEXTS = st.text(st.sampled_from(LETTERS), max_size=30)
KEYWORDS = st.text(st.sampled_from(LETTERS), min_size=1, max_size=4).filter(lambda text: bool(text.strip()))


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _spaced_letter(char: str) -> bool:
    """Return whether words of `char` are told apart by spaces; of the characters that the tests draw."""
    return char not in "使ไ" and (char.isalnum() or char == "_" or unicodedata.category(char).startswith("M"))


def _occurs(keyword: str, text: str) -> bool:
    text, keyword = _plain(text), _plain(keyword)
    for at in range(len(text) - len(keyword) + 1):
        end = at + len(keyword)
        if text[at:end] != keyword:
            continue
        before = at > 0 and _spaced_letter(text[at - 1]) and _spaced_letter(text[at])
        after = end < len(text) and _spaced_letter(text[end - 1]) and _spaced_letter(text[end])
        if not before and not after:
            return True
    return False


@given(st.lists(KEYWORDS, min_size=1, max_size=4), TEXTS)
def test_keywords_are_found_as_a_look_at_every_place_finds_them(keywords: list[str], text: str) -> None:
    there = [_occurs(keyword, text) for keyword in keywords]
    words, wanted = Words(text), Keywords(keywords)
    assert bool(words.first(wanted)) == any(there)
    assert words.all(wanted) == all(there)


_ATOMS = st.sampled_from(["a", "b", "c", ".", "[ab]", "[^a]", "(?:a|bc)", "(?:b|)", "^", "$", r"\b"])
_PATTERNS = st.lists(
    st.builds(lambda atom, times: atom + times, _ATOMS, st.sampled_from(["", "*", "+", "?", "{1,2}"])),
    max_size=5,
).map("".join)


@settings(max_examples=300)
@given(_PATTERNS, st.text(st.sampled_from("abc "), max_size=12))
def test_patterns_find_what_pythons_engine_finds(pattern: str, text: str) -> None:
    try:
        theirs = re.compile(pattern.replace("$", r"\Z"))
    except re.error:
        return
    if re.search(r"(?:\^|\$|\\b)[*+?{]", pattern):
        return  # what repeating an empty match means differs between engines
    assert (compiled(pattern).search(text.encode()) is not None) == (theirs.search(text) is not None)


def _rule(number: int) -> st.SearchStrategy[Rule]:
    matches = st.builds(
        RuleMatch,
        any_keyword=st.lists(KEYWORDS, max_size=2).map(tuple),
        all_keywords=st.lists(KEYWORDS, max_size=2).map(tuple),
        regex=st.sampled_from(["", "a", "b+", "(?i)É"]),
        headers=st.dictionaries(st.sampled_from(["x", "y"]), st.sampled_from(["1", "2"]), max_size=2),
        min_tokens=st.none() | st.integers(0, 20),
        max_tokens=st.none() | st.integers(0, 20),
        script=st.sampled_from(["", "Latin", "Han", "Cyrillic"]),
    )
    return matches.map(lambda match: Rule(f"rule-{number}", match))


@given(
    st.tuples(*map(_rule, range(4))),
    TEXTS,
    st.integers(0, 20),
    st.dictionaries(st.sampled_from(["x", "y"]), st.sampled_from(["1", "2"])),
)
def test_the_first_of_the_rules_that_match_alone_wins(
    rules: tuple[Rule, ...], text: str, tokens: int, headers: dict[str, str]
) -> None:
    asked = Asking(text, most_of(letters_by_script(text)), tokens, headers)
    alone = [rule for rule in rules if Rules([rule]).first(asked) is not None]
    together = Rules(rules).first(asked)
    assert (together.rule if together is not None else None) == (alone[0] if alone else None)


@given(st.text(max_size=60))
def test_every_letter_counts_in_one_script_at_most(text: str) -> None:
    counts = letters_by_script(text)
    assert sum(counts.values()) <= len(text)
    assert set(counts) <= set(SCRIPTS)
    assert most_of(letters_by_script(text)) == max(counts, key=counts.__getitem__, default="")
