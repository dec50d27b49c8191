"""Stage batch, the shell around the core's queue: futures, timers, threads, telemetry.

In: `Ask`s from the router, changes of the lease. Out: each one's `Decision` or `Failure`, and what the lease
client is to ask the operator for. Next: `serving`, or the caller.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from modelfleet_core.batching.outcome import GivenUp, Outcome, Placed
from modelfleet_core.batching.queue import Queue
from modelfleet_core.batching.room import LeaveAlone
from modelfleet_core.batching.solving import Batch, Solved, solve
from modelfleet_core.batching.wanting import Wanted, claim
from modelfleet_core.catalog import Fleet
from modelfleet_core.health import Health
from modelfleet_core.policy import Batching, Policy

from modelfleet_sidecar.assign import Lease, decision_of
from modelfleet_sidecar.decision import Ask, Decision
from modelfleet_sidecar.failures import Failure, internal
from modelfleet_sidecar.incapable import Incapable
from modelfleet_sidecar.keys import ApiKeys
from modelfleet_sidecar.outlook import Outlook
from modelfleet_sidecar.prospect import Estimator, Prospect, cluster, offers
from modelfleet_sidecar.refusals import no_lease, overloaded, refused
from modelfleet_sidecar.repeats import Repeats
from modelfleet_sidecar.telemetry import Telemetry
from modelfleet_sidecar.templates import Templates

MAX_WAITING = 1_000
"""Requests that may wait; beyond them callers are told to come back."""
INLINE_CELLS = 512
"""Requests times variants up to which a batch is solved in the event loop: a thread would cost more."""
SOLVE_SECONDS = 0.05
NEWEST = 0.05
"""Of the newest request in the mean of seconds that slots are held."""
LOOK_AGAIN = 1.0
"""Seconds between looks at the lease, should a change of it go unnoticed."""
TELL_WITHIN = 0.01
"""Seconds in which it is told what is in use where nothing waits, or what is wanted where that was told just
before: nobody has to act on it at once."""
UNTOLD = Batching(max_size=1, max_wait=0.0)
"""Until the policy is known."""


@dataclass(slots=True, eq=False)
class Waiting:
    prospect: Prospect
    future: asyncio.Future[Decision]
    since: float
    """When it began to wait."""
    free_at: float
    """When what it got came free."""


class Batcher:
    """The queue of one sidecar. `release` gives back a decision that nobody took."""

    def __init__(
        self,
        *,
        lease: Lease,
        estimator: Estimator,
        keys: ApiKeys,
        templates: Templates,
        incapable: Incapable,
        leave_alone: LeaveAlone,
        health: Health | None = None,
        release: Callable[[Decision], None],
        clock: Callable[[], float],
        telemetry: Telemetry,
        draw: Callable[[], float],
    ) -> None:
        """`health` says what to use of the lease, None: all of it; `draw` returns random numbers, uniform in
        [0, 1), for exploration."""
        self.outlook = Outlook(
            lease=lease,
            estimator=estimator,
            keys=keys,
            templates=templates,
            incapable=incapable,
            clock=clock,
            telemetry=telemetry,
            draw=draw,
        )
        self._lease = lease
        self._release = release
        self._clock = clock
        self._telemetry = telemetry
        self._queue = Queue(lease.holding, UNTOLD, leave_alone=leave_alone, health=health)
        self._tickets = itertools.count(1)
        self._waiting: dict[int, Waiting] = {}
        self._following: tuple[Fleet | None, Policy | None] = (None, None)
        """The fleet and policy that all in the queue are estimated for."""
        self._timer: asyncio.TimerHandle | None = None
        self._solving: asyncio.Task[None] | None = None
        self._telling = False
        self._tells_later: asyncio.TimerHandle | None = None
        self._repeats = Repeats(clock)
        self._told_at = -math.inf
        """When the last word was, by the event loop."""
        self._freed_at: float | None = None
        """When the first thing came free that no batch was made for yet."""
        self._batch_at = self._batch_before_at = -math.inf
        """When the last batch was made, and the one before it."""
        self._batch_free_at = -math.inf
        """When what the last one gives to requests that the one before it left came free, at the earliest."""
        self._usual_seconds = 1.0
        """That a request is expected to hold its slot, in the mean of the last ones."""
        self._closed: Callable[[], Failure] | None = None

    @property
    def waiting(self) -> int:
        return len(self._queue)

    async def run(self) -> None:
        """Follow the lease until cancelled."""
        while True:
            await self._lease.wait_change(LOOK_AGAIN)
            self.look_again()

    def freed(self) -> None:
        """A slot or money came back here: try what waits."""
        if self._waiting:
            self.look_again()
        else:
            self._tell_later()

    def look_again(self) -> None:
        """Something may have come free: try what waits."""
        if self._waiting:
            now = self._clock()
            if self._freed_at is None:
                self._freed_at = now
            self._queue.changed(now)
            self._follow()
        self.tell()

    def look_anew(self) -> None:
        """Requests cost otherwise from now on, those that wait too."""
        self.outlook.look_anew()
        self._following = (None, None)

    def elsewhere(self, ask: Ask) -> bool:
        """Return whether the lease has an endpoint that could serve a request and has not failed it."""
        candidate = self.outlook.look(ask).candidate
        possible = {candidate.variants[j] for j in candidate.possible}
        holding, now = self._lease.holding, self._clock()
        possible -= self._queue.placer.shut(now).keys()
        return any(
            holding.variant_of(endpoint) in possible and not candidate.avoids(endpoint)
            for endpoint in holding.free(now, ask.tier.name)
        )

    def count(self, seen: Prospect) -> None:
        """Count a request as demand."""
        self._lease.record(seen.ask.tier.name, cluster(seen), offers(seen))

    async def decide(self, ask: Ask) -> Decision:
        """Return the decision once there is one. Raises Failure; a cancelled caller leaves nothing behind."""
        if self._closed is not None:
            raise self._closed()
        again = bool(ask.earlier)
        full = len(self._queue) >= MAX_WAITING and not again  # what was accepted once is not turned away
        if full and self._queue.push_out(ask.caller) is None:
            raise self._overloaded()
        seen = self.outlook.look(ask)
        if full:  # only for what could be served
            self._make_room(ask.caller)
        if not again and not self._repeats.again(ask):
            self.count(seen)
        self._renew()
        ticket, now = next(self._tickets), self._clock()
        seen = self.outlook.explored(seen, now)
        if (decision := self._at_once(ticket, seen, now)) is not None:
            if not again:
                self._telemetry.deciding(self._clock() - ask.arrived)
            return decision
        waiting = Waiting(seen, asyncio.get_running_loop().create_future(), since=now, free_at=now)
        self._waiting[ticket] = waiting
        self._queue.arrive(ticket, seen.candidate, now)
        self._follow()
        try:
            decision = await waiting.future
            if not again:
                self._telemetry.deciding(self._clock() - ask.arrived - (waiting.free_at - waiting.since))
            return decision
        except asyncio.CancelledError:
            future = waiting.future
            if future.done() and not future.cancelled() and future.exception() is None:
                self._release(future.result())
            elif self._waiting.pop(ticket, None) is not None:
                self._queue.leave(ticket, self._clock())
                self._follow()
            raise

    def _make_room(self, caller: str) -> None:
        """Turn away a request of who has most waiting, for one of `caller`. Raises Failure."""
        crowding = self._queue.push_out(caller)
        if crowding is None:
            raise self._overloaded()
        self._repeats.refused(self._waiting[crowding].prospect.ask)
        self._end(crowding, self._overloaded())

    def _overloaded(self) -> Failure:
        slots = sum(held.slots for held in self._lease.holding.lease.slots.values())
        return overloaded(len(self._queue), self._usual_seconds * len(self._queue) / max(1, slots))

    async def decide_aside(self, ask: Ask, patience: float) -> Decision | None:
        """Return a decision that takes only what no request in the queue waits for; None: there was nothing
        within `patience` seconds. It is no demand. Raises Failure."""
        seen = self.outlook.look(ask)
        ticket, until = next(self._tickets), self._clock() + patience
        try:
            while self._closed is None and seen.policy is self._lease.policy:
                now = self._clock()
                placer = self.queue.placer
                if not self._waiting:
                    placed = placer.place(ticket, seen.candidate, now, aside=True)
                    if placed is not None:
                        return self._decision(placed, seen, now)
                if now >= until:
                    break
                wanted = Wanted()
                wanted.add(claim(seen.candidate, placer.look(seen.candidate, now), anything=True))
                self._queue.claim_jointly(ticket, wanted.together())
                self.tell()
                await self._lease.wait_change(min(LOOK_AGAIN, until - now))
            return None
        finally:
            self._queue.claim_jointly(ticket, None)
            self.tell()

    def _at_once(self, ticket: int, seen: Prospect, now: float) -> Decision | None:
        """Return the decision while nothing binds; None: the request must wait for its turn."""
        try:
            placed = self._queue.place(ticket, seen.candidate, now)
            if placed is None:
                return None
            self._telemetry.batch(1, placed.certificate)
            self._tell_later()
            return self._decision(placed, seen, now)
        except Exception as error:
            self._telemetry.bug("assign", error)
            raise internal(error) from error

    def shed(self, failure: Callable[[], Failure]) -> None:
        """End everything that waits, and all that would wait later, each with a `failure` of its own."""
        self._closed = failure
        for ticket in list(self._waiting):
            self._end(ticket, failure())
        if self._timer is not None:
            self._timer.cancel()
        self._count()

    @property
    def queue(self) -> Queue:
        """The core's queue, at present prices."""
        self._queue.set_prices(self._lease.slot_prices, self._lease.money_price)
        return self._queue

    def tell(self) -> None:
        """Something changed: tell the operator what is wanted once this turn of the loop is over; a little
        later where it was told just before, since all that waits is added up for it."""
        loop = asyncio.get_running_loop()
        if loop.time() < self._told_at + TELL_WITHIN:
            self._tell_later()
        elif not self._telling:
            self._telling = True
            loop.call_soon(self._tell)

    def _tell_later(self) -> None:
        """The same soon, for more changes together."""
        if self._tells_later is None and not self._telling:
            self._tells_later = asyncio.get_running_loop().call_later(TELL_WITHIN, self._tell)

    def _tell(self) -> None:
        if self._tells_later is not None:
            self._tells_later.cancel()
            self._tells_later = None
        self._telling = False
        self._told_at = asyncio.get_running_loop().time()
        self._lease.want(*self._queue.wants(self._clock()))

    def _follow(self) -> None:
        """Let the queue do what is due, and ring when it next wants to be asked."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._solving is not None:
            return
        try:
            while (batch := self._due()) is not None:
                if batch.cells > INLINE_CELLS:
                    self._solving = asyncio.create_task(self._solve_aside(batch))
                    break
                self._commit(solve(batch, stopwatch(SOLVE_SECONDS)))
        except Exception as error:  # noqa: BLE001 - every waiting caller must get its one error
            self._failed(error)
        if (wake_at := self._queue.wake_at) is not None:
            delay = max(0.0, wake_at - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay, self._follow)
        self._count()
        self.tell()

    def _due(self) -> Batch | None:
        self._renew()
        now = self._clock()
        batch = self._queue.due(now)
        if batch is not None:
            self._batch_before_at, self._batch_at = self._batch_at, now
            self._batch_free_at = now if self._freed_at is None else self._freed_at
            self._freed_at = None
        return batch

    async def _solve_aside(self, batch: Batch) -> None:
        try:
            loop = asyncio.get_running_loop()
            solved = await loop.run_in_executor(None, solve, batch, stopwatch(SOLVE_SECONDS))
            self._commit(solved)
        except Exception as error:  # noqa: BLE001 - as above
            self._failed(error)
        self._solving = None
        self._follow()

    def _commit(self, solved: Solved) -> None:
        """Reserve and give each caller what came of it."""
        if solved.batch.tickets:
            self._telemetry.batch(len(solved.batch.tickets), solved.certificate)
        now = self._clock()
        outcomes = deque(self._queue.commit(solved, now, self._wanted))
        try:
            while outcomes:
                self._hand_out(outcomes.popleft(), now)
        finally:  # a bug must not keep what the others hold
            for outcome in outcomes:
                if isinstance(outcome, Placed):
                    self._lease.holding.cancel(outcome.reservation.id, now)

    def _wanted(self, ticket: int) -> bool:
        waiting = self._waiting.get(ticket)
        return waiting is not None and not waiting.future.done()

    def _hand_out(self, outcome: Outcome, now: float) -> None:
        if isinstance(outcome, GivenUp):
            if outcome.ticket in self._waiting:
                self._repeats.refused(self._waiting[outcome.ticket].prospect.ask)
            self._end(outcome.ticket, refused(outcome, self._lease, now))
            return
        waiting = self._waiting[outcome.ticket]
        decision = self._decision(outcome, waiting.prospect, now)
        if waiting.since < self._batch_before_at:  # else it was there for it from the start
            waiting.free_at = max(waiting.since, self._batch_free_at)
        del self._waiting[outcome.ticket]
        waiting.future.set_result(decision)

    def _decision(self, placed: Placed, seen: Prospect, now: float) -> Decision:
        seconds = placed.candidate.service_time[placed.column]
        self._usual_seconds += NEWEST * (seconds - self._usual_seconds)
        try:
            decision = decision_of(placed, seen, now)
            self.outlook.went(seen, decision, now)
            return decision
        except BaseException:
            self._lease.holding.cancel(placed.reservation.id, now)
            raise

    def _end(self, ticket: int, failure: Failure) -> None:
        self._queue.leave(ticket, self._clock())
        waiting = self._waiting.pop(ticket, None)
        if waiting is not None and not waiting.future.done():
            waiting.future.set_exception(failure)

    def _failed(self, error: Exception) -> None:
        """End all that waits: nothing may hang because of a bug."""
        self._telemetry.bug("assign", error)
        self._queue.fail()
        for ticket in list(self._waiting):
            self._end(ticket, internal(error))

    def _renew(self) -> None:
        """Take over prices, and look anew at requests that were estimated by what holds no more."""
        fleet, policy, now = self._lease.fleet, self._lease.policy, self._clock()
        self._queue.set_prices(self._lease.slot_prices, self._lease.money_price)
        if policy is not None:
            self._queue.follow(policy.batching, now)
        if self._following == (fleet, policy):
            return
        whole = True
        for ticket, waiting in list(self._waiting.items()):
            seen = waiting.prospect
            if fleet is None or policy is None:
                self._end(ticket, no_lease(self._lease.refusal))
                continue
            if seen.frame is self.outlook.frame(fleet, policy):
                continue
            try:
                new = self.outlook.prospect(seen.ask, fleet, policy)
            except Failure as failure:
                self._end(ticket, failure)
                continue
            if self._queue.renew(ticket, new.candidate):
                waiting.prospect = new
            else:  # it is in the batch that is out
                whole = False
        if whole:
            self._following = (fleet, policy)

    def _count(self) -> None:
        self._telemetry.queue(len(self._queue))


def stopwatch(seconds: float) -> Callable[[], float]:
    """Return a function that tells how many of `seconds` are left."""
    end = time.perf_counter() + seconds
    return lambda: end - time.perf_counter()
