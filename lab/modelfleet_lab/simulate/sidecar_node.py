"""One sidecar: its lease and its decisions by the core, in the rhythm of the sidecar's shells.

In: requests of its application, grants over its link, answers of model servers. Out: reports, requests to
servers, and what became of each request. As the sidecar's `lease` and `batch`, but in virtual time. What
decides is a `Decider`: the product's (`product`) or a rival's (`rivals`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Protocol

from modelfleet_core.demand import ModelOffer
from modelfleet_core.demand.cells import cluster
from modelfleet_core.demand.sketch import NO_DEMAND, Sketch
from modelfleet_core.leasing.holding import Holding
from modelfleet_core.leasing.messages import Grant, Need, SidecarId, Want
from modelfleet_core.leasing.reservations import Reservation
from modelfleet_core.values import AccountName, EndpointUrl, NanoUsd, VariantKey

from modelfleet_lab.simulate.events import Alarm, Timeline
from modelfleet_lab.simulate.fates import Fates
from modelfleet_lab.simulate.fleet import DOCUMENT
from modelfleet_lab.simulate.network import Link
from modelfleet_lab.simulate.offers import Offers
from modelfleet_lab.simulate.servers import Job, Servers

REPORT_INTERVAL = 1.0
PRESSING_DELAY = 0.01
UNUSED_AFTER = 0.2
DEMAND_INTERVAL = 0.5
RETRY_FIRST = 0.1
RETRY_SPREAD = 0.5
RETRY_MOST = 3.0
RESTART = 2.0
"""Seconds from a crash to the next start."""


@dataclass(slots=True)
class Lease:
    """What decisions rest on."""

    holding: Holding
    slot_prices: Mapping[VariantKey, float] = field(default_factory=dict)
    money_price: float = 0.0


@dataclass(frozen=True, slots=True)
class Placed:
    """Requests with the reservations made for them, and those given up."""

    placed: Sequence[tuple[int, Reservation]]
    given_up: Sequence[int]
    wake_at: float | None


class Decider(Protocol):
    """The queue of one start of a sidecar. Requests are known by their number in the workload."""

    def arrive(self, request: int, now: float) -> None: ...
    def changed(self, now: float) -> None:
        """A slot or money came free, a grant or new prices came."""

    def look(self, now: float) -> Placed:
        """Reserve what can be placed now; called after each of these, and when `wake_at` has come."""

    def wants(self, now: float) -> tuple[Mapping[VariantKey, Want], Mapping[AccountName, Need]]: ...
    @property
    def waiting(self) -> Sequence[int]: ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a sidecar has around it."""

    timeline: Timeline
    random: Random
    latency: float
    offers: Offers
    decider: Callable[[Lease], Decider]
    dial: Callable[[SidecarNode], Link | None]
    """Returns a stream to the leader; None: nobody leads."""
    servers: Servers
    job: Callable[[int, EndpointUrl, Callable[[bool, NanoUsd], None]], Job]
    """Makes a request to a server; the call is made there at its end: whether it is whole, and its price."""
    deadline: Callable[[int], float]
    fates: Fates


class SidecarNode:
    """One pod's sidecar over all its starts."""

    def __init__(self, number: int, around: Surroundings) -> None:
        self.number = number
        self.uid = f"uid-{number}"
        self._around = around
        self._timeline = around.timeline
        self._boot = 0
        self._stalled_until = 0.0
        self.up = False
        self._untaken: list[int] = []
        """Requests that the process has not read from its socket."""

    # Life.

    def start(self) -> None:
        self._boot += 1
        self.up = True
        pod = f"pod-{self.number}"
        self.id = SidecarId("ml", pod, self.uid, f"boot-{self._boot}")
        self.holding = Holding(self.id, pressing=self._press)
        self.holding.follow(self._around.offers.policy)
        self.lease = Lease(self.holding)
        self.decider = self._around.decider(self.lease)
        self._link: Link | None = None
        self._failures = 0
        self._sketch = Sketch()
        self._demand_at = 0.0
        self._report_every = REPORT_INTERVAL
        self._next_report = float("inf")
        self._report_alarm: Alarm | None = None
        self._wake: Alarm | None = None
        self._unused: Alarm | None = None
        self._jobs: dict[int, tuple[int, Job, Alarm]] = {}
        self._connect()

    def crash(self) -> None:
        """The process ends: its requests fail, servers notice that it is gone."""
        if not self.up:
            return
        self.up = False
        now = self._timeline.now
        self._lose_untaken()
        for request in self.decider.waiting:
            self._around.fates.failed(request, "Crash", now)
        for request, job, alarm in self._jobs.values():
            alarm.cancel()
            self._around.fates.failed(request, "Crash", now)
            self._timeline.after(self._around.latency, partial(self._around.servers.cancel, job))
        self._jobs = {}
        for pending in (self._report_alarm, self._wake, self._unused):
            if pending is not None:
                pending.cancel()
        if self._link is not None:
            self._link.close()
        self._timeline.after(RESTART, self.start)

    def _lose_untaken(self) -> None:
        for request in self._untaken:
            self._around.fates.failed(request, "Crash", self._timeline.now)
        self._untaken = []

    def stall(self, seconds: float) -> None:
        """Stand still: whatever comes is taken up later."""
        self._stalled_until = max(self._stalled_until, self._timeline.now + seconds)

    def _late(self, call: Callable[[], None]) -> bool:
        """Return whether the process stands still; then `call` is made when it goes on, in the same order."""
        if self._timeline.now >= self._stalled_until:
            return False
        boot = self._boot
        self._timeline.at(self._stalled_until, lambda: call() if self.up and boot == self._boot else None)
        return True

    # The stream to the leader.

    def _connect(self) -> None:
        if not self.up or self._link is not None:
            return
        if self._late(self._connect):
            return
        link = self._around.dial(self)
        if link is None:
            self._retry()
        else:
            self._link = link

    def _retry(self) -> None:
        self._failures += 1
        longest = max(RETRY_SPREAD, min(RETRY_MOST, RETRY_FIRST * 2.0 ** min(self._failures, 10)))
        boot = self._boot
        delay = RETRY_FIRST + self._around.random.random() * (longest - RETRY_FIRST)
        self._timeline.after(delay, lambda: self._connect() if boot == self._boot else None)

    def closed(self, link: Link) -> None:
        if link is self._link:
            self._link = None
            self._next_report = float("inf")
            if self.up:
                self._retry()

    def greeted(self, link: Link, epoch: int) -> None:
        if not self.up or link is not self._link or self._late(lambda: self.greeted(link, epoch)):
            return
        if not self.holding.adopt(epoch):
            link.close()
            return
        self._sketch.unheard()
        self._demand_at = self._timeline.now
        self._report_at(self._timeline.now)

    def take(self, link: Link, grant: Grant) -> None:
        if not self.up or link is not self._link or self._late(lambda: self.take(link, grant)):
            return
        self._sketch.answered(grant.answers)
        before = {endpoint: held.slots for endpoint, held in self.holding.lease.slots.items()}
        now = self._timeline.now
        if not self.holding.apply(grant, now):
            return
        self._failures = 0
        self.lease.slot_prices = grant.slot_prices
        self.lease.money_price = grant.money_price
        self._report_every = max(REPORT_INTERVAL, grant.report_every)
        gained = (
            max(0, granted.slots - before.get(endpoint, 0)) for endpoint, granted in grant.slots.items()
        )
        self._around.fates.moved(sum(gained))
        self.decider.changed(now)
        self._look()

    def _press(self) -> None:
        self._report_at(self._timeline.now + PRESSING_DELAY)

    def _report_at(self, due: float) -> None:
        if self._link is None or due >= self._next_report:
            return
        self._next_report = due
        if self._report_alarm is not None:
            self._report_alarm.cancel()
        self._report_alarm = self._timeline.at(due, self._report)

    def _report(self) -> None:
        if not self.up or self._link is None or self._late(self._report):
            return
        now = self._timeline.now
        self._next_report = float("inf")
        self._report_at(now + self._report_every)
        telling = now >= self._demand_at
        report = self.holding.report(
            now,
            demand=self._sketch.changes() if telling else NO_DEMAND,
            fleet_version=DOCUMENT.version,
            policy_version=DOCUMENT.version,
        )
        if telling:
            self._sketch.sent(report.sequence)
            self._demand_at = now + DEMAND_INTERVAL
        self._link.report(report)

    def _tell(self) -> None:
        """Say what could be used now; at once if it is more than is held."""
        before = self.holding.wanted()
        now = self._timeline.now
        self.holding.want(*self.decider.wants(now))
        if self.holding.wanted() != before:
            self._report_at(now + (PRESSING_DELAY if self.holding.short(now) else UNUSED_AFTER))
        self._give_back()

    def _give_back(self) -> None:
        """Lower what is unused for too long, and what others pay more for."""
        if not self.up or self._late(self._give_back):
            return
        self.holding.give_back(self._timeline.now)
        if self._unused is not None:
            self._unused.cancel()
        due = self.holding.next_give_back(self._timeline.now)
        self._unused = self._timeline.at(due, self._give_back) if due is not None else None

    # Requests.

    def arrive(self, requests: Sequence[int]) -> None:
        """The application asks; requests that come at one moment are taken one after the other."""
        self._untaken += requests
        self._take_requests()

    def _take_requests(self) -> None:
        if not self.up:
            self._lose_untaken()
            return
        if self._late(self._take_requests):
            return
        requests, self._untaken = self._untaken, []
        for request in requests:
            self._saw(request)
            self.decider.arrive(request, self._timeline.now)
            self._look(tell=False)
        self._tell()

    def _saw(self, request: int) -> None:
        """Count a request as demand."""
        one = self._around.offers.of(request)
        rows = zip(one.variants, one.quality, one.cost, one.service_time, strict=True)
        self._sketch.record(
            one.tier,
            cluster(self._around.offers.task(request), one.quality, one.service_time),
            {variant.model: ModelOffer(quality, cost, seconds) for variant, quality, cost, seconds in rows},
        )

    def _look(self, *, tell: bool = True) -> None:
        if not self.up or self._late(self._look):
            return
        now = self._timeline.now
        if self._wake is not None:
            self._wake.cancel()
            self._wake = None
        step = self.decider.look(now)
        for request, reservation in step.placed:
            self._forward(request, reservation)
        for request in step.given_up:
            self._around.fates.failed(request, "Shed", now)
        if step.wake_at is not None:
            self._wake = self._timeline.at(max(step.wake_at, now), self._look)
        if tell:
            self._tell()

    def _forward(self, request: int, reservation: Reservation) -> None:
        around, boot = self._around, self._boot

        def ended(whole: bool, charged: NanoUsd) -> None:
            self._timeline.after(around.latency, lambda: self._settle(boot, reservation, whole, charged))

        around.fates.start(request, reservation.variant, self._timeline.now)
        job = around.job(request, reservation.endpoint, ended)
        limit = self._timeline.at(around.deadline(request), lambda: self._cut(reservation))
        self._jobs[reservation.id] = (request, job, limit)
        self._timeline.after(around.latency, lambda: around.servers.submit(job))

    def _cut(self, reservation: Reservation) -> None:
        """The deadline has come: nobody wants the answer; its slot is free once the server says so."""
        if self._late(lambda: self._cut(reservation)) or reservation.id not in self._jobs:
            return
        _, job, _ = self._jobs[reservation.id]
        self._timeline.after(self._around.latency, lambda: self._around.servers.cancel(job))

    def _settle(self, boot: int, reservation: Reservation, whole: bool, charged: NanoUsd) -> None:
        if not self.up or boot != self._boot:
            return
        if self._late(lambda: self._settle(boot, reservation, whole, charged)):
            return
        request, _, limit = self._jobs.pop(reservation.id)
        limit.cancel()
        now = self._timeline.now
        self.holding.settle(reservation.id, charged, now)
        if whole:
            self._around.fates.answered(request, now)
        else:
            self._around.fates.failed(request, "Cut", now)
        self.decider.changed(now)
        self._look()
