"""Stage batch: the shell around the window; requests wait until a batch finds them a place or time is up.

In: `Ask`s from the router, changes of the lease. Out: each one's `Decision` or `Failure`. Next: `forward`.
While nothing binds every request is assigned at once; otherwise they gather as the core's `Window` says.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modelfleet_core.batching import Step, Window
from modelfleet_core.policy import Batching
from modelfleet_core.values import NanoUsd, VariantKey, usd

from modelfleet_sidecar.assign import (
    MONEY,
    Assigner,
    Batch,
    Estimator,
    Lease,
    Prospect,
    Solved,
    offers,
    prospect,
)
from modelfleet_sidecar.decision import Ask, Certificate, Decision
from modelfleet_sidecar.failures import Failure, Fault, internal
from modelfleet_sidecar.telemetry import Telemetry

MAX_WAITING = 1_000
"""Requests that may wait; beyond them callers are told to come back."""
MAX_ROUTE_BATCHES = 4
INLINE_CELLS = 512
"""Requests times variants up to which a batch is solved in the event loop: a thread would cost more."""
DEADLINE_MARGIN = 0.02
BUDGET_PATIENCE = 2.0
"""Seconds that a request waits for money before it is told that the budget is exhausted."""
OFFLINE_SECONDS = 2.0
"""Time to assign an offline batch."""
TOP_UP_PATIENCE = 1.0
"""Seconds that an offline batch waits for the slots and the money that it asked for."""
LOOK_AGAIN = 0.25
"""Seconds between looks at what waits, since the loss of waiting grows with time."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A request in the queue."""

    prospect: Prospect
    future: asyncio.Future[Decision]
    looked_at: int = 0
    """Batches that found no place for it."""
    claims: tuple[VariantKey, ...] = ()
    """What it wants of the operator, while it waits."""
    claimed_money: int = 0


class Batcher:
    """The queue of one sidecar.

    `release` gives back a decision that nobody took; `reserved` is the nano-USD of requests in flight.
    """

    def __init__(
        self,
        *,
        lease: Lease,
        estimator: Estimator,
        assigner: Assigner,
        release: Callable[[Decision], None],
        reserved: Callable[[], int],
        clock: Callable[[], float],
        telemetry: Telemetry,
    ) -> None:
        self._lease = lease
        self._estimator = estimator
        self._assigner = assigner
        self._release = release
        self._reserved = reserved
        self._clock = clock
        self._telemetry = telemetry
        self._waiting: dict[int, Waiting] = {}
        self._window: Window | None = None
        self._batching: Batching | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._closed: Callable[[], Failure] | None = None
        self._solving: asyncio.Task[None] | None = None
        self._telling = False
        self._offline = asyncio.Lock()
        self._offline_waiting = 0
        self._wants: Counter[VariantKey] = Counter()
        self._wanted_money = 0
        self._offline_wants: Counter[VariantKey] = Counter()
        self._offline_money = 0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    async def run(self) -> None:
        """Follow the lease until cancelled."""
        while True:
            await self._lease.wait_change(LOOK_AGAIN)
            self.look_again()

    def look_again(self) -> None:
        """Something may have come free: try what waits."""
        if self._waiting and self._window is not None:
            self._follow(self._window.capacity_changed(self._clock()))
        self._tell_wants()

    async def decide(self, ask: Ask) -> Decision:
        """Return the decision once there is one. Raises Failure; a cancelled caller leaves nothing behind."""
        if self._closed is not None:
            raise self._closed()
        if len(self._waiting) >= MAX_WAITING:
            raise Failure(
                Fault.EXHAUSTED,
                "Overloaded",
                f"{MAX_WAITING} requests wait for a free slot already",
                retry_after=1.0,
            )
        seen = self._prospect(ask)
        window = self._current_window(seen.policy.batching)
        waiting = Waiting(seen, asyncio.get_running_loop().create_future())
        self._waiting[id(waiting)] = waiting
        self._follow(window.arrive(self._clock(), ask.deadline))
        if id(waiting) in self._waiting:
            self._claim(waiting)
            self._tell_wants()
        try:
            return await waiting.future
        except asyncio.CancelledError:
            future = waiting.future
            if future.done() and not future.cancelled() and future.exception() is None:
                self._release(future.result())
            elif self._waiting.pop(id(waiting), None) is not None:
                self._unclaim(waiting)
                if self._window is not None:
                    self._follow(self._window.leave(self._clock()))
                self._tell_wants()
            raise

    async def decide_all(
        self, asks: Sequence[Ask | Failure]
    ) -> tuple[list[Decision | Failure], Certificate | None]:
        """Assign an offline batch jointly; one outcome per ask, in their order.

        Raises Failure when too many such batches wait. A cancelled caller leaves nothing behind.
        """
        if self._offline_waiting >= MAX_ROUTE_BATCHES:
            raise Failure(
                Fault.EXHAUSTED, "Overloaded", f"{MAX_ROUTE_BATCHES} batches wait already", retry_after=1.0
            )
        self._offline_waiting += 1
        try:
            async with self._offline:
                return await self._decide_all(asks)
        finally:
            self._offline_waiting -= 1
            self._offline_wants.clear()
            self._offline_money = 0
            self._tell_wants()

    def shed(self, failure: Callable[[], Failure]) -> None:
        """End everything that waits, and all that would wait later, each with a `failure` of its own."""
        self._closed = failure
        for one in self._take_all():
            if not one.future.done():
                one.future.set_exception(failure())
        if self._timer is not None:
            self._timer.cancel()

    async def _decide_all(
        self, asks: Sequence[Ask | Failure]
    ) -> tuple[list[Decision | Failure], Certificate | None]:
        outcomes: list[Decision | Failure] = []
        places: list[int] = []
        prospects: list[Prospect] = []
        for place, ask in enumerate(asks):
            if place % 50 == 49:
                await asyncio.sleep(0)  # others must not wait for ten thousand profiles
            try:
                if isinstance(ask, Failure):
                    raise ask
                seen = self._prospect(ask)
            except Failure as failure:
                outcomes.append(failure)
                continue
            outcomes.append(self._no_place(seen))
            if prospects and seen.fleet is not prospects[0].fleet:
                continue  # the fleet changed in between; the caller is told to come back
            places.append(place)
            prospects.append(seen)
        if not prospects:
            return outcomes, None
        await self._top_up(prospects)
        batch = self._assigner.pose(prospects)
        solved = await asyncio.get_running_loop().run_in_executor(
            None, self._assigner.solve, batch, OFFLINE_SECONDS
        )
        self._telemetry.batch(len(prospects), solved.certificate)
        now = self._clock()
        decisions = self._assigner.commit(solved, lambda i: prospects[i].ask.deadline > now)
        for place, seen, decision in zip(places, prospects, decisions, strict=True):
            outcomes[place] = self._no_place(seen) if decision is None else decision
        return outcomes, solved.certificate

    async def _top_up(self, prospects: Sequence[Prospect]) -> None:
        """Ask for the slots and money that the batch could use, and wait a little for them."""
        for index, seen in enumerate(prospects):
            if index % 200 == 199:
                await asyncio.sleep(0)
            best = self._assigner.favourite(seen)
            self._offline_wants[seen.variants[best]] += 1
            self._offline_money += seen.reserve[best]
        end = min(
            self._clock() + TOP_UP_PATIENCE, min(seen.ask.deadline for seen in prospects) - DEADLINE_MARGIN
        )
        self._tell_wants()
        while self._lacks() and (left := end - self._clock()) > 0:
            await self._lease.wait_change(left)

    def _lacks(self) -> bool:
        """Whether the offline batch waits for slots or money still."""
        now = self._clock()
        holding = self._lease.holding
        free: Counter[VariantKey] = Counter()
        for endpoint, slots in holding.free(now).items():
            if (variant := holding.variant_of(endpoint)) is not None:
                free[variant] += slots
        money = holding.money(now)
        short = any(wanted > free[variant] for variant, wanted in self._offline_wants.items())
        return short or (money is not None and self._offline_money > money)

    def _prospect(self, ask: Ask) -> Prospect:
        fleet, policy = self._lease.fleet, self._lease.policy
        if fleet is None or policy is None:
            raise no_lease(self._lease.refusal)
        seen = prospect(ask, fleet, policy, self._estimator)
        self._estimator.saw(seen.profile)
        self._lease.record(ask.tier.name, seen.profile.task, offers(seen))
        return seen

    def _current_window(self, batching: Batching) -> Window:
        if self._window is None or (self._batching != batching and self._solving is None):
            self._batching = batching
            self._window = Window(
                max_size=batching.max_size, max_wait=batching.max_wait, margin=DEADLINE_MARGIN
            )
            for waiting in self._waiting.values():
                self._window.arrive(self._clock(), waiting.prospect.ask.deadline)
        return self._window

    def _follow(self, step: Step) -> None:
        """Do what the window says."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while step.dispatch:
            batch = self._of_one_fleet([one for one in self._take_all() if not one.future.done()])
            if not batch:
                step = self._finish([], binding=False)
                continue
            try:
                if len(batch) == 1:
                    decision, certificate = self._assigner.one(batch[0].prospect)
                    step = self._hand_out(batch, [decision], certificate)
                    continue
                posed = self._assigner.pose([waiting.prospect for waiting in batch])
                if posed.problem.quality.size > INLINE_CELLS:
                    self._solving = asyncio.create_task(self._solve_aside(batch, posed))
                    return
                step = self._take(batch, self._assigner.solve(posed))
            except Exception as error:  # noqa: BLE001 - every waiting caller must get its one error
                step = self._failed(batch, error)
        if step.wake_at is not None:
            delay = max(0.0, step.wake_at - self._clock())
            self._timer = asyncio.get_running_loop().call_later(delay, self._tick)

    def _tick(self) -> None:
        if self._window is not None:
            self._follow(self._window.tick(self._clock()))

    async def _solve_aside(self, batch: Sequence[Waiting], posed: Batch) -> None:
        try:
            loop = asyncio.get_running_loop()
            step = self._take(batch, await loop.run_in_executor(None, self._assigner.solve, posed))
        except Exception as error:  # noqa: BLE001 - as above
            step = self._failed(batch, error)
        self._solving = None
        self._follow(step)

    def _failed(self, batch: Sequence[Waiting], error: Exception) -> Step:
        self._telemetry.bug("assign", error)
        for waiting in batch:
            if not waiting.future.done():
                waiting.future.set_exception(internal(error))
        return self._finish([], binding=False)

    def _of_one_fleet(self, batch: list[Waiting]) -> list[Waiting]:
        """Look anew at requests that were estimated for another fleet or policy than the present one."""
        fleet, policy = self._lease.fleet, self._lease.policy
        current: list[Waiting] = []
        for waiting in batch:
            seen = waiting.prospect
            if fleet is None or policy is None or (seen.fleet is fleet and seen.policy is policy):
                current.append(waiting)
                continue
            try:
                waiting.prospect = prospect(seen.ask, fleet, policy, self._estimator)
                current.append(waiting)
            except Failure as failure:
                waiting.future.set_exception(failure)
        first = current[0].prospect.fleet if current else None
        for waiting in current:
            if waiting.prospect.fleet is not first:
                waiting.future.set_exception(no_lease(self._lease.refusal))
        return [waiting for waiting in current if not waiting.future.done()]

    def _take(self, batch: Sequence[Waiting], solved: Solved) -> Step:
        decisions = self._assigner.commit(solved, lambda i: not batch[i].future.done())
        return self._hand_out(batch, decisions, solved.certificate)

    def _hand_out(
        self, batch: Sequence[Waiting], decisions: Sequence[Decision | None], certificate: Certificate
    ) -> Step:
        """Give each caller its decision; what found no place goes back or is shed."""
        self._telemetry.batch(len(batch), certificate)
        back: list[Waiting] = []
        for waiting, decision in zip(batch, decisions, strict=True):
            if waiting.future.done():
                continue
            if decision is not None:
                waiting.future.set_result(decision)
                continue
            waiting.looked_at += 1
            if (failure := self._given_up(waiting.prospect)) is not None:
                waiting.future.set_exception(failure)
            else:
                back.append(waiting)
        return self._finish(back, binding=bool(certificate.binding))

    def _finish(self, back: Sequence[Waiting], *, binding: bool) -> Step:
        if self._closed is not None:
            for waiting in back:
                waiting.future.set_exception(self._closed())
            back = []
        for waiting in back:
            self._waiting[id(waiting)] = waiting
            self._claim(waiting)
        self._tell_wants()
        if self._window is None:
            return Step(dispatch=False, wake_at=None)
        deadlines = [waiting.prospect.ask.deadline for waiting in back]
        return self._window.finish(self._clock(), binding=binding, deferred=deadlines)

    def _given_up(self, seen: Prospect) -> Failure | None:
        """Return why a request that found no place must not wait longer; None: it may."""
        now = self._clock()
        ask = seen.ask
        if not self._lease.holding.live(now):
            return no_lease(self._lease.refusal)
        if now >= ask.deadline:
            return Failure(
                Fault.DEADLINE,
                "DeadlineExceeded",
                f"no place was found within {now - ask.arrived:.3g} s: {self._assigner.short_of(seen, now)}",
            )
        if (
            now - ask.arrived >= BUDGET_PATIENCE
            and self._assigner.short_of(seen, now, self._reserved()) == MONEY
        ):
            return self._no_place(seen)
        return None

    def _no_place(self, seen: Prospect) -> Failure:
        """Return the refusal of a request that does not wait."""
        now = self._clock()
        if not self._lease.holding.live(now):
            return no_lease(self._lease.refusal)
        if self._assigner.short_of(seen, now) == MONEY:
            ends = self._lease.holding.period_ends(now)
            reserves = [
                reserve for reserve, why in zip(seen.reserve, seen.excluded_by, strict=True) if not why
            ]
            cheapest = usd(min(reserves))
            return Failure(
                Fault.EXHAUSTED,
                "BudgetExhausted",
                f"the budget left does not cover the request's upper bound of {cheapest:.9f} USD"
                " at the cheapest model; lower max_tokens or wait for the next period",
                retry_after=max(1.0, ends - now) if ends is not None else 1.0,
            )
        return Failure(Fault.EXHAUSTED, "NoFreeSlot", "every leased slot is in use", retry_after=1.0)

    def _take_all(self) -> list[Waiting]:
        """Empty the queue."""
        taken = list(self._waiting.values())
        self._waiting.clear()
        for waiting in taken:
            waiting.claims, waiting.claimed_money = (), 0
        self._wants.clear()
        self._wanted_money = 0
        return taken

    def _claim(self, waiting: Waiting) -> None:
        """Add what a waiting request could use to what the operator is told."""
        self._unclaim(waiting)
        seen = waiting.prospect
        best = self._assigner.favourite(seen)
        # Once it has waited for the best, anything worth more than waiting will do.
        wanted = (best,) if waiting.looked_at <= 1 else self._assigner.worthwhile(seen)
        waiting.claims = tuple(seen.variants[j] for j in wanted)
        waiting.claimed_money = seen.reserve[best]
        self._wants.update(waiting.claims)
        self._wanted_money += waiting.claimed_money

    def _unclaim(self, waiting: Waiting) -> None:
        self._wants.subtract(waiting.claims)
        self._wanted_money -= waiting.claimed_money

    def _tell_wants(self) -> None:
        """Tell the operator what could be used now, once for all that changes in this turn of the loop."""
        if not self._telling:
            self._telling = True
            asyncio.get_running_loop().call_soon(self._tell_now)

    def _tell_now(self) -> None:
        """Wanted is what is in flight and what waits."""
        self._telling = False
        holding = self._lease.holding
        wants = self._wants + self._offline_wants
        for endpoint, slots in holding.in_flight().items():
            if (variant := holding.variant_of(endpoint)) is not None:
                wants[variant] += slots
        self._lease.want(dict(wants), NanoUsd(self._wanted_money + self._offline_money))
        self._telemetry.queue(len(self._waiting))


def no_lease(refusal: str) -> Failure:
    """Return the error of a sidecar that may use nothing."""
    why = refusal or "the operator has not answered yet, or its last lease has run out"
    return Failure(Fault.UNAVAILABLE, "NoLease", f"this sidecar has no lease: {why}", retry_after=2.0)
