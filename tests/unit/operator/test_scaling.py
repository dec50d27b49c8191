"""Replicas change in an order that passes no limit, by one fenced writer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from modelfleet_core.values import ModelName, ObjectKey, VariantKey
from modelfleet_operator.cluster import Kind, NotFound, ObjectEvent
from modelfleet_operator.cluster.embedded import EmbeddedCluster
from modelfleet_operator.observe import Observer, workload_of
from modelfleet_operator.scale import NotLeadingError, Outcome, Patch, Scaler, next_patches
from modelfleet_operator.views import FleetView
from support.manifests import Manifest, fleet_manifest
from support.snapshots import deployment_object, node_object, observed, view_of

LARGE, SMALL = VariantKey(ModelName("large"), "h100"), VariantKey(ModelName("small"), "h100")
TARGET = ObjectKey("ml", "large")


def _fleet(hourly: str | None = None) -> Manifest:
    """Return a fleet of two models on one pool of 8 GPUs: large takes 2 for a replica, small 1."""
    manifest = fleet_manifest()
    small = fleet_manifest()["spec"]["models"][0] | {"name": "small"}
    small["variants"][0] |= {"gpus": 1, "scaleTargetRef": {"name": "small"}, "replicas": {"max": 8}}
    small["variants"][0]["service"]["name"] = "small"
    manifest["spec"]["models"].append(small)
    manifest["spec"]["pools"][0]["hourlyCost"] = "2"
    manifest["spec"]["budget"] = {"hourly": hourly or "1000"}
    return manifest


def _view(
    large: Mapping[str, int], small: Mapping[str, int], *, nodes: int = 8, hourly: str | None = None
) -> FleetView:
    def workload(name: str, replicas: int, **status: int) -> Manifest:
        full = {"replicas": replicas, "readyReplicas": replicas} | status
        return deployment_object(name, replicas=replicas) | {"status": full}

    return view_of(
        observed(
            _fleet(hourly),
            node_object("a", gpus=nodes),
            workload("large", **large),
            workload("small", **small),
        )
    )


def _changes(patches: tuple[Patch, ...]) -> list[tuple[str, int, int]]:
    return [(patch.target.name, patch.before, patch.replicas) for patch in patches]


def test_replicas_are_added_into_free_gpus_only() -> None:
    view = _view({"replicas": 2}, {"replicas": 2})
    patches = next_patches(view, {LARGE: 4, SMALL: 2}, external=0)
    assert _changes(patches) == [("large", 2, 3)]


def test_the_stock_of_the_nodes_limits_as_the_pool_does() -> None:
    view = _view({"replicas": 1}, {"replicas": 0}, nodes=4)
    assert _changes(next_patches(view, {LARGE: 4, SMALL: 0}, external=0)) == [("large", 1, 2)]


def test_terminating_and_surge_pods_hold_their_gpus() -> None:
    view = _view({"replicas": 2, "terminatingReplicas": 1}, {"replicas": 0})
    assert _changes(next_patches(view, {LARGE: 4, SMALL: 0}, external=0)) == [("large", 2, 3)]


def test_replicas_are_added_within_the_money_that_is_left() -> None:
    view = _view({"replicas": 1}, {"replicas": 1}, hourly="11")  # 6 USD run, large costs 4
    assert _changes(next_patches(view, {LARGE: 3, SMALL: 1}, external=0)) == [("large", 1, 2)]
    assert next_patches(view, {LARGE: 3, SMALL: 1}, external=2.5) == ()


def test_nothing_goes_while_its_replacement_still_starts() -> None:
    view = _view({"replicas": 1}, {"replicas": 2, "readyReplicas": 0})
    assert next_patches(view, {LARGE: 0, SMALL: 2}, external=0) == ()
    ready = _view({"replicas": 1}, {"replicas": 2})
    assert _changes(next_patches(ready, {LARGE: 0, SMALL: 2}, external=0)) == [("large", 1, 0)]


def test_replicas_are_added_before_others_go() -> None:
    view = _view({"replicas": 1}, {"replicas": 0})
    assert _changes(next_patches(view, {LARGE: 0, SMALL: 2}, external=0)) == [("small", 0, 2)]


def test_what_is_in_the_way_on_a_full_pool_goes_first() -> None:
    view = _view({"replicas": 4}, {"replicas": 0})
    assert _changes(next_patches(view, {LARGE: 3, SMALL: 2}, external=0)) == [("large", 4, 3)]


def test_no_more_goes_first_than_what_is_added_needs() -> None:
    view = _view({"replicas": 0}, {"replicas": 8})
    desired = {LARGE: 2, SMALL: 0}
    assert _changes(next_patches(view, desired, external=0)) == [("small", 8, 4)]
    stopping = _view({"replicas": 0}, {"replicas": 4, "terminatingReplicas": 4})
    assert next_patches(stopping, desired, external=0) == ()
    loading = _view({"replicas": 2, "readyReplicas": 0}, {"replicas": 4})
    assert next_patches(loading, desired, external=0) == ()
    ready = _view({"replicas": 2}, {"replicas": 4})
    assert _changes(next_patches(ready, desired, external=0)) == [("small", 4, 0)]


def test_money_is_freed_only_as_far_as_what_is_added_needs_it() -> None:
    view = _view({"replicas": 0}, {"replicas": 5}, hourly="10")
    assert _changes(next_patches(view, {LARGE: 1, SMALL: 0}, external=0)) == [("small", 5, 3)]


def test_what_costs_too_much_goes_at_once() -> None:
    view = _view({"replicas": 2}, {"replicas": 1, "readyReplicas": 0}, hourly="8")
    assert _changes(next_patches(view, {LARGE: 1, SMALL: 1}, external=0)) == [("large", 2, 1)]


def test_pods_that_never_become_ready_hold_nothing_back_for_ever() -> None:
    view = _view({"replicas": 1}, {"replicas": 1, "readyReplicas": 0})
    desired = {LARGE: 0, SMALL: 1}
    assert next_patches(view, desired, external=0) == ()
    late = next_patches(view, desired, external=0, stalled=frozenset({SMALL}))
    assert _changes(late) == [("large", 1, 0)]


def test_a_variant_without_ready_replicas_is_added_first() -> None:
    view = _view({"replicas": 0}, {"replicas": 5})
    patches = next_patches(view, {LARGE: 1, SMALL: 8}, external=0)
    assert _changes(patches) == [("large", 0, 1), ("small", 5, 6)]


class _Interfering(EmbeddedCluster):
    """A cluster in which someone acts just before our patch arrives."""

    def __init__(self, act: Callable[[EmbeddedCluster], None]) -> None:
        super().__init__([deployment_object("large", replicas=1)])
        self._act = act

    async def scale(self, target: ObjectKey, replicas: int, resource_version: str) -> None:
        self._act(self)
        await super().scale(target, replicas, resource_version)


async def _written(cluster: EmbeddedCluster, replicas: int = 2) -> tuple[Outcome, str, int]:
    """Patch `large` from 1 replica; return the outcome, its message and the replicas then."""
    observer = Observer()
    observer.apply(ObjectEvent(Kind.DEPLOYMENT, TARGET, False, await cluster.get(Kind.DEPLOYMENT, TARGET)))
    workload = observer.snapshot().workloads[TARGET]
    patch = Patch(LARGE, TARGET, workload.replicas, replicas, workload.resource_version)
    (scaled,) = await Scaler(cluster, observer, leads=lambda: True).apply([patch])
    try:
        replicas_now = workload_of(TARGET, await cluster.get(Kind.DEPLOYMENT, TARGET)).replicas
    except NotFound:
        replicas_now = 0
    return scaled.outcome, scaled.message, replicas_now


async def test_a_patch_is_written_and_counted_at_once() -> None:
    cluster = EmbeddedCluster([deployment_object("large", replicas=1)])
    assert await _written(cluster) == (Outcome.DONE, "", 2)


async def test_a_patch_survives_a_change_of_status() -> None:
    def act(cluster: EmbeddedCluster) -> None:
        cluster.apply(deployment_object("large", replicas=1) | {"metadata": _noted("once")})

    assert (await _written(_Interfering(act)))[::2] == (Outcome.DONE, 2)


async def test_a_change_of_replicas_by_another_wins() -> None:
    def act(cluster: EmbeddedCluster) -> None:
        cluster.apply(deployment_object("large", replicas=5))

    outcome, message, replicas = await _written(_Interfering(act))
    assert (outcome, replicas) == (Outcome.OVERTAKEN, 5)
    assert "became 5" in message


async def test_a_deployment_that_is_gone_is_no_error() -> None:
    outcome, _, replicas = await _written(_Interfering(lambda cluster: cluster.delete("Deployment", TARGET)))
    assert (outcome, replicas) == (Outcome.OVERTAKEN, 0)


async def test_a_deployment_that_changes_for_ever_ends_in_an_outcome() -> None:
    numbers = iter(range(100))

    def act(cluster: EmbeddedCluster) -> None:
        cluster.apply(deployment_object("large", replicas=1) | {"metadata": _noted(str(next(numbers)))})

    outcome, message, replicas = await _written(_Interfering(act))
    assert (outcome, replicas) == (Outcome.OVERTAKEN, 1)
    assert "changed 5 times" in message


async def test_what_the_api_server_refuses_is_told() -> None:
    cluster = EmbeddedCluster([deployment_object("large", replicas=1)])
    outcome, message, replicas = await _written(cluster, replicas=-1)
    assert (outcome, replicas) == (Outcome.REFUSED, 1)
    assert "greater than or equal to 0" in message


async def test_a_process_that_no_longer_leads_writes_nothing() -> None:
    cluster = EmbeddedCluster([deployment_object("large", replicas=1)])
    scaler = Scaler(cluster, Observer(), leads=lambda: False)
    with pytest.raises(NotLeadingError):
        await scaler.apply([Patch(LARGE, TARGET, 1, 2, "1")])
    spec = (await cluster.get(Kind.DEPLOYMENT, TARGET))["spec"]
    assert spec == {"replicas": 1}


def _noted(note: str) -> Manifest:
    return {"name": "large", "namespace": "ml", "annotations": {"note": note}}
