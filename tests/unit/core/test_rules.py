"""The first rule that a request matches, and what it makes of its models."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from modelfleet_core.estimation.script import letters_by_script, most_of
from modelfleet_core.policy import Rule, RuleMatch
from modelfleet_core.rules import LOOKED_AT, Asking, Matched, Rules, compiled, decides, forbids
from modelfleet_core.values import ModelName

A, B, C = ModelName("a"), ModelName("b"), ModelName("c")
ALL = frozenset({A, B, C})


def asking(text: str, tokens: int = 10, headers: Mapping[str, str] | None = None) -> Asking:
    return Asking(text, most_of(letters_by_script(text)), tokens, headers or {})


def matched(match: RuleMatch, text: str, tokens: int = 10, **headers: str) -> bool:
    return Rules([Rule("r", match)]).first(asking(text, tokens, headers)) is not None


@pytest.mark.parametrize(
    ("keyword", "text", "there"),
    [
        ("class", "a Class of its own", True),
        ("class", "classes and subclass", False),
        ("class", "class_name", False),
        ("class", "(class)", True),
        ("STRASSE", "die Straße", True),
        ("machine learning", "What is machine\n  Learning?", True),
        ("machine learning", "machine learnings", False),
        ("c++", "C++ or C#?", True),
        ("c#", "in C#, say", True),
        (".net", "asp.net", True),
        ("e", "cafe\u0301", False),
        ("café", "CAFE\u0301", True),
        ("合同", "请审查这份合同的条款", True),
        ("ai", "使用AI技术", True),
        ("東京", "これは東京タワーです", True),
        ("สัญญา", "นี่คือสัญญาเช่า", True),
        ("법률", "법률이 무엇입니까", True),
        ("закон", "По закону", False),
        ("закон", "Что такое Закон?", True),
        ("नियम", "यह नियम है", True),
        ("नियम", "नियमों", False),
        ("قانون", "ما هو قانون العمل", True),
        ("law", "", False),
    ],
)
def test_a_keyword_is_found_whole_and_in_any_case(keyword: str, text: str, there: bool) -> None:
    assert matched(RuleMatch(any_keyword=(keyword,)), text) is there
    assert matched(RuleMatch(all_keywords=(keyword,)), text) is there


def test_one_of_any_and_all_of_all_must_be_there() -> None:
    match = RuleMatch(any_keyword=("one", "two"), all_keywords=("three", "four five"))
    assert matched(match, "three two four five")
    assert not matched(match, "three two four")
    assert not matched(match, "three four five")


@pytest.mark.parametrize(
    ("match", "fits", "fails"),
    [
        (RuleMatch(regex=r"(?m)^def \w+"), "x\ndef f(): 1", "x def f(): 1"),
        (RuleMatch(regex=r"\p{Han}{2}"), "法律", "law"),
        (RuleMatch(script="Han"), "请审查 this 条款条款条款", "please review 条款"),
        (RuleMatch(script="Latin"), "bonjour", "123"),
    ],
)
def test_patterns_and_scripts_are_those_of_the_text(match: RuleMatch, fits: str, fails: str) -> None:
    assert matched(match, fits)
    assert not matched(match, fails)


def test_counts_of_tokens_are_inclusive() -> None:
    match = RuleMatch(min_tokens=10, max_tokens=20)
    assert [matched(match, "x", tokens) for tokens in (9, 10, 20, 21)] == [False, True, True, False]


def test_every_header_must_be_there_with_its_value() -> None:
    match = RuleMatch(headers={"x-a": "1", "x-b": "2"})
    assert Rules([Rule("r", match)]).first(asking("x", headers={"x-a": "1", "x-b": "2", "x-c": "3"}))
    assert not Rules([Rule("r", match)]).first(asking("x", headers={"x-a": "1"}))
    assert not Rules([Rule("r", match)]).first(asking("x", headers={"x-a": "1", "x-b": "3"}))


def test_the_first_rule_that_matches_wins_and_says_by_what() -> None:
    narrow = Rule("narrow", RuleMatch(any_keyword=("law",), min_tokens=50))
    wide = Rule("wide", RuleMatch(any_keyword=("law", "court"), regex="(?i)law"))
    rest = Rule("rest", RuleMatch())
    rules = Rules([narrow, wide, rest])
    assert rules.first(asking("the law", 60)) == Matched(narrow, ("minTokens: 50", "anyKeyword: law"))
    assert rules.first(asking("the law", 10)) == Matched(wide, ("anyKeyword: law", "regex"))
    assert rules.first(asking("hello", 60)) == Matched(rest, ())
    assert Rules([narrow, wide]).first(asking("hello", 60)) is None
    assert Rules([]).first(asking("the law")) is None


def test_text_is_looked_at_in_a_bounded_part() -> None:
    match = RuleMatch(any_keyword=("needle",))
    assert matched(match, "a " * (LOOKED_AT // 2 - 10) + "needle")
    assert not matched(match, "a " * LOOKED_AT + "needle")
    assert not matched(RuleMatch(regex="needle"), "a " * LOOKED_AT + "needle")


@pytest.mark.parametrize(
    "pattern", ["(a+)+$", "(a|a)*b", "(.*)(.*)(.*)(.*)[bc]d", "(x+x+)+y", "(?:a?){100}a{100}b"]
)
def test_a_pattern_made_to_run_long_ends_on_a_giant_text(pattern: str) -> None:
    """An engine that backtracks would take longer than the world stands; the test would never end."""
    assert compiled(pattern).search(b"a" * 1_000_000 + b"!") is None
    assert not matched(RuleMatch(regex=pattern), "!" + "a" * (LOOKED_AT - 2) + "!" * 1_000_000)


def test_half_a_surrogate_pair_in_a_text_harms_nothing() -> None:
    assert matched(RuleMatch(any_keyword=("law",), regex="law"), "\ud800 law \udfff")


def test_a_rule_forbids_what_it_denies_and_all_that_it_does_not_allow() -> None:
    deny = Rule("r", RuleMatch(), deny=frozenset({A}))
    allow = Rule("r", RuleMatch(), allow=frozenset({A, B}), deny=frozenset({B}))
    assert [forbids(deny, model) for model in (A, B, C)] == [True, False, False]
    assert [forbids(allow, model) for model in (A, B, C)] == [False, True, True]
    assert [forbids(None, model) for model in (A, B, C)] == [False] * 3


@pytest.mark.parametrize(
    ("rule", "default", "possible", "decided"),
    [
        (None, None, ALL, None),
        (None, B, ALL, {B}),
        (None, B, {A, C}, None),
        (Rule("r", RuleMatch()), B, ALL, {B}),
        (Rule("r", RuleMatch(), prefer=frozenset({A, C})), B, ALL, {A, C}),
        (Rule("r", RuleMatch(), prefer=frozenset({A, C})), B, {A, B}, {A}),
        (Rule("r", RuleMatch(), prefer=frozenset({A})), B, {B, C}, {B}),
        (Rule("r", RuleMatch(), allow=frozenset({A, C}), deny=frozenset({C})), B, ALL, {A}),
        (Rule("r", RuleMatch(), prefer=frozenset({B}), allow=frozenset({A, C})), B, ALL, {A, C}),
        (Rule("r", RuleMatch(), deny=frozenset({B})), B, ALL, None),
    ],
)
def test_where_estimates_are_not_trusted_the_rule_or_the_default_decides(
    rule: Rule | None, default: ModelName | None, possible: frozenset[ModelName], decided: object
) -> None:
    assert decides(rule, default, possible, named=False) == decided
    assert decides(rule, default, possible, named=True) is None
