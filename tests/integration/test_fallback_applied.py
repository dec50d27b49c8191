"""A real API server takes policies with timeouts and breakers, and refuses those that would fail later."""

from __future__ import annotations

import json
from typing import Any

import pytest
from modelfleet_core.manifests import parse_policy
from modelfleet_core.policy import Breaker, Fallback, Timeouts
from support.control_plane import Plane
from support.manifests import Manifest, policy_manifest

pytestmark = pytest.mark.integration


def policy(fallback: dict[str, Any]) -> Manifest:
    manifest = policy_manifest()
    manifest["metadata"] = {"name": "assistant", "namespace": "default"}
    manifest["spec"]["fallback"] = fallback
    return manifest


def stored(plane: Plane, fallback: dict[str, Any]) -> Fallback:
    told = plane.kubectl(
        *("create", "--dry-run=server", "--validate=strict", "-o", "json", "-f", "-"),
        given=json.dumps(policy(fallback)),
    )
    return parse_policy(json.loads(told)).fallback


def test_what_is_left_out_has_the_defaults_of_the_parser(plane: Plane) -> None:
    read = stored(plane, {})
    assert (read.timeouts, read.breaker) == (Timeouts(), Breaker())
    told = {"timeouts": {"total": "10s", "minTokensPerSecond": 3}, "breaker": {"failures": 2}}
    read = stored(plane, told)
    assert read.timeouts == Timeouts(total=10.0, min_tokens_per_second=3.0)
    assert read.breaker == Breaker(failures=2)


@pytest.mark.parametrize(
    ("fallback", "says"),
    [
        ({"timeouts": {"connect": "20s", "total": "10s"}}, "timeouts.total is shorter"),
        ({"timeouts": {"total": "1s"}}, "timeouts.total is shorter"),
        ({"timeouts": {"connect": "2m"}}, "from 10ms to 1m"),
        ({"timeouts": {"firstToken": "1d"}}, "days and weeks are none"),
        ({"timeouts": {"betweenTokens": "0s"}}, "from 10ms to 1h"),
        ({"timeouts": {"minTokensPerSecond": -1}}, "minTokensPerSecond"),
        ({"timeouts": {"minTokensPerSecond": "fast"}}, "minTokensPerSecond"),
        ({"breaker": {"failures": 0}}, "breaker.failures"),
        ({"breaker": {"openFor": "2h"}}, "from 100ms to 1h"),
        ({"breaker": {"window": "1m"}}, "window"),
    ],
)
def test_what_can_not_work_is_refused_in_words(plane: Plane, fallback: dict[str, Any], says: str) -> None:
    assert says in plane.refusal(policy(fallback))
