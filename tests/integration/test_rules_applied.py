"""A real API server takes policies with rules, and refuses those that would fail later, in words."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from modelfleet_core.manifests import parse_policy
from support.control_plane import Plane
from support.manifests import Manifest, full_policy_manifest

pytestmark = pytest.mark.integration

Rule = dict[str, Any]


def _policy() -> Manifest:
    manifest = full_policy_manifest()
    manifest["metadata"] = {"name": "assistant", "namespace": "default"}
    return manifest


def test_a_policy_that_sets_every_field_is_accepted_and_stored_as_the_parser_reads_it(plane: Plane) -> None:
    manifest = _policy()
    told = plane.kubectl(
        *("apply", "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-"),
        given=json.dumps(manifest),
    )
    assert parse_policy(json.loads(told)) == parse_policy(manifest)


def test_the_largest_policy_that_the_schema_allows_is_within_the_limits_of_the_api_server(
    plane: Plane,
) -> None:
    manifest = _policy()
    manifest["spec"]["rules"] = [
        {
            "name": f"rule-{number:02}" + "x" * 55,
            "match": {
                "anyKeyword": [f"{n:02}" + "y" * 62 for n in range(64)],
                "allKeywords": [f"{n:02}" + "z" * 62 for n in range(16)],
                "regex": "(?i)" + "a" * 1020,
                "header": {f"x-{n}": "v" * 256 for n in range(8)},
            },
            "prefer": {"models": [f"{n:03}" + "m" * 125 for n in range(64)], "bonus": 1},
        }
        for number in range(32)
    ]
    plane.kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", given=json.dumps(manifest))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda r: r.update(name="chinese"), "two rules have the same name"),
        (lambda r: r.pop("match"), "only the last rule may have no match"),
        (lambda r: r.update(match={}), "spec.rules[0].match"),
        (lambda r: r["match"].update(minTokens=9, maxTokens=3), "minTokens is above maxTokens"),
        (lambda r: r["match"].update(regex="(?=look)"), "invalid or unsupported Perl syntax"),
        (lambda r: r["match"].update(regex="a" * 1025), "spec.rules[0].match.regex"),
        (lambda r: r["match"].update(script="Klingon"), "Unsupported value"),
        (lambda r: r["match"].update(anyKeyword=[" "]), "spec.rules[0].match.anyKeyword[0]"),
        (lambda r: r["match"].update(anyKeyword=["a", "a"]), "Duplicate value"),
        (
            lambda r: r["match"].update(header={"X-A": "1", "x-a": "2"}),
            "a header is there twice in different case",
        ),
        (lambda r: r.update(prefer={"models": ["large"]}), "spec.rules[0].prefer.bonus"),
        (lambda r: r.update(prefer={"models": ["large"], "bonus": "1.5"}), "spec.rules[0].prefer.bonus"),
        (lambda r: r.update(models={"allow": []}), "spec.rules[0].models.allow"),
        (lambda r: r.update(params={"model": "large"}), "spec.rules[0].params"),
        (lambda r: r.update(params={str(n): n for n in range(17)}), "spec.rules[0].params"),
    ],
)
def test_a_rule_that_can_not_work_is_refused_in_words(
    plane: Plane, change: Callable[[Rule], object], says: str
) -> None:
    manifest = _policy()
    change(manifest["spec"]["rules"][0])
    assert says in plane.refusal(manifest)
