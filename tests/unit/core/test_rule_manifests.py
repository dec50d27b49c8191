"""Rules, the default model and groups of a manifest become typed values, or one refusal at the field."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from modelfleet_core.errors import SpecError
from modelfleet_core.manifests import parse_policy
from modelfleet_core.policy import Groups, Rule, RuleMatch
from modelfleet_core.values import ModelName, TaskName
from support.manifests import full_policy_manifest, policy_manifest

LARGE, FRONTIER = ModelName("large"), ModelName("frontier")


def test_rules_become_what_the_manifest_says() -> None:
    policy = parse_policy(full_policy_manifest())
    assert policy.rules == (
        Rule(
            name="code",
            match=RuleMatch(
                any_keyword=("def", "class"),
                all_keywords=("python",),
                regex="(?m)^(def|class) ",
                min_tokens=20,
                max_tokens=4000,
            ),
            task=TaskName("code"),
            params={"temperature": 0, "max_tokens": 512},
        ),
        Rule(
            name="chinese",
            match=RuleMatch(script="Han", headers={"x-domain": "legal"}),
            allow=frozenset({LARGE, FRONTIER}),
            deny=frozenset({FRONTIER}),
            prefer=frozenset({LARGE}),
            bonus=0.05,
        ),
    )
    assert policy.default_model == LARGE
    assert policy.groups == Groups("x-team", ("north", "south"))


def test_a_policy_without_them_has_no_rules_no_default_and_no_groups() -> None:
    policy = parse_policy(policy_manifest())
    assert (policy.rules, policy.default_model, policy.groups) == ((), None, None)


def test_parameters_of_a_rule_may_be_any_json() -> None:
    manifest = full_policy_manifest()
    params = {"response_format": {"type": "json_object"}, "stop": ["\n", "é"], "top_p": 0.9, "logprobs": None}
    manifest["spec"]["rules"][0]["params"] = params
    assert parse_policy(manifest).rules[0].params == params


def test_the_last_rule_may_be_for_all_other_requests() -> None:
    manifest = full_policy_manifest()
    manifest["spec"]["rules"].append({"name": "others", "task": "chat"})
    assert parse_policy(manifest).rules[-1].match == RuleMatch()


def test_the_rules_of_the_page_are_rules() -> None:
    page = (Path(__file__).parents[3] / "docs" / "rules.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```yaml\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    manifest = policy_manifest()
    manifest["spec"] |= yaml.safe_load(shown)
    policy = parse_policy(manifest)
    assert [rule.name for rule in policy.rules] == ["code", "chinese", "legal"]
    assert policy.default_model == "llama-70b"


def _nested(levels: int) -> Any:
    return {"a": _nested(levels - 1)} if levels else 1


@pytest.mark.parametrize(
    ("change", "path", "says"),
    [
        (lambda s: s.update(rules={}), "spec.rules", "list"),
        (lambda s: s.update(rules=[{}] * 33), "spec.rules", "33 entries"),
        (lambda s: s["rules"][0].pop("name"), "rules[0].name", "is missing"),
        (lambda s: s["rules"][0].update(name="chinese"), "spec.rules", "twice"),
        (lambda s: s["rules"][0].pop("match"), "rules[0].match", "never reached"),
        (lambda s: s["rules"][0]["match"].update(regex="(?=a)"), "rules[0].match.regex", "RE2 syntax"),
        (lambda s: s["rules"][0]["match"].update(regex="(a"), "rules[0].match.regex", "missing )"),
        (lambda s: s["rules"][0]["match"].update(regex="a{1001}"), "match.regex", "repetition"),
        (lambda s: s["rules"][0]["match"].update(regex=r"\pL{900}"), "match.regex", "too large"),
        (lambda s: s["rules"][0]["match"].update(regex=".{1000}"), "match.regex", "instructions"),
        (lambda s: s["rules"][0]["match"].update(regex="\ud800"), "match.regex", "surrogate"),
        (lambda s: s["rules"][0]["match"].update(regex="a" * 1025), "match.regex", "refused"),
        (lambda s: s["rules"][0]["match"].update(regex=7), "match.regex", "not a text"),
        (
            lambda s: s.update(rules=[{"name": f"r{n}", "match": {"regex": "[ab]{900}"}} for n in range(12)]),
            "spec.rules",
            "instructions together",
        ),
        (lambda s: s["rules"][0]["match"].update(anyKeyword="def"), "match.anyKeyword", "list"),
        (lambda s: s["rules"][0]["match"].update(anyKeyword=[" "]), "match.anyKeyword[0]", "is empty"),
        (lambda s: s["rules"][0]["match"].update(anyKeyword=["a", "a"]), "match.anyKeyword", "twice"),
        (lambda s: s["rules"][0]["match"].update(anyKeyword=["a" * 65]), "anyKeyword[0]", "64 letters"),
        (lambda s: s["rules"][0]["match"].update(allKeywords=[1]), "match.allKeywords[0]", "quote"),
        (lambda s: s["rules"][0]["match"].update(minTokens=-1), "match.minTokens", "from 0"),
        (lambda s: s["rules"][0]["match"].update(maxTokens=3), "match.minTokens", "above maxTokens"),
        (lambda s: s["rules"][0]["match"].update(script="Klingon"), "match.script", "Latin"),
        (lambda s: s["rules"][0]["match"].update(header={"A": "1", "a": "2"}), "match.header", "twice"),
        (lambda s: s["rules"][0].update(task=""), "rules[0].task", "printable"),
        (lambda s: s["rules"][0].update(params={"model": "large"}), "params.model", "only the caller"),
        (lambda s: s["rules"][0].update(params={"stream": True}), "params.stream", "only the caller"),
        (lambda s: s["rules"][0].update(params={"n": 100}), "params.n", "only the caller"),
        (lambda s: s["rules"][0].update(params={"max_tokens": "9"}), "params.max_tokens", "whole number"),
        (lambda s: s["rules"][0].update(params={"max_tokens": True}), "params.max_tokens", "whole number"),
        (lambda s: s["rules"][0].update(params={"a": "b" * 4096}), "rules[0].params", "letters long"),
        (lambda s: s["rules"][0].update(params=_nested(9)), "rules[0].params", "nested"),
        (lambda s: s["rules"][0].update(params={"a": float("nan")}), "rules[0].params", "no JSON"),
        (lambda s: s["rules"][0].update(params={1: 2}), "rules[0].params", "quote"),
        (lambda s: s["rules"][0].update(params={str(n): n for n in range(17)}), "params", "17 entries"),
        (lambda s: s["rules"][0].update(prefer={"bonus": "0.1"}), "prefer.models", "missing"),
        (lambda s: s["rules"][0].update(prefer={"models": ["a"]}), "prefer.bonus", "missing"),
        (lambda s: s["rules"][0].update(prefer={"models": ["a"], "bonus": "1.1"}), "prefer.bonus", "up to 1"),
        (lambda s: s["rules"][0].update(prefer={"models": ["a"], "bonus": 0.1}), "prefer.bonus", "quote"),
        (lambda s: s["rules"][0].update(models={"allow": []}), "models.allow", "1 to 64"),
        (
            lambda s: s["rules"][0].update(models={"allow": ["a"], "deny": ["a", "b"]}),
            "rules[0].models",
            "allows no model",
        ),
        (lambda s: s.update(defaultModel="-"), "spec.defaultModel", "letters"),
        (lambda s: s.update(groups={"values": ["a"]}), "groups.header", "is missing"),
        (lambda s: s.update(groups={"header": "x"}), "groups.values", "missing"),
        (lambda s: s.update(groups={"header": "x", "values": [" a"]}), "groups.values[0]", "printable"),
        (lambda s: s.update(groups={"header": "x", "values": ["a"] * 2}), "groups.values", "twice"),
    ],
)
def test_a_wrong_rule_is_refused_at_the_field(change: Callable[[Any], object], path: str, says: str) -> None:
    manifest = full_policy_manifest()
    change(manifest["spec"])
    with pytest.raises(SpecError) as refused:
        parse_policy(manifest)
    assert path in refused.value.path
    assert says in str(refused.value)
