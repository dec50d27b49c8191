"""Which Secrets a pod's sidecar gets: those of the fleets that it may follow, and no others."""

from __future__ import annotations

from dataclasses import replace

import pytest
from modelfleet_operator.cluster import ObjectEvent
from modelfleet_operator.injection.followed import Followed
from modelfleet_operator.injection.sidecar import KeyReference
from support.injection import fleet_event, policy_event


def _followed(*events: ObjectEvent) -> Followed:
    followed = Followed()
    for event in events:
        followed.take(event)
    return followed


CHAT, CODE = fleet_event("chat", ("frontier", "token")), fleet_event("code", ("coder", "key"))
BOTH = (CHAT, CODE, policy_event("a", "chat", app="assistant"), policy_event("b", "code", app="editor"))


def _names(followed: Followed, *, policy: str = "", namespace: str = "ml", **labels: str) -> list[str]:
    annotations = {"modelfleet.io/policy": policy} if policy else {}
    keys, _ = followed.keys(namespace, labels, annotations)
    return [f"{key.secret}/{key.key}" for key in keys]


def test_the_policy_that_selects_the_pod_brings_its_fleets_keys() -> None:
    assert _names(_followed(*BOTH), app="assistant") == ["frontier/token"]


def test_the_annotation_decides_over_the_labels() -> None:
    assert _names(_followed(*BOTH), policy="b", app="assistant") == ["coder/key"]


def test_every_policy_that_may_win_the_pod_counts() -> None:
    followed = _followed(*BOTH, policy_event("c", "code"))
    assert _names(followed, app="assistant") == ["coder/key", "frontier/token"]


def test_policies_and_fleets_of_other_namespaces_do_not_count() -> None:
    followed = _followed(CHAT, policy_event("a", "chat"), fleet_event("chat", ("s", "k"), namespace="other"))
    assert _names(followed) == ["frontier/token"]
    assert _names(followed, namespace="other") == ["s/k"]
    assert _names(followed, namespace="empty") == []


@pytest.mark.parametrize("policy", ["", "missing"])
def test_while_no_policy_is_known_any_fleet_of_the_namespace_may_be_followed(policy: str) -> None:
    followed = _followed(*BOTH)
    annotations = {"modelfleet.io/policy": policy} if policy else {}
    keys, (warning,) = followed.keys("ml", {}, annotations)
    assert len(keys) == 2
    assert "the sidecar refuses requests until there is one" in warning
    assert policy in warning


def test_a_known_policy_brings_no_warning() -> None:
    _, warnings = _followed(*BOTH).keys("ml", {"app": "editor"}, {})
    assert warnings == ()


def test_deleted_objects_are_forgotten() -> None:
    followed = _followed(*BOTH, replace(CHAT, deleted=True))
    assert _names(followed, app="assistant") == []
    followed.take(replace(policy_event("b", "code"), deleted=True))
    assert _names(followed, policy="b") == ["coder/key"], "no policy b: any fleet of the namespace"


def test_an_edited_fleet_has_its_new_keys() -> None:
    assert _names(_followed(*BOTH, fleet_event("chat", ("new", "k"))), app="assistant") == ["new/k"]


@pytest.mark.parametrize("secret", ["", "UPPER", "a/b", "x" * 254, "-a", "a_b"])
def test_a_name_that_no_secret_can_have_is_left_out(secret: str) -> None:
    assert _names(_followed(fleet_event("chat", (secret, "k"), ("ok", "k")))) == ["ok/k"]


@pytest.mark.parametrize("key", ["", "a/b", "..", "..data", "ä", "x" * 254])
def test_a_key_that_no_secret_can_have_is_left_out(key: str) -> None:
    assert _names(_followed(fleet_event("chat", ("s", key), ("ok", "k")))) == ["ok/k"]


@pytest.mark.parametrize("spec", [{}, {"models": 3}, {"models": [None, {"variants": [{"external": 1}]}]}])
def test_a_fleet_that_can_not_be_read_has_no_keys(spec: object) -> None:
    followed = _followed(replace(CHAT, manifest={"spec": spec}), policy_event("a", "chat"))
    assert followed.keys("ml", {}, {}) == ((), ())


def test_a_value_that_is_no_text_selects_nothing() -> None:
    keys, warnings = _followed(*BOTH).keys("ml", {"app": 3}, {"modelfleet.io/policy": ["a"]})
    assert keys == (KeyReference("coder", "key"), KeyReference("frontier", "token"))
    assert warnings
