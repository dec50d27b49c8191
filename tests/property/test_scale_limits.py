"""G5: after our patches GPUs in use, pending and terminating stay within pool, stock and hourly budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from modelfleet_core.allocation.throughput import Asked, Room
from modelfleet_core.demand import DemandClass, ModelOffer
from modelfleet_core.values import EndpointUrl, ModelName, ObjectKey, TaskName, TierName, VariantKey
from modelfleet_operator.draining import LEAD, Draining, Held, next_step
from modelfleet_operator.observe import Workload
from modelfleet_operator.planning import Demand, Memory, external_spend, plan_fleet
from modelfleet_operator.scale import gpus_left, money_left, next_patches
from modelfleet_operator.views import FleetView, LivePod
from support.manifests import Manifest, fleet_manifest
from support.snapshots import deployment_object, node_object, observed, view_of

pytestmark = pytest.mark.property

POOLS = ("h100", "l4")
COUNTS = st.integers(0, 6)


def _model(name: str, pool: str, gpus: int) -> Manifest:
    model: Manifest = fleet_manifest()["spec"]["models"][0] | {"name": name}
    model["quality"] = {"prior": f"0.{3 + gpus}"}
    model["variants"][0] |= {
        "pool": pool,
        "gpus": gpus,
        "scaleTargetRef": {"name": name},
        "service": {"name": name, "port": "http"},
        "replicas": {"min": 0},
    }
    return model


API: Manifest = fleet_manifest()["spec"]["models"][1]
"""Served elsewhere, paid by request."""


@st.composite
def views(draw: st.DrawFn) -> FleetView:
    """Any fleet on two pools, in any state, also one that is over its limits already."""
    manifest = fleet_manifest()
    manifest["spec"]["pools"] = [
        {
            "name": pool,
            "nodeSelector": {"gpu": pool},
            "limit": draw(st.integers(4, 12)),
            "hourlyCost": draw(st.sampled_from(["0", "0.7", "2.9"])),
        }
        for pool in POOLS
    ]
    chosen = draw(
        st.lists(st.tuples(st.sampled_from(POOLS), st.sampled_from([1, 2, 4])), min_size=1, max_size=4)
    )
    models = [_model(f"m{i}", pool, gpus) for i, (pool, gpus) in enumerate(chosen)]
    manifest["spec"]["models"] = [*models, API]
    manifest["spec"]["budget"] = {"hourly": str(draw(st.integers(0, 40)))}
    workloads = []
    for model in models:
        replicas = draw(COUNTS)
        status = {
            "replicas": draw(COUNTS),
            "readyReplicas": draw(st.integers(0, replicas)),
            "terminatingReplicas": draw(st.integers(0, 2)),
        }
        workloads.append(deployment_object(model["name"], replicas=replicas) | {"status": status})
    nodes = [node_object(pool, gpus=draw(st.integers(0, 12)), labels={"gpu": pool}) for pool in POOLS]
    return view_of(observed(manifest, *workloads, *nodes))


@st.composite
def rooms(draw: st.DrawFn, view: FleetView) -> Room | None:
    """What replicas take of any requests: too little for them, enough, far too much; or no one knows."""
    if draw(st.booleans()):
        return None
    takes = {key: draw(st.sampled_from([0.5, 1.0, 4.0])) for key in view.workloads if draw(st.booleans())}
    return Room((Asked(draw(st.sampled_from([0.0, 1.0, 5.0, 40.0])), takes),))


def _patched(
    view: FleetView, desired: dict[VariantKey, int], external: float, room: Room | None = None
) -> FleetView:
    """Return the view after the patches, with every pod that they create and none that they end gone."""
    workloads = dict(view.workloads)
    for patch in next_patches(view, desired, external=external, room=room):
        before = workloads[patch.variant]
        workloads[patch.variant] = _after(before, patch.replicas)
    return replace(view, workloads=workloads)


def _after(workload: Workload, replicas: int) -> Workload:
    there = workload.occupied - workload.terminating
    added = max(0, replicas - workload.replicas)
    return replace(workload, replicas=replicas, pods=there + added)


def _assert_no_worse(before: FleetView, after: FleetView, external: float) -> None:
    for pool, left in gpus_left(after).items():
        assert left >= min(0, gpus_left(before)[pool])
    assert money_left(after, external) >= min(0.0, money_left(before, external)) - 1e-5


@given(st.data(), views(), st.sampled_from([0.0, 3.5]))
def test_whatever_is_wanted_no_patch_passes_a_limit(
    data: st.DataObject, view: FleetView, external: float
) -> None:
    desired = {key: data.draw(COUNTS) for key in view.workloads}
    _assert_no_worse(view, _patched(view, desired, external, data.draw(rooms(view))), external)


@given(st.data(), views())
def test_patches_only_go_towards_what_is_wanted(data: st.DataObject, view: FleetView) -> None:
    desired = {key: data.draw(COUNTS) for key in view.workloads}
    room = data.draw(rooms(view))
    stalled = frozenset(key for key in view.workloads if data.draw(st.booleans()))
    for patch in next_patches(view, desired, external=0.0, stalled=stalled, room=room):
        low, high = sorted((patch.before, desired[patch.variant]))
        assert patch.replicas != patch.before
        assert low <= patch.replicas <= high


@settings(max_examples=60, deadline=None)
@given(st.data(), views())
def test_what_is_wanted_and_fits_is_reached(data: st.DataObject, view: FleetView) -> None:
    """Where pods become ready and end, however little each step is, and whatever requests need."""
    desired = {key: data.draw(st.integers(0, 4)) for key in view.workloads}
    room = data.draw(rooms(view))
    aim = _settled(replace(view, workloads=_counted(view, desired)))
    assume(all(left >= 0 for left in gpus_left(aim).values()) and money_left(aim, 0.0) >= 0)
    there = _settled(view)
    for _ in range(60):
        patches = next_patches(there, desired, external=0.0, room=room)
        if not patches:
            break
        counts = there.current() | {patch.variant: patch.replicas for patch in patches}
        there = _settled(replace(there, workloads=_counted(there, counts)))
    assert there.current() == desired


@settings(max_examples=60, deadline=None)
@given(st.data(), views())
def test_for_what_never_becomes_ready_no_room_goes_that_requests_need(
    data: st.DataObject, view: FleetView
) -> None:
    there = _full(_settled(view))
    desired = {key: data.draw(COUNTS) for key in view.workloads}
    desired[min(desired)] += 1 + there.workloads[min(desired)].ready
    room = Room((Asked(data.draw(st.sampled_from([0.0, 1.0, 5.0, 40.0])), dict.fromkeys(desired, 1.0)),))
    growing = frozenset(key for key, count in desired.items() if count > there.workloads[key].ready)
    serving = {key: workload.ready for key, workload in there.workloads.items()}
    left = dict(serving)
    for patch in next_patches(there, desired, external=0.0, stalled=growing, room=room):
        left[patch.variant] = min(left[patch.variant], patch.replicas)
    assert not room.takes_less(serving, left)


def _full(view: FleetView) -> FleetView:
    """Return the view with pools, nodes and budget that the present pods fill."""
    used = view.gpus_occupied()
    pools = tuple(replace(pool, limit=used[pool.name]) for pool in view.fleet.pools)
    spent = sum(pool.hourly_cost * used[pool.name] for pool in pools)
    return replace(view, fleet=replace(view.fleet, pools=pools, hourly_budget=spent), stock=used)


def _counted(view: FleetView, counts: Mapping[VariantKey, int]) -> dict[VariantKey, Workload]:
    return {key: replace(w, replicas=counts[key]) for key, w in view.workloads.items()}


def _settled(view: FleetView) -> FleetView:
    """Return the view once all pods that are asked for are ready, and no others are there."""
    return replace(
        view,
        workloads={
            key: replace(w, pods=w.replicas, ready=w.replicas, terminating=0)
            for key, w in view.workloads.items()
        },
    )


@settings(max_examples=25, deadline=None)
@given(views(), st.booleans())
def test_a_plan_and_its_patches_pass_no_limit(view: FleetView, pods: bool) -> None:
    demand = Demand(classes=(), reporting=0, pods=int(pods), heard=False)
    planned = plan_fleet(view, demand, Memory(), 0.0, time_limit=2.0)
    budget = view.fleet.hourly_budget
    assert budget is not None
    assert planned.plan.hourly_cost <= budget + 1e-6
    external = external_spend(view.fleet, planned.plan)
    _assert_no_worse(view, _patched(view, planned.desired, external), external)


class _Controllers:
    """The cluster's side: pods come, load, fail, linger and are rolled over, in any order."""

    def __init__(self, view: FleetView) -> None:
        calm = {key: Workload(w.key, 0, 0, 0, 0, "", "1") for key, w in view.workloads.items()}
        self.view = replace(view, workloads=calm)

    def patch(self, key: VariantKey, replicas: int) -> None:
        self._set(key, replace(self.view.workloads[key], replicas=replicas))

    def act(self, key: VariantKey, what: str) -> None:
        w = self.view.workloads[key]
        if what == "create" and w.pods < w.replicas:
            w = replace(w, pods=w.pods + 1)
        elif what == "ready" and w.ready < w.pods:
            w = replace(w, ready=w.ready + 1)
        elif what == "fail" and w.ready:
            w = replace(w, ready=w.ready - 1)
        elif what == "stop" and w.pods > w.replicas:
            w = replace(w, pods=w.pods - 1, ready=min(w.ready, w.pods - 1), terminating=w.terminating + 1)
        elif what == "end" and w.terminating:
            w = replace(w, terminating=w.terminating - 1)
        elif what == "roll" and w.ready:
            w = replace(
                w, ready=w.ready - 1, terminating=w.terminating + 1
            )  # maxSurge 0: one goes, one comes
        self._set(key, w)

    def _set(self, key: VariantKey, workload: Workload) -> None:
        self.view = replace(self.view, workloads={**self.view.workloads, key: workload})


ACTS = st.sampled_from(["create", "create", "ready", "ready", "fail", "stop", "stop", "end", "roll"])


@settings(max_examples=25, deadline=None)
@given(st.data(), views())
def test_g5_whatever_pods_do_no_plan_and_no_patch_passes_a_limit(
    data: st.DataObject, view: FleetView
) -> None:
    """Through changing demand, also for a paid model elsewhere, failing pods, slow ends and rollouts."""
    cluster, memory = _Controllers(view), Memory()
    budget = view.fleet.hourly_budget
    assert budget is not None
    own = [model.name for model in view.fleet.models if model.name != API["name"]]
    for turn in range(data.draw(st.integers(2, 5))):
        rates = {name: data.draw(st.sampled_from([0.0, 2.0, 30.0])) for name in own}
        planned = plan_fleet(cluster.view, _demand(rates), memory, 20.0 * turn, time_limit=2.0)
        memory = planned.memory
        assert planned.plan.hourly_cost <= budget * (1 + 1e-9)
        external = external_spend(view.fleet, planned.plan)
        assert sum(planned.plan.gpus.values()) <= sum(max(0, pool.limit) for pool in view.fleet.pools)
        for _ in range(3):
            before = cluster.view
            patches = next_patches(
                before,
                planned.desired,
                external=external,
                stalled=planned.stalled,
                lingering=planned.lingering,
                room=planned.room,
            )
            for patch in patches:
                cluster.patch(patch.variant, patch.replicas)
            _assert_no_worse(before, cluster.view, external)
            for key in before.workloads:
                for what in data.draw(st.lists(ACTS, max_size=6)):
                    cluster.act(key, what)


def _demand(rates: Mapping[ModelName, float]) -> Demand:
    classes = tuple(
        DemandClass(
            policy=ObjectKey("ml", "assistant"),
            tier=TierName("gold"),
            task=TaskName("math"),
            weight=1.0,
            shed_penalty=0.5,
            rate=rate,
            offers={
                name: ModelOffer(quality=0.7, cost_usd=0.001, service_time=2.0),
                ModelName("frontier"): ModelOffer(quality=0.8, cost_usd=0.0003, service_time=1.0),
            },
        )
        for name, rate in rates.items()
        if rate
    )
    return Demand(classes=classes, reporting=1, pods=1, heard=True)


LONGEST = 30.0
SLOTS = 4


@dataclass(slots=True)
class _Pod:
    live: LivePod
    ready: bool
    held: int = 0
    marked: bool = False
    leaving_since: float = float("inf")


@dataclass(slots=True)
class _DrainedCluster:
    """Pods with slots that sidecars hold, and a ReplicaSet controller that ends pods as Kubernetes does."""

    view: FleetView
    pods: dict[VariantKey, list[_Pod]] = field(default_factory=dict)
    draining: Draining = field(default_factory=Draining)
    leased: frozenset[EndpointUrl] = frozenset()
    now: float = 0.0
    count: int = 0

    def start(self, key: VariantKey, *, ready: bool, held: int) -> None:
        self.count += 1
        name = f"{self.view.workloads[key].key.name}-abc-{self.count}"
        live = LivePod(f"uid-{self.count}", name, EndpointUrl(f"http://10.0.0.{self.count}:8000"))
        self.pods.setdefault(key, []).append(_Pod(live, ready, held if ready else 0))

    def observe(self) -> FleetView:
        """Return what the operator sees; each pod that is asked for is there."""
        workloads, pods, endpoints = {}, {}, {}
        for key, workload in self.view.workloads.items():
            found = self.pods.get(key, [])
            ready = [pod.live for pod in found if pod.ready]
            workloads[key] = replace(
                workload, replicas=len(found), pods=len(found), ready=len(ready), terminating=0
            )
            pods[key] = tuple(ready)
            endpoints[key] = {pod.url: SLOTS for pod in ready if pod.uid not in self.draining.leaving}
        self.view = replace(self.view, workloads=workloads, pods=pods, endpoints=endpoints)
        return self.view

    def publish(self) -> None:
        """Let the capacity service know what is leased now."""
        view = self.observe()
        self.leased = frozenset(url for live in view.endpoints.values() for url in live)

    def step(self, desired: Mapping[VariantKey, int], room: Room | None = None) -> None:
        """Decide and act as the operator does; the controller ends pods at once."""
        view = self.observe()
        patches = next_patches(view, desired, external=0.0, room=room)
        held = Held({p.live.url: p.held for pods in self.pods.values() for p in pods}, self.leased)
        step = next_step(view, patches, self.draining, held, now=self.now, longest=LONGEST)
        self.draining = step.draining.marked(step.mark, self.now)
        unmarked, marked = {p.uid for p in step.unmark}, {p.uid for p in step.mark}
        for pods in self.pods.values():
            for pod in pods:
                pod.marked = (pod.marked and pod.live.uid not in unmarked) or pod.live.uid in marked
                known = self.draining.leaving.get(pod.live.uid)
                pod.leaving_since = known.since if known is not None else float("inf")
        asked = {patch.variant: patch for patch in patches}
        for patch in step.patches:
            whole = asked[patch.variant]
            assert min(whole.before, whole.replicas) <= patch.replicas <= max(whole.before, whole.replicas)
            for _ in range(patch.replicas - patch.before):
                self.start(patch.variant, ready=False, held=0)
            self._end(patch.variant, patch.before - patch.replicas)

    def _end(self, key: VariantKey, number: int) -> None:
        # Not ready first, then the marked; of equals the worst for us.
        order = sorted(self.pods.get(key, []), key=lambda pod: (pod.ready, not pod.marked, -pod.held))
        for pod in order[: max(0, number)]:
            late = self.now >= pod.leaving_since + LONGEST
            assert not pod.ready or pod.held == 0 or late, "a request was cut"
            assert not pod.ready or pod.live.url not in self.leased or late, "a grant may be on its way"
            self.pods[key].remove(pod)


@settings(max_examples=60, deadline=None)
@given(st.data(), views())
def test_no_ready_replica_goes_while_its_slots_are_held_and_drains_end(
    data: st.DataObject, view: FleetView
) -> None:
    """Whatever is wanted, however pods fail and sidecars hold slots; G5 and no lost request."""
    cluster = _DrainedCluster(replace(view, stock={pool.name: 100 for pool in view.fleet.pools}))
    for key in view.workloads:
        for _ in range(data.draw(st.integers(0, 3))):
            cluster.start(key, ready=data.draw(st.booleans()), held=data.draw(st.integers(0, SLOTS)))
    cluster.publish()
    desired = {key: data.draw(st.integers(0, 3)) for key in view.workloads}
    for _ in range(data.draw(st.integers(3, 12))):
        cluster.now += data.draw(st.sampled_from([0.1, LEAD, LEAD, 5.0, LONGEST]))
        if data.draw(st.integers(0, 5)) == 0:
            desired = {key: data.draw(st.integers(0, 3)) for key in view.workloads}
        for pods in cluster.pods.values():
            for pod in pods:
                most = SLOTS if pod.live.url in cluster.leased else pod.held
                pod.held = data.draw(st.just(pod.held) | st.just(pod.held) | st.integers(0, most))
                if data.draw(st.integers(0, 9)) == 9:
                    pod.ready = not pod.ready
        before = cluster.observe()
        cluster.step(desired, data.draw(rooms(before)))
        _assert_no_worse(before, cluster.observe(), 0.0)
        if data.draw(st.sampled_from([True, True, False])):
            cluster.publish()
    wish = {key: len(pods) for key, pods in cluster.pods.items()}
    cluster.step(wish)
    assert not cluster.draining.leaving, "nothing is to go, so every pod is leased again"
    assert not any(pod.marked for pods in cluster.pods.values() for pod in pods if pod.ready)


@settings(max_examples=60, deadline=None)
@given(st.data(), views())
def test_what_is_to_go_goes_within_the_longest_request(data: st.DataObject, view: FleetView) -> None:
    cluster = _DrainedCluster(view)
    for key in view.workloads:
        for _ in range(data.draw(st.integers(0, 4))):
            cluster.start(key, ready=data.draw(st.booleans()), held=data.draw(st.integers(0, SLOTS)))
    cluster.publish()
    nothing = dict.fromkeys(view.workloads, 0)
    for pause in (0.1, LONGEST, LEAD):
        cluster.step(nothing)
        cluster.publish()
        cluster.now += pause
    cluster.step(nothing)
    assert not any(cluster.pods.values())
