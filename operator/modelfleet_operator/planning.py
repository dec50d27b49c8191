"""Stage allocate: one fleet's demand and view become a plan.

In: `FleetView`, `Demand` and the memory of earlier passes. Out: `Planned`, a pure value. Next: `reconcile`
scales to it, `fleet_status` tells users.

Replicas never follow missing data. Where sidecars exist but none reports, the last plan is held; where some
report no more, replicas are added but none removed. A fleet that was never planned is planned for a small
assumed demand, so that a model is up when the first sidecar comes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import Enum
from math import inf

from modelfleet_core.allocation.limits import limits, minimums
from modelfleet_core.allocation.problem import AllocationProblem
from modelfleet_core.allocation.result import Plan, Reason
from modelfleet_core.allocation.solver import allocate
from modelfleet_core.allocation.stabilise import Stabiliser
from modelfleet_core.allocation.throughput import Room, room
from modelfleet_core.catalog import Fleet, Model, PoolPlacement, Replicas
from modelfleet_core.demand import DemandClass, ModelOffer
from modelfleet_core.values import ObjectKey, TaskName, TierName, VariantKey, usd

from modelfleet_operator.views import FleetView

ASSUMED_RATE = 0.1
"""Requests per second of each task that the manifest names, and of others, while no sidecar has reported."""
ASSUMED_INPUT, ASSUMED_OUTPUT = 500, 250
"""Tokens of an assumed request."""
SETTLING = 3.0
"""Seconds of requests before a plan follows them: the first of them say little of what is to come."""
PATIENCE = 2.0
"""Start-up times that a variant's pods may take to start, or to end, and hold others back."""


class Basis(Enum):
    """What a plan rests on."""

    REPORTED = "Reported"
    HELD = "Held"
    """Demand is missing: the last plan stays."""
    ASSUMED = "Assumed"
    """Demand was never known: a small one is assumed."""


@dataclass(frozen=True, slots=True)
class Demand:
    """Of one fleet."""

    classes: tuple[DemandClass, ...]
    """With the requests that sidecars report now."""
    reporting: int
    """Sidecars that report now."""
    pods: int
    """Pods of sidecars that exist."""
    heard: bool
    """Any request was ever reported since this leader began."""
    budget_rate: Mapping[ObjectKey, float] = field(default_factory=dict)
    """USD per second that policies with a budget may spend from now on."""
    silent: int = 0
    """Sidecars that reported once and no more, though their pods exist."""
    known_for: float = inf
    """Seconds since the first request was reported."""


@dataclass(frozen=True, slots=True)
class Starting:
    """A variant whose pods are to become ready."""

    since: float
    """When it began, or the last of them became ready."""
    ready: int


@dataclass(frozen=True, slots=True)
class Memory:
    """What one pass leaves to the next."""

    planned: Mapping[VariantKey, int] | None = None
    """Replicas of the last plan; None: there never was one."""
    basis: Basis | None = None
    """Of the last plan; None: it comes from the object's status."""
    stabiliser: Stabiliser | None = None
    starting: Mapping[VariantKey, Starting] = field(default_factory=dict)
    """Of each variant with fewer ready replicas than asked for."""
    ending: Mapping[VariantKey, float] = field(default_factory=dict)
    """Since when each variant has had pods that terminate."""


@dataclass(frozen=True, slots=True)
class Planned:
    plan: Plan
    basis: Basis
    silent: int
    """Sidecars whose demand is missing: nothing is taken away on what the others report."""
    stalled: frozenset[VariantKey]
    """Variants that should have become ready by now."""
    lingering: frozenset[VariantKey]
    """Variants whose pods should have ended by now."""
    room: Room | None
    """What replicas take of the present requests; None: not all of these are known."""
    memory: Memory

    @property
    def desired(self) -> dict[VariantKey, int]:
        return {key: variant.replicas for key, variant in self.plan.variants.items()}


def basis_of(demand: Demand, memory: Memory) -> Basis:
    """Return what the next plan may rest on."""
    settled = demand.known_for >= SETTLING
    if settled and (demand.classes or (demand.heard and (demand.reporting or not demand.pods))):
        return Basis.REPORTED
    if memory.planned is None or memory.basis is Basis.ASSUMED:
        return Basis.ASSUMED
    return Basis.HELD


def plan_fleet(view: FleetView, demand: Demand, memory: Memory, now: float, *, time_limit: float) -> Planned:
    """Plan one fleet; takes up to `time_limit` seconds of computing."""
    basis = basis_of(demand, memory)
    fleet, classes = view.fleet, demand.classes
    if basis is Basis.ASSUMED:
        classes = assumed_demand(fleet)
    elif basis is Basis.HELD:
        classes = ()
    problem = AllocationProblem(
        fleet=fleet,
        classes=classes,
        current=view.current(),
        occupied=view.occupied(),
        stock=view.stock,
        budget_rate=demand.budget_rate,
    )
    if basis is Basis.HELD or (basis is Basis.REPORTED and demand.silent):
        problem = _held(problem, memory.planned or {}, growing=basis is Basis.REPORTED)
    plan = allocate(replace(problem, current=_under_way(view, memory)), time_limit=time_limit)
    window = fleet.scaling.scale_down_stabilization
    before = memory.stabiliser or _first_stabiliser(window, view, memory, now)
    before = replace(before, window=window, up_window=fleet.scaling.scale_up_stabilization)
    stabiliser, plan = before.settle(plan, problem, now)
    if basis is Basis.HELD:
        plan = _said_held(plan)
    starting = {
        key: _starting(memory.starting.get(key), workload.ready, now)
        for key, workload in view.workloads.items()
        if workload.ready < workload.replicas
    }
    ending = {
        key: memory.ending.get(key, now) for key, workload in view.workloads.items() if workload.terminating
    }
    planned = {key: variant.replicas for key, variant in plan.variants.items()}
    return Planned(
        plan,
        basis,
        demand.silent,
        stalled=_overdue(view.fleet, {key: found.since for key, found in starting.items()}, now),
        lingering=_overdue(view.fleet, ending, now),
        room=room(problem) if basis is Basis.REPORTED and not demand.silent else None,
        memory=Memory(planned, basis, stabiliser, starting, ending),
    )


def _under_way(view: FleetView, memory: Memory) -> dict[VariantKey, int]:
    """Return the replicas from which a plan departs only for a gain.

    Those asked of every workload; while pods leave, those of the last plan, so that a move under way is given
    up, or changed, only for a gain that would have begun it.
    """
    asked = view.current()
    leaves = any(
        workload.terminating or len(view.pods.get(key, ())) > len(view.endpoints.get(key, {}))
        for key, workload in view.workloads.items()
    )
    if memory.planned is None or memory.basis is not Basis.REPORTED or not leaves:
        return asked
    return {key: memory.planned.get(key, count) for key, count in asked.items()}


def _starting(before: Starting | None, ready: int, now: float) -> Starting:
    return Starting(now if before is None or ready > before.ready else before.since, ready)


def _overdue(fleet: Fleet, begun: Mapping[VariantKey, float], now: float) -> frozenset[VariantKey]:
    return frozenset(key for key, since in begun.items() if now > since + _patience(fleet, key))


def _first_stabiliser(window: float, view: FleetView, memory: Memory, now: float) -> Stabiliser:
    """Return no memory for a new fleet; where a plan is known, reports may come in piece by piece."""
    return Stabiliser(window) if memory.planned is None else Stabiliser.resumed(window, view.current(), now)


def external_spend(fleet: Fleet, plan: Plan) -> float:
    """Return the USD per hour that `plan` spends at external endpoints."""
    prices = {pool.name: pool.hourly_cost for pool in fleet.pools}
    return max(0.0, plan.hourly_cost - sum(prices[pool] * gpus for pool, gpus in plan.gpus.items()))


def assumed_demand(fleet: Fleet) -> tuple[DemandClass, ...]:
    """Return a small demand for every task that the manifest names, and for all others.

    External models do not count where the fleet has replicas of its own: it is these that take time to start,
    and whether anyone may pay for the others is not known yet.
    """
    tasks = sorted({task for model in fleet.models for task in model.quality.by_task})
    own = [m for m in fleet.models if any(isinstance(v.placement, PoolPlacement) for v in m.variants)]
    return tuple(_assumed_class(fleet, task, own or fleet.models) for task in (*tasks, None))


def _assumed_class(fleet: Fleet, task: TaskName | None, models: Iterable[Model]) -> DemandClass:
    return DemandClass(
        policy=fleet.key,
        tier=TierName("assumed"),
        task=task or TaskName(""),
        weight=1.0,
        shed_penalty=0.5,
        rate=ASSUMED_RATE,
        offers={
            model.name: ModelOffer(
                quality=model.quality.of(task),
                cost_usd=usd(model.pricing.cost(ASSUMED_INPUT, ASSUMED_OUTPUT)),
                service_time=min(v.latency.service_time(ASSUMED_OUTPUT) for v in model.variants),
            )
            for model in models
        },
    )


def _held(
    problem: AllocationProblem, planned: Mapping[VariantKey, int], *, growing: bool
) -> AllocationProblem:
    """Return the problem with each variant kept at what was planned, if that fits; or above, if `growing`."""
    kept = minimums(limits(replace(problem, fleet=_bounded(problem.fleet, planned, growing=growing))))
    return replace(problem, fleet=_bounded(problem.fleet, kept, growing=growing))


def _bounded(fleet: Fleet, least: Mapping[VariantKey, int], *, growing: bool) -> Fleet:
    models = []
    for model in fleet.models:
        variants = []
        for variant in model.variants:
            if isinstance(variant.placement, PoolPlacement):
                bounds = variant.placement.replicas
                count = min(bounds.max, max(bounds.min, least.get(variant.key, 0)))
                placement = replace(
                    variant.placement, replicas=Replicas(count, bounds.max if growing else count)
                )
                variants.append(replace(variant, placement=placement))
            else:
                variants.append(variant)
        models.append(replace(model, variants=tuple(variants)))
    return replace(fleet, models=tuple(models))


def _said_held(plan: Plan) -> Plan:
    message = "held: sidecars have not reported their demand"
    variants = {
        key: replace(variant, reason=Reason.HELD_BY_STABILISATION, message=message)
        if variant.reason in (Reason.AT_MIN, Reason.AT_MAX, Reason.NO_DEMAND, Reason.DEMAND_MET)
        else variant
        for key, variant in plan.variants.items()
    }
    return replace(plan, variants=variants)


def _patience(fleet: Fleet, key: VariantKey) -> float:
    variant = fleet.variant(key)
    placement = variant.placement if variant is not None else None
    return PATIENCE * placement.startup if isinstance(placement, PoolPlacement) else 0.0
