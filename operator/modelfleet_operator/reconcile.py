"""Stages observe to status for every fleet: one task each, which a failure of another never stops.

In: `World` and the demand that the capacity service sees. Out: scaled Deployments, the fleet's status and
figures. Capacity reaches sidecars by `publishing`, not from here.

A pass runs at once when anything of its fleet changed, and every `interval`. Replicas are written under one
lock over all fleets and on the newest view, so that two fleets can not use the same free GPUs.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from math import inf
from typing import NoReturn, Protocol

from modelfleet_core.catalog import Fleet, Mode
from modelfleet_core.demand import DemandClass
from modelfleet_core.leasing.holders import Follows
from modelfleet_core.values import EndpointUrl, ObjectKey, VariantKey

from modelfleet_operator.capacity_views import SidecarView
from modelfleet_operator.cluster import ClusterError, Kind
from modelfleet_operator.conditions import Condition
from modelfleet_operator.declarations import Declared
from modelfleet_operator.departures import Departures
from modelfleet_operator.events import About, Recorder
from modelfleet_operator.fencing import NotLeadingError
from modelfleet_operator.figures import FleetFigures, PoolFigures, VariantFigures
from modelfleet_operator.fleet_status import (
    Leases,
    Pass,
    failed_conditions,
    fleet_body,
    fleet_conditions,
    planned_replicas,
    refused_conditions,
)
from modelfleet_operator.happenings import SCALED, Happening
from modelfleet_operator.health import Health
from modelfleet_operator.observe import Workload
from modelfleet_operator.planning import Demand, Memory, external_spend, plan_fleet
from modelfleet_operator.scale import Outcome, Scaled, Scaler, next_patches
from modelfleet_operator.spec import ResolvedFleet
from modelfleet_operator.status import StatusWriter
from modelfleet_operator.telemetry import Telemetry
from modelfleet_operator.views import FleetView, fleet_view, workloads_of
from modelfleet_operator.world import Present, World

log = logging.getLogger(__name__)

DEBOUNCE = 0.1
"""Seconds between looks at whether one fleet changed, and so at least between its passes."""
FIRST_RETRY, LONGEST_RETRY = 0.5, 60.0
LATE = 60.0
"""Seconds that a pass may take beyond its interval and solution before the program counts as hung."""
SILENT = 60.0
"""Seconds after which a sidecar that was not heard of reports no more."""
LEAST_RATE = 1e-4
"""Requests per second below which a class is no demand: what is left of a smoothed rate."""
IDLE = 15.0
"""Seconds between passes over a fleet that is not in force."""


class CapacityView(Protocol):
    """What this module asks of the capacity service."""

    def demand(self) -> tuple[DemandClass, ...]: ...
    def sidecars(self) -> tuple[SidecarView, ...]: ...
    def leased(self) -> Mapping[ObjectKey, Mapping[VariantKey, Mapping[EndpointUrl, int]]]: ...
    def held(self) -> Mapping[EndpointUrl, int]: ...
    def heard_all(self) -> bool: ...


class Prices(Protocol):
    """What this module asks of `prices`."""

    def slot_prices(self, fleet: ObjectKey) -> dict[VariantKey, float]: ...
    def budget_rates(self, policies: Iterable[ObjectKey]) -> dict[ObjectKey, float]: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Tools:
    """What every fleet's task works with. `clock` is monotonic."""

    world: World
    capacity: CapacityView
    prices: Prices
    scaler: Scaler
    writer: StatusWriter[Fleet]
    events: Recorder
    telemetry: Telemetry
    health: Health
    epoch: int
    clock: Callable[[], float]
    wall_clock: Callable[[], datetime]
    rng: random.Random
    scaling: asyncio.Lock


class Reconciler:
    """Keeps one task for every declared fleet. Ends only with `NotLeadingError`."""

    def __init__(self, tools: Tools) -> None:
        self._tools = tools

    async def run(self) -> None:
        present = self._tools.world.now()
        running: dict[ObjectKey, asyncio.Task[NoReturn]] = {}
        async with asyncio.TaskGroup() as group:
            while True:
                declared = present.snapshot.fleets
                for gone in running.keys() - declared.keys():
                    running.pop(gone).cancel()
                    self._forget(gone)
                for key in declared.keys() - running.keys():
                    running[key] = group.create_task(FleetTask(key, self._tools).run(), name=f"fleet {key}")
                present = await self._tools.world.change(present.version)

    def _forget(self, key: ObjectKey) -> None:
        self._tools.telemetry.forget(key)
        self._tools.health.end(f"fleet {key}")
        self._tools.writer.forget(key)
        self._tools.world.drain(key, frozenset())


class FleetTask:
    """The loop of one fleet."""

    def __init__(self, key: ObjectKey, tools: Tools) -> None:
        self._key = key
        self._tools = tools
        declared = tools.world.now().snapshot.fleets.get(key)
        self._memory = Memory(planned=planned_replicas(declared.status) if declared is not None else None)
        self._departures = Departures(
            key, world=tools.world, slots=tools.capacity, scaler=tools.scaler, clock=tools.clock
        )
        for outcome in Outcome:  # an increase from nothing to 1 is none to Prometheus
            tools.telemetry.scales.labels(key.namespace, key.name, outcome.value)
        self._heard_at: float | None = None
        """When the first request was reported."""

    async def run(self) -> NoReturn:
        failures = 0
        while True:
            present = self._tools.world.now()
            started = self._tools.clock()
            rest = self._rest(present)
            self._tools.health.beat(f"fleet {self._key}", within=rest + LONGEST_RETRY + LATE)
            try:
                outcome = await self._pass(present)
                failures = 0
            except NotLeadingError:
                raise
            except ClusterError as error:
                failures += 1
                outcome = "unavailable"
                log.warning("fleet %s: %s", self._key, error)
            except Exception as error:  # a fault in one fleet must not stop the others
                failures += 1
                outcome = "failed"
                log.exception("fleet %s", self._key)
                await self._tell_failure(f"{type(error).__name__}: {error}")
            self._tools.telemetry.pass_seconds.observe(self._tools.clock() - started)
            self._tools.telemetry.passes.labels(self._key.namespace, self._key.name, outcome).inc()
            if failures:
                longest = min(LONGEST_RETRY, FIRST_RETRY * 2.0 ** min(failures, 10))
                await asyncio.sleep(longest * self._tools.rng.uniform(0.5, 1.0))
            else:
                await self._until_due(present, rest)

    def _rest(self, present: Present) -> float:
        resolved = present.resolution.fleets.get(self._key)
        return (
            resolved.fleet.scaling.interval if resolved is not None and resolved.fleet is not None else IDLE
        )

    async def _until_due(self, seen: Present, rest: float) -> None:
        """Return once something of this fleet changed since `seen`, or after `rest` seconds."""
        concern = self._concern(seen)
        try:
            async with asyncio.timeout(rest):
                await asyncio.sleep(DEBOUNCE)
                present = self._tools.world.now()
                while self._concern(present) == concern and not self._departures.due():
                    if not self._departures.waits:
                        await self._tools.world.change(present.version)
                    await asyncio.sleep(DEBOUNCE)  # a burst of events is looked at once
                    present = self._tools.world.now()
        except TimeoutError:
            return

    def _concern(
        self, present: Present
    ) -> tuple[Declared[Fleet] | None, ResolvedFleet | None, FleetView | None]:
        """Return all that a pass of this fleet depends on, to be compared."""
        resolved = present.resolution.fleets.get(self._key)
        view = (
            fleet_view(resolved.fleet, present.snapshot, present.resolution)
            if resolved is not None and resolved.fleet is not None
            else None
        )
        return present.snapshot.fleets.get(self._key), resolved, view

    async def _pass(self, present: Present) -> str:
        """Plan, scale and tell; return the outcome in a word."""
        tools = self._tools
        declared, resolved, view = self._concern(present)
        if declared is None or resolved is None:
            return "gone"
        if view is None:
            tools.telemetry.figures.fleets.pop(self._key, None)
            self._departures.end()
            await tools.writer.write(declared, _body_of(declared), refused_conditions(resolved))
            return "refused"
        started = tools.clock()
        limit = view.fleet.scaling.solve_timeout
        planned = await asyncio.to_thread(
            plan_fleet, view, self._demand(present), self._memory, started, time_limit=limit
        )
        seconds = tools.clock() - started
        external = external_spend(view.fleet, planned.plan)
        async with tools.scaling:
            now_declared, now_resolved, now_view = self._concern(tools.world.now())
            if now_declared != declared or now_view is None or now_resolved is None:
                return "overtaken"
            patches = (
                next_patches(
                    now_view,
                    planned.desired,
                    external=external,
                    stalled=planned.stalled,
                    lingering=planned.lingering,
                    room=planned.room,
                )
                if now_view.fleet.mode is Mode.ACTIVE
                else ()
            )
            safe = await self._departures.towards(patches, now_view, _longest_request(present, self._key))
            scaled = await tools.scaler.apply(safe, targets(tools.world.now()))
        self._memory = planned.memory
        now_declared, now_resolved, now_view = self._concern(tools.world.now())
        if now_declared is None or now_resolved is None or now_view is None:
            return "overtaken"
        done = Pass(
            now_view, planned, scaled, tools.wall_clock(), seconds, self._leases(), self._departures.words()
        )
        conditions = fleet_conditions(now_resolved, done)
        self._tell(done, conditions)
        tools.events.tell(About(Kind.FLEET, self._key, now_declared.uid), _news(done))
        await tools.writer.write(now_declared, fleet_body(done), conditions)
        return "done"

    def _demand(self, present: Present) -> Demand:
        policies = {
            resolved.policy.key
            for resolved in present.resolution.policies.values()
            if resolved.policy is not None and resolved.policy.fleet == self._key
        }
        classes = tuple(
            found
            for found in self._tools.capacity.demand()
            if found.policy in policies and found.rate >= LEAST_RATE
        )
        now = self._tools.clock()
        if classes and self._heard_at is None:
            self._heard_at = now
        selected = present.resolution.selection.values()
        ages = [view.report_age for view in self._sidecars()]
        return Demand(
            classes=classes,
            reporting=sum(age < SILENT for age in ages),
            silent=sum(age >= SILENT for age in ages),
            pods=sum(isinstance(found, Follows) and found.fleet == self._key for found in selected),
            heard=self._heard_at is not None,
            known_for=inf if self._heard_at is None else now - self._heard_at,
            budget_rate=self._tools.prices.budget_rates(policies),
        )

    def _sidecars(self) -> list[SidecarView]:
        return [
            view
            for view in self._tools.capacity.sidecars()
            if isinstance(view.follows, Follows) and view.follows.fleet == self._key
        ]

    def _leases(self) -> Leases:
        held = self._tools.capacity.leased().get(self._key, {})
        return Leases(
            epoch=self._tools.epoch,
            leased={url: count for endpoints in held.values() for url, count in endpoints.items()},
            slot_prices=self._tools.prices.slot_prices(self._key),
            sidecars=sum(view.connected for view in self._sidecars()),
        )

    def _tell(self, done: Pass, conditions: tuple[Condition, ...]) -> None:
        """Log one line of the decision and set the figures."""
        plan, telemetry = done.planned.plan, self._tools.telemetry
        for scaled in done.scaled:
            outcome = scaled.outcome.value
            telemetry.scales.labels(self._key.namespace, self._key.name, outcome).inc()
        ready = next(condition for condition in conditions if condition.type == "Ready")
        figures = _figures(done, self._demand(self._tools.world.now()), ready.holds)
        telemetry.figures.fleets[self._key] = figures
        log.info(
            "fleet %s planned",
            self._key,
            extra={
                "fleet": str(self._key),
                "epoch": done.leases.epoch,
                "basis": done.planned.basis.value,
                "termination": plan.termination.value,
                "objective": round(plan.objective, 6),
                "bound": round(plan.bound, 6),
                "gap": round(plan.gap, 5),
                "seconds": round(done.seconds, 4),
                "demand": round(figures.demand, 4),
                "sidecars": figures.sidecars,
                "hourly_cost": round(plan.hourly_cost, 4),
                "hourly_budget": figures.hourly_budget,
                "budget_price": round(plan.budget_price, 6),
                "replicas": {str(key): count for key, count in done.planned.desired.items()},
                "ready_replicas": {str(key): found.ready for key, found in figures.variants.items()},
                "reasons": {str(key): variant.reason.value for key, variant in plan.variants.items()},
                "slot_prices": {str(key): round(v.slot_price, 6) for key, v in figures.variants.items()},
                "pools": {name: asdict(found) for name, found in figures.pools.items()},
                "scaled": [_words(scaled) for scaled in done.scaled],
                "draining": {str(key): words for key, words in done.draining.items()},
                "conditions": {condition.type: condition.reason for condition in conditions},
                "ready": ready.reason,
            },
        )

    async def _tell_failure(self, problem: str) -> None:
        declared, resolved, _ = self._concern(self._tools.world.now())
        if declared is None or resolved is None:
            return
        try:
            await self._tools.writer.write(declared, _body_of(declared), failed_conditions(resolved, problem))
        except ClusterError as error:
            log.warning("fleet %s: its failure can not be told: %s", self._key, error)


def _longest_request(present: Present, fleet: ObjectKey) -> float:
    """Return the seconds of the longest request that a policy of the fleet allows."""
    return max((policy.limits.max_request for policy in present.resolution.policies_of(fleet)), default=0.0)


def targets(present: Present) -> Iterator[Workload]:
    """Return the workloads that fleets in force scale."""
    for resolved in present.resolution.fleets.values():
        if resolved.fleet is not None:
            for key, workload in workloads_of(resolved.fleet, present.snapshot).items():
                if key not in resolved.kept_out:
                    yield workload


def _words(scaled: Scaled) -> str:
    patch = scaled.patch
    change = f"{patch.target.name} {patch.before}->{patch.replicas}"
    return f"{change} {scaled.outcome.value} {scaled.message}".rstrip()


def _news(done: Pass) -> Iterator[Happening]:
    """Return what was scaled in this pass; what was refused shows in a condition."""
    for scaled in done.scaled:
        if scaled.outcome is Outcome.DONE:
            patch, plan = scaled.patch, done.planned.plan.variants.get(scaled.patch.variant)
            why = f"{plan.reason.value}: {plan.message}" if plan is not None else "it is not in the plan"
            message = (
                f"Deployment {patch.target.name} from {patch.before} to {patch.replicas} replicas; {why}"
            )
            yield Happening(SCALED, message)


def _body_of(declared: Declared[Fleet]) -> dict[str, object]:
    """Return what the status says besides conditions, to be kept."""
    return {
        name: value
        for name, value in declared.status.items()
        if name not in ("conditions", "observedGeneration")
    }


def _figures(done: Pass, demand: Demand, ready: bool) -> FleetFigures:
    view, plan = done.view, done.planned.plan
    variants = {}
    for variant in view.fleet.variants():
        workload = view.workloads.get(variant.key)
        live = view.endpoints.get(variant.key, {})
        variants[variant.key] = VariantFigures(
            current=workload.replicas if workload is not None else 0,
            desired=done.planned.desired.get(variant.key, 0),
            ready=len(live),
            terminating=workload.terminating if workload is not None else 0,
            draining=sum(pod.url not in live for pod in view.pods.get(variant.key, ())),
            slots=sum(live.values()),
            leased=sum(done.leases.leased.get(url, 0) for url in live),
            over=sum(max(0, done.leases.leased.get(url, 0) - slots) for url, slots in live.items()),
            slot_price=done.leases.slot_prices.get(variant.key, 0.0),
        )
    occupied = view.gpus_occupied()
    pools = {
        pool.name: PoolFigures(
            planned=plan.gpus.get(pool.name, 0),
            occupied=occupied[pool.name],
            limit=pool.limit,
            stock=view.stock[pool.name],
            price=plan.pool_prices.get(pool.name, 0.0),
        )
        for pool in view.fleet.pools
    }
    return FleetFigures(
        variants=variants,
        pools=pools,
        hourly_cost=plan.hourly_cost,
        hourly_budget=view.fleet.hourly_budget,
        gap=plan.gap,
        solve_seconds=done.seconds,
        demand=sum(found.rate for found in demand.classes),
        sidecars=done.leases.sidecars,
        silent=done.planned.silent,
        basis=done.planned.basis.value,
        ready=ready,
    )
