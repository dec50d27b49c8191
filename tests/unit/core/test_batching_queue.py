"""The queue places what it can, lets the rest wait while it may, and asks the leader for what is missing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from modelfleet_core.batching import solving
from modelfleet_core.batching.candidate import Candidate
from modelfleet_core.batching.outcome import GivenUp, Outcome, Placed, Why
from modelfleet_core.batching.queue import BUDGET_PATIENCE, LOOK_AGAIN, Queue
from modelfleet_core.batching.worth import FAILED, Look
from modelfleet_core.leasing.accounts import BUDGET
from modelfleet_core.leasing.bounds import MAX_BIDS
from modelfleet_core.leasing.holding import Holding
from modelfleet_core.policy import Batching
from modelfleet_core.values import AccountName, EndpointUrl, ModelName, NanoUsd, TierName, VariantKey
from support.holdings import endpoint_of, granted

SMALL, BIG = VariantKey(ModelName("small"), "gpu"), VariantKey(ModelName("big"), "gpu")


def candidate(
    now: float = 0.0,
    *,
    weight: float = 1.0,
    small: float = 0.5,
    big: float = 0.8,
    within: float = 20.0,
    charge: int = 0,
    share: int = 0,
) -> Candidate:
    """Return a request over SMALL and BIG; BIG charges `charge` to the budget and `share` to a share."""
    charges = ({BUDGET: 0}, {BUDGET: charge} | ({AccountName("share:big"): share} if share else {}))
    return Candidate(
        variants=(SMALL, BIG),
        tier=TierName("gold" if weight > 1 else "bronze"),
        weight=weight,
        shed_penalty=0.5 * weight,
        arrived=now,
        deadline=now + within,
        longest=30.0,
        quality=(small, big),
        cost=(0.0, charge / 1e9),
        service_time=(1.0, 2.0),
        reserve=(NanoUsd(0), NanoUsd(charge)),
        excluded_by=("", ""),
        charges=charges if charge or share else (),
    )


def only_big(now: float = 0.0, *, weight: float = 1.0, charge: int = 0, within: float = 20.0) -> Candidate:
    one = candidate(now, weight=weight, charge=charge, within=within)
    return replace(one, excluded_by=("Pinned", ""))


def queue_of(holding: Holding, *, max_size: int = 64, max_wait: float = 0.02) -> Queue:
    return Queue(holding, Batching(max_size=max_size, max_wait=max_wait))


def follow(queue: Queue, now: float) -> list[Outcome]:
    """Do all that is due at `now`."""
    outcomes: list[Outcome] = []
    while (batch := queue.due(now)) is not None:
        outcomes += queue.commit(solving.solve(batch, lambda: 1.0), now)
    return outcomes


def play(queue: Queue, now: float, until: float) -> list[Outcome]:
    """Wake the queue whenever it asks for it."""
    outcomes = follow(queue, now)
    while (wake_at := queue.wake_at) is not None and wake_at <= until:
        assert wake_at > now, "it must not spin"
        now = wake_at
        outcomes += follow(queue, now)
    return outcomes


def test_a_lone_request_goes_at_once_to_its_favourite() -> None:
    queue = queue_of(granted({SMALL: 1, BIG: 1}))
    queue.arrive(1, candidate(), 0.0)
    (placed,) = follow(queue, 0.0)
    assert isinstance(placed, Placed)
    assert (placed.ticket, placed.variant, placed.batch_size) == (1, BIG, 1)
    assert placed.certificate.bound == placed.certificate.objective == pytest.approx(0.8)


def test_requests_that_came_together_are_assigned_together() -> None:
    queue = queue_of(granted({SMALL: 1, BIG: 1}))
    queue.arrive(1, candidate(small=0.7), 0.0)
    queue.arrive(2, candidate(small=0.1), 0.0)
    placed = {one.ticket: one.variant for one in follow(queue, 0.0) if isinstance(one, Placed)}
    assert placed[2] == BIG
    assert 1 not in placed or placed[1] == SMALL


def test_what_waits_is_looked_at_again_without_a_change() -> None:
    queue = queue_of(granted({SMALL: 1}))
    queue.arrive(1, candidate(), 0.0)
    assert follow(queue, 0.0) == []
    assert queue.wake_at == pytest.approx(LOOK_AGAIN)
    (placed,) = play(queue, 0.0, 10.0)
    assert isinstance(placed, Placed)
    assert placed.variant == SMALL
    assert placed.candidate.arrived < placed.reservation.deadline


def test_a_request_is_given_up_when_no_variant_can_answer_in_time() -> None:
    queue = queue_of(granted({BIG: 1}))
    queue.arrive(1, only_big(within=5.0), 0.0)
    queue.arrive(2, only_big(within=5.0), 0.0)
    outcomes = play(queue, 0.0, 30.0)
    assert [type(one) for one in outcomes] == [Placed, GivenUp]
    assert isinstance(outcomes[1], GivenUp)
    assert (outcomes[1].why, outcomes[1].short) == (Why.TOO_LATE, "NoFreeSlot")
    assert len(queue) == 0
    assert queue.wake_at is None


def test_without_a_lease_requests_are_told_so_at_once() -> None:
    queue = queue_of(granted({BIG: 1}, ttl=10.0))
    queue.arrive(1, candidate(20.0), 20.0)
    (given_up,) = follow(queue, 20.0)
    assert isinstance(given_up, GivenUp)
    assert given_up.why is Why.NO_LEASE


def test_money_that_can_not_come_back_is_not_waited_for_long() -> None:
    queue = queue_of(granted({BIG: 1}, money=1e-9))
    queue.arrive(1, only_big(charge=100), 0.0)
    assert follow(queue, 0.0) == []
    (given_up,) = play(queue, 0.0, 20.0)
    assert isinstance(given_up, GivenUp)
    assert (given_up.why, given_up.short) == (Why.NO_MONEY, "Budget")


def test_money_in_flight_is_waited_for() -> None:
    holding = granted({BIG: 2}, money=100e-9)
    queue = queue_of(holding)
    queue.arrive(1, only_big(charge=100), 0.0)
    (first,) = follow(queue, 0.0)
    assert isinstance(first, Placed)
    queue.arrive(2, only_big(0.5, charge=100), 0.5)
    assert play(queue, 0.5, 0.5 + 2 * BUDGET_PATIENCE) == []
    holding.settle(first.reservation.id, NanoUsd(0), 5.0)
    queue.changed(5.0)
    (second,) = play(queue, 5.0, 6.0)
    assert isinstance(second, Placed)


def test_a_share_that_is_used_up_leaves_the_other_models() -> None:
    holding = granted({SMALL: 1, BIG: 1}, money=1.0)
    queue = queue_of(holding)
    queue.arrive(1, candidate(share=10), 0.0)
    (placed,) = play(queue, 0.0, 10.0)
    assert isinstance(placed, Placed)
    assert placed.variant == SMALL
    assert placed.weighed.excluded_by == ("", "share:big")
    assert "share:big" in placed.certificate.binding


def test_a_batch_names_the_account_that_binds() -> None:
    queue = queue_of(granted({SMALL: 9, BIG: 9}, money=250e-9))
    for ticket in range(5):
        queue.arrive(ticket, candidate(charge=100), 0.0)
    outcomes = play(queue, 0.0, 10.0)
    placed = [one for one in outcomes if isinstance(one, Placed)]
    assert sorted(str(one.variant) for one in placed) == ["big/gpu"] * 2 + ["small/gpu"] * 3
    assert "Budget" in placed[0].certificate.binding


def test_what_stopped_a_request_is_the_limit_that_others_gained_more_from() -> None:
    queue = queue_of(granted({SMALL: 9, BIG: 1}))
    for ticket, small in enumerate((0.1, 0.6, 0.7)):
        queue.arrive(ticket, candidate(small=small), 0.0)
    placed = {one.ticket: one for one in play(queue, 0.0, 10.0) if isinstance(one, Placed)}
    assert placed[0].variant == BIG
    assert placed[0].weighed.stopped_by == ("", "")
    for ticket in (1, 2):
        assert placed[ticket].variant == SMALL
        assert placed[ticket].weighed.stopped_by[1] in ("slots:big/gpu", "NoFreeSlot")


def test_an_account_that_others_gain_more_from_is_what_stopped_a_request() -> None:
    queue = queue_of(granted({SMALL: 9, BIG: 9}, money=150e-9))
    for ticket, small in enumerate((0.1, 0.7)):
        one = candidate(small=small, charge=100)
        queue.arrive(ticket, replace(one, arrived=-1.0), 0.0)  # they waited long enough to take either
    placed = {one.ticket: one for one in follow(queue, 0.0) if isinstance(one, Placed)}
    assert (placed[0].variant, placed[1].variant) == (BIG, SMALL)
    assert placed[1].weighed.stopped_by == ("", "Budget")
    small, big = placed[1].weighed.paid
    assert small == 0.0
    assert 0.099 <= big <= 0.7


def test_a_caller_that_leaves_takes_its_claim_along() -> None:
    holding = granted({BIG: 1})
    queue = queue_of(holding)
    for ticket in (1, 2, 3):
        queue.arrive(ticket, only_big(), 0.0)
    (placed,) = follow(queue, 0.0)
    assert queue.wants(0.0)[0][BIG].slots == 3
    gone = 1 if placed.ticket != 1 else 2
    assert queue.leave(gone, 0.1)
    assert not queue.leave(gone, 0.1)
    assert queue.wants(0.1)[0][BIG].slots == 2


def test_a_caller_that_leaves_while_its_batch_is_solved_holds_nothing() -> None:
    holding = granted({SMALL: 2, BIG: 2})
    queue = queue_of(holding)
    queue.arrive(1, candidate(), 0.0)
    queue.arrive(2, candidate(), 0.0)
    batch = queue.due(0.0)
    assert batch is not None
    assert queue.leave(1, 0.0)
    (placed,) = queue.commit(solving.solve(batch, lambda: 1.0), 0.0)
    assert placed.ticket == 2
    assert sum(holding.in_flight().values()) == 1


def test_one_batch_is_out_at_a_time() -> None:
    queue = queue_of(granted({BIG: 2}))
    queue.arrive(1, candidate(), 0.0)
    batch = queue.due(0.0)
    assert batch is not None
    queue.arrive(2, candidate(), 0.0)
    assert queue.due(0.0) is None
    assert queue.wake_at is None
    queue.commit(solving.solve(batch, lambda: 1.0), 0.0)
    assert [one.ticket for one in follow(queue, 0.0)] == [2]
    with pytest.raises(ValueError, match="no batch is out"):
        queue.commit(solving.solve(batch, lambda: 1.0), 0.0)


def test_a_queue_that_failed_starts_anew() -> None:
    queue = queue_of(granted({BIG: 1}))
    queue.arrive(1, candidate(), 0.0)
    assert queue.due(0.0) is not None
    queue.arrive(2, candidate(), 0.0)
    assert sorted(queue.fail()) == [1, 2]
    queue.arrive(3, candidate(1.0), 1.0)
    assert [one.ticket for one in follow(queue, 1.0)] == [3]


def test_a_bid_says_what_is_lost_and_grows_while_it_waits() -> None:
    queue = queue_of(granted({}))
    queue.arrive(1, candidate(), 0.0)
    follow(queue, 0.0)
    (first,) = queue.wants(0.0)[0][BIG].bids
    assert (first.weight, first.slots) == (1.0, 1)
    assert first.price == pytest.approx(0.3)  # above what SMALL would give
    play(queue, 0.0, 5.0)
    wanted = queue.wants(5.0)[0]
    assert wanted[BIG].bids[0].price > 1.0  # no answer at all is what is left
    assert wanted[SMALL].bids[0].price == pytest.approx(1.0, abs=0.01)


def test_many_bids_become_few_and_keep_their_slots_and_order() -> None:
    queue = queue_of(granted({}))
    for ticket in range(100):
        queue.arrive(ticket, candidate(small=0.006 * ticket, weight=1.0 + ticket % 3), 0.0)
    want = queue.wants(0.0)[0][BIG]
    assert len(want.bids) <= MAX_BIDS
    assert want.slots == sum(bid.slots for bid in want.bids) == 100
    order = [(bid.weight, bid.price) for bid in want.bids]
    assert order == sorted(order, reverse=True)
    assert {bid.weight for bid in want.bids} == {1.0, 2.0, 3.0}


def test_more_tiers_than_bids_still_ask_for_every_slot() -> None:
    queue = queue_of(granted({}))
    for ticket in range(40):
        queue.arrive(ticket, candidate(weight=1.0 + ticket), 0.0)
    want = queue.wants(0.0)[0][BIG]
    assert len(want.bids) <= MAX_BIDS
    assert sum(bid.slots for bid in want.bids) == 40


def test_what_waits_asks_for_money_by_the_heaviest_first() -> None:
    queue = queue_of(granted({}, money=0.0))
    queue.arrive(1, candidate(charge=100), 0.0)
    queue.arrive(2, candidate(charge=300, weight=4.0), 0.0)
    need = queue.wants(0.0)[1][BUDGET]
    assert (need.total, need.first, need.weight) == (400, 300, 4.0)


@pytest.mark.parametrize("budget", [False, True])
def test_thousands_are_placed_jointly_without_a_queue(budget: bool) -> None:
    holding = granted({SMALL: 40, BIG: 25}, money=1.0 if budget else None)
    placer = queue_of(holding).placer
    many = [candidate(small=0.0001 * number, charge=100 if budget else 0) for number in range(3000)]
    solved = solving.solve(placer.pose(range(len(many)), many, 0.0), lambda: 0.2)
    placed = [one for one in placer.commit(solved, 0.0) if one is not None]
    assert len(placed) == sum(holding.in_flight().values()) == 65
    assert solved.certificate.gap < 0.001


def test_a_batch_is_of_one_fleet() -> None:
    queue = queue_of(granted({BIG: 2}))
    other = replace(candidate(), variants=(SMALL, VariantKey(ModelName("other"), "gpu")))
    with pytest.raises(ValueError, match="of one fleet"):
        queue.placer.pose([1, 2], [candidate(), other], 0.0)


def test_prices_are_carried_to_the_next_batch_by_name() -> None:
    holding = granted({SMALL: 9, BIG: 9}, money=250e-9)
    placer = queue_of(holding).placer
    waiting = [candidate(-1.0, charge=100, small=0.1 * number) for number in range(5)]
    looks = [placer.look(one, 0.0) for one in waiting]
    placer.commit(solving.solve(placer.pose(range(5), waiting, 0.0, looks=looks), lambda: 1.0), 0.0)
    carried = placer.pose([5], waiting[:1], 0.0).carried
    assert carried is not None
    assert carried.rows["Budget"] > 0
    many = [replace(one, charges=()) for one in waiting]
    placer.commit(solving.solve(placer.pose(range(5), many, 0.0, looks=looks), lambda: 1.0), 0.0)
    assert carried.prices((BIG, SMALL), ()).rows.shape == (0,)


def test_while_nothing_binds_a_request_is_placed_at_once_as_the_queue_would_place_it() -> None:
    prices = {SMALL: 0.02, BIG: 0.05}
    for small in (0.0, 0.3, 0.6, 0.9):
        at_once, alone = (queue_of(granted({SMALL: 1, BIG: 1}, money=1e-6)) for _ in range(2))
        one = candidate(charge=100, small=small)
        for queue in (at_once, alone):
            queue.set_prices(prices, 0.1)
        placed = at_once.place(1, one, 0.0)
        alone.arrive(1, one, 0.0)
        (same,) = follow(alone, 0.0)
        assert isinstance(placed, Placed)
        assert isinstance(same, Placed)
        assert (placed.variant, placed.reservation) == (same.variant, same.reservation)
        assert list(placed.weighed.values) == list(same.weighed.values)
        assert placed.weighed.excluded_by == same.weighed.excluded_by
        assert placed.weighed.slot_prices == same.weighed.slot_prices
        assert placed.certificate.objective == same.certificate.objective


def test_what_is_kept_from_its_favourite_is_not_placed_at_once_and_holds_nothing() -> None:
    holding = granted({SMALL: 1, BIG: 0}, money=1e-6)
    assert queue_of(holding).place(1, candidate(), 0.0) is None
    assert holding.idle()
    holding = granted({SMALL: 1, BIG: 1}, money=1e-6)
    assert queue_of(holding).place(2, candidate(charge=10_000), 0.0) is None
    assert holding.idle()


def test_nobody_is_placed_ahead_of_those_that_wait_or_of_a_batch_that_is_out() -> None:
    holding = granted({BIG: 1})
    queue = queue_of(holding)
    assert queue.place(1, only_big(), 0.0) is not None
    queue.arrive(2, only_big(), 0.0)
    assert follow(queue, 0.0) == []
    holding.settle(1, None, 0.1)
    assert queue.place(3, only_big(), 0.1) is None
    queue.changed(0.1)
    batch = queue.due(5.0)
    assert batch is not None
    assert batch.tickets == (2,)
    assert queue.place(4, only_big(), 5.0) is None


def test_variants_worth_more_than_waiting_are_tried_in_the_order_of_their_value() -> None:
    nan = float("nan")
    assert Look((0.2, 0.4, 0.4), ("", "", ""), 1, defer=0.0).worthwhile == (1, 2, 0)
    assert Look((0.2, 0.4, -0.6), ("", "Pinned", ""), 0, defer=0.5).worthwhile == (0,)
    assert Look((nan, 0.1, 0.1), ("", "", ""), 1, defer=0.0).worthwhile == (1, 2)


def test_figures_that_are_not_numbers_leave_their_variant_out_of_a_request_placed_at_once() -> None:
    for broken in (
        replace(candidate(), quality=(0.5, float("nan"))),
        replace(candidate(), quality=(0.5, 1e300)),
    ):
        holding = granted({SMALL: 1, BIG: 1})
        placed = queue_of(holding).place(1, broken, 0.0)
        assert placed is None or placed.variant == SMALL


def test_a_request_never_goes_back_to_an_endpoint_that_has_failed_it() -> None:
    queue = queue_of(granted({SMALL: 1, BIG: 2}))
    elsewhere = replace(candidate(), avoided=frozenset({endpoint_of(BIG)}))
    queue.arrive(1, elsewhere, 0.0)
    queue.arrive(2, candidate(), 0.0)
    placed_at = {one.ticket: one for one in play(queue, 0.0, 10.0) if isinstance(one, Placed)}
    assert {ticket: one.variant for ticket, one in placed_at.items()} == {1: SMALL, 2: BIG}
    assert placed_at[1].weighed.excluded_by == ("", FAILED)


def test_a_request_does_not_wait_for_a_model_that_has_failed_it_wherever_it_is() -> None:
    queue = queue_of(granted({SMALL: 1, BIG: 2}))
    placed = queue.place(1, replace(candidate(), avoided=frozenset({endpoint_of(BIG)})), 0.0)
    assert placed is not None
    assert placed.variant == SMALL


def test_a_request_waits_for_another_endpoint_than_those_that_failed_it() -> None:
    holding = granted({SMALL: 1, BIG: 1})
    queue = queue_of(holding)
    busy = queue.place(1, replace(candidate(), excluded_by=("", "Pinned")), 0.0)
    assert busy is not None
    queue.arrive(2, replace(candidate(), avoided=frozenset({endpoint_of(BIG)})), 0.0)
    assert play(queue, 0.0, 3.0) == []
    holding.settle(busy.reservation.id, None, 3.0)
    queue.changed(3.0)
    (placed,) = play(queue, 3.0, 4.0)
    assert isinstance(placed, Placed)
    assert placed.variant == SMALL


def test_the_base_url_of_a_failed_endpoint_stands_for_all_that_is_there() -> None:
    avoided = replace(candidate(), avoided=frozenset({EndpointUrl("https://api.example.com")}))
    assert avoided.avoids(EndpointUrl("https://api.example.com#big/api"))
    assert not avoided.avoids(EndpointUrl("https://api.example.com:8443#big/api"))
    one = replace(candidate(), avoided=frozenset({EndpointUrl("https://api.example.com#big/api")}))
    assert not one.avoids(EndpointUrl("https://api.example.com#small/api"))


def test_a_batch_that_everybody_left_before_it_was_picked_is_empty() -> None:
    queue = queue_of(granted({BIG: 1}))
    queue.arrive(1, only_big(), 0.0)
    queue.changed(0.0)
    assert queue.leave(1, 0.0)
    for now in (0.0, 1.0):
        batch = queue.due(now)
        if batch is not None:
            assert queue.commit(solving.solve(batch, lambda: 1.0), now) == ()
    assert queue.wake_at is None
