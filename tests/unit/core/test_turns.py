"""Callers have their turn by what they had, whoever asks for most; memory of them is bounded."""

from __future__ import annotations

from dataclasses import replace

import pytest
from modelfleet_core.batching import solving
from modelfleet_core.batching.candidate import SHED_AFTER, Candidate
from modelfleet_core.batching.outcome import GivenUp, Outcome, Placed, Why
from modelfleet_core.batching.queue import Queue
from modelfleet_core.batching.turns import CROWDS, MEMORY, MOST_CALLERS, Turns
from modelfleet_core.batching.worth import FAIR_SHARE, LATENCY
from modelfleet_core.health import Health
from modelfleet_core.leasing.accounts import BUDGET
from modelfleet_core.policy import Batching, Breaker
from modelfleet_core.values import ModelName, NanoUsd, TierName, VariantKey
from support.holdings import endpoint_of, granted

SMALL, BIG = VariantKey(ModelName("small"), "gpu"), VariantKey(ModelName("big"), "gpu")


def one(caller: str, now: float = 0.0, *, weight: float = 1.0, seconds: float = 1.0) -> Candidate:
    """Return a request that only BIG can answer."""
    return Candidate(
        variants=(SMALL, BIG),
        tier=TierName(f"weight-{weight:g}"),
        weight=weight,
        shed_penalty=0.5 * weight,
        arrived=now,
        deadline=now + 60.0,
        longest=60.0,
        quality=(0.5, 0.8),
        cost=(0.0, 0.0),
        service_time=(seconds, seconds),
        reserve=(NanoUsd(0), NanoUsd(0)),
        excluded_by=("Pinned", ""),
        caller=caller,
    )


def due(queue: Queue, now: float) -> list[Outcome]:
    outcomes: list[Outcome] = []
    while (batch := queue.due(now)) is not None:
        outcomes += queue.commit(solving.solve(batch, lambda: 1.0), now)
    return outcomes


def one_by_one(waiting: list[Candidate], slots: int = 1) -> list[str]:
    """Return the callers in the order in which they get slots that come free one after the other."""
    holding = granted({BIG: slots})
    queue = Queue(holding, Batching(max_size=64, max_wait=0.0))
    queue.arrive(0, one("filler"), 0.0)
    held = [outcome for outcome in due(queue, 0.0) if isinstance(outcome, Placed)]
    for ticket, candidate in enumerate(waiting, 1):
        queue.arrive(ticket, candidate, 0.0)
    assert due(queue, 0.0) == []
    served: list[str] = []
    now = 0.0
    while len(queue):
        now += 0.1
        holding.settle(held.pop(0).reservation.id, NanoUsd(0), now)
        queue.changed(now)
        placed = [outcome for outcome in due(queue, now) if isinstance(outcome, Placed)]
        served += [outcome.candidate.caller for outcome in placed]
        held += placed
    return served


def test_who_has_most_waiting_gets_no_more_than_others_do() -> None:
    waiting = [one("hot") for _ in range(50)] + [one("a") for _ in range(3)] + [one("b") for _ in range(3)]
    served = one_by_one(waiting)
    assert len(served) == 56
    first = served[:9]
    assert [first.count(caller) for caller in ("hot", "a", "b")] == [3, 3, 3]


def test_who_asks_for_long_answers_gets_fewer_of_them() -> None:
    waiting = [one("long", seconds=4.0) for _ in range(8)] + [one("short") for _ in range(8)]
    first = one_by_one(waiting)[:10]
    assert (first.count("long"), first.count("short")) == (2, 8)


def test_a_heavier_tier_comes_first_and_shares_fairly_in_itself() -> None:
    waiting = [one("hot") for _ in range(5)] + [one("hot", weight=4.0) for _ in range(4)]
    waiting += [one("a", weight=4.0) for _ in range(2)]
    served = one_by_one(waiting)
    assert sorted(served[:4]) == ["a", "a", "hot", "hot"]


def test_who_was_alone_owes_nothing_and_who_was_idle_has_saved_nothing() -> None:
    turns = Turns()
    for number in range(100):
        turns.took("hot", BIG, 1.0, float(number))
    assert turns.start("hot") - turns.start("new") == 1.0
    turns.took("new", BIG, 1.0, 100.0)
    assert turns.start("new") <= turns.start("hot")


def test_any_number_of_callers_takes_bounded_memory() -> None:
    turns = Turns()
    for number in range(5 * MOST_CALLERS):
        turns.took(f"caller-{number}", BIG, 1.0, 0.0)
    assert len(turns) <= MOST_CALLERS + CROWDS
    assert turns.start("unheard of") >= 0.0


def test_who_is_over_its_share_leaves_slots_to_others_who_were_there_lately() -> None:
    turns, slots = Turns(), {BIG: 8}
    for number in range(100):
        turns.took("hot", BIG, 1.0, number / 10)
        if number % 5 == 0:
            turns.took("a", BIG, 1.0, number / 10)
    leaves = turns.leaves(lambda: slots, 10.0)
    assert set(leaves) == {"hot"}
    assert 1 <= leaves["hot"][BIG] <= 4
    # With nobody else about for a while, nothing is left unused.
    for number in range(1000):
        turns.took("hot", BIG, 1.0, 10.0 + number / 10)
    assert not turns.leaves(lambda: slots, 10.0 + 10 * MEMORY)


def test_a_variant_of_one_slot_is_never_kept_empty() -> None:
    turns = Turns()
    for number in range(100):
        turns.took("hot", BIG, 2.0, number / 10)
        turns.took("a", BIG, 0.5, number / 10)
    assert not turns.leaves(lambda: {BIG: 1}, 10.0)


def test_slots_that_are_kept_for_others_are_not_given_and_explained() -> None:
    holding = granted({BIG: 4, SMALL: 4})
    queue = Queue(holding, Batching(max_size=64, max_wait=0.0))
    for number in range(100):
        queue.placer.turns.took("hot", BIG, 1.0, number / 10)
        queue.placer.turns.took("a", BIG, 0.2, number / 10)
    placed = [queue.place(ticket, one("hot", 10.0), 10.0) for ticket in range(4)]
    assert [outcome is not None for outcome in placed] == [True, True, False, False]
    either = replace(one("hot", 10.0), excluded_by=("", ""))
    assert queue.placer.room(10.0).excluded(either, ("", "")) == ("", FAIR_SHARE)
    other = queue.place(5, one("a", 10.0), 10.0)
    assert other is not None
    assert other.variant == BIG


def test_money_that_binds_is_shared_in_turn_too() -> None:
    """One request's worth comes free at a time; the hot caller waited first, and longer."""
    holding = granted({BIG: 8}, money=1e-6)
    queue = Queue(holding, Batching(max_size=64, max_wait=0.0))

    def paid(caller: str) -> Candidate:
        return replace(one(caller), charges=({}, {BUDGET: 1000}), reserve=(NanoUsd(0), NanoUsd(1000)))

    first = queue.place(0, paid("filler"), 0.0)
    assert first is not None
    held = [first]
    for ticket, caller in enumerate(["hot"] * 6 + ["a"] * 2, 1):
        queue.arrive(ticket, paid(caller), 0.0)
    assert due(queue, 0.0) == []
    served: list[str] = []
    for turn in range(4):
        now = 0.1 * (turn + 1)
        holding.settle(held.pop().reservation.id, NanoUsd(0), now)
        queue.changed(now)
        (outcome,) = due(queue, now)
        assert isinstance(outcome, Placed)
        held.append(outcome)
        served.append(outcome.candidate.caller)
    assert sorted(served) == ["a", "a", "hot", "hot"]


def test_a_full_queue_makes_room_at_the_cost_of_who_has_most_waiting() -> None:
    queue = Queue(granted({}), Batching(max_size=64, max_wait=0.0))
    for ticket in range(6):
        queue.arrive(ticket, one("hot", float(ticket), weight=4.0 if ticket % 2 else 1.0), float(ticket))
    queue.arrive(6, one("a", 6.0), 6.0)
    assert queue.push_out("a") == 4  # the newest of the lightest
    assert queue.push_out("new") == 4
    assert queue.push_out("hot") is None
    assert Queue(granted({}), Batching(max_size=64, max_wait=0.0)).push_out("hot") is None


def test_what_failed_elsewhere_is_not_pushed_out() -> None:
    queue = Queue(granted({}), Batching(max_size=64, max_wait=0.0))
    for ticket in range(3):
        again = replace(one("hot"), avoided=frozenset({"http://gone"}))  # type: ignore[arg-type]
        queue.arrive(ticket, again, 0.0)
    assert queue.push_out("a") is None


@pytest.mark.parametrize(("sheds", "refused_at"), [(True, SHED_AFTER), (False, 59.0)])
def test_what_sheds_is_refused_for_want_of_a_slot_and_does_not_wait(sheds: bool, refused_at: float) -> None:
    queue = Queue(granted({}), Batching(max_size=64, max_wait=0.02))
    queue.arrive(1, replace(one("a"), sheds=sheds), 0.0)
    now, outcomes = 0.0, due(queue, 0.0)
    while not outcomes:
        assert queue.wake_at is not None
        now = max(now, queue.wake_at)
        outcomes = due(queue, now)
    (given_up,) = outcomes
    assert isinstance(given_up, GivenUp)
    assert now == pytest.approx(refused_at, abs=0.3 if not sheds else 0.001)
    assert given_up.why is (Why.NO_SLOT if sheds else Why.TOO_LATE)


def test_waiting_counts_in_the_time_that_an_answer_should_take() -> None:
    holding = granted({BIG: 1, SMALL: 1})
    placer = Queue(holding, Batching(max_size=64, max_wait=0.0)).placer
    aimed = replace(one("a"), excluded_by=("", ""), service_time=(0.5, 1.0), within=1.2)
    assert placer.look(aimed, 0.1).excluded == ("", "")
    assert placer.look(aimed, 0.4).excluded == ("", LATENCY)
    assert placer.look(aimed, 2.0).excluded == ("", "")


def test_many_callers_that_come_once_are_forgotten_together() -> None:
    turns = Turns()
    for number in range(20 * MOST_CALLERS):
        turns.took(f"caller-{number}", BIG, 0.001, number / 10_000)
    assert turns.known <= MOST_CALLERS + 2 * CROWDS


def test_the_judge_is_no_caller_that_others_leave_slots_to() -> None:
    queue = Queue(granted({BIG: 8}), Batching(max_size=64, max_wait=0.0))
    for number in range(8):
        assert queue.placer.place(number, replace(one("", seconds=9.0), weight=1e-6), 0.0, aside=True)
    queue.placer.turns.took("hot", BIG, 90.0, 0.0)
    assert queue.placer.turns.known == 1
    assert not queue.placer.room(0.1).leaves


def test_what_is_limited_to_one_request_is_not_kept_empty_for_callers_who_have_gone() -> None:
    """A breaker lets one probe through; the caller who would be it is over its share."""
    health = Health()
    health.follow(Breaker(failures=1, open_for=10.0))
    holding = granted({BIG: 8})
    queue = Queue(holding, Batching(max_size=64, max_wait=0.0), health=health)
    for number in range(100):
        queue.placer.turns.took("hot", BIG, 1.0, number / 10)
        queue.placer.turns.took("gone", BIG, 0.4, number / 10)
    assert queue.placer.turns.leaves(lambda: {BIG: 8}, 10.0)["hot"][BIG] > 1
    health.failed(BIG, endpoint_of(BIG), 1, 0.0, 0.0)
    queue.arrive(1, one("hot", 10.0), 10.0)
    assert [type(outcome) for outcome in due(queue, 10.2)] == [Placed]


def test_callers_of_long_ago_make_room_for_new_ones_to_be_told_apart() -> None:
    turns = Turns()
    for number in range(5 * MOST_CALLERS):
        turns.took(f"caller-{number}", BIG, 1.0, 0.0)
    for number in range(200):
        turns.took("caller-0", BIG, 1.0, MEMORY + number)
    turns.took("hot", BIG, 1.0, MEMORY + 200.0)
    starts = [turns.start(f"new-{number}") for number in range(20 * CROWDS)]
    assert max(starts) < turns.start("hot"), "none of them is taken for the hot one"
