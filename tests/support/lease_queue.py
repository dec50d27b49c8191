"""Many sidecars that borrow few slots, in virtual time, beside one central queue.

The book and the holdings are the real ones; messages take `delay` seconds. Requests come at
random to random sidecars and are served first come, first served within each.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from modelfleet_core.demand.sketch import NO_DEMAND
from modelfleet_core.leasing.grants import LeaseBook
from modelfleet_core.leasing.holders import Follows
from modelfleet_core.leasing.holding import Holding
from modelfleet_core.leasing.messages import Bid, Grant, Report, SidecarId, Want
from modelfleet_core.leasing.reservations import Reservation

from support.lease_values import FLEET, LARGE, POLICY


@dataclass(frozen=True, slots=True)
class Job:
    arrived: float
    service: float
    price: float = 0.0


@dataclass(slots=True)
class _Sidecar:
    holding: Holding
    waiting: deque[Job] = field(default_factory=deque)
    pressed: bool = False
    next_report: float = 0.0


class SlotQueue:
    """`run` plays `jobs`; `waits` are the seconds each waited, `idle` the longest time that slots were unused
    while someone waited."""

    def __init__(self, book: LeaseBook, sidecars: int, *, delay: float, seed: int) -> None:
        self.now = 0.0
        self.waits: list[float] = []
        self.idle = 0.0
        self.messages = 0
        self._book = book
        self._delay = delay
        self._random = random.Random(seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._idle_since: float | None = None
        self._waiting = 0
        self._in_use = 0
        self._turning = False
        self._total = 0
        self.sidecars = [self._start(number) for number in range(sidecars)]
        self._by_id = {sidecar.holding.sidecar: sidecar for sidecar in self.sidecars}

    def _start(self, number: int) -> _Sidecar:
        name = SidecarId("ml", f"pod{number}", f"uid{number}", "1")
        sidecar = _Sidecar(Holding(name, pressing=lambda: self._press(sidecar)))
        return sidecar

    def run(self, jobs: list[Job], slots: int) -> None:
        self._total = slots
        for sidecar in self.sidecars:
            sidecar.holding.adopt(self._book.epoch)
            sidecar.holding.follow(None)
            self._report(sidecar)
        for job in jobs:
            self._at(job.arrived, lambda job=job: self._arrive(self._random.choice(self.sidecars), job))
        while len(self.waits) < len(jobs):
            self.now, _, event = heapq.heappop(self._events)
            event()
            self._watch()

    def _at(self, when: float, event: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._events, (when, self._count, event))

    def _watch(self) -> None:
        if self._waiting and self._in_use < self._total:
            if self._idle_since is None:
                self._idle_since = self.now
            self.idle = max(self.idle, self.now - self._idle_since)
        else:
            self._idle_since = None

    def _arrive(self, sidecar: _Sidecar, job: Job) -> None:
        sidecar.waiting.append(job)
        self._waiting += 1
        self._dispatch(sidecar)

    def _dispatch(self, sidecar: _Sidecar) -> None:
        holding = sidecar.holding
        for endpoint, free in holding.free(self.now).items():
            for _ in range(min(free, len(sidecar.waiting))):
                taken = holding.reserve(self.now, endpoint, 0, self.now + 1000, charges={})
                assert isinstance(taken, Reservation), taken
                job = sidecar.waiting.popleft()
                self.waits.append(self.now - job.arrived)
                self._waiting -= 1
                self._in_use += 1
                self._at(self.now + job.service, lambda taken=taken: self._finish(sidecar, taken))
        self._tell(sidecar)
        self._give_back(sidecar)

    def _finish(self, sidecar: _Sidecar, taken: Reservation) -> None:
        sidecar.holding.settle(taken.id, None, self.now)
        self._in_use -= 1
        self._dispatch(sidecar)

    def _give_back(self, sidecar: _Sidecar) -> None:
        sidecar.holding.give_back(self.now)
        due = sidecar.holding.next_give_back(self.now)
        if due is not None and due > self.now:
            self._at(due, lambda: sidecar.holding.give_back(self.now))

    def _tell(self, sidecar: _Sidecar) -> None:
        in_flight = sum(sidecar.holding.in_flight().values())
        bids: dict[float, int] = {}
        for job in sidecar.waiting:
            bids[job.price] = bids.get(job.price, 0) + 1
        offered = tuple(Bid(1.0, price, bids[price]) for price in sorted(bids, reverse=True))
        before = sidecar.holding.wanted()
        wants = {LARGE: Want(in_flight + len(sidecar.waiting), offered)}
        sidecar.holding.want(wants, {})
        if sidecar.holding.wanted() != before and sidecar.holding.short(self.now):
            self._press(sidecar)

    def _press(self, sidecar: _Sidecar) -> None:
        if not sidecar.pressed:
            sidecar.pressed = True
            self._at(self.now, lambda: self._report(sidecar))

    def _report(self, sidecar: _Sidecar) -> None:
        sidecar.pressed = False
        report = sidecar.holding.report(self.now, demand=NO_DEMAND, fleet_version="", policy_version="")
        self.messages += 1
        self._at(self.now + self._delay, lambda: self._hear(report))
        sidecar.next_report = self.now + 1.0
        self._at(sidecar.next_report, lambda: self._report_if_due(sidecar))

    def _report_if_due(self, sidecar: _Sidecar) -> None:
        if self.now >= sidecar.next_report and not sidecar.pressed:
            self._report(sidecar)

    def _hear(self, report: Report) -> None:
        if self._book.hear(report, self.now):
            self._book.follow(report.sidecar, Follows(POLICY, FLEET))
        if not self._turning:
            self._turning = True
            self._at(self.now, self._turn)

    def _turn(self) -> None:
        self._turning = False
        for sidecar, grant in self._book.turn(self.now, self._by_id):
            self._at(
                self.now + self._delay, lambda to=self._by_id[sidecar], grant=grant: self._apply(to, grant)
            )

    def _apply(self, sidecar: _Sidecar, grant: Grant) -> None:
        self.messages += 1
        sidecar.holding.apply(grant, self.now)
        self._dispatch(sidecar)


def poisson_jobs(seed: int, *, rate: float, service: float, until: float) -> list[Job]:
    """Return requests at `rate` a second, each with an exponential time of service of mean `service`."""
    source = random.Random(seed)
    jobs: list[Job] = []
    now = source.expovariate(rate)
    while now < until:
        jobs.append(Job(now, source.expovariate(1 / service)))
        now += source.expovariate(rate)
    return jobs


def central_waits(jobs: list[Job], slots: int) -> list[float]:
    """Return how long each request would wait in one queue for all slots."""
    free_at = [0.0] * slots
    waits = []
    for job in jobs:
        starts = max(job.arrived, heapq.heappop(free_at))
        waits.append(starts - job.arrived)
        heapq.heappush(free_at, starts + job.service)
    return waits
