"""Stage batch for offline work: up to ten thousand requests assigned jointly, once, without a queue.

In: asks in order. Out: a `Decision` or a `Failure` for each, in the same order, and the certificate.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence

from modelfleet_core.batching.outcome import Certificate, GivenUp
from modelfleet_core.batching.solving import solve
from modelfleet_core.batching.wanting import Claim, claim
from modelfleet_core.values import AccountName, VariantKey

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
TOP_UP_PATIENCE = 1.0
"""Seconds that a batch waits for the slots and the money that it asked for, at most half of those left until
its first deadline."""


class OfflineBatches:
    """Assigns one batch after the other, beside the queue of `batcher`."""

    def __init__(
        self, *, lease: Lease, batcher: Batcher, clock: Callable[[], float], telemetry: Telemetry
    ) -> None:
        self._telemetry = telemetry
        self._lease = lease
        self._batcher = batcher
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
                return await self._decide(asks)
        finally:
            self._batches -= 1

    async def _decide(
        self, asks: Sequence[Ask | Failure]
    ) -> tuple[list[Decision | Failure], Certificate | None]:
        outcomes: list[Decision | Failure] = []
        places: list[int] = []
        prospects: list[Prospect] = []
        for place, ask in enumerate(asks):
            if place % 50 == 49:
                await asyncio.sleep(0)  # others must not wait for ten thousand profiles
            seen = self._try(ask)
            if isinstance(seen, Failure):
                outcomes.append(seen)
                continue
            outcomes.append(self._no_place(place, seen))
            if not prospects or seen.fleet is prospects[0].fleet:  # else it changed in between: come back
                places.append(place)
                prospects.append(seen)
        if not prospects:
            return outcomes, None
        await self._top_up(prospects)
        now = self._clock()
        batch = self._batcher.queue.placer.pose(places, [seen.candidate for seen in prospects], now)
        loop = asyncio.get_running_loop()
        solved = await loop.run_in_executor(None, solve, batch, stopwatch(SOLVE_SECONDS))
        self._telemetry.batch(len(places), solved.certificate)
        now = self._clock()
        late = {place for place, seen in zip(places, prospects, strict=True) if seen.ask.deadline <= now}
        answers = self._batcher.queue.placer.commit(solved, now, lambda place: place not in late)
        for place, seen, placed in zip(places, prospects, answers, strict=True):
            if placed is None:
                outcomes[place] = self._no_place(place, seen)
                continue
            # What found no place will come again; ten thousand at once are no rate that prices should follow.
            self._batcher.count(seen)
            outcomes[place] = decision_of(placed, seen, now)
        return outcomes, solved.certificate

    def _try(self, ask: Ask | Failure) -> Prospect | Failure:
        if isinstance(ask, Failure):
            return ask
        try:
            return self._batcher.look(ask)
        except Failure as failure:
            return failure

    def _no_place(self, place: int, seen: Prospect) -> Failure:
        now = self._clock()
        why, short = self._batcher.queue.placer.no_place(seen.candidate, now)
        return refused(GivenUp(place, seen.candidate, why, short), self._lease, now)

    async def _top_up(self, prospects: Sequence[Prospect]) -> None:
        """Ask for the slots and money that the batch could use, and wait a little for them."""
        claims: list[Claim] = []
        placer = self._batcher.queue.placer
        for index, seen in enumerate(prospects):
            if index % 200 == 199:
                await asyncio.sleep(0)
            look = placer.look(seen.candidate, self._clock(), waits=False)
            claims.append(claim(seen.candidate, look, anything=False))
        first = min(seen.candidate.latest_start for seen in prospects)
        now = self._clock()
        end = now + min(TOP_UP_PATIENCE, (first - now) / 2)
        slots = Counter(variant for one in claims for variant, _ in one.bids)
        charges = Counter[AccountName]()
        for one in claims:
            charges.update(one.charges)
        name = id(claims)
        self._batcher.queue.claim_jointly(name, claims)
        self._batcher.tell()
        try:
            while self._lacks(slots, charges) and (left := end - self._clock()) > 0:
                await self._lease.wait_change(left)
        finally:
            self._batcher.queue.claim_jointly(name, ())
            self._batcher.tell()

    def _lacks(self, wanted: Counter[VariantKey], charges: Counter[AccountName]) -> bool:
        now = self._clock()
        holding = self._lease.holding
        free: Counter[VariantKey] = Counter()
        for endpoint, slots in holding.free(now).items():
            if (variant := holding.variant_of(endpoint)) is not None:
                free[variant] += slots
        return bool(wanted - free or charges - Counter(holding.room(now)))
