"""Breakers, limits, fair turns and a queue together: no slot that may be used stands idle while one waits
for it, nobody is held back for callers or probes that have gone, and every request ends once."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from modelfleet_core.batching import solving
from modelfleet_core.batching.candidate import Candidate
from modelfleet_core.batching.outcome import GivenUp, Placed, Why
from modelfleet_core.batching.queue import LOOK_AGAIN, SHUT_PATIENCE, Queue
from modelfleet_core.health import Health
from modelfleet_core.policy import Batching, Breaker
from modelfleet_core.values import ModelName, NanoUsd, TierName, VariantKey
from support.holdings import endpoint_of, granted

pytestmark = pytest.mark.property

VARIANTS = tuple(VariantKey(ModelName(name), "gpu") for name in "ab")
SLOTS = 6
WINDOW = 0.02
OPEN_FOR = 4.0
LONG = 100.0
"""Seconds after which use has faded and every breaker may be probed."""


class Sidecar(RuleBasedStateMachine):
    """Requests that one variant each can answer, at servers that answer, fail, refuse or say nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.health = Health()
        self.health.follow(Breaker(failures=2, open_for=OPEN_FOR))
        self.holding = granted(dict.fromkeys(VARIANTS, SLOTS), ends_in=1e6)
        self.queue = Queue(self.holding, Batching(max_size=4, max_wait=WINDOW), health=self.health)
        self.tickets = 0
        self.open: dict[int, Candidate] = {}
        self.placed: dict[int, tuple[Placed, float]] = {}

    def turn(self) -> None:
        for _ in range(50):
            batch = self.queue.due(self.now)
            if batch is None:
                return
            for outcome in self.queue.commit(solving.solve(batch, lambda: 0.05), self.now):
                candidate = self.open.pop(outcome.ticket)
                if isinstance(outcome, Placed):
                    self.placed[outcome.ticket] = (outcome, self.now)
                else:
                    self.refused_rightly(outcome, candidate)
        raise AssertionError("it spins")

    def refused_rightly(self, outcome: GivenUp, candidate: Candidate) -> None:
        if outcome.why is Why.SHUT:
            assert outcome.until is not None
            assert outcome.until > min(candidate.latest_start, candidate.arrived + SHUT_PATIENCE)
        else:
            assert self.now >= candidate.latest_start

    def usable(self, variant: VariantKey) -> int:
        endpoint = endpoint_of(variant)
        in_flight = self.holding.in_flight().get(endpoint, 0)
        return self.health.usable(variant, endpoint, SLOTS - in_flight, in_flight, self.now)

    def sleep(self, seconds: float) -> None:
        until = self.now + seconds
        self.turn()
        for _ in range(int(20 * seconds) + 200):
            wake_at = self.queue.wake_at
            if wake_at is None or wake_at > until:
                break
            self.now = max(self.now, wake_at)
            self.turn()
        else:
            raise AssertionError("it spins")
        self.now = until
        self.turn()

    @rule(
        variant=st.sampled_from(range(2)),
        caller=st.sampled_from(["hot", "hot", "a", "b"]),
        weight=st.sampled_from([1.0, 4.0]),
        within=st.sampled_from([0.5, 5.0, 60.0]),
        seconds=st.sampled_from([0.1, 2.0]),
        count=st.integers(1, 8),
    )
    def arrive(
        self, variant: int, caller: str, weight: float, within: float, seconds: float, count: int
    ) -> None:
        for _ in range(count):
            candidate = Candidate(
                variants=VARIANTS,
                tier=TierName(f"weight-{weight:g}"),
                weight=weight,
                shed_penalty=0.5 * weight,
                arrived=self.now,
                deadline=self.now + within,
                longest=60.0,
                quality=(0.5, 0.5),
                cost=(0.0, 0.0),
                service_time=(seconds, seconds),
                reserve=(NanoUsd(0), NanoUsd(0)),
                excluded_by=("", "Pinned") if variant == 0 else ("Pinned", ""),
                caller=caller,
            )
            self.tickets += 1
            placed = self.queue.place(self.tickets, candidate, self.now)
            if placed is not None:
                self.placed[self.tickets] = (placed, self.now)
                continue
            self.open[self.tickets] = candidate
            self.queue.arrive(self.tickets, candidate, self.now)
        self.turn()

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.open)))
        del self.open[ticket]
        assert self.queue.leave(ticket, self.now)
        self.turn()

    @precondition(lambda self: self.placed)
    @rule(
        data=st.data(),
        how=st.sampled_from(["answers", "answers", "fails", "fails", "refuses", "goes"]),
        count=st.integers(1, 6),
    )
    def end(self, data: st.DataObject, how: str, count: int) -> None:
        for _ in range(min(count, len(self.placed))):
            self.end_one(data.draw(st.sampled_from(sorted(self.placed))), how)
        self.queue.changed(self.now)
        self.turn()

    def end_one(self, ticket: int, how: str) -> None:
        placed, began = self.placed.pop(ticket)
        held, endpoint = placed.reservation, placed.reservation.endpoint
        in_flight = self.holding.in_flight()[endpoint]
        if how == "fails":
            self.health.failed(placed.variant, endpoint, held.id, began, self.now)
        elif how != "goes":
            self.health.works(placed.variant, endpoint, held.id, began, self.now)
        if how == "refuses":
            self.health.refused(endpoint, began, self.now, in_flight, None)
        if how == "answers":
            self.health.answered(endpoint, began, self.now, 10, in_flight, SLOTS)
        assert self.holding.settle(held.id, NanoUsd(0), self.now).first

    @rule(seconds=st.sampled_from([0.1, 1.0, OPEN_FOR, 12.0]))
    def time_passes(self, seconds: float) -> None:
        self.health.tidy(self.holding.lease.slots, self.holding.holds, self.now)
        self.sleep(seconds)

    @rule()
    def everybody_goes_but_one(self) -> None:
        """Whoever is left is kept from nothing once the others have long gone."""
        for ticket in list(self.placed):
            self.end_one(ticket, "goes")
        for ticket in list(self.open):
            del self.open[ticket]
            self.queue.leave(ticket, self.now)
        self.health.tidy(self.holding.lease.slots, self.holding.holds, self.now)
        self.sleep(LONG)
        assert self.holding.idle()
        for variant in VARIANTS:
            assert self.usable(variant) >= 1
            before = len(self.placed)
            self.come_alone(variant)
            assert len(self.placed) == before + 1, "a slot may be used and nobody else is there"

    def come_alone(self, variant: VariantKey) -> None:
        candidate = Candidate(
            variants=VARIANTS,
            tier=TierName("weight-1"),
            weight=1.0,
            shed_penalty=0.5,
            arrived=self.now,
            deadline=self.now + 30.0,
            longest=60.0,
            quality=(0.5, 0.5),
            cost=(0.0, 0.0),
            service_time=(1.0, 1.0),
            reserve=(NanoUsd(0), NanoUsd(0)),
            excluded_by=tuple("" if variant == one else "Pinned" for one in VARIANTS),
            caller="hot",
        )
        self.tickets += 1
        self.open[self.tickets] = candidate
        self.queue.arrive(self.tickets, candidate, self.now)
        self.sleep(2 * WINDOW + 0.001)

    @invariant()
    def what_may_be_used_is_used_at_the_next_look(self) -> None:
        waits = [
            one
            for one in self.open.values()
            if not self.queue.placer.room(self.now).leaves.get(one.caller)
            and self.now - one.arrived > LOOK_AGAIN + 2 * WINDOW
        ]
        if waits:
            before = len(self.placed), len(self.open)
            free = sum(min(1, self.usable(VARIANTS[one.possible[0]])) for one in waits)
            self.sleep(LOOK_AGAIN + 0.01)
            assert not free or before != (len(self.placed), len(self.open))

    @invariant()
    def nothing_is_held_that_nobody_has(self) -> None:
        assert sum(self.holding.in_flight().values()) == len(self.placed)


TestQueueWithBreakers = Sidecar.TestCase
TestQueueWithBreakers.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
