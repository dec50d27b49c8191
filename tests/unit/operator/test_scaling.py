"""Replicas change in an order that passes no limit, by one fenced writer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
from modelfleet_core.allocation.throughput import Asked, Room
from modelfleet_core.values import ModelName, ObjectKey, VariantKey
from modelfleet_operator.cluster import Conflict, Kind, NotFound, ObjectEvent
from modelfleet_operator.cluster.embedded import EmbeddedCluster
from modelfleet_operator.fencing import Fence, NotLeadingError
from modelfleet_operator.observe import EPOCH_ANNOTATION, Observer, Workload, workload_of
from modelfleet_operator.scale import Outcome, Patch, Scaler, next_patches
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


def _room(rate: float, takes: Mapping[VariantKey, float]) -> Room:
    return Room((Asked(rate, takes),))


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
    unused = _room(0, {LARGE: 1.0})
    assert _changes(next_patches(view, desired, external=0, room=unused)) == [("small", 8, 4)]
    stopping = _view({"replicas": 0}, {"replicas": 4, "terminatingReplicas": 4})
    assert next_patches(stopping, desired, external=0) == ()
    loading = _view({"replicas": 2, "readyReplicas": 0}, {"replicas": 4})
    assert next_patches(loading, desired, external=0) == ()
    ready = _view({"replicas": 2}, {"replicas": 4})
    assert _changes(next_patches(ready, desired, external=0)) == [("small", 4, 0)]


def test_gpus_that_serve_change_hands_in_steps_of_one_replica_or_a_quarter_of_the_pool() -> None:
    desired = {LARGE: 2, SMALL: 0}
    full = _view({"replicas": 0}, {"replicas": 8})
    assert _changes(next_patches(full, desired, external=0)) == [("small", 8, 6)]
    stopping = _view({"replicas": 0}, {"replicas": 6, "terminatingReplicas": 2})
    assert next_patches(stopping, desired, external=0) == ()
    loading = _view({"replicas": 1, "readyReplicas": 0}, {"replicas": 6})
    assert next_patches(loading, desired, external=0) == ()
    ready = _view({"replicas": 1}, {"replicas": 6})
    assert _changes(next_patches(ready, desired, external=0)) == [("small", 6, 4)]


def test_a_step_takes_one_of_many_rather_than_the_last() -> None:
    manifest = _fleet()
    new = fleet_manifest()["spec"]["models"][0] | {"name": "new"}
    new["variants"][0] |= {"gpus": 2, "scaleTargetRef": {"name": "new"}, "replicas": {"max": 1}}
    new["variants"][0]["service"]["name"] = "new"
    manifest["spec"]["models"].append(new)
    status = {"large": 1, "small": 6, "new": 0}
    deployments = [
        deployment_object(name, replicas=count) | {"status": {"replicas": count, "readyReplicas": count}}
        for name, count in status.items()
    ]
    view = view_of(observed(manifest, node_object("a", gpus=8), *deployments))
    desired = {LARGE: 0, SMALL: 0, VariantKey(ModelName("new"), "h100"): 1}
    assert _changes(next_patches(view, desired, external=0)) == [("small", 6, 4)]


def test_replicas_that_serve_nothing_are_no_part_of_a_step() -> None:
    view = _view({"replicas": 0}, {"replicas": 8, "readyReplicas": 5})
    assert _changes(next_patches(view, {LARGE: 2, SMALL: 0}, external=0)) == [("small", 8, 5)]


def test_what_requests_can_spare_goes_at_once_and_is_no_part_of_a_step() -> None:
    """8 replicas of small take 8 requests per second; there is to be room for twice those of now."""
    desired = {LARGE: 4, SMALL: 0}
    full = _view({"replicas": 0}, {"replicas": 8})
    takes = {LARGE: 4.0, SMALL: 1.0}
    assert _changes(next_patches(full, desired, external=0, room=_room(1.5, takes))) == [("small", 8, 1)]
    assert _changes(next_patches(full, desired, external=0, room=_room(3.0, takes))) == [("small", 8, 4)]
    assert _changes(next_patches(full, desired, external=0, room=_room(7.0, takes))) == [("small", 8, 6)]


def test_a_step_is_as_large_as_what_requests_lack() -> None:
    """Large takes 8 on the GPUs on which small takes 2; 6 of small and 1 of large take 14 per second."""
    desired = {LARGE: 4, SMALL: 0}
    view = _view({"replicas": 1}, {"replicas": 6})
    takes = {LARGE: 8.0, SMALL: 1.0}
    assert _changes(next_patches(view, desired, external=0, room=_room(13.0, takes))) == [("small", 6, 4)]
    assert _changes(next_patches(view, desired, external=0, room=_room(26.0, takes))) == [("small", 6, 2)]
    assert _changes(next_patches(view, desired, external=0, room=_room(50.0, takes))) == [("small", 6, 0)]


def test_a_large_step_under_way_makes_the_next_no_larger() -> None:
    room = _room(26.0, {LARGE: 8.0, SMALL: 1.0})
    desired = {LARGE: 4, SMALL: 0}
    ending = _view({"replicas": 1}, {"replicas": 2, "terminatingReplicas": 4})
    assert next_patches(ending, desired, external=0, room=room) == ()
    loading = _view({"replicas": 3, "readyReplicas": 1}, {"replicas": 2})
    assert next_patches(loading, desired, external=0, room=room) == ()


def test_before_a_replica_of_the_new_model_is_ready_one_step_goes_however_much_is_lacking() -> None:
    view = _view({"replicas": 0}, {"replicas": 8})
    room = _room(50.0, {LARGE: 8.0, SMALL: 1.0})
    assert _changes(next_patches(view, {LARGE: 4, SMALL: 0}, external=0, room=room)) == [("small", 8, 6)]


def test_for_what_never_becomes_ready_only_that_goes_which_requests_can_spare() -> None:
    desired = {LARGE: 2, SMALL: 0}
    takes = {LARGE: 4.0, SMALL: 1.0}
    loading = _view({"replicas": 1, "readyReplicas": 0}, {"replicas": 6})
    stalled = frozenset({LARGE})
    assert next_patches(loading, desired, external=0, stalled=stalled) == ()
    assert next_patches(loading, desired, external=0, stalled=stalled, room=_room(5.0, takes)) == ()
    spared = next_patches(loading, desired, external=0, stalled=stalled, room=_room(1.0, takes))
    assert _changes(spared) == [("small", 6, 2)]


def test_what_never_ends_stops_no_later_step() -> None:
    desired = {LARGE: 2, SMALL: 0}
    stuck = _view({"replicas": 0}, {"replicas": 6, "terminatingReplicas": 2})
    late = next_patches(stuck, desired, external=0, lingering=frozenset({SMALL}))
    assert _changes(late) == [("small", 6, 4)]


def test_what_is_over_a_limit_goes_at_once_and_in_no_steps() -> None:
    view = _view({"replicas": 0}, {"replicas": 8}, nodes=4)
    assert _changes(next_patches(view, {LARGE: 1, SMALL: 2}, external=0)) == [("small", 8, 4)]


def test_money_is_freed_only_as_far_as_what_is_added_needs_it() -> None:
    view = _view({"replicas": 0}, {"replicas": 5}, hourly="10")
    assert _changes(next_patches(view, {LARGE: 1, SMALL: 0}, external=0)) == [("small", 5, 3)]


def test_money_changes_hands_in_steps_too() -> None:
    view = _view({"replicas": 0}, {"replicas": 8}, hourly="16")
    assert _changes(next_patches(view, {LARGE: 4, SMALL: 0}, external=0)) == [("small", 8, 6)]
    loading = _view({"replicas": 1, "readyReplicas": 0}, {"replicas": 3}, nodes=20, hourly="10")
    assert next_patches(loading, {LARGE: 2, SMALL: 0}, external=0) == ()
    ready = _view({"replicas": 1}, {"replicas": 3}, nodes=20, hourly="10")
    assert _changes(next_patches(ready, {LARGE: 2, SMALL: 0}, external=0)) == [("small", 3, 1)]


def test_what_costs_too_much_goes_at_once() -> None:
    view = _view({"replicas": 2}, {"replicas": 1, "readyReplicas": 0}, hourly="8")
    assert _changes(next_patches(view, {LARGE: 1, SMALL: 1}, external=0)) == [("large", 2, 1)]


def test_pods_that_never_become_ready_hold_nothing_back_for_ever() -> None:
    view = _view({"replicas": 1}, {"replicas": 1, "readyReplicas": 0})
    desired = {LARGE: 0, SMALL: 1}
    assert next_patches(view, desired, external=0) == ()
    room = _room(0.0, {LARGE: 1.0, SMALL: 1.0})
    late = next_patches(view, desired, external=0, stalled=frozenset({SMALL}), room=room)
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
    fence = Fence(cluster, leads=lambda: True, epoch=1)
    (scaled,) = await Scaler(cluster, observer, fence).apply([patch], [])
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
    scaler = Scaler(cluster, Observer(), Fence(cluster, leads=lambda: False, epoch=1))
    with pytest.raises(NotLeadingError):
        await scaler.apply([Patch(LARGE, TARGET, 1, 2, "1")], [])
    spec = (await cluster.get(Kind.DEPLOYMENT, TARGET))["spec"]
    assert spec == {"replicas": 1}


class _Two:
    """Two Deployments, and the scalers of leaders that follow each other."""

    def __init__(self, *, epoch: str = "") -> None:
        large, small = (deployment_object(name, replicas=1) for name in ("large", "small"))
        if epoch:
            large["metadata"]["annotations"] = {EPOCH_ANNOTATION: epoch}
        self.cluster = EmbeddedCluster([large, small])

    def scaler(self, epoch: int) -> Scaler:
        return Scaler(self.cluster, Observer(), Fence(self.cluster, leads=lambda: True, epoch=epoch))

    async def targets(self) -> list[Workload]:
        keys = [ObjectKey("ml", name) for name in ("large", "small")]
        return [workload_of(key, await self.cluster.get(Kind.DEPLOYMENT, key)) for key in keys]

    async def patch(self, name: str, replicas: int) -> Patch:
        workload = workload_of(
            ObjectKey("ml", name), await self.cluster.get(Kind.DEPLOYMENT, ObjectKey("ml", name))
        )
        variant = VariantKey(ModelName(name), "h100")
        return Patch(variant, workload.key, workload.replicas, replicas, workload.resource_version)


async def test_g13_a_patch_that_an_earlier_leader_has_under_way_fails_on_every_target() -> None:
    two = _Two()
    stale = await two.patch("small", 5)
    targets = await two.targets()
    old, new = two.scaler(1), two.scaler(2)
    (done,) = await new.apply([await two.patch("large", 2)], targets)
    assert done.outcome is Outcome.DONE
    assert {workload.epoch for workload in await two.targets()} == {2}
    with pytest.raises(Conflict):
        await two.cluster.scale(stale.target, 5, stale.resource_version)
    (late,) = await old.apply([stale], targets)
    assert late.outcome is Outcome.REFUSED
    assert "says 2, but this operator leads in epoch 1" in late.message
    assert [workload.replicas for workload in await two.targets()] == [2, 1]


async def test_g13_a_target_is_stamped_once_by_each_leader_and_its_pods_are_not_touched() -> None:
    two = _Two()
    before = await two.cluster.get(Kind.DEPLOYMENT, TARGET)
    scaler = two.scaler(3)
    await scaler.apply([await two.patch("large", 2)], await two.targets())
    stamped = await two.cluster.get(Kind.DEPLOYMENT, ObjectKey("ml", "small"))
    await scaler.apply([await two.patch("large", 3)], await two.targets())
    assert await two.cluster.get(Kind.DEPLOYMENT, ObjectKey("ml", "small")) == stamped
    after = await two.cluster.get(Kind.DEPLOYMENT, TARGET)
    assert after["spec"] == {"replicas": 3}
    assert before["spec"] == {"replicas": 1}


async def test_without_patches_nothing_is_stamped() -> None:
    two = _Two()
    assert await two.scaler(3).apply([], await two.targets()) == ()
    assert {workload.epoch for workload in await two.targets()} == {0}


async def test_a_deployment_of_a_newer_epoch_is_left_alone_and_stops_no_other() -> None:
    two = _Two(epoch="7")
    patches = [await two.patch("large", 2), await two.patch("small", 2)]
    large, small = await two.scaler(3).apply(patches, await two.targets())
    assert (large.outcome, small.outcome) == (Outcome.REFUSED, Outcome.DONE)
    assert "remove the annotation" in large.message
    assert [workload.replicas for workload in await two.targets()] == [1, 2]


@pytest.mark.parametrize("text", ["", "x", "-1", "9" * 13])
async def test_what_is_no_epoch_is_written_over(text: str) -> None:
    two = _Two(epoch=text)
    (done,) = await two.scaler(1).apply([await two.patch("large", 2)], await two.targets())
    assert done.outcome is Outcome.DONE
    assert {workload.epoch for workload in await two.targets()} == {1}


def _noted(note: str) -> Manifest:
    return {"name": "large", "namespace": "ml", "annotations": {"note": note}}
