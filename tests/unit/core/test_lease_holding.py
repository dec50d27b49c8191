"""The sidecar's side of a lease."""

from __future__ import annotations

import pytest
from modelfleet_core.demand.sketch import NO_DEMAND
from modelfleet_core.leasing.accounts import BUDGET
from modelfleet_core.leasing.held_lease import DRIFT
from modelfleet_core.leasing.holding import Holding
from modelfleet_core.leasing.messages import Ask, Bid, Need, Report, Want
from modelfleet_core.leasing.reservations import Refused, Reservation, Short
from modelfleet_core.manifests import parse_policy
from modelfleet_core.values import (
    AccountName,
    EndpointUrl,
    ModelName,
    NanoUsd,
    TierName,
    VariantKey,
    account_id,
    rate_key,
)
from support.lease_values import DAY, LARGE, ONE, POD_A, POD_B, TODAY, TTL, YESTERDAY, grant, money
from support.manifests import policy_manifest

END = TTL * (1 - DRIFT)
SHARE = AccountName("share:large")
QUOTA = AccountName("quota:Day:large")
API = VariantKey(ModelName("frontier"), "api")
REQUESTS = EndpointUrl("https://api.example.com#frontier/api!requests")
TOKENS = EndpointUrl("https://api.example.com#frontier/api!tokens")
RATES = {REQUESTS: rate_key(API, "requests"), TOKENS: rate_key(API, "tokens")}


def holding() -> Holding:
    held = Holding(ONE)
    assert held.adopt(1)
    return held


def following(then: str, *, gold: int = 0, bronze: int = 0) -> Holding:
    """Return the holding of a sidecar whose policy has no budget, and floors of these slots."""
    manifest = policy_manifest()
    spec = manifest["spec"]
    del spec["budget"]
    spec["staleness"] = {"then": then}
    spec["tiers"][0]["floor"], spec["tiers"][1]["floor"] = gold, bronze
    held = holding()
    held.follow(parse_policy(manifest))
    return held


def report_of(held: Holding, now: float) -> Report:
    return held.report(now, demand=NO_DEMAND, fleet_version="", policy_version="")


def asked(held: Holding, now: float, amount: int = 0, *, tier: str | None = None) -> Reservation | Refused:
    return held.reserve(
        now,
        POD_A,
        NanoUsd(amount),
        now + 60,
        charges={BUDGET: amount} if amount else {},
        tier=TierName(tier) if tier is not None else None,
    )


def taken(held: Holding, now: float, amount: int = 0, *, tier: str | None = None) -> Reservation:
    reservation = asked(held, now, amount, tier=tier)
    assert isinstance(reservation, Reservation)
    return reservation


def kept(held: Holding, now: float) -> dict[EndpointUrl, int]:
    return {endpoint: state.kept for endpoint, state in report_of(held, now).slots.items()}


def test_without_a_lease_nothing_can_be_reserved() -> None:
    held = Holding(ONE)
    assert held.free(0) == {}
    assert held.money(0) == 0
    assert asked(held, 0) == Refused(Short.LEASE)


def test_a_lease_ends_by_the_time_its_report_was_sent_whenever_the_grant_is_read() -> None:
    held = holding()
    end = 5 + TTL * (1 - DRIFT)
    assert held.apply(grant(1, {POD_A: 2}, sent_at=5.0), now=end - 0.1)
    assert held.free(end - 0.1) == {POD_A: 2}
    assert held.free(end) == {POD_A: 0}
    assert asked(held, end) == Refused(Short.LEASE)


def test_an_ended_lease_is_reported_as_given_up_but_requests_in_flight_stay_kept() -> None:
    held = holding()
    held.apply(grant(1, {POD_A: 3, POD_B: 2}), 0)
    taken(held, 1)
    assert kept(held, 2) == {POD_A: 3, POD_B: 2}
    assert kept(held, TTL) == {POD_A: 1}


def test_only_newer_grants_of_the_adopted_epoch_apply() -> None:
    held = holding()
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
    assert asked(held, 1, 11) == Refused(Short.ACCOUNT, account=BUDGET)
    assert held.free(1) == {POD_A: 1}
    reservation = taken(held, 1, 10)
    assert (reservation.variant, reservation.accounts) == (LARGE, (TODAY,))
    assert asked(held, 1) == Refused(Short.SLOT)
    assert held.money(1) == 0


@pytest.mark.parametrize(("actual", "left"), [(NanoUsd(3), 7), (None, 0), (NanoUsd(0), 10)])
def test_settling_books_the_real_cost_once_and_frees_the_rest(actual: NanoUsd | None, left: int) -> None:
    held = holding()
    held.apply(grant(1, {POD_A: 1}, {TODAY: money(10)}), 0)
    reservation = taken(held, 1, 10)
    first = held.settle(reservation.id, actual, 1)
    assert (first.first, first.charged, first.excess) == (True, 10 - left, 0)
    assert not held.settle(reservation.id, NanoUsd(10), 1).first
    assert (held.money(1), held.free(1)) == (left, {POD_A: 1})


def test_a_cost_above_its_reserve_is_booked_and_told() -> None:
    held = holding()
    held.apply(grant(1, {POD_A: 1}, {TODAY: money(10)}), 0)
    assert held.settle(taken(held, 1, 4).id, NanoUsd(12), 1).excess == 8
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
    assert held.settle(reservation.id, NanoUsd(1), 62).expired
    assert held.cancel(reservation.id, 62).expired
    assert held.money(62) == 6


def test_without_a_budget_money_has_no_limit() -> None:
    held = following("Reject")
    held.apply(grant(1, {POD_A: 1}), 0)
    assert held.money(1) is None
    reserved = held.reserve(1, POD_A, NanoUsd(10**15), 60, charges={})
    assert isinstance(reserved, Reservation)
    assert held.settle(reserved.id, None, 2).charged == 10**15


def test_a_report_gives_back_free_money_above_what_may_be_kept() -> None:
    held = holding()
    held.apply(grant(1, {POD_A: 1}, {TODAY: money(100, keep=30)}), 0)
    taken(held, 1, 10)
    state = report_of(held, 2).accounts[TODAY]
    assert (state.granted, state.reserved, state.returned) == (100, 10, 60)
    assert held.money(2) == 30


def test_money_that_waiting_requests_need_is_kept_unless_all_is_called_back() -> None:
    held = holding()
    need = Need(130, 40, 1.0, 0.3)
    held.apply(grant(1, {POD_A: 1}, {TODAY: money(100, keep=1)}), 0)
    held.want({LARGE: Want(4)}, {BUDGET: need})
    assert held.short(1)
    said = report_of(held, 1)
    assert (said.accounts[TODAY].need, said.accounts[TODAY].returned) == (need, 0)
    assert said.wants == {LARGE: Want(4)}
    held.apply(grant(2, {POD_A: 1}, {TODAY: money(100, keep=0)}), 1)
    assert report_of(held, 2).accounts[TODAY].returned == 100


def test_a_new_period_has_its_own_money_and_the_old_request_settles_in_the_old() -> None:
    held = holding()
    held.apply(grant(1, {POD_A: 2}, {YESTERDAY: money(10, ends_in=5.0)}), 0)
    old = taken(held, 1, 4)
    assert held.money(5) == 0
    ending = money(10, keep=0, ends_in=0.0)
    held.apply(grant(2, {POD_A: 2}, {YESTERDAY: ending, TODAY: money(20)}, sent_at=5.0), 6)
    assert held.money(6) == 20
    new = taken(held, 6, 1)
    assert (old.accounts, new.accounts) == ((YESTERDAY,), (TODAY,))
    assert report_of(held, 6).accounts[YESTERDAY].returned == 6
    held.apply(grant(3, {POD_A: 2}, {TODAY: money(20)}, sent_at=6.0), 7)
    held.settle(old.id, NanoUsd(3), 7)
    assert report_of(held, 7).accounts[YESTERDAY].spent == 3
    held.apply(grant(4, {POD_A: 2}, {TODAY: money(20)}, sent_at=7.0), 8)
    assert held.accounts() == {TODAY}


def test_changed_slots_and_recalled_ones_that_come_back_press_for_a_report() -> None:
    pressed: list[int] = []
    held = Holding(ONE, pressing=lambda: pressed.append(held.applied))
    held.adopt(1)
    held.apply(grant(1, {POD_A: 2}), 0)
    held.apply(grant(2, {POD_A: 2}), 0)
    first, second = taken(held, 1), taken(held, 1)
    held.apply(grant(3, {POD_A: 1}), 1)
    held.settle(first.id, None, 1)
    held.settle(second.id, None, 1)
    assert pressed == [1, 3, 3]


def test_a_leaving_sidecar_takes_nothing_new_and_keeps_only_what_is_in_flight() -> None:
    held = holding()
    held.apply(grant(1, {POD_A: 3}, {TODAY: money(10)}), 0)
    reservation = taken(held, 1, 4)
    held.leave(1)
    assert asked(held, 1) == Refused(Short.LEASE)
    held.apply(grant(2, {POD_A: 3}, {TODAY: money(10)}, sent_at=1.0), 1)
    held.want({LARGE: Want(3)}, {BUDGET: Need(5, 5, 1.0, 0.1)})
    said = report_of(held, 2)
    assert said.leaving
    assert said.wants == {}
    assert {endpoint: state.kept for endpoint, state in said.slots.items()} == {POD_A: 1}
    held.settle(reservation.id, NanoUsd(1), 3)
    last = report_of(held, 3).accounts[TODAY]
    assert last.granted - last.returned == last.spent == 1


def test_a_request_charges_all_its_accounts_or_none() -> None:
    held = holding()
    accounts = {account_id(DAY, name): money(have) for name, have in ((BUDGET, 10), (SHARE, 6), (QUOTA, 2))}
    held.apply(grant(1, {POD_A: 9}, accounts), 0)

    def ask(amount: int) -> Reservation | Refused:
        charges = {BUDGET: amount, SHARE: amount, QUOTA: 1}
        return held.reserve(1, POD_A, NanoUsd(amount), 60, charges=charges)

    assert ask(7) == Refused(Short.ACCOUNT, account=SHARE)
    assert held.room(1) == {BUDGET: 10, SHARE: 6, QUOTA: 2}
    first = ask(5)
    assert isinstance(first, Reservation)
    assert held.room(1) == {BUDGET: 5, SHARE: 1, QUOTA: 1}
    held.settle(first.id, NanoUsd(2), 2)
    assert held.room(1) == {BUDGET: 8, SHARE: 4, QUOTA: 1}
    second = ask(4)
    assert isinstance(second, Reservation)
    held.cancel(second.id, 2)
    assert held.room(1) == {BUDGET: 8, SHARE: 4, QUOTA: 1}
    assert isinstance(ask(1), Reservation)
    assert ask(1) == Refused(Short.ACCOUNT, account=QUOTA)


def test_after_the_lease_only_a_tiers_floor_is_left_and_only_for_that_tier() -> None:
    held = following("Floor", gold=2)
    held.apply(grant(1, {POD_A: 4}, floors={POD_A: 2}), 0)
    early = taken(held, 1, tier="bronze")
    assert asked(held, END, tier="bronze") == Refused(Short.LEASE)
    assert held.free(END, TierName("bronze")) == {POD_A: 0}
    assert held.free(END, TierName("gold")) == {POD_A: 1}
    taken(held, END, tier="gold")
    assert asked(held, END, tier="gold") == Refused(Short.SLOT)
    held.settle(early.id, None, END)
    taken(held, END, tier="gold")
    assert asked(held, END, tier="gold") == Refused(Short.LEASE)
    assert kept(held, END) == {POD_A: 2}


def test_a_tier_uses_no_more_than_its_own_floor() -> None:
    held = following("Floor", gold=2, bronze=1)
    held.apply(grant(1, {POD_A: 3}, floors={POD_A: 3}), 0)
    taken(held, END, tier="bronze")
    assert asked(held, END, tier="bronze") == Refused(Short.LEASE)
    taken(held, END, tier="gold")
    taken(held, END, tier="gold")


@pytest.mark.parametrize(("then", "left"), [("Hold", 3), ("Reject", 0)])
def test_hold_leaves_every_slot_to_every_tier_and_reject_none(then: str, left: int) -> None:
    held = following(then)
    held.apply(grant(1, {POD_A: 3}, floors={POD_A: left}), 0)
    assert held.free(END, TierName("bronze")) == {POD_A: left}
    assert isinstance(asked(held, END, tier="bronze"), Reservation) is bool(left)


def test_a_rate_is_used_for_a_minute_however_the_request_ends() -> None:
    held = holding()
    held.apply(grant(1, {POD_A: 5, REQUESTS: 2, TOKENS: 9}, variants=RATES), 0)
    assert held.free(0) == {POD_A: 5}

    def ask(now: float, tokens: int) -> Reservation | Refused:
        return held.reserve(now, POD_A, NanoUsd(0), 99, charges={}, rates={REQUESTS: 1, TOKENS: tokens})

    assert ask(0, 10) == Refused(Short.RATE, endpoint=TOKENS)
    first = ask(0, 5)
    assert isinstance(first, Reservation)
    held.settle(first.id, None, 1)
    assert held.free_units(1) == {REQUESTS: 1, TOKENS: 4}
    second = ask(2, 4)
    assert isinstance(second, Reservation)
    assert ask(3, 1) == Refused(Short.RATE, endpoint=REQUESTS)
    held.cancel(second.id, 3)
    assert held.free_units(3) == {REQUESTS: 1, TOKENS: 4}
    held.apply(grant(2, {POD_A: 5}), 4)
    assert {REQUESTS: 1, TOKENS: 5}.items() <= kept(held, 60.9).items()
    assert {REQUESTS, TOKENS}.isdisjoint(kept(held, 61))


def test_a_slot_goes_back_once_it_is_unused_for_as_long_as_it_may_linger() -> None:
    pressed: list[float] = []
    held = Holding(ONE, pressing=lambda: pressed.append(1))
    held.adopt(1)
    held.apply(grant(1, {POD_A: 3}, linger={LARGE: 0.2}), 0)
    reservation = taken(held, 0.1)
    assert held.next_give_back(0.1) == 0.2
    assert not held.give_back(0.19)
    assert held.give_back(0.2)
    assert kept(held, 0.2) == {POD_A: 1}
    held.settle(reservation.id, None, 1.0)
    assert held.next_give_back(1.0) == 1.2
    taken(held, 1.1)
    assert held.next_give_back(1.1) is None
    assert not held.give_back(2.0)
    held.apply(grant(2, {POD_A: 3}, linger={LARGE: 0.2}), 3)
    assert held.free(3) == {POD_A: 2}
    assert len(pressed) == 3


def test_a_slot_that_comes_free_goes_back_where_others_pay_as_much_for_it() -> None:
    held = holding()
    held.apply(grant(1, {POD_A: 2}, asks={LARGE: Ask(1.0, 0.4)}), 0)
    first, second = taken(held, 1), taken(held, 1)
    held.want({LARGE: Want(4, (Bid(1.0, 0.5, 2),))}, {})
    held.settle(first.id, None, 2)
    assert held.free(2) == {POD_A: 1}
    held.want({LARGE: Want(4, (Bid(1.0, 0.4, 2),))}, {})
    held.settle(second.id, None, 2)
    assert held.free(2) == {POD_A: 1}
    assert kept(held, 2) == {POD_A: 1}


def test_unused_slots_that_nothing_waits_for_go_back_where_others_wait() -> None:
    held = holding()
    held.apply(grant(1, {POD_A: 5}, asks={LARGE: Ask(1.0, 0.4)}), 0)
    taken(held, 1)
    held.want({LARGE: Want(3, (Bid(0.1, 0.0, 2),))}, {})
    assert held.give_back(1)
    assert kept(held, 1) == {POD_A: 3}
    assert not held.give_back(1)


def test_without_a_leader_no_slot_goes_back_though_others_waited_for_it() -> None:
    held = holding()
    held.apply(grant(1, {POD_A: 3}, asks={LARGE: Ask(1.0, 0.4)}, linger={LARGE: 0.2}), 0)
    reservation = taken(held, 1)
    held.want({LARGE: Want(3, (Bid(1.0, 0.4, 2),))}, {})
    held.alone()
    held.settle(reservation.id, None, 2)
    held.want({}, {})
    assert held.next_give_back(3) is None
    assert not held.give_back(3)
    assert kept(held, 3) == {POD_A: 3}
    held.apply(grant(2, {POD_A: 3}, linger={LARGE: 0.2}), 4)
    assert held.give_back(4)
    assert kept(held, 4) == {}


def test_units_of_a_rate_that_none_was_taken_of_go_back_too() -> None:
    held = holding()
    variants = {REQUESTS: RATES[REQUESTS]}
    held.apply(grant(1, {REQUESTS: 5}, variants=variants, linger={RATES[REQUESTS]: 1.0}), 0)
    assert held.next_give_back(0) == 1.0
    assert held.give_back(1.0)
    assert kept(held, 1) == {}
