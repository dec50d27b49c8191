"""A fleet is planned for reported demand, held when reports are missing, and started for an assumed one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from modelfleet_core.allocation.result import Plan, Reason, Termination
from modelfleet_core.allocation.stabilise import Stabiliser
from modelfleet_core.demand import DemandClass, ModelOffer
from modelfleet_core.values import EndpointUrl, ModelName, ObjectKey, TaskName, TierName, VariantKey
from modelfleet_operator.cluster.embedded import read_manifests
from modelfleet_operator.fleet_status import planned_replicas
from modelfleet_operator.planning import Basis, Demand, Memory, assumed_demand, basis_of, plan_fleet
from modelfleet_operator.views import FleetView, LivePod
from support.manifests import fleet_manifest
from support.snapshots import KINDS, deployment_object, node_object, observed, view_of
from support.swaps import NEW, OLD, Swap

LARGE = VariantKey(ModelName("large"), "h100")
EXAMPLES = Path(__file__).resolve().parents[3] / "examples"
NOTHING = Demand(classes=(), reporting=0, pods=0, heard=False)


def _class(rate: float) -> DemandClass:
    return DemandClass(
        policy=ObjectKey("ml", "assistant"),
        tier=TierName("gold"),
        task=TaskName("math"),
        weight=1.0,
        shed_penalty=0.5,
        rate=rate,
        offers={ModelName("large"): ModelOffer(quality=0.7, cost_usd=0.001, service_time=2.0)},
    )


def _reported(rate: float) -> Demand:
    return Demand(classes=(_class(rate),), reporting=1, pods=1, heard=True)


def _view(replicas: int, *, ready: int | None = None, gpus: int = 8) -> FleetView:
    status = {"replicas": replicas, "readyReplicas": replicas if ready is None else ready}
    workload = deployment_object("large", replicas=replicas) | {"status": status}
    return view_of(observed(fleet_manifest(), node_object("a", gpus=gpus), workload))


@pytest.mark.parametrize(
    ("demand", "memory", "basis"),
    [
        (NOTHING, Memory(), Basis.ASSUMED),
        (_reported(1), Memory(), Basis.REPORTED),
        (NOTHING, Memory(planned={LARGE: 2}), Basis.HELD),
        (NOTHING, Memory(planned={LARGE: 2}, basis=Basis.ASSUMED), Basis.ASSUMED),
        (Demand((), 0, 3, heard=True), Memory(planned={LARGE: 2}, basis=Basis.REPORTED), Basis.HELD),
        (Demand((), 3, 3, heard=True), Memory(planned={LARGE: 2}, basis=Basis.REPORTED), Basis.REPORTED),
        (Demand((), 3, 3, heard=False), Memory(planned={LARGE: 2}), Basis.HELD),
        (Demand((), 0, 0, heard=True), Memory(planned={LARGE: 2}, basis=Basis.REPORTED), Basis.REPORTED),
    ],
)
def test_a_plan_rests_on_reports_or_on_the_last_plan_or_on_an_assumption(
    demand: Demand, memory: Memory, basis: Basis
) -> None:
    assert basis_of(demand, memory) is basis


def test_the_first_seconds_of_requests_move_nothing_yet() -> None:
    """One burst as the first sidecar begins would be followed, and then held for a window."""
    early = replace(_reported(30), known_for=1.0)
    fresh = plan_fleet(_view(0), early, Memory(), 0.0, time_limit=2.0)
    assert (fresh.basis, fresh.desired[LARGE]) == (Basis.ASSUMED, 1)
    led_before = Memory(planned={LARGE: 2}, basis=None)
    assert plan_fleet(_view(2), early, led_before, 0.0, time_limit=2.0).basis is Basis.HELD
    later = replace(early, known_for=3.0)
    settled = plan_fleet(_view(1), later, fresh.memory, 3.0, time_limit=2.0)
    assert (settled.basis, settled.desired[LARGE]) == (Basis.REPORTED, 4)


def test_the_fleet_says_how_long_scaling_up_waits() -> None:
    manifest = fleet_manifest()
    manifest["spec"]["scaling"]["scaleUpStabilization"] = "30s"
    workload = deployment_object("large", replicas=1) | {"status": {"replicas": 1, "readyReplicas": 1}}
    view = view_of(observed(manifest, node_object("a", gpus=8), workload))
    memory, seen = Memory(), []
    for now in (0.0, 15.0, 31.0):
        planned = plan_fleet(view, _reported(30), memory, now, time_limit=2.0)
        memory = planned.memory
        seen.append(planned.desired[LARGE])
    assert seen == [1, 1, 4]


def test_reported_demand_brings_replicas_up() -> None:
    planned = plan_fleet(_view(0), _reported(30), Memory(), 0.0, time_limit=2.0)
    assert planned.basis is Basis.REPORTED
    assert planned.desired[LARGE] == 4


def test_a_model_that_the_policy_can_not_pay_for_gets_no_replicas() -> None:
    demand = _reported(30)
    broke = replace(demand, budget_rate={demand.classes[0].policy: 0.0})
    assert plan_fleet(_view(0), broke, Memory(), 0.0, time_limit=2.0).desired[LARGE] == 0


def test_a_brand_new_fleet_gets_a_first_replica() -> None:
    view = _view(0)
    fleet = view.fleet
    planned = plan_fleet(view, NOTHING, Memory(), 0.0, time_limit=2.0)
    assert planned.basis is Basis.ASSUMED
    assert sum(demand.rate for demand in assumed_demand(fleet)) == pytest.approx(0.2)
    assert planned.memory.planned == planned.desired


def test_a_brand_new_fleet_has_replicas_of_its_own_even_if_a_paid_model_would_serve_better() -> None:
    """Who may pay for the external model is not known before the first sidecar reports."""
    manifests = [m for m in read_manifests([EXAMPLES, EXAMPLES / "embedded"]) if m["kind"] in KINDS]
    view = view_of(observed(*(dict(m) for m in manifests)), "chat", "default")
    memory, at = Memory(), 0.0
    for _ in range(5):
        planned = plan_fleet(view, NOTHING, memory, at, time_limit=2.0)
        assert sum(planned.desired.values()) >= 1
        memory, at = planned.memory, at + 100.0
    assert planned.plan.hourly_cost <= 16


def test_what_was_planned_for_an_assumed_demand_is_not_held_after_a_restart() -> None:
    status = {
        "plan": {"variants": [{"model": "large", "variant": "h100", "desired": 0}]},
        "conditions": [{"type": "Solved", "status": "True", "reason": "NoDemandYet"}],
    }
    planned = plan_fleet(_view(0), NOTHING, Memory(planned_replicas(status)), 0.0, time_limit=2.0)
    assert (planned.basis, planned.desired[LARGE]) == (Basis.ASSUMED, 1)


def test_nothing_is_removed_while_some_sidecars_are_silent_but_more_is_added() -> None:
    memory = Memory(planned={LARGE: 2}, basis=Basis.REPORTED)
    for at in (0.0, 1000.0, 2000.0):
        low = plan_fleet(_view(2), replace(_reported(1), silent=1), memory, at, time_limit=2.0)
        assert low.desired[LARGE] == 2
        memory = low.memory
    assert (
        plan_fleet(_view(2), replace(_reported(30), silent=1), memory, 0.0, time_limit=2.0).desired[LARGE]
        == 4
    )
    back = plan_fleet(_view(2), _reported(1), memory, 3000.0, time_limit=2.0)
    assert back.desired[LARGE] == 1


def test_requests_now_and_then_turn_a_model_on_and_off_no_faster_than_the_window() -> None:
    memory, replicas, changes = Memory(), 0, []
    quiet = Demand(classes=(), reporting=1, pods=1, heard=True)
    for step in range(240):
        now = 15.0 * step
        demand = _reported(0.05) if step % 8 == 0 else quiet
        planned = plan_fleet(_view(replicas), demand, memory, now, time_limit=2.0)
        if planned.desired[LARGE] != replicas:
            changes.append(now)
        memory, replicas = planned.memory, planned.desired[LARGE]
    assert changes == [0.0]


def test_a_new_leader_moves_no_replicas_on_the_first_reports() -> None:
    """Sidecars connect one after the other: the first ones do not speak for all."""
    memory = Memory(planned={LARGE: 4})
    first = plan_fleet(_view(4), _reported(1), memory, 0.0, time_limit=2.0)
    assert first.desired[LARGE] == 4


def test_missing_reports_scale_nothing_down_ever() -> None:
    memory = Memory(planned={LARGE: 3}, basis=Basis.REPORTED)
    missing = Demand(classes=(), reporting=0, pods=2, heard=True)
    for hour in range(3):
        planned = plan_fleet(_view(3), missing, memory, 3600.0 * hour, time_limit=2.0)
        assert planned.desired[LARGE] == 3
        assert planned.plan.variants[LARGE].reason is Reason.HELD_BY_STABILISATION
        memory = planned.memory


def test_a_restarted_operator_keeps_the_plan_that_the_status_tells_of() -> None:
    status = {"plan": {"variants": [{"model": "large", "variant": "h100", "desired": 3}]}}
    planned = plan_fleet(_view(1), NOTHING, Memory(planned_replicas(status)), 0.0, time_limit=2.0)
    assert planned.basis is Basis.HELD
    assert planned.desired[LARGE] == 3
    assert planned_replicas({}) is None


def test_a_held_plan_still_fits_the_stock() -> None:
    memory = Memory(planned={LARGE: 4}, basis=Basis.REPORTED)
    planned = plan_fleet(_view(4, gpus=4), NOTHING, memory, 0.0, time_limit=2.0)
    assert planned.desired[LARGE] == 2
    assert planned.plan.termination is Termination.OPTIMAL, "what does not fit is no declared minimum"


def test_demand_that_ended_frees_replicas_only_after_the_stabilisation() -> None:
    idle = Demand(classes=(), reporting=1, pods=1, heard=True)
    planned = plan_fleet(_view(2), idle, Memory(), 0.0, time_limit=2.0)
    assert planned.desired[LARGE] == 2
    later = plan_fleet(_view(2), idle, planned.memory, 301.0, time_limit=2.0)
    assert later.desired[LARGE] == 0


def test_a_variant_that_takes_twice_its_startup_is_stalled() -> None:
    view = _view(1, ready=0)
    first = plan_fleet(view, _reported(1), Memory(), 0.0, time_limit=2.0)
    early = plan_fleet(view, _reported(1), first.memory, 479.0, time_limit=2.0)
    late = plan_fleet(view, _reported(1), early.memory, 481.0, time_limit=2.0)
    assert (first.stalled, early.stalled, late.stalled) == (frozenset(), frozenset(), frozenset({LARGE}))
    recovered = plan_fleet(_view(1), _reported(1), late.memory, 482.0, time_limit=2.0)
    assert recovered.memory.starting == {}


def test_pods_that_take_twice_the_startup_to_end_are_waited_for_no_longer() -> None:
    view = _view(1)
    ending = replace(view, workloads={LARGE: replace(view.workloads[LARGE], terminating=1)})
    first = plan_fleet(ending, _reported(1), Memory(), 0.0, time_limit=2.0)
    early = plan_fleet(ending, _reported(1), first.memory, 479.0, time_limit=2.0)
    late = plan_fleet(ending, _reported(1), early.memory, 481.0, time_limit=2.0)
    assert (first.lingering, early.lingering, late.lingering) == (
        frozenset(),
        frozenset(),
        frozenset({LARGE}),
    )
    assert plan_fleet(view, _reported(1), late.memory, 482.0, time_limit=2.0).memory.ending == {}


def test_the_room_of_replicas_is_known_only_where_all_requests_are() -> None:
    asked = plan_fleet(_view(1), _reported(1), Memory(), 0.0, time_limit=2.0)
    assert asked.room is not None
    assert asked.room.uses(LARGE)
    idle = plan_fleet(
        _view(1), Demand(classes=(), reporting=1, pods=1, heard=True), Memory(), 0.0, time_limit=2.0
    )
    assert idle.room is not None
    assert not idle.room.uses(LARGE)
    assert plan_fleet(_view(1), NOTHING, asked.memory, 20.0, time_limit=2.0).room is None
    partly = replace(_reported(1), silent=1)
    assert plan_fleet(_view(1), partly, asked.memory, 20.0, time_limit=2.0).room is None


def test_a_variant_whose_replicas_become_ready_one_after_another_is_not_stalled() -> None:
    first = plan_fleet(_view(3, ready=0), _reported(1), Memory(), 0.0, time_limit=2.0)
    one = plan_fleet(_view(3, ready=1), _reported(1), first.memory, 470.0, time_limit=2.0)
    later = plan_fleet(_view(3, ready=1), _reported(1), one.memory, 900.0, time_limit=2.0)
    late = plan_fleet(_view(3, ready=1), _reported(1), later.memory, 951.0, time_limit=2.0)
    assert (one.stalled, later.stalled, late.stalled) == (frozenset(), frozenset(), frozenset({LARGE}))


def _rivals(*, draining: bool, better: float) -> Plan:
    """Return the plan where old runs and may be about to go, and new answers `better` more right."""
    view = Swap(size=1).fleet
    url = EndpointUrl("http://10.0.0.1:8000")
    running = replace(view.workloads[OLD], replicas=1, pods=1, ready=1)
    view = replace(
        view,
        workloads={**view.workloads, OLD: running},
        pods={OLD: (LivePod("uid-1", "old-1", url),)},
        endpoints={OLD: {} if draining else {url: 10}},
    )
    offers = {
        OLD.model: ModelOffer(quality=0.7, cost_usd=0.0, service_time=2.0),
        NEW.model: ModelOffer(quality=0.7 + better, cost_usd=0.0, service_time=2.0),
    }
    demand = Demand(classes=(replace(_class(1.0), offers=offers),), reporting=1, pods=1, heard=True)
    planned = {OLD: 0, NEW: 1} if draining else {OLD: 1, NEW: 0}
    memory = Memory(planned=planned, basis=Basis.REPORTED, stabiliser=Stabiliser(300.0))
    return plan_fleet(view, demand, memory, 0.0, time_limit=2.0).plan


def test_a_move_is_given_up_while_replicas_drain_only_for_a_gain_that_would_have_begun_it() -> None:
    """Otherwise demand that varies by a little aborts each drain, and its slots are missed for nothing."""
    assert _rivals(draining=False, better=0.1).variants[NEW].replicas == 1
    assert _rivals(draining=False, better=0.003).variants[NEW].replicas == 0
    assert _rivals(draining=True, better=0.003).variants[NEW].replicas == 1
    assert _rivals(draining=True, better=-0.003).variants[NEW].replicas == 1
    assert _rivals(draining=True, better=-0.1).variants[OLD].replicas == 1
