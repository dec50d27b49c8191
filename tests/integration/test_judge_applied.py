"""A real API server takes a judge that can work, and refuses one that would fail later, in words."""

from __future__ import annotations

import json
from typing import Any

import pytest
from modelfleet_core.manifests import parse_policy
from support.control_plane import Plane
from support.manifests import Manifest, policy_manifest

pytestmark = pytest.mark.integration

BUDGET = {"limit": "5", "period": "Week"}


def with_judge(judge: dict[str, Any], *, learning: bool = True) -> Manifest:
    manifest = policy_manifest()
    manifest["metadata"] = {"name": "assistant", "namespace": "default"}
    manifest["spec"] |= {"judge": judge, "learning": {"enabled": learning}}
    return manifest


@pytest.mark.parametrize(
    "judge",
    [{"model": "large", "share": "2%", "budget": BUDGET}, {"plugin": "my.judge-2", "share": "100%"}],
)
def test_a_judge_is_stored_as_the_parser_reads_it(plane: Plane, judge: dict[str, Any]) -> None:
    manifest = with_judge(judge)
    told = plane.kubectl(
        *("apply", "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-"),
        given=json.dumps(manifest),
    )
    assert parse_policy(json.loads(told)) == parse_policy(manifest)


@pytest.mark.parametrize(
    ("judge", "learning", "says"),
    [
        ({"share": "2%"}, True, "write exactly one of model and plugin"),
        ({"model": "large", "plugin": "mine", "share": "2%", "budget": BUDGET}, True, "write exactly one"),
        ({"model": "large", "share": "2%"}, True, "a model needs a budget of its own"),
        ({"plugin": "mine", "share": "2%", "budget": BUDGET}, True, "a plug-in has none"),
        ({"model": "large", "budget": BUDGET}, True, "spec.judge.share"),
        ({"model": "large", "share": "101%", "budget": BUDGET}, True, "spec.judge.share"),
        ({"plugin": "../mine", "share": "2%"}, True, "spec.judge.plugin"),
        ({"plugin": "mine", "share": "2%"}, False, "judge is set although learning is off"),
    ],
)
def test_a_judge_that_can_not_work_is_refused_in_words(
    plane: Plane, judge: dict[str, Any], learning: bool, says: str
) -> None:
    assert says in plane.refusal(with_judge(judge, learning=learning))
