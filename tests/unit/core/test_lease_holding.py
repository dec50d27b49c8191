"""The sidecar's side of a lease."""

from __future__ import annotations

import pytest
from modelfleet_core.demand.sketch import NO_DEMAND
from modelfleet_core.leasing.holding import DRIFT, Holding, Refused, Reservation
from modelfleet_core.leasing.messages import Report, Want
from modelfleet_core.values import NanoUsd
from support.lease_values import LARGE, ONE, POD_A, POD_B, TODAY, TTL, YESTERDAY, grant, money

NOTHING = NanoUsd(0)


def holding(*, budgeted: bool = True) -> Holding:
    held = Holding(ONE)
    held.budgeted = budgeted
    assert held.adopt(1)
    return held


def report_of(held: Holding, now: float) -> Report:
    return held.report(now, demand=NO_DEMAND, fleet_version="", policy_version="")


def taken(held: Holding, now: float, amount: int = 0) -> Reservation:
    reservation = held.reserve(now, POD_A, NanoUsd(amount), now + 60)
    assert isinstance(reservation, Reservation)
    return reservation


def test_without_a_lease_nothing_can_be_reserved() -> None:
    held = Holding(ONE)
    assert held.free(0) == {}
    assert held.money(0) == 0
    assert held.reserve(0, POD_A, NOTHING, 60) is Refused.NO_LEASE


def test_a_lease_ends_by_the_time_its_report_was_sent_whenever_the_grant_is_read() -> None:
    held = holding(budgeted=False)
    end = 5 + TTL * (1 - DRIFT)
    assert held.apply(grant(1, {POD_A: 2}, sent_at=5.0), now=end - 0.1)
    assert held.free(end - 0.1) == {POD_A: 2}
    assert held.free(end) == {POD_A: 0}
    assert held.reserve(end, POD_A, NOTHING, 99) is Refused.NO_LEASE


def test_an_ended_lease_is_reported_as_given_up_but_requests_in_flight_stay_kept() -> None:
    held = holding(budgeted=False)
    held.apply(grant(1, {POD_A: 3, POD_B: 2}), 0)
    taken(held, 1)
    before = {endpoint: state.kept for endpoint, state in report_of(held, 2).slots.items()}
    after = {endpoint: state.kept for endpoint, state in report_of(held, TTL).slots.items()}
    assert before == {POD_A: 3, POD_B: 2}
    assert after == {POD_A: 1}


def test_only_newer_grants_of_the_adopted_epoch_apply() -> None:
    held = holding(budgeted=False)
    assert held.apply(grant(2, {POD_A: 2}), 0)
    assert not held.apply(grant(2, {POD_A: 9}), 0)
    assert not held.apply(grant(1, {POD_A: 9}), 0)
    assert not held.apply(grant(3, {POD_A: 9}, epoch=2), 0)
    assert held.adopt(2)
    assert not held.adopt(1)
    assert not held.apply(grant(9, {POD_A: 9}, epoch=1), 0)
    assert held.free(0) == {POD_A: 2}
    assert held.apply(grant(1, {POD_A: 4}, epoch=2), 0)
    assert held.free(0) == {POD_A: 4}


def test_a_slot_and_its_money_are_taken_together_or_not_at_all() -> None:
    held = holding()
    held.apply(grant(1, {POD_A: 1}, {TODAY: money(10)}), 0)
    assert held.reserve(1, POD_A, NanoUsd(11), 60) is Refused.NO_MONEY
    assert held.free(1) == {POD_A: 1}
    reservation = taken(held, 1, 10)
    assert (reservation.variant, reservation.period) == (LARGE, TODAY)
    assert held.reserve(1, POD_A, NOTHING, 60) is Refused.NO_SLOT
    assert held.money(1) == 0


@pytest.mark.parametrize(("actual", "left"), [(NanoUsd(3), 7), (None, 0), (NanoUsd(0), 10)])
def test_settling_books_the_real_cost_once_and_frees_the_rest(actual: NanoUsd | None, left: int) -> None:
    held = holding()
    held.apply(grant(1, {POD_A: 1}, {TODAY: money(10)}), 0)
    reservation = taken(held, 1, 10)
    first = held.settle(reservation.id, actual)
    assert (first.first, first.charged, first.excess) == (True, 10 - left, 0)
    assert not held.settle(reservation.id, NanoUsd(10)).first
    assert (held.money(1), held.free(1)) == (left, {POD_A: 1})


def test_a_cost_above_its_reserve_is_booked_and_told() -> None:
    held = holding()
    held.apply(grant(1, {POD_A: 1}, {TODAY: money(10)}), 0)
    assert held.settle(taken(held, 1, 4).id, NanoUsd(12)).excess == 8
    assert held.money(1) == 0


def test_a_late_request_settles_at_its_reserve() -> None:
    held = holding()
    held.apply(grant(1, {POD_A: 1}, {TODAY: money(10)}), 0)
    reservation = taken(held, 1, 4)
    assert held.expire(60.9) == ()
    ((expired, settlement),) = held.expire(61)
    assert (expired, settlement.charged) == (reservation, 4)
    assert held.idle()
    assert held.money(61) == 6


def test_without_a_budget_money_has_no_limit() -> None:
    held = holding(budgeted=False)
    held.apply(grant(1, {POD_A: 1}), 0)
    assert held.money(1) is None
    assert taken(held, 1, 10**15).period is None


def test_a_report_gives_back_free_money_above_what_may_be_kept() -> None:
    held = holding()
    held.apply(grant(1, {POD_A: 1}, {TODAY: money(100, keep=30)}), 0)
    taken(held, 1, 10)
    state = report_of(held, 2).accounts[TODAY]
    assert (state.granted, state.reserved, state.returned) == (100, 10, 60)
    assert held.money(2) == 30


def test_wanted_money_is_kept_and_only_what_is_missing_is_asked_for() -> None:
    held = holding()
    held.apply(grant(1, {POD_A: 1}, {TODAY: money(100, keep=0)}), 0)
    held.want({LARGE: Want(4)}, NanoUsd(130))
    assert held.short(1)
    said = report_of(held, 1)
    assert (said.accounts[TODAY].wanted, said.accounts[TODAY].returned) == (30, 0)
    assert said.wants == {LARGE: Want(4)}


def test_a_new_period_has_its_own_money_and_the_old_request_settles_in_the_old() -> None:
    held = holding()
    held.apply(grant(1, {POD_A: 2}, {YESTERDAY: money(10, ends_in=5.0)}), 0)
    old = taken(held, 1, 4)
    assert held.money(5) == 0
    ending = money(10, keep=0, ends_in=0.0)
    held.apply(grant(2, {POD_A: 2}, {YESTERDAY: ending, TODAY: money(20)}, sent_at=5.0), 6)
    assert held.money(6) == 20
    new = taken(held, 6, 1)
    assert (old.period, new.period) == (YESTERDAY, TODAY)
    assert report_of(held, 6).accounts[YESTERDAY].returned == 6
    held.apply(grant(3, {POD_A: 2}, {TODAY: money(20)}, sent_at=6.0), 7)
    held.settle(old.id, NanoUsd(3))
    assert report_of(held, 7).accounts[YESTERDAY].spent == 3
    held.apply(grant(4, {POD_A: 2}, {TODAY: money(20)}, sent_at=7.0), 8)
    assert held.periods() == {TODAY}


def test_changed_slots_and_recalled_ones_that_come_back_press_for_a_report() -> None:
    pressed: list[int] = []
    held = Holding(ONE, pressing=lambda: pressed.append(held.applied))
    held.budgeted = False
    held.adopt(1)
    held.apply(grant(1, {POD_A: 2}), 0)
    held.apply(grant(2, {POD_A: 2}), 0)
    first, second = taken(held, 1), taken(held, 1)
    held.apply(grant(3, {POD_A: 1}), 1)
    held.settle(first.id, None)
    held.settle(second.id, None)
    assert pressed == [1, 3, 3]


def test_a_leaving_sidecar_takes_nothing_new_and_keeps_only_what_is_in_flight() -> None:
    held = holding()
    held.apply(grant(1, {POD_A: 3}, {TODAY: money(10)}), 0)
    reservation = taken(held, 1, 4)
    held.leave()
    assert held.reserve(1, POD_A, NOTHING, 60) is Refused.NO_LEASE
    held.apply(grant(2, {POD_A: 3}, {TODAY: money(10)}, sent_at=1.0), 1)
    held.want({LARGE: Want(3)}, NanoUsd(5))
    said = report_of(held, 2)
    assert said.leaving
    assert said.wants == {}
    assert {endpoint: state.kept for endpoint, state in said.slots.items()} == {POD_A: 1}
    held.settle(reservation.id, NanoUsd(1))
    last = report_of(held, 3).accounts[TODAY]
    assert last.granted - last.returned == last.spent == 1
