"""Stage batch: the shell around the window; requests wait until a batch finds them a place or time is up.

In: `Ask`s from the router, changes of the lease. Out: each one's `Decision` or `Failure`. Next: `forward`.
While nothing binds every request is assigned at once; otherwise they gather as the core's `Window` says.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modelfleet_core.batching.window import Step, Window
from modelfleet_core.policy import Batching
from modelfleet_core.values import VariantKey

from modelfleet_sidecar.assign import Assigner, Batch, Lease
from modelfleet_sidecar.decision import Ask, Certificate, Decision
from modelfleet_sidecar.failures import Failure, Fault, internal
from modelfleet_sidecar.prospect import Estimator, Prospect, cluster, offers, prospect
from modelfleet_sidecar.refusals import Refusals, no_lease
from modelfleet_sidecar.telemetry import Telemetry
from modelfleet_sidecar.wants import Wants

MAX_WAITING = 1_000
"""Requests that may wait; beyond them callers are told to come back."""
INLINE_CELLS = 512
"""Requests times variants up to which a batch is solved in the event loop: a thread would cost more."""
DEADLINE_MARGIN = 0.02
LOOK_AGAIN = 0.25
"""Seconds between looks at what waits, since the loss of waiting grows with time."""


@dataclass(slots=True, eq=False)
class Waiting:
    """A request in the queue."""

    prospect: Prospect
    future: asyncio.Future[Decision]
    passed_over: int = 0
    """Batches that found no place for it."""
    counted: bool = True
    """Whether the window counts it as waiting; not while a batch is out."""
    claims: tuple[VariantKey, ...] = ()
    """What it wants of the operator while it waits."""
    claimed_money: int = 0


class Batcher:
    """The queue of one sidecar. `release` gives back a decision that nobody took."""

    def __init__(
        self,
        *,
        lease: Lease,
        estimator: Estimator,
        assigner: Assigner,
        refusals: Refusals,
        wants: Wants,
        release: Callable[[Decision], None],
        clock: Callable[[], float],
        telemetry: Telemetry,
    ) -> None:
        self._lease = lease
        self._estimator = estimator
        self._assigner = assigner
        self._refusals = refusals
        self._wants = wants
        self._release = release
        self._clock = clock
        self._telemetry = telemetry
        self._queue: dict[int, Waiting] = {}
        self._left: list[Waiting] = []
        """What the batch that is out left in the queue."""
        self._more = False
        """Whether some of it could have been placed."""
        self._window: Window | None = None
        self._batching: Batching | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._solving: asyncio.Task[None] | None = None
        self._closed: Callable[[], Failure] | None = None

    @property
    def waiting(self) -> int:
        return len(self._queue)

    async def run(self) -> None:
        """Follow the lease until cancelled."""
        while True:
            await self._lease.wait_change(LOOK_AGAIN)
            self.look_again()

    def look_again(self) -> None:
        """Something may have come free: try what waits."""
        if self._queue and self._window is not None:
            self._follow(self._window.capacity_changed(self._clock()))
        self._wants.tell()

    def look(self, ask: Ask) -> Prospect:
        """Return a new request's prospect and count it as demand. Raises Failure."""
        fleet, policy = self._lease.fleet, self._lease.policy
        if fleet is None or policy is None:
            raise no_lease(self._lease.refusal)
        seen = prospect(ask, fleet, policy, self._estimator)
        self._estimator.saw(seen.profile)
        self._lease.record(ask.tier.name, cluster(seen), offers(seen))
        return seen

    async def decide(self, ask: Ask) -> Decision:
        """Return the decision once there is one. Raises Failure; a cancelled caller leaves nothing behind."""
        if self._closed is not None:
            raise self._closed()
        if len(self._queue) >= MAX_WAITING:
            raise Failure(
                Fault.EXHAUSTED,
                "Overloaded",
                f"{MAX_WAITING} requests wait for a free slot already",
                retry_after=1.0,
            )
        seen = self.look(ask)
        window = self._current_window(seen.policy.batching)
        waiting = Waiting(seen, asyncio.get_running_loop().create_future())
        self._queue[id(waiting)] = waiting
        self._follow(window.arrive(self._clock(), seen.latest_start))
        if id(waiting) in self._queue and not waiting.claims:
            self._claim(waiting)
        try:
            return await waiting.future
        except asyncio.CancelledError:
            future = waiting.future
            if future.done() and not future.cancelled() and future.exception() is None:
                self._release(future.result())
            elif self._leave(waiting) and waiting.counted and self._window is not None:
                self._follow(self._window.leave(self._clock()))
            raise

    def shed(self, failure: Callable[[], Failure]) -> None:
        """End everything that waits, and all that would wait later, each with a `failure` of its own."""
        self._closed = failure
        for waiting in list(self._queue.values()):
            self._end(waiting, failure())
        if self._timer is not None:
            self._timer.cancel()

    def _current_window(self, batching: Batching) -> Window:
        if self._window is None or (self._batching != batching and self._solving is None):
            self._batching = batching
            self._window = Window(
                max_size=batching.max_size, max_wait=batching.max_wait, margin=DEADLINE_MARGIN
            )
            for waiting in self._queue.values():
                self._window.arrive(self._clock(), waiting.prospect.latest_start)
        return self._window

    def _follow(self, step: Step) -> None:
        """Do what the window says."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while step.dispatch:
            batch: list[Waiting] = []
            try:
                batch = self._pick()
                if len(batch) > 1:
                    posed = self._assigner.pose([waiting.prospect for waiting in batch])
                    if posed.problem.quality.size > INLINE_CELLS:
                        self._solving = asyncio.create_task(self._solve_aside(batch, posed))
                        return
                    solved = self._assigner.solve(posed)
                    decisions = self._assigner.commit(solved, lambda _: True)
                    step = self._hand_out(batch, decisions, solved.certificate)
                elif batch:
                    decision, certificate = self._assigner.one(batch[0].prospect)
                    step = self._hand_out(batch, [decision], certificate)
                else:
                    step = self._finish([], binding=bool(self._left))
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
            solved = await loop.run_in_executor(None, self._assigner.solve, posed)
            decisions = self._assigner.commit(solved, lambda i: not batch[i].future.done())
            step = self._hand_out(batch, decisions, solved.certificate)
        except Exception as error:  # noqa: BLE001 - as above
            step = self._failed(batch, error)
        self._solving = None
        self._follow(step)

    def _failed(self, batch: Sequence[Waiting], error: Exception) -> Step:
        """End all that waits: nothing may hang because of a bug."""
        self._telemetry.bug("assign", error)
        for waiting in (*batch, *self._queue.values()):
            self._end(waiting, internal(error))
        return self._finish([], binding=False)

    def _pick(self) -> list[Waiting]:
        """Take the next batch out of the queue: of what has a place, the heaviest first, then the oldest."""
        for waiting in list(self._queue.values()):
            waiting.counted = False
            if waiting.future.done():  # its caller has just left
                self._leave(waiting)
            else:
                self._renew(waiting)
        current = list(self._queue.values())
        placeable = self._assigner.placeable([waiting.prospect for waiting in current])
        ready = [waiting for waiting, could in zip(current, placeable, strict=True) if could]
        ready.sort(key=lambda one: (-one.prospect.ask.tier.weight, one.prospect.ask.arrived))
        batch = ready[: self._batching.max_size if self._batching is not None else None]
        for waiting in batch:
            self._leave(waiting)
        self._left = list(self._queue.values())
        self._more = len(ready) > len(batch)
        return batch

    def _renew(self, waiting: Waiting) -> None:
        """Look anew at a request that was estimated for another fleet or policy than the present one."""
        seen = waiting.prospect
        fleet, policy = self._lease.fleet, self._lease.policy
        if seen.fleet is fleet and seen.policy is policy:
            return
        if fleet is None or policy is None:
            self._end(waiting, no_lease(self._lease.refusal))
            return
        try:
            waiting.prospect = prospect(seen.ask, fleet, policy, self._estimator)
        except Failure as failure:
            self._end(waiting, failure)

    def _hand_out(
        self, batch: Sequence[Waiting], decisions: Sequence[Decision | None], certificate: Certificate
    ) -> Step:
        """Give each caller its decision; what found no place goes back or is shed."""
        self._telemetry.batch(len(batch), certificate)
        back: list[Waiting] = []
        for waiting, decision in zip(batch, decisions, strict=True):
            if decision is None:
                back.append(waiting)
            else:
                waiting.future.set_result(decision)
        # What was left out because the batch was full must not wait for another change.
        again = self._more and len(back) < len(batch)
        step = self._finish(back, binding=bool(certificate.binding) or bool(self._left))
        if again and not step.dispatch and self._window is not None:
            step = self._window.capacity_changed(self._clock())
        return step

    def _finish(self, back: Sequence[Waiting], *, binding: bool) -> Step:
        """Tell the window how the batch ended, and what of it, or left by it, waits on."""
        deadlines: list[float] = []
        for waiting in (*back, *self._left):
            if waiting.future.done():
                continue
            failure = (
                self._closed() if self._closed is not None else self._refusals.given_up(waiting.prospect)
            )
            if failure is not None:
                self._end(waiting, failure)
                continue
            waiting.passed_over += 1
            waiting.counted = True
            if id(waiting) not in self._queue or waiting.passed_over == 2:
                self._queue[id(waiting)] = waiting
                self._claim(waiting)
            deadlines.append(waiting.prospect.latest_start)
        self._left = []
        self._wants.tell()
        self._telemetry.queue(len(self._queue))
        if self._window is None:
            return Step(dispatch=False, wake_at=None)
        return self._window.finish(self._clock(), binding=binding, deferred=deadlines)

    def _end(self, waiting: Waiting, failure: Failure) -> None:
        self._leave(waiting)
        if not waiting.future.done():
            waiting.future.set_exception(failure)

    def _leave(self, waiting: Waiting) -> bool:
        """Take a request out of the queue, with its claims; returns whether it was there."""
        self._wants.drop(waiting.claims, waiting.claimed_money)
        waiting.claims, waiting.claimed_money = (), 0
        was_there = self._queue.pop(id(waiting), None) is not None
        self._telemetry.queue(len(self._queue))
        return was_there

    def _claim(self, waiting: Waiting) -> None:
        """Tell what a waiting request could use: the best; once passed over, anything better than waiting."""
        self._wants.drop(waiting.claims, waiting.claimed_money)
        seen = waiting.prospect
        best = self._assigner.favourite(seen)
        wanted = (best,) if waiting.passed_over <= 1 else self._assigner.worthwhile(seen)
        waiting.claims = tuple(seen.variants[j] for j in wanted)
        waiting.claimed_money = seen.reserve[best]
        self._wants.claim(waiting.claims, waiting.claimed_money)
