"""Whatever a pod looks like, injection adds the sidecar, keeps the rest, and does it once."""

from __future__ import annotations

import contextlib
import json
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelfleet_operator.injection.patch import MalformedPod, Outcome, applied, inject
from modelfleet_operator.injection.review import ReviewError
from modelfleet_operator.injection.sidecar import APPLICATION_ENV, CONTAINER, KeyReference
from support.injection import TEMPLATE, body, webhook

pytestmark = pytest.mark.property

NAMES = st.sampled_from(
    ["app", "proxy", "migrate", "modelfleet-sidecar", "modelfleet-token", "modelfleet-keys"]
)
ENV = st.none() | st.lists(
    st.fixed_dictionaries(
        {"name": st.sampled_from(["A", "B", *(name for name, _ in APPLICATION_ENV)])},
        optional={"value": st.text(max_size=3), "valueFrom": st.just({"fieldRef": {"fieldPath": "x"}})},
    ),
    max_size=4,
    unique_by=lambda variable: str(variable["name"]),
)
PORTS = st.lists(
    st.fixed_dictionaries(
        {"containerPort": st.sampled_from([80, 17070, 18080, 19090])},
        optional={"protocol": st.sampled_from(["TCP", "UDP"])},
    ),
    max_size=2,
)
CONTAINERS = st.lists(
    st.fixed_dictionaries(
        {"name": NAMES},
        optional={
            "env": ENV,
            "ports": PORTS,
            "envFrom": st.just([{"secretRef": {"name": "s"}}]),
            "restartPolicy": st.just("Always"),
        },
    ),
    max_size=3,
)
PODS = st.fixed_dictionaries(
    {
        "metadata": st.fixed_dictionaries(
            {"labels": st.just({"modelfleet.io/inject": "true"})},
            optional={
                "annotations": st.none()
                | st.dictionaries(
                    st.sampled_from(["modelfleet.io/sidecar-cpu", "modelfleet.io/sidecar-memory", "x"]),
                    st.sampled_from(["1", "200m", "256Mi", "lots", ""]),
                )
            },
        ),
        "spec": st.fixed_dictionaries(
            {"containers": CONTAINERS},
            optional={
                "initContainers": st.none() | CONTAINERS,
                "volumes": st.none() | st.lists(st.fixed_dictionaries({"name": NAMES}), max_size=3),
                "hostNetwork": st.booleans(),
                "resources": st.sampled_from([{}, {"limits": {"cpu": "1"}}]),
            },
        ),
    }
)
KEYS = st.lists(st.builds(KeyReference, st.sampled_from("ab"), st.sampled_from("xyz")), max_size=4)


@given(PODS, KEYS)
def test_what_the_author_wrote_stays_and_the_sidecar_is_added_once(
    pod: dict[str, Any], keys: list[KeyReference]
) -> None:
    before = deepcopy(pod)
    injection = inject(pod, TEMPLATE, keys)
    result = applied(pod, injection.operations)
    assert pod == before
    assert all(len(warning) <= 256 for warning in injection.warnings)
    if injection.outcome is not Outcome.INJECTED:
        assert result == pod
        assert bool(injection.warnings) == (injection.outcome is Outcome.REFUSED)
        return
    assert inject(result, TEMPLATE, keys).outcome is Outcome.PRESENT
    sidecar = result["spec"]["initContainers"].pop(0)
    assert (sidecar["name"], sidecar["restartPolicy"]) == (CONTAINER, "Always")
    own = [volume["name"] for volume in before["spec"].get("volumes") or []]
    volumes = [volume["name"] for volume in result["spec"]["volumes"]]
    assert volumes[: len(own)] == own
    assert not set(own) & set(volumes[len(own) :])
    mounted = {mount["name"] for mount in sidecar["volumeMounts"]}
    assert mounted == set(volumes[len(own) :]), "every new volume is mounted, and only in the sidecar"
    for kind in ("initContainers", "containers"):
        given_containers = before["spec"].get(kind) or []
        assert len(result["spec"][kind]) == len(given_containers)
        for given_container, container in zip(given_containers, result["spec"][kind], strict=True):
            _keeps(given_container, container)
    rest = {"containers", "initContainers", "volumes"}
    assert {name: value for name, value in result["spec"].items() if name not in rest} == {
        name: value for name, value in before["spec"].items() if name not in rest
    }


def _keeps(before: dict[str, Any], after: dict[str, Any]) -> None:
    own = before.get("env") or []
    names = [variable["name"] for variable in after["env"]]
    assert len(names) == len(set(names))
    assert after["env"][len(names) - len(own) :] == own
    assert set(names) >= {name for name, _ in APPLICATION_ENV}
    assert {**after, "env": own} == {**before, "env": own}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.just("true"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text(max_size=4) | st.sampled_from(["name", "env", "containers", "labels", "ports"]),
            inner,
            max_size=3,
        )
    ),
    max_leaves=10,
)


@given(PODS, st.data())
def test_any_json_in_any_place_is_answered_or_refused_in_words(
    pod: dict[str, Any], data: st.DataObject
) -> None:
    target: Any = pod
    while isinstance(target, dict | list) and target:
        places = list(target) if isinstance(target, dict) else list(range(len(target)))
        place = data.draw(st.sampled_from(places))
        if data.draw(st.booleans()):
            target[place] = data.draw(JSON)
            break
        target = target[place]
    with contextlib.suppress(ReviewError):
        answer = json.loads(webhook().review(body(pod)))
        assert answer["response"]["allowed"] is True
        assert answer["response"]["auditAnnotations"]["outcome"] != "failed"


@given(st.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_body_is_answered_or_refused_in_words(given_body: bytes) -> None:
    with pytest.raises(ReviewError):
        webhook().review(given_body)


def test_malformed_pods_are_review_errors() -> None:
    """What `inject` refuses is the caller's mistake, so it must not count as a fault of ours."""
    with pytest.raises(MalformedPod):
        inject({"metadata": {"labels": {"modelfleet.io/inject": "true"}}, "spec": 3}, TEMPLATE, ())
