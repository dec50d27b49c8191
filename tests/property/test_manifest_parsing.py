"""Whatever JSON is in a manifest, the parsers return typed values or raise `SpecError`: G15, G22."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelfleet_core.catalog import Fleet
from modelfleet_core.errors import SpecError
from modelfleet_core.manifests import document, parse_fleet, parse_policy
from modelfleet_core.policy import Policy
from support.manifests import Manifest, full_fleet_manifest, full_policy_manifest

pytestmark = pytest.mark.property

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.just(10**400)
    | st.floats()
    | st.text(max_size=12)
    | st.sampled_from(["0", "1.5", "10s", "7d", "h100", "large", "Day", "http", "https://a/v1", "-1", "1e9"])
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=8,
)


def _paths(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    below: list[tuple[Any, ...]] = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in items:
        below += _paths(child, (*path, key))
    return below


def _replace(manifest: Manifest, path: tuple[Any, ...], value: object) -> None:
    at: Any = manifest
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = value


def _outcome(parse: Callable[[Any], object], manifest: object) -> object:
    """Return what `parse` makes of `manifest`, or its refusal, which must say what to do."""
    try:
        return parse(manifest)
    except SpecError as error:
        return (error.problem and error.remedy) or pytest.fail(
            "a refusal must say what is wrong and what to do"
        )


@given(JSON)
def test_any_json_parses_or_is_refused(value: Any) -> None:
    for parse in (parse_fleet, parse_policy, document):
        for manifest in (value, {"metadata": {"name": "a"}, "spec": value}):
            assert _outcome(parse, manifest)


@settings(max_examples=150)
@given(st.data(), st.booleans())
def test_any_change_of_a_good_manifest_parses_or_is_refused(data: st.DataObject, is_fleet: bool) -> None:
    manifest = full_fleet_manifest() if is_fleet else full_policy_manifest()
    for path in data.draw(st.lists(st.sampled_from(_paths(manifest)), min_size=1, max_size=2)):
        with contextlib.suppress(KeyError, IndexError, TypeError):  # an earlier change took the place away
            _replace(manifest, path, data.draw(JSON))
    outcome = _outcome(parse_fleet if is_fleet else parse_policy, manifest)
    if isinstance(outcome, Fleet):
        assert all(pool.limit >= 0 for pool in outcome.pools)
        assert all(variant.concurrency >= 1 for variant in outcome.variants())
    if isinstance(outcome, Policy):
        assert outcome.tier_of({}) == outcome.tiers[-1]
