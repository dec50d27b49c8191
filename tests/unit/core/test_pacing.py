"""Pacing spends an allowance on the requests that gain most from it, and never keeps one from an answer."""

from __future__ import annotations

import math
from collections.abc import Sequence
from random import Random

import pytest
from modelfleet_core.batching import solving
from modelfleet_core.batching.candidate import Candidate
from modelfleet_core.batching.outcome import Outcome, Placed
from modelfleet_core.batching.queue import Queue
from modelfleet_core.batching.worth import PATIENCE
from modelfleet_core.leasing.accounts import BUDGET
from modelfleet_core.pacing import HORIZON, Pacing
from modelfleet_core.policy import Batching
from modelfleet_core.values import ModelName, NanoUsd, TierName, VariantKey
from support.holdings import granted

FREE, DEAR = VariantKey(ModelName("free"), "gpu"), VariantKey(ModelName("dear"), "api")
COST = 0.01
SECONDS = 3600.0


def request(gain: float, now: float, *, pinned: bool = False) -> Candidate:
    """Return a request that is answered at quality 0.4 for nothing, or `gain` better for COST."""
    return Candidate(
        variants=(FREE, DEAR),
        tier=TierName("only"),
        weight=1.0,
        shed_penalty=0.5,
        arrived=now,
        deadline=now + 20.0,
        longest=20.0,
        quality=(0.4, 0.4 + gain),
        cost=(0.0, COST),
        service_time=(1.0, 1.0),
        reserve=(NanoUsd(0), NanoUsd(round(COST * 1e9))),
        excluded_by=("Pinned" if pinned else "", ""),
        charges=({BUDGET: 0}, {BUDGET: round(COST * 1e9)}),
    )


def play(gains: Sequence[float], *, budget: float, paced: bool) -> tuple[float, float, int]:
    """Serve a stream over an hour; return its quality, its spend and how many were not answered."""
    holding = granted({FREE: 1000, DEAR: 1000}, money=budget, ends_in=2 * SECONDS)
    queue = Queue(holding, Batching(max_size=64, max_wait=0.02))
    quality, spent, shed = 0.0, 0.0, 0
    for ticket, gain in enumerate(gains):
        now = ticket * SECONDS / len(gains)
        allowance = max(0.0, budget - spent) / (SECONDS - now) if paced else math.inf
        granted(
            {FREE: 1000, DEAR: 1000},
            money=budget,
            ends_in=2 * SECONDS,
            allowance=allowance,
            into=holding,
            now=now,
        )
        queue.arrive(ticket, request(gain, now), now)
        while (batch := queue.due(now)) is not None:
            for outcome in queue.commit(solving.solve(batch, lambda: 1.0), now):
                if not isinstance(outcome, Placed):
                    shed += 1
                    continue
                quality += outcome.candidate.quality[outcome.column]
                spent += outcome.candidate.cost[outcome.column]
                holding.settle(outcome.reservation.id, outcome.reservation.amount, now)
    return quality / len(gains), spent, shed + len(queue)


@pytest.mark.parametrize("order", ["mixed", "worst first"])
def test_pacing_gains_quality_at_the_same_spend(order: str) -> None:
    random = Random(7)
    gains = [random.random() ** 2 * 0.6 for _ in range(2000)]
    if order == "worst first":
        gains.sort()
    budget = 0.25 * len(gains) * COST
    paced, spent, shed = play(gains, budget=budget, paced=True)
    plain, plain_spent, _ = play(gains, budget=budget, paced=False)
    best = 0.4 + sum(sorted(gains)[-len(gains) // 4 :]) / len(gains)
    assert shed == 0
    assert spent <= budget
    assert plain_spent == pytest.approx(budget, abs=COST)
    assert paced > plain + 0.25 * (best - plain)


def test_pacing_never_keeps_a_request_from_its_cheapest_answer() -> None:
    holding = granted({FREE: 5, DEAR: 5}, money=100.0, allowance=0.0)
    queue = Queue(holding, Batching(max_size=64, max_wait=0.0))
    queue.arrive(1, request(0.5, 0.0), 0.0)
    queue.arrive(2, request(0.5, 0.0, pinned=True), 0.0)
    placed: dict[int, VariantKey] = {}
    while (batch := queue.due(0.0)) is not None:
        for outcome in queue.commit(solving.solve(batch, lambda: 1.0), 0.0):
            assert isinstance(outcome, Placed)
            placed[outcome.ticket] = outcome.variant
    assert placed == {1: FREE, 2: DEAR}


def overspent(arrived: float) -> Queue:
    """Return a queue whose allowance is overspent, where only DEAR has slots and requests wait for FREE."""
    holding = granted({FREE: 0, DEAR: 5}, money=100.0, allowance=0.0)
    queue = Queue(holding, Batching(max_size=64, max_wait=0.0))
    for ticket in (1, 2):
        queue.arrive(ticket, request(0.5, arrived), arrived)
    return queue


def dispatched(queue: Queue, now: float) -> list[Outcome]:
    outcomes: list[Outcome] = []
    queue.changed(now)
    while (batch := queue.due(now)) is not None:
        outcomes += queue.commit(solving.solve(batch, lambda: 1.0), now)
    return outcomes


def test_pacing_puts_off_what_has_no_cheap_place_but_sheds_nothing() -> None:
    queue = overspent(0.0)
    assert dispatched(queue, 0.0) == []
    assert dispatched(queue, PATIENCE - 0.1) == []
    outcomes = dispatched(queue, PATIENCE + 0.1)
    assert {one.ticket: one.variant for one in outcomes if isinstance(one, Placed)} == {1: DEAR, 2: DEAR}


def test_money_left_at_the_end_of_a_period_can_all_be_spent() -> None:
    left, ends = 100.0, 600.0
    pacing = Pacing()
    spent = 0.0
    for second in range(int(ends)):
        pacing.advance(float(second), (left - spent) / (ends - second), 0.0)
        if second >= ends - 5:  # nothing was asked before
            amount = min(pacing.limit, left - spent)
            pacing.spend(amount)
            spent += amount
    assert spent == pytest.approx(left)


def test_without_a_budget_nothing_is_paced() -> None:
    pacing = Pacing()
    for now in range(10):
        pacing.advance(float(now), math.inf, 0.0)
        pacing.offer([0.1, 0.9], [0.0, 0.4])
        pacing.spend(1e6)
        assert (pacing.active, pacing.price, pacing.limit) == (False, 0.0, math.inf)


def test_overspending_raises_the_price_and_thrift_lowers_it() -> None:
    pacing = Pacing()
    pacing.advance(0.0, 1.0, 0.0)
    pacing.offer([0.1, 0.9], [0.0, 0.4])
    pacing.spend(HORIZON / 2)
    assert pacing.price == pytest.approx(1.0)
    assert pacing.limit == pytest.approx(HORIZON / 2)
    pacing.advance(HORIZON / 4, 1.0, 0.0)
    assert pacing.price == pytest.approx(0.5)
    pacing.advance(10 * HORIZON, 1.0, 0.0)
    assert (pacing.price, pacing.limit) == (0.0, HORIZON)


def test_the_price_stays_between_the_published_one_and_what_any_request_offers() -> None:
    pacing = Pacing()
    pacing.advance(0.0, 1.0, 0.25)
    assert pacing.price == 0.25
    pacing.offer([0.1, 0.9], [0.0, 0.4])
    pacing.spend(1000.0 * HORIZON)
    assert pacing.price == pytest.approx(2.0)
    assert pacing.limit == 0.0


def test_without_an_allowance_nothing_is_paced() -> None:
    pacing = Pacing()
    pacing.advance(0.0, math.inf, 0.5)
    pacing.offer([0.1, 0.9], [0.0, 0.4])
    pacing.spend(1e9)
    assert (pacing.price, pacing.limit) == (0.5, math.inf)


def test_a_horizon_of_no_length_is_refused() -> None:
    with pytest.raises(ValueError, match="horizon above 0"):
        Pacing(0.0)
