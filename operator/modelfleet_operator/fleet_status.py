"""Stage status: a fleet's plan and capacity in the words of its status.

In: what a pass found and decided. Out: the body of the status and its conditions, pure values. Next: `status`
writes them when they say something new.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from modelfleet_core.allocation.result import Reason, Termination
from modelfleet_core.catalog import Mode, Model, PoolPlacement
from modelfleet_core.values import EndpointUrl, ModelName, VariantKey

from modelfleet_operator.cluster.fields import integer, items, mapping, text
from modelfleet_operator.conditions import Condition, no, unknown, yes
from modelfleet_operator.planning import Basis, Planned
from modelfleet_operator.scale import Outcome, Scaled, money_left
from modelfleet_operator.spec import ResolvedFleet
from modelfleet_operator.status import timestamp
from modelfleet_operator.views import FleetView

NO_DEMAND_YET = "NoDemandYet"
"""Reason of a plan for an assumed demand."""


BINDING = frozenset(
    {
        Reason.POOL_BINDS,
        Reason.STOCK_BINDS,
        Reason.BUDGET_BINDS,
        Reason.POLICY_BUDGET_BINDS,
        Reason.MINIMUM_DOES_NOT_FIT,
    }
)
"""What keeps a model that is wanted from running."""


@dataclass(frozen=True, slots=True)
class Leases:
    """What the capacity service says of a fleet."""

    epoch: int
    leased: Mapping[EndpointUrl, int]
    slot_prices: Mapping[VariantKey, float]
    sidecars: int


@dataclass(frozen=True, slots=True)
class Pass:
    """One pass over a fleet that is in force."""

    view: FleetView
    planned: Planned
    scaled: tuple[Scaled, ...]
    solved_at: datetime
    seconds: float
    leases: Leases
    draining: Mapping[VariantKey, str] = field(default_factory=dict)
    """What leaves, in words."""


def decimal(number: float) -> str:
    """Return a figure as the decimal text that statuses hold, with four significant digits."""
    return f"{float(f'{number:.4g}'):.9f}".rstrip("0").rstrip(".")


def refused_conditions(resolved: ResolvedFleet) -> tuple[Condition, ...]:
    """Return the conditions of a fleet that is not in force."""
    accepted = resolved.accepted
    return (
        accepted,
        resolved.resolved_refs,
        *_undecided(accepted.reason, "the fleet is not accepted"),
        no("Ready", accepted.reason, accepted.message),
        no("Reconciling", accepted.reason, "waits for a spec that can be accepted"),
        yes("Stalled", accepted.reason, accepted.message),
    )


def failed_conditions(resolved: ResolvedFleet, problem: str) -> tuple[Condition, ...]:
    """Return the conditions of a fleet whose pass failed; the last plan stays in force."""
    return (
        resolved.accepted,
        resolved.resolved_refs,
        *_undecided("PassFailed", "the last pass failed"),
        no("Ready", "PassFailed", problem),
        yes("Reconciling", "Retrying", "the last plan stays in force; it is tried again"),
        yes("Stalled", "PassFailed", problem),
    )


def _undecided(reason: str, message: str) -> list[Condition]:
    return [unknown(kind, reason, message) for kind in ("Solved", "WithinBudget", "Programmed")]


def fleet_conditions(resolved: ResolvedFleet, done: Pass) -> tuple[Condition, ...]:
    solved, budget, programmed = (
        _with_stock(_solved(done.planned), done.view),
        _within_budget(done),
        _programmed(done),
    )
    starting = [
        f"{key} ({workload.ready}/{workload.replicas})"
        for key, workload in sorted(done.view.workloads.items())
        if workload.ready < workload.replicas
    ]
    needed = [resolved.accepted, resolved.resolved_refs, solved]
    advised = done.view.fleet.mode is Mode.ADVISORY
    if not advised:  # otherwise what runs is for others to decide
        needed.append(programmed)
    failing = [c for c in needed if not c.holds]
    if failing:
        ready = no("Ready", failing[0].reason, failing[0].message)
    elif starting:
        ready = no("Ready", "StartingReplicas", f"replicas are not ready yet: {', '.join(starting)}")
    else:
        ready = _serving(done)
    moving = (not programmed.holds and not advised) or bool(starting)
    reconciling = (
        yes("Reconciling", "InProgress", "replicas are being added or removed")
        if moving
        else no("Reconciling", "Done", "nothing is being scaled" if advised else "the plan is in force")
    )
    return (
        resolved.accepted,
        resolved.resolved_refs,
        solved,
        budget,
        programmed,
        ready,
        reconciling,
        _stalled(done),
    )


def _serving(done: Pass) -> Condition:
    """Return whether the replicas, all of them ready, can be reached, and there are any if any are wanted."""
    for variant in done.view.fleet.variants():
        workload, placement = done.view.workloads.get(variant.key), variant.placement
        if (
            workload is not None
            and workload.ready
            and not done.view.endpoints.get(variant.key)
            and isinstance(placement, PoolPlacement)
        ):
            message = (
                f"Deployment {workload.key.name} has {workload.ready} ready replicas, but Service "
                f"{placement.service.name} has no ready endpoint with port {placement.service.port}: create "
                "the Service, or correct its selector or the name of its port"
            )
            return no("Ready", "NoEndpoints", message)
    live = {key for key, endpoints in done.view.endpoints.items() if endpoints}
    plans = done.planned.plan.variants
    if live & plans.keys():
        return yes("Ready", "Ready", "every replica of the plan is ready")
    why = next((f"{key}: {plan.message}" for key, plan in plans.items() if plan.reason in BINDING), "")
    if why and not live:
        return no("Ready", "NothingRuns", f"no model runs; {why}")
    if why:
        return yes("Ready", "OnlyExternal", f"only external endpoints serve; {why}")
    return yes("Ready", "ScaledToZero", "the plan has no replicas: no request needs one")


def _solved(planned: Planned) -> Condition:
    plan = planned.plan
    if plan.termination is Termination.INFEASIBLE:
        return no("Solved", plan.termination.value, plan.message)
    if planned.basis is Basis.ASSUMED:
        message = "no sidecar has reported a request yet: planned for a small assumed demand"
        return yes("Solved", NO_DEMAND_YET, message)
    if planned.basis is Basis.HELD:
        message = (
            "no sidecar reports its demand: the last plan is held; look whether pods with the label "
            "modelfleet.io/inject=true run and reach the operator"
        )
        return yes("Solved", "DemandMissing", message)
    if planned.silent:
        message = (
            f"{planned.silent} of the sidecars that reported before are silent: no replica is removed; "
            "look whether their pods are well and reach the operator"
        )
        return yes("Solved", "DemandIncomplete", message)
    return yes("Solved", plan.termination.value, plan.message or "the plan follows the reported demand")


def _with_stock(solved: Condition, view: FleetView) -> Condition:
    """Say where the plan could not look at what nodes offer."""
    if view.stock_known:
        return solved
    note = "the operator reads no nodes, so it takes the limit of a pool for what there is"
    return replace(solved, message=f"{solved.message}; {note}")


def _within_budget(done: Pass) -> Condition:
    budget = done.view.fleet.hourly_budget
    cost = done.planned.plan.hourly_cost
    if budget is None:
        return yes("WithinBudget", "NoBudget", f"the plan costs {cost:.2f} USD per hour; no budget is set")
    if cost > budget * (1 + 1e-6):
        message = f"the plan costs {cost:.2f} USD per hour, the budget is {budget:.2f}"
        return no("WithinBudget", "OverBudget", message)
    if (over := -money_left(done.view, 0.0)) > 1e-6:
        message = (
            f"pods that exist, those that terminate included, cost {over:.2f} USD per hour more than the "
            f"budget of {budget:.2f}; the plan costs {cost:.2f}"
        )
        return no("WithinBudget", "PodsOverBudget", message)
    return yes("WithinBudget", "WithinBudget", f"the plan costs {cost:.2f} of {budget:.2f} USD per hour")


def _programmed(done: Pass) -> Condition:
    refused = [scaled for scaled in done.scaled if scaled.outcome is Outcome.REFUSED]
    if refused:
        message = f"Deployment {refused[0].patch.target.name} can not be scaled: {refused[0].message}"
        return no("Programmed", "ScaleRefused", message)
    current = done.view.current()
    open_ = [
        f"{key} ({current[key]}, planned {variant.replicas})"
        for key, variant in sorted(done.planned.plan.variants.items())
        if key in done.view.scalable and current[key] != variant.replicas
    ]
    if open_ and done.view.fleet.mode is Mode.ADVISORY:
        message = f"mode is Advisory: nothing is scaled, the plan would change {', '.join(open_)}"
        return no("Programmed", "Advisory", message)
    if open_ and done.draining:
        leaving = ", ".join(f"{key} ({words})" for key, words in done.draining.items())
        message = (
            f"not yet scaled: {', '.join(open_)}; replicas that are to go get no new request and go once "
            f"their last one ended, at the latest after the longest request of a policy: {leaving}"
        )
        return no("Programmed", "Draining", message)
    if open_:
        message = (
            f"not yet scaled: {', '.join(open_)}; replicas are added once GPUs and money are free, and go "
            "once what replaces them is ready"
        )
        return no("Programmed", "Scaling", message)
    return yes("Programmed", "Programmed", "every Deployment has the replicas of the plan")


def _stalled(done: Pass) -> Condition:
    late = [
        f"{key} ({workload.ready}/{workload.replicas} of Deployment {workload.key.name})"
        for key, workload in sorted(done.view.workloads.items())
        if key in done.planned.stalled
    ]
    if late:
        message = (
            f"replicas should have become ready by now: {', '.join(late)}; look at their pods' events and "
            "logs, and raise startup in the fleet if they only need longer"
        )
        return yes("Stalled", "ReplicasNotReady", message)
    return no("Stalled", "Progressing", "nothing is stuck")


def fleet_body(done: Pass) -> dict[str, object]:
    """Return the status apart from conditions."""
    return {
        "plan": _plan(done),
        "capacity": {
            "epoch": done.leases.epoch,
            "models": [_capacity(model, done) for model in done.view.fleet.models],
        },
        "sidecars": done.leases.sidecars,
    }


def _plan(done: Pass) -> dict[str, object]:
    plan, view = done.planned.plan, done.view
    limits = {pool.name: min(pool.limit, view.stock.get(pool.name, 0)) for pool in view.fleet.pools}
    current = view.current()
    return {
        "solvedAt": timestamp(done.solved_at),
        "termination": plan.termination.value,
        "objective": decimal(plan.objective),
        "bound": decimal(plan.bound),
        "gap": f"{max(0.0, plan.gap) * 100:.1f}%",
        "seconds": decimal(done.seconds),
        "hourlyCost": f"{plan.hourly_cost:.2f}",
        "hourlyValue": decimal(plan.budget_price),
        "gpus": f"{sum(plan.gpus.values())}/{sum(limits.values())}",
        "message": plan.message,
        "pools": [
            {
                "name": pool,
                "used": plan.gpus.get(pool, 0),
                "limit": limit,
                "price": decimal(plan.pool_prices.get(pool, 0.0)),
            }
            for pool, limit in limits.items()
        ],
        "variants": [
            {
                "model": key.model,
                "variant": key.variant,
                "current": current.get(key, 0),
                "desired": variant.replicas,
                "ready": len(view.endpoints.get(key, {})),
                "reason": variant.reason.value,
                "message": variant.message,
            }
            for key, variant in plan.variants.items()
        ],
    }


def _capacity(model: Model, done: Pass) -> dict[str, object]:
    live = [done.view.endpoints.get(variant.key, {}) for variant in model.variants]
    leased = done.leases.leased
    prices = [done.leases.slot_prices.get(variant.key, 0.0) for variant in model.variants]
    return {
        "name": model.name,
        "readyReplicas": sum(len(endpoints) for endpoints in live),
        "slots": sum(sum(endpoints.values()) for endpoints in live),
        "leased": sum(leased.get(url, 0) for endpoints in live for url in endpoints),
        "price": decimal(max(prices, default=0.0)),
    }


def planned_replicas(status: Mapping[str, object]) -> dict[VariantKey, int] | None:
    """Return the replicas of the plan that a status tells of; None: none, or none made for known demand."""
    plan = mapping(status, "plan")
    if any(text(condition, "reason") == NO_DEMAND_YET for condition in items(status, "conditions")):
        return None
    found = {
        VariantKey(ModelName(text(item, "model")), text(item, "variant")): integer(item, "desired")
        for item in items(plan, "variants")
    }
    return found if plan else None
