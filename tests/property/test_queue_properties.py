"""Whatever happens to a queue: every request ends once, in time, and nothing is held that nobody has."""

from __future__ import annotations

import math

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from modelfleet_core.batching import solving
from modelfleet_core.batching.candidate import Candidate
from modelfleet_core.batching.outcome import Placed
from modelfleet_core.batching.queue import LOOK_AGAIN, Queue
from modelfleet_core.batching.solving import Batch
from modelfleet_core.leasing.accounts import BUDGET
from modelfleet_core.leasing.holding import Holding
from modelfleet_core.policy import Batching
from modelfleet_core.values import AccountName, ModelName, NanoUsd, TierName, VariantKey
from support.holdings import granted

pytestmark = pytest.mark.property

VARIANTS = tuple(VariantKey(ModelName(name), "gpu") for name in "abc")
SHARE = AccountName("share:c")
MONEY = 3e-6
QUALITIES = st.tuples(*[st.floats(0.0, 1.0)] * 3)
COSTS = st.tuples(*[st.integers(0, 600)] * 3)


class Sidecar(RuleBasedStateMachine):
    """A shell around the queue whose clock, grants and callers this test moves."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.slots = dict.fromkeys(VARIANTS, 1)
        self.holding: Holding = granted(self.slots, money=MONEY, ends_in=1e6)
        self.queue = Queue(self.holding, Batching(max_size=4, max_wait=0.02))
        self.batch: Batch | None = None
        self.tickets = 0
        self.open: dict[int, Candidate] = {}
        """Neither placed, given up nor gone."""
        self.placed: dict[int, Placed] = {}

    def turn(self, *, solve: bool = True) -> None:
        """Do what is due; without `solve` the batch stays out."""
        for _ in range(50):
            if self.batch is None:
                self.batch = self.queue.due(self.now)
            if self.batch is None or not solve:
                return
            batch, self.batch = self.batch, None
            for outcome in self.queue.commit(solving.solve(batch, lambda: 0.05), self.now):
                candidate = self.open.pop(outcome.ticket)
                if isinstance(outcome, Placed):
                    assert not candidate.excluded_by[outcome.column]
                    assert outcome.certificate.bound >= outcome.certificate.objective - 1e-9
                    self.placed[outcome.ticket] = outcome
        raise AssertionError("it spins")

    @rule(
        quality=QUALITIES,
        cost=COSTS,
        within=st.floats(0.05, 5.0),
        weight=st.sampled_from([1.0, 4.0]),
        possible=st.sampled_from([(True, True, True), (True, False, False), (False, False, True)]),
        solve=st.booleans(),
        caller=st.sampled_from(["", "", "a", "b"]),
        sheds=st.booleans(),
        objective=st.sampled_from([math.inf, math.inf, 1.0]),
    )
    def arrive(
        self,
        quality: tuple[float, float, float],
        cost: tuple[int, int, int],
        within: float,
        weight: float,
        possible: tuple[bool, bool, bool],
        solve: bool,
        caller: str,
        sheds: bool,
        objective: float,
    ) -> None:
        charges = tuple(
            {BUDGET: amount} | ({SHARE: amount} if j == 2 else {}) for j, amount in enumerate(cost)
        )
        candidate = Candidate(
            variants=VARIANTS,
            tier=TierName(f"weight-{weight:g}"),
            weight=weight,
            shed_penalty=0.5 * weight,
            arrived=self.now,
            deadline=self.now + within,
            longest=30.0,
            quality=quality,
            cost=tuple(amount / 1e9 for amount in cost),
            service_time=(0.01, 0.5, 2.0),
            reserve=tuple(NanoUsd(amount) for amount in cost),
            excluded_by=tuple("" if could else "Pinned" for could in possible),
            charges=charges,
            caller=caller,
            sheds=sheds,
            within=objective,
        )
        self.tickets += 1
        self.open[self.tickets] = candidate
        self.queue.arrive(self.tickets, candidate, self.now)
        self.turn(solve=solve)

    @rule(caller=st.sampled_from(["a", "b", "new"]))
    def crowd_out(self, caller: str) -> None:
        """Whoever makes room has more waiting than the one it makes room for."""
        out = set(self.batch.tickets) if self.batch is not None else set()
        waiting = {ticket: one for ticket, one in self.open.items() if ticket not in out}
        ticket = self.queue.push_out(caller)
        callers = [one.caller for one in waiting.values()]
        if ticket is None:
            assert all(callers.count(name) <= callers.count(caller) + 1 for name in callers)
            return
        assert callers.count(waiting[ticket].caller) > callers.count(caller) + 1
        del self.open[ticket]
        assert self.queue.leave(ticket, self.now)
        self.turn(solve=False)

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(sorted(self.open)))
        del self.open[ticket]
        assert self.queue.leave(ticket, self.now)
        self.turn(solve=False)

    @precondition(lambda self: self.placed)
    @rule(data=st.data(), part=st.floats(0.0, 1.0))
    def settle(self, data: st.DataObject, part: float) -> None:
        placed = self.placed.pop(data.draw(st.sampled_from(sorted(self.placed))))
        amount = NanoUsd(int(part * placed.reservation.amount))
        assert self.holding.settle(placed.reservation.id, amount, self.now).first
        self.queue.changed(self.now)
        self.turn()

    @rule(counts=st.tuples(*[st.integers(0, 3)] * 3), price=st.floats(0.0, 2.0))
    def grant(self, counts: tuple[int, int, int], price: float) -> None:
        self.slots = dict(zip(VARIANTS, counts, strict=True))
        granted(self.slots, money=MONEY, ends_in=1e6, into=self.holding, now=self.now)
        self.queue.set_prices(dict.fromkeys(VARIANTS, price), 1e5 * price)
        self.queue.changed(self.now)
        self.turn()

    @rule(seconds=st.floats(0.0, 1.0))
    def sleep(self, seconds: float) -> None:
        """Time passes; the shell wakes the queue whenever it asked for it."""
        until = self.now + seconds
        self.turn()
        for _ in range(200):
            wake_at = self.queue.wake_at
            if wake_at is None or wake_at > until:
                break
            self.now = max(self.now, wake_at)
            self.turn()
        else:
            raise AssertionError("it spins")
        self.now = until

    @invariant()
    def nothing_is_held_that_nobody_has(self) -> None:
        in_flight = self.holding.in_flight()
        assert sum(in_flight.values()) == len(self.placed)
        reserved = self.queue.placer.reserved().get(BUDGET, 0)
        assert reserved == sum(placed.reservation.amount for placed in self.placed.values())

    @invariant()
    def every_open_request_waits(self) -> None:
        out = set(self.batch.tickets) & set(self.open) if self.batch is not None else set()
        assert len(self.queue) == len(self.open) - len(out)

    @invariant()
    def none_is_forgotten(self) -> None:
        """Unless a batch is out, what waits is looked at soon."""
        if self.batch is None and self.open:
            assert self.queue.wake_at is not None
            assert self.queue.wake_at <= self.now + LOOK_AGAIN + 1e-9

    @invariant()
    def none_waits_beyond_its_time(self) -> None:
        if self.batch is None:
            late = [one for one in self.open.values() if self.now > one.latest_start + LOOK_AGAIN]
            assert not late

    @invariant()
    def what_is_wanted_is_what_waits_and_runs(self) -> None:
        wants, _ = self.queue.wants(self.now)
        for variant, want in wants.items():
            running = sum(
                placed.variant == variant and self.slots[variant] > 0 for placed in self.placed.values()
            )
            assert 0 <= want.slots - running <= len(self.open) + len(self.placed)
            assert sum(bid.slots for bid in want.bids) == want.slots - running

    def teardown(self) -> None:
        self.turn()
        for placed in self.placed.values():
            self.holding.settle(placed.reservation.id, None, self.now)
        for ticket in list(self.open):
            self.queue.leave(ticket, self.now)
        assert self.holding.idle()
        assert not self.holding.in_flight()
        assert not self.queue.wants(self.now)[0]


TestQueue = Sidecar.TestCase
TestQueue.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
