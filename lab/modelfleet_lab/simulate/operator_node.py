"""The leading operator: the lease book, demand, prices and plans of the core, in the rhythm of their shells.

In: reports over links, live endpoints, vanished pods. Out: grants, and replicas to start or stop. As in the
operator's `publish`, `prices` and `reconcile`, but in virtual time; the CPU time of the core's calls is real.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial

from modelfleet_core.allocation.problem import AllocationProblem
from modelfleet_core.allocation.solver import allocate
from modelfleet_core.allocation.stabilise import Stabiliser
from modelfleet_core.catalog import Fleet
from modelfleet_core.demand import DemandClass
from modelfleet_core.demand.meter import DemandMeter
from modelfleet_core.division.problem import problem_of
from modelfleet_core.division.result import Division
from modelfleet_core.division.solver import divide
from modelfleet_core.leasing.accounts import BUDGET
from modelfleet_core.leasing.grants import Documents, LeaseBook, Prices
from modelfleet_core.leasing.holders import Follows
from modelfleet_core.leasing.ledger import BudgetPeriod, LedgerRecord
from modelfleet_core.leasing.messages import Report, SidecarId
from modelfleet_core.policy import Policy
from modelfleet_core.values import EndpointUrl, NanoUsd, ObjectKey, PeriodId, PoolName, VariantKey, usd

from modelfleet_lab.simulate.events import Alarm, Timeline
from modelfleet_lab.simulate.fleet import DOCUMENT, FLEET, POLICY
from modelfleet_lab.simulate.network import Link

TTL = 30.0
TICK = 0.5
PRICE_EVERY = 1.0
TIME_LIMIT = 1.0
LEDGER_DELAY = 0.01
"""Seconds until the API server has answered about a ledger."""

Live = Mapping[VariantKey, Mapping[EndpointUrl, int]]


@dataclass(slots=True)
class Cpu:
    """Seconds of CPU time that the core took, by what it did."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        began = time.process_time()
        try:
            yield
        finally:
            self.seconds[what] = self.seconds.get(what, 0.0) + time.process_time() - began

    @property
    def total(self) -> float:
        return sum(self.seconds.values())


class LedgerStore:
    """What outlives leaders: the newest record of each period."""

    def __init__(self) -> None:
        self.records: dict[PeriodId, LedgerRecord] = {}
        self._writes = 0

    def write(self, record: LedgerRecord) -> str | None:
        """Store a record if it replaces the newest one, and return its version; None: it does not."""
        known = self.records.get(record.period)
        if (known.version if known is not None else None) != record.version:
            return None
        self._writes += 1
        version = str(self._writes)
        self.records[record.period] = replace(record, version=version)
        return version


@dataclass(frozen=True, slots=True)
class Setting:
    """What every leader of a run finds."""

    fleet: Fleet
    policy: Policy
    stock: Mapping[PoolName, int]
    wall: datetime
    """UTC at second 0."""
    gather: float
    scaling: bool
    scale: Callable[[Mapping[VariantKey, int]], None]
    """Asks for replicas."""
    replicas: Callable[[], Mapping[VariantKey, int]]
    """Replicas asked for now."""


class OperatorNode:
    """One leader, from its election to its end."""

    def __init__(
        self,
        timeline: Timeline,
        setting: Setting,
        store: LedgerStore,
        cpu: Cpu,
        *,
        epoch: int,
        may_hold: Collection[str],
    ) -> None:
        self._timeline = timeline
        self._setting = setting
        self._store = store
        self._cpu = cpu
        self.epoch = epoch
        self.book = LeaseBook(epoch=epoch, ttl=TTL, now=timeline.now, may_hold=may_hold)
        self.book.set_documents(Documents({FLEET: DOCUMENT}, {POLICY: (setting.policy, DOCUMENT)}))
        self._meter = DemandMeter()
        self._live: Live = {}
        self._links: dict[SidecarId, Link] = {}
        self._opening: set[PeriodId] = set()
        self._passed_at = float("-inf")
        self._woken: Alarm | None = None
        self._stabiliser = Stabiliser(setting.fleet.scaling.scale_down_stabilization)
        self._division: Division | None = None
        self.alive = True
        self.prices: Mapping[VariantKey, float] = {}
        self._tick()
        timeline.after(PRICE_EVERY, self._price)
        if setting.scaling:
            timeline.after(setting.fleet.scaling.interval, self._plan)

    def end(self) -> None:
        """The process is gone without a word."""
        self.alive = False

    def set_capacity(self, live: Live) -> None:
        self._live = live
        with self._cpu.of("capacity"):
            self.book.set_capacity({FLEET: live})
        self._wake()

    def forget(self, uid: str) -> None:
        """The API server shows a pod gone."""
        self.book.forget(uid, self._timeline.now)
        self._wake()

    # Streams.

    def hear(self, link: Link, report: Report) -> None:
        if not self.alive:
            return
        now = self._timeline.now
        sidecar = report.sidecar
        if link.id is None:
            link.id = sidecar
            self._links[sidecar] = link
            self.book.connect(sidecar)
            for holder in self.book.holders():
                if holder.id.uid == sidecar.uid and holder.id != sidecar and holder.id not in self._links:
                    self.book.replaced(holder.id, now)
        with self._cpu.of("hear"):
            heard = self.book.hear(report, now)
            if heard:
                self.book.follow(sidecar, Follows(POLICY, FLEET))
        if heard:
            with self._cpu.of("demand"):
                self._meter.hear(sidecar, report.demand, now)
            self._wake()

    def closed(self, link: Link) -> None:
        if link.id is not None and self._links.get(link.id) is link:
            del self._links[link.id]
            self.book.part(link.id)
            self._wake()

    # Passes.

    def _wake(self) -> None:
        if self._woken is None and self.alive:
            self._woken = self._timeline.at(self._passed_at + self._setting.gather, self._pass)

    def _tick(self) -> None:
        if self.alive:
            self._wake()
            self._timeline.after(TICK, self._tick)

    def _pass(self) -> None:
        self._woken = None
        if not self.alive:
            return
        now = self._passed_at = self._timeline.now
        with self._cpu.of("turn"):
            self.book.prune(now)
            unopened = self.book.unopened(self._setting.wall + timedelta(seconds=now))
        for policy, period in unopened:
            if period.id not in self._opening:
                self._opening.add(period.id)
                self._timeline.after(LEDGER_DELAY, partial(self._open, policy, period))
        with self._cpu.of("turn"):
            grants = self.book.turn(now, self._links.keys())
        for sidecar, grant in grants:
            self._links[sidecar].grant(grant)
        with self._cpu.of("turn"):
            due = self.book.due(now)
        for record in due:
            self._timeline.after(LEDGER_DELAY, partial(self._write, record))

    def _open(self, policy: ObjectKey, period: BudgetPeriod) -> None:
        if self.alive:
            self.book.open(policy, period, self._store.records.get(period.id), self._timeline.now)
            self._opening.discard(period.id)
            self._wake()

    def _write(self, record: LedgerRecord) -> None:
        if not self.alive:
            return
        version = self._store.write(record)
        if version is None:
            self.book.found(record, self._store.records.get(record.period))
        else:
            self.book.written(record, version)
        self._wake()

    # Prices and plans.

    def _demand(self) -> tuple[DemandClass, ...]:
        return self._meter.classes(self._follows(), {POLICY: self._setting.policy}, self._timeline.now)

    def _follows(self) -> dict[SidecarId, ObjectKey]:
        return {holder.id: POLICY for holder in self.book.holders() if holder.retired_at is None}

    def _price(self) -> None:
        if not self.alive:
            return
        with self._cpu.of("demand"):
            shared = self._meter.shared(self._follows(), {POLICY: self._setting.policy}, self._timeline.now)
        slots = {key: sum(endpoints.values()) for key, endpoints in self._live.items()}
        with self._cpu.of("divide"):
            problem = problem_of(self._setting.fleet, shared, slots, self._budget_rate())
            division = self._division = divide(problem, warm=self._division)
        self.prices = division.slot_prices
        with self._cpu.of("prices"):
            self.book.set_prices(Prices({FLEET: division.slot_prices}, dict(division.money_prices)))
            if division.targets is not None:
                self.book.set_targets(FLEET, division.targets.by_sidecar())
        self._wake()
        self._timeline.after(PRICE_EVERY, self._price)

    def _budget_rate(self) -> dict[ObjectKey, float]:
        accounts = self.book.budget(POLICY)
        purse = accounts.purse(BUDGET) if accounts is not None else None
        budget = self._setting.policy.budget
        if accounts is None or purse is None or budget is None:
            return {}
        at = self._setting.wall + timedelta(seconds=self._timeline.now)
        left = max(0.0, usd(budget.limit) - usd(NanoUsd(purse.spent)))
        return {POLICY: left / max(1.0, (accounts.period.ends - at).total_seconds())}

    def _plan(self) -> None:
        if not self.alive:
            return
        current = self._setting.replicas()
        problem = AllocationProblem(
            fleet=self._setting.fleet,
            classes=self._demand(),
            current=current,
            occupied=current,
            stock=self._setting.stock,
            budget_rate=self._budget_rate(),
        )
        with self._cpu.of("allocate"):
            plan = allocate(problem, time_limit=TIME_LIMIT)
            self._stabiliser, plan = self._stabiliser.settle(plan, problem, self._timeline.now)
        self._setting.scale({key: variant.replicas for key, variant in plan.variants.items()})
        self._timeline.after(self._setting.fleet.scaling.interval, self._plan)
