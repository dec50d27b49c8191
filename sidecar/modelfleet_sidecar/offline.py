"""Stage batch for offline work: up to ten thousand requests assigned jointly, once, without a queue.

In: asks in order. Out: a `Decision` or a `Failure` for each, in the same order, and the certificate.
"""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from modelfleet_core.batching.outcome import Certificate, GivenUp, Why
from modelfleet_core.batching.room import Room
from modelfleet_core.batching.solving import Solved, solve
from modelfleet_core.batching.wanting import Joint, Wanted, claim
from modelfleet_core.catalog import Fleet
from modelfleet_core.values import VariantKey

from modelfleet_sidecar.assign import Lease, decision_of
from modelfleet_sidecar.batch import Batcher, stopwatch
from modelfleet_sidecar.decision import Ask, Decision
from modelfleet_sidecar.failures import Failure, Fault
from modelfleet_sidecar.prospect import Prospect
from modelfleet_sidecar.refusals import refused
from modelfleet_sidecar.telemetry import Telemetry

MAX_BATCHES = 4
"""Batches that may be at work or wait; beyond them callers are told to come back."""
SOLVE_SECONDS = 2.0
NEVER = 1 << 30
QUIET = 0.25
"""Seconds without any change of the lease after which no more is expected."""
PART = 100
"""Requests that are reserved for in one turn of the loop: others must not wait for ten thousand."""
TOP_UP_PATIENCE = 1.0
"""Seconds that a batch waits for the slots and the money that it asked for, at most half of those left until
its first deadline."""


class OfflineBatches:
    """Assigns one batch after the other, beside the queue of `batcher`. `note` is told of each decision;
    `release` gives back those of a batch that nobody takes any more."""

    def __init__(
        self,
        *,
        lease: Lease,
        batcher: Batcher,
        note: Callable[[Decision], None],
        release: Callable[[Iterable[Decision]], None],
        clock: Callable[[], float],
        telemetry: Telemetry,
    ) -> None:
        self._telemetry = telemetry
        self._lease = lease
        self._batcher = batcher
        self._note = note
        self._release = release
        self._clock = clock
        self._turn = asyncio.Lock()
        self._batches = 0

    async def decide(
        self, asks: Sequence[Ask | Failure]
    ) -> tuple[list[Decision | Failure], Certificate | None]:
        """Return one outcome per ask, in their order; a failed ask stays what it is.

        Raises Failure when too many batches wait. A cancelled caller leaves nothing behind.
        """
        if self._batches >= MAX_BATCHES:
            raise Failure(
                Fault.EXHAUSTED, "Overloaded", f"{MAX_BATCHES} batches wait already", retry_after=1.0
            )
        self._batches += 1
        try:
            async with self._turn:
                with _young_garbage_only():
                    return await self._decide(asks)
        finally:
            self._batches -= 1

    async def _decide(
        self, asks: Sequence[Ask | Failure]
    ) -> tuple[list[Decision | Failure], Certificate | None]:
        outcomes: dict[int, Decision | Failure] = {}
        prospects: dict[int, Prospect] = {}
        fleet: Fleet | None = None
        for place, ask in enumerate(asks):
            if place % 20 == 19:
                await asyncio.sleep(0)  # others must not wait for ten thousand profiles
            seen = self._try(ask)
            if isinstance(seen, Failure):
                outcomes[place] = seen
            elif fleet is not None and seen.fleet is not fleet:  # it changed in between: come back
                outcomes[place] = self._no_place(place, seen, self._clock(), None)
            else:
                fleet = seen.fleet
                prospects[place] = seen
        certificate = None
        if prospects:
            certificate = await self._assign(prospects, outcomes)
        return [outcomes[place] for place in range(len(asks))], certificate

    async def _assign(
        self, prospects: Mapping[int, Prospect], outcomes: dict[int, Decision | Failure]
    ) -> Certificate:
        """Find a place for each of `prospects`, by their place in the call, and put what came of it there."""
        await self._top_up(tuple(prospects.values()))
        candidates = [seen.candidate for seen in prospects.values()]
        batch = self._batcher.queue.placer.pose(tuple(prospects), candidates, self._clock())
        loop = asyncio.get_running_loop()
        solved = await loop.run_in_executor(None, solve, batch, stopwatch(SOLVE_SECONDS))
        self._telemetry.batch(len(prospects), solved.certificate)
        try:
            for start in range(0, len(prospects), PART):
                self._commit(solved, slice(start, start + PART), prospects, outcomes)
                self._batcher.tell()
                await asyncio.sleep(0)
        except BaseException:
            self._release([one for one in outcomes.values() if isinstance(one, Decision)])
            raise
        return solved.certificate

    def _commit(
        self,
        solved: Solved,
        part: slice,
        prospects: Mapping[int, Prospect],
        outcomes: dict[int, Decision | Failure],
    ) -> None:
        """Reserve for a part of the batch."""
        now = self._clock()
        answers = self._batcher.queue.placer.commit(
            solved, now, lambda place: prospects[place].ask.deadline > now, part=part
        )
        room = self._batcher.queue.placer.shared_room(now)
        undone = dict(zip(solved.batch.tickets[part], answers, strict=True))
        try:
            for place, placed in tuple(undone.items()):
                seen = prospects[place]
                if placed is None:
                    outcomes[place] = self._no_place(place, seen, now, room)
                else:
                    decision = decision_of(placed, seen, now)
                    self._batcher.outlook.went(seen, decision, now)
                    outcomes[place] = decision
                    self._note(decision)
                    # What found no place will come again; ten thousand at once are no rate for prices.
                    self._batcher.count(seen)
                del undone[place]
        finally:  # what a bug left undone holds nothing
            for placed in undone.values():
                if placed is not None:
                    self._lease.holding.cancel(placed.reservation.id, now)

    def _try(self, ask: Ask | Failure) -> Prospect | Failure:
        if isinstance(ask, Failure):
            return ask
        try:
            return self._batcher.outlook.look(ask)
        except Failure as failure:
            return failure

    def _no_place(self, place: int, seen: Prospect, now: float, room: Room | None) -> Failure:
        why, short = self._batcher.queue.placer.no_place(seen.candidate, now, room)
        if seen.ask.deadline <= now:
            why = Why.TOO_LATE
        return refused(GivenUp(place, seen.candidate, why, short), self._lease, now)

    async def _top_up(self, prospects: Sequence[Prospect]) -> None:
        """Ask for the slots and money that the batch could use, and wait a little for them."""
        wanted = Wanted()
        placer = self._batcher.queue.placer
        for index, seen in enumerate(prospects):
            if index % PART == PART - 1:
                await asyncio.sleep(0)
            look = placer.look(seen.candidate, self._clock(), waits=False)
            wanted.add(claim(seen.candidate, look, anything=False))
        joint = wanted.together()
        first = min(seen.candidate.latest_start for seen in prospects)
        now = self._clock()
        end = now + min(TOP_UP_PATIENCE, (first - now) / 2)
        name = id(joint)
        self._batcher.queue.claim_jointly(name, joint)
        self._batcher.tell()
        try:
            while self._lacks(joint) and (left := end - self._clock()) > 0:
                if not await self._lease.wait_change(min(left, QUIET)):
                    break
        finally:
            self._batcher.queue.claim_jointly(name, None)
            self._batcher.tell()

    def _lacks(self, joint: Joint) -> bool:
        now = self._clock()
        holding = self._lease.holding
        free: Counter[VariantKey] = Counter()
        for endpoint, slots in holding.free(now).items():
            if (variant := holding.variant_of(endpoint)) is not None:
                free[variant] += slots
        room = holding.room(now)
        return bool(Counter(joint.slots()) - free) or any(
            need.total > room.get(name, 0) for name, need in joint.needs.items()
        )


@contextmanager
def _young_garbage_only() -> Iterator[None]:
    """Let the collector of cycles look at new objects only: looking through all of ten thousand requests,
    which are no garbage, keeps the loop for a tenth of a second each time."""
    young, middle, old = gc.get_threshold()
    gc.set_threshold(young, middle, NEVER)
    try:
        yield
    finally:
        gc.set_threshold(young, middle, old)
