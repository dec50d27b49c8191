"""What users see of a pass: every condition, its reason, and what to do."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from modelfleet_core.allocation.result import Termination
from modelfleet_core.values import EndpointUrl, ModelName, ObjectKey, VariantKey
from modelfleet_operator.conditions import Condition
from modelfleet_operator.fleet_status import (
    Leases,
    Pass,
    failed_conditions,
    fleet_body,
    fleet_conditions,
    planned_replicas,
    refused_conditions,
)
from modelfleet_operator.observe import Observer
from modelfleet_operator.planning import Demand, Memory, plan_fleet
from modelfleet_operator.scale import Outcome, Patch, Scaled
from modelfleet_operator.spec import ResolvedFleet, resolve
from support.manifests import Manifest, fleet_manifest
from support.snapshots import deployment_object, event, node_object, observed, slice_object, view_of

CHAT, LARGE = ObjectKey("ml", "chat"), VariantKey(ModelName("large"), "h100")
TYPES = [
    "Accepted",
    "ResolvedRefs",
    "Solved",
    "WithinBudget",
    "Programmed",
    "Ready",
    "Reconciling",
    "Stalled",
]


def _observer(*, replicas: int = 2, ready: int = 2, least: int = 2, hourly: str = "60") -> Observer:
    manifest = fleet_manifest()
    manifest["spec"]["models"][0]["variants"][0]["replicas"] = {"min": least, "max": 4}
    manifest["spec"]["budget"] = {"hourly": hourly}
    workload = deployment_object("large", replicas=replicas) | {
        "status": {"replicas": replicas, "readyReplicas": ready}
    }
    addresses = [f"10.0.0.{number}" for number in range(1, ready + 1)]
    return observed(manifest, node_object("a", gpus=8), workload, slice_object("large", *addresses))


NOTHING = Demand((), 0, 0, heard=False)


def _done(
    observer: Observer, memory: Memory | None = None, now: float = 0.0, demand: Demand = NOTHING
) -> tuple[ResolvedFleet, Pass]:
    view = view_of(observer)
    planned = plan_fleet(view, demand, memory or Memory(), now, time_limit=2.0)
    leases = Leases(3, {EndpointUrl("http://10.0.0.1:8000"): 5}, {LARGE: 0.25}, 2)
    done = Pass(view, planned, (), datetime(2026, 1, 1, tzinfo=UTC), 0.01, leases)
    return resolve(observer.snapshot()).fleets[CHAT], done


def _by_type(conditions: tuple[Condition, ...]) -> dict[str, tuple[str, str]]:
    assert [condition.type for condition in conditions] == TYPES
    return {c.type: (c.verdict.value, c.reason) for c in conditions}


def test_a_fleet_whose_plan_runs_is_ready() -> None:
    found = _by_type(fleet_conditions(*_done(_observer())))
    assert found["Ready"] == ("True", "Ready")
    assert found["Reconciling"] == ("False", "Done")
    assert found["Stalled"][0] == "False"
    assert found["Solved"] == ("True", "NoDemandYet")
    assert found["WithinBudget"] == ("True", "WithinBudget")


def _advisory(replicas: int) -> Observer:
    observer = _observer(replicas=replicas, ready=replicas)
    manifest = fleet_manifest()
    manifest["spec"]["models"][0]["variants"][0]["replicas"] = {"min": 2, "max": 4}
    manifest["spec"]["mode"] = "Advisory"
    manifest["metadata"]["generation"] = 2
    observer.apply(event(manifest))
    return observer


def test_an_advisory_fleet_says_what_it_would_change_and_is_ready_all_the_same() -> None:
    conditions = fleet_conditions(*_done(_advisory(1)))
    found = _by_type(conditions)
    assert found["Programmed"] == ("False", "Advisory")
    programmed = next(c for c in conditions if c.type == "Programmed")
    assert programmed.message == (
        "mode is Advisory: nothing is scaled, the plan would change large/h100 (1, planned 2)"
    )
    assert found["Ready"] == ("True", "Ready")
    assert found["Reconciling"] == ("False", "Done")
    body = fleet_body(_done(_advisory(1))[1])
    plan = body["plan"]
    assert isinstance(plan, dict)
    assert [(v["current"], v["desired"]) for v in plan["variants"]] == [(1, 2)]


def test_an_advisory_fleet_whose_plan_runs_already_has_nothing_to_say() -> None:
    assert _by_type(fleet_conditions(*_done(_advisory(2))))["Programmed"] == ("True", "Programmed")


def test_replicas_that_start_are_named() -> None:
    conditions = fleet_conditions(*_done(_observer(ready=1)))
    assert _by_type(conditions)["Ready"] == ("False", "StartingReplicas")
    assert "large/h100 (1/2)" in next(c.message for c in conditions if c.type == "Ready")


def test_replicas_that_do_not_become_ready_stall_the_fleet_with_advice() -> None:
    observer = _observer(ready=1)
    first = _done(observer)[1]
    conditions = fleet_conditions(*_done(observer, first.planned.memory, now=1000.0))
    assert _by_type(conditions)["Stalled"] == ("True", "ReplicasNotReady")
    assert "pods' events" in conditions[-1].message


def test_ready_replicas_that_no_service_shows_are_told_with_the_service() -> None:
    observer = _observer()
    observer.apply(event(slice_object("large", "10.0.0.1", "10.0.0.2"), deleted=True))
    conditions = fleet_conditions(*_done(observer))
    assert _by_type(conditions)["Ready"] == ("False", "NoEndpoints")
    message = next(c.message for c in conditions if c.type == "Ready")
    assert message.startswith(
        "Deployment large has 2 ready replicas, but Service large has no ready endpoint"
    )


def _nothing_runs(manifest: Manifest, gpus: int, *, ready: str = "False") -> tuple[str, str]:
    manifest["spec"]["models"][0]["variants"][0]["replicas"] = {"min": 0, "max": 4}
    workload = deployment_object("large", replicas=0)
    conditions = fleet_conditions(*_done(observed(manifest, node_object("a", gpus=gpus), workload)))
    assert _by_type(conditions)["Ready"][0] == ready
    told = next(c for c in conditions if c.type == "Ready")
    return told.reason, told.message


def _own_models() -> Manifest:
    manifest = fleet_manifest()
    manifest["spec"]["models"] = manifest["spec"]["models"][:1]
    return manifest


def test_a_fleet_that_only_external_endpoints_serve_says_why() -> None:
    reason, message = _nothing_runs(fleet_manifest(), gpus=0, ready="True")
    assert reason == "OnlyExternal"
    assert "pool h100 has no GPUs" in message


def test_a_fleet_whose_pool_has_no_gpus_is_not_ready_and_names_what_to_look_at() -> None:
    reason, message = _nothing_runs(_own_models(), gpus=0)
    assert reason == "NothingRuns"
    assert "pool h100 has no GPUs: look whether nodes labelled gpu=h100 offer nvidia.com/gpu" in message


def test_a_fleet_whose_budget_pays_for_no_replica_is_not_ready() -> None:
    manifest = _own_models()
    manifest["spec"]["budget"] = {"hourly": "0.5"}
    reason, message = _nothing_runs(manifest, gpus=8)
    assert reason == "NothingRuns"
    assert "USD per hour do not fit the hourly budget" in message


def test_a_fleet_that_nobody_asks_is_ready_without_replicas() -> None:
    manifest = fleet_manifest()
    manifest["spec"]["models"][0]["variants"][0]["replicas"] = {"min": 0, "max": 4}
    observer = observed(manifest, node_object("a", gpus=8), deployment_object("large", replicas=0))
    idle = Demand((), 1, 1, heard=True)
    assert _by_type(fleet_conditions(*_done(observer, demand=idle)))["Ready"] == ("True", "ScaledToZero")


def test_demand_that_is_missing_in_part_is_told() -> None:
    part = Demand((), 1, 2, heard=True, silent=1)
    conditions = fleet_conditions(*_done(_observer(), demand=part))
    assert _by_type(conditions)["Solved"] == ("True", "DemandIncomplete")
    assert "1 of the sidecars that reported before are silent" in next(
        c.message for c in conditions if c.type == "Solved"
    )


def test_what_is_not_scaled_yet_is_named() -> None:
    conditions = fleet_conditions(*_done(_observer(replicas=1, ready=1)))
    assert _by_type(conditions)["Programmed"] == ("False", "Scaling")
    assert _by_type(conditions)["Ready"] == ("False", "Scaling")
    assert "large/h100 (1, planned 2)" in next(c.message for c in conditions if c.type == "Programmed")


def test_a_patch_that_was_refused_is_told_with_the_servers_words() -> None:
    resolved, done = _done(_observer(replicas=1, ready=1))
    patch = Patch(LARGE, ObjectKey("ml", "large"), 1, 2, "7")
    done = replace(done, scaled=(Scaled(patch, Outcome.REFUSED, "exceeded quota: gpus"),))
    conditions = fleet_conditions(resolved, done)
    assert _by_type(conditions)["Programmed"] == ("False", "ScaleRefused")
    assert "exceeded quota: gpus" in next(c.message for c in conditions if c.type == "Programmed")


def test_minimal_replicas_that_do_not_fit_the_nodes_are_infeasible_in_words() -> None:
    manifest = fleet_manifest()
    manifest["spec"]["models"][0]["variants"][0]["replicas"] = {"min": 2, "max": 4}
    workload = deployment_object("large", replicas=1)
    resolved, done = _done(observed(manifest, node_object("a", gpus=2), workload))
    assert done.planned.plan.termination is Termination.INFEASIBLE
    conditions = fleet_conditions(resolved, done)
    assert _by_type(conditions)["Solved"] == ("False", "Infeasible")
    assert "at least 2" in next(c.message for c in conditions if c.type == "Solved")


def test_pods_that_cost_more_than_the_budget_are_told() -> None:
    conditions = fleet_conditions(*_done(_observer(replicas=4, ready=4, least=0, hourly="12")))
    assert _by_type(conditions)["WithinBudget"] == ("False", "PodsOverBudget")


def test_without_a_budget_the_condition_says_so() -> None:
    manifest = fleet_manifest()
    del manifest["spec"]["budget"]
    resolved, done = _done(
        observed(manifest, node_object("a", gpus=8), deployment_object("large", replicas=0))
    )
    assert _by_type(fleet_conditions(resolved, done))["WithinBudget"] == ("True", "NoBudget")


def test_the_status_tells_plan_and_capacity() -> None:
    body = fleet_body(_done(_observer())[1])
    plan, capacity = body["plan"], body["capacity"]
    assert isinstance(plan, dict)
    assert isinstance(capacity, dict)
    assert (plan["gpus"], plan["termination"]) == ("4/8", "Optimal")
    assert plan["pools"][0] | {"price": ""} == {"name": "h100", "used": 4, "limit": 8, "price": ""}
    variant = plan["variants"][0]
    assert (variant["current"], variant["desired"], variant["ready"]) == (2, 2, 2)
    assert variant["message"]
    large = capacity["models"][0]
    expected = {"name": "large", "readyReplicas": 2, "slots": 16, "leased": 5, "price": "0.25"}
    assert large == expected
    assert (capacity["epoch"], body["sidecars"]) == (3, 2)
    assert planned_replicas(body) == {LARGE: 2}


def test_a_refused_and_a_failed_fleet_have_every_condition_too() -> None:
    bad = fleet_manifest()
    bad["spec"] = {}
    refused = resolve(observed(bad).snapshot()).fleets[CHAT]
    assert _by_type(refused_conditions(refused))["Ready"] == ("False", "Invalid")
    good = resolve(_observer().snapshot()).fleets[CHAT]
    found = _by_type(failed_conditions(good, "ArithmeticError: x"))
    assert found["Stalled"] == ("True", "PassFailed")
    assert found["Solved"] == ("Unknown", "PassFailed")


def test_a_plan_without_a_look_at_nodes_says_so() -> None:
    manifest = fleet_manifest()
    workload = deployment_object("large", replicas=2) | {"status": {"replicas": 2, "readyReplicas": 2}}
    resolved, done = _done(observed(manifest, workload, nodes=False))
    solved = next(c for c in fleet_conditions(resolved, done) if c.type == "Solved")
    assert solved.holds
    assert "the operator reads no nodes" in solved.message
    resolved, done = _done(_observer())
    assert (
        "reads no nodes"
        not in next(c for c in fleet_conditions(resolved, done) if c.type == "Solved").message
    )
