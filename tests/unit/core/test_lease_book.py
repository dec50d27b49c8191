"""The leader's side of all leases."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from datetime import timedelta

from modelfleet_core.leasing.accounts import BUDGET
from modelfleet_core.leasing.grants import Documents, LeaseBook, Prices
from modelfleet_core.leasing.messages import AccountState, Need
from modelfleet_core.leasing.slots import UPSTREAM_NOTICES
from modelfleet_core.values import account_id
from support.lease_values import (
    AT,
    FLEET,
    LARGE,
    LONGEST,
    ONE,
    POD_A,
    POD_B,
    POLICY,
    TODAY,
    TTL,
    TWO,
    granted,
    hear,
    lease_book,
    report,
)


def held(book: LeaseBook) -> dict[str, int]:
    """Return the slots that all sidecars together may hold, by endpoint."""
    by_endpoint = Counter[str]()
    for holder in book.holders():
        by_endpoint.update(holder.held())
    return dict(by_endpoint)


def slots(book: LeaseBook, now: float) -> dict[str, dict[str, int]]:
    return {
        sidecar.pod: {str(endpoint): given.slots for endpoint, given in grant.slots.items()}
        for sidecar, grant in granted(book, now).items()
    }


def test_recalled_slots_go_to_others_only_when_they_came_back() -> None:
    book = lease_book({POD_A: 4})
    hear(book, report(ONE, 1, wants=4), 0)
    assert slots(book, 0) == {"one": {POD_A: 4}}
    hear(book, report(ONE, 2, {POD_A: 4}, applied=1, wants=2), 1)
    hear(book, report(TWO, 1, wants=2), 1)
    assert slots(book, 1) == {"one": {POD_A: 2}, "two": {}}
    hear(book, report(ONE, 3, {POD_A: 3}, applied=2, wants=2), 1.1)
    assert slots(book, 1.1)["two"] == {POD_A: 1}
    hear(book, report(ONE, 4, {POD_A: 2}, applied=2, wants=2), 1.2)
    assert slots(book, 1.2)["two"] == {POD_A: 2}
    assert held(book) == {POD_A: 4}


def test_every_unacknowledged_grant_counts_as_held() -> None:
    book = lease_book({POD_A: 4})
    hear(book, report(ONE, 1, wants=4), 0)
    granted(book, 0)
    hear(book, report(TWO, 1, wants=4), 0)
    granted(book, 0)
    hear(book, report(ONE, 2, wants=4), 0.1)  # it has applied nothing yet
    assert held(book) == {POD_A: 4}
    assert slots(book, 0.1) == {}


def test_reports_of_another_epoch_or_older_than_the_last_do_not_count() -> None:
    book = lease_book({POD_A: 4}, epoch=2)
    assert not hear(book, report(ONE, 1, epoch=1), 0)
    assert hear(book, report(ONE, 5, epoch=2), 0)
    assert not hear(book, report(ONE, 5, epoch=2), 0)
    assert not hear(book, report(ONE, 4, epoch=2), 0)


def test_a_lease_is_renewed_in_time_and_prices_ride_along() -> None:
    book = lease_book({POD_A: 4})
    hear(book, report(ONE, 1), 0)
    assert granted(book, 0)
    hear(book, report(ONE, 2, {POD_A: 4}, applied=1), 1)
    book.set_prices(Prices({FLEET: {LARGE: 0.5}}, {POLICY: 2.0}))
    assert not granted(book, 1)
    hear(book, report(ONE, 6, {POD_A: 4}, applied=1), 5)
    renewed = granted(book, 5)[ONE]
    assert (renewed.answers, renewed.report_sent_at, renewed.ttl) == (6, 6.0, TTL)
    assert (renewed.slot_prices, renewed.money_price) == ({LARGE: 0.5}, 2.0)


def test_a_silent_sidecars_slots_are_reclaimed_after_its_lease_and_longest_request() -> None:
    book = lease_book({POD_A: 4})
    hear(book, report(ONE, 1, wants=4), 0)
    granted(book, 0)
    over = TTL + LONGEST
    hear(book, report(TWO, 1, wants=4), over - 1)
    book.prune(over - 0.01)
    assert slots(book, over - 1)["two"] == {}
    book.prune(over)
    assert slots(book, over) == {"two": {POD_A: 4}}


def test_a_deleted_pods_slots_are_reclaimed_once_model_servers_noticed() -> None:
    book = lease_book({POD_A: 4})
    hear(book, report(ONE, 1, wants=4), 0)
    granted(book, 0)
    hear(book, report(TWO, 1, wants=4), 1)
    book.forget(ONE.uid, 1)
    book.prune(1)
    assert slots(book, 1)["two"] == {}
    book.prune(1 + UPSTREAM_NOTICES)
    assert slots(book, 1 + UPSTREAM_NOTICES) == {"two": {POD_A: 4}}


def test_a_sidecar_thought_lost_counts_again_when_it_reports() -> None:
    book = lease_book({POD_A: 4})
    hear(book, report(ONE, 1, wants=4), 0)
    granted(book, 0)
    book.prune(TTL + LONGEST)
    hear(book, report(TWO, 1, wants=4), TTL + LONGEST)
    granted(book, TTL + LONGEST)
    late = TTL + LONGEST + 1
    hear(book, report(ONE, 2, {POD_A: 1}, applied=1, wants=4), late)
    assert held(book) == {POD_A: 5}
    assert slots(book, late)["one"] == {}
    hear(book, report(TWO, 2, {POD_A: 4}, applied=2, wants=2), late)
    assert slots(book, late) == {"two": {POD_A: 2}}
    hear(book, report(TWO, 3, {POD_A: 2}, applied=3, wants=2), late)
    assert slots(book, late)["one"] == {POD_A: 1}  # which it may be using already
    assert slots(book, late)["one"] == {POD_A: 2}


def test_vanished_capacity_is_recalled_and_not_granted_again_before_it_fits() -> None:
    book = lease_book({POD_A: 4, POD_B: 4})
    hear(book, report(ONE, 1), 0)
    hear(book, report(TWO, 1), 0)
    assert slots(book, 0) == {"one": {POD_A: 2, POD_B: 2}, "two": {POD_A: 2, POD_B: 2}}
    book.set_capacity({FLEET: {LARGE: {POD_A: 1}}})
    recalled = slots(book, 0.1)
    assert sum(given.get(POD_A, 0) for given in recalled.values()) == 1
    assert all(POD_B not in given for given in recalled.values())
    hear(book, report(ONE, 2, {POD_A: 2}, applied=1, wants=4), 0.2)
    assert all(given.get(POD_A, 0) <= 1 for given in slots(book, 0.2).values())


def test_a_new_leader_grants_nothing_beyond_what_is_reported_until_all_are_accounted_for() -> None:
    book = lease_book({POD_A: 4}, epoch=2, may_hold=(ONE.uid, TWO.uid, "uid-three"))
    hear(book, report(ONE, 1, {POD_A: 1}, epoch=2, wants=4), 0)
    assert slots(book, 0) == {"one": {POD_A: 1}}
    hear(book, report(TWO, 1, {POD_A: 2}, epoch=2), 1)
    assert slots(book, 1) == {"two": {}}  # recalled, for the one that wants
    hear(book, report(TWO, 2, {}, epoch=2, applied=1), 2)
    assert slots(book, 2) == {"one": {POD_A: 3}}
    book.forget("uid-three", 3)
    assert book.recovering(3 + UPSTREAM_NOTICES - 0.1)
    assert not book.recovering(3 + UPSTREAM_NOTICES)
    hear(book, report(ONE, 2, {POD_A: 3}, epoch=2, applied=2, wants=4), 8)
    assert slots(book, 8)["one"] == {POD_A: 4}


def test_a_leader_that_does_not_know_who_holds_leases_waits_until_all_are_over() -> None:
    book = lease_book({POD_A: 4}, epoch=2, may_hold=None)
    assert book.recovering(TTL + LONGEST - 0.1)
    assert not book.recovering(TTL + LONGEST)


def test_documents_are_sent_once_a_stream_and_when_they_change() -> None:
    book = lease_book({POD_A: 4})
    hear(book, report(ONE, 1), 0)
    first = granted(book, 0)[ONE]
    assert first.fleet is not None
    assert first.policy is not None
    book.set_capacity({FLEET: {LARGE: {POD_A: 3}}})
    assert granted(book, 0.1)[ONE].fleet is None
    book.connect(ONE)
    assert granted(book, 0.2)[ONE].fleet == first.fleet
    held = (first.fleet.version, first.policy.version)
    hear(book, report(ONE, 2, {POD_A: 3}, applied=3, versions=held), 1)
    book.connect(ONE)
    assert granted(book, 1)[ONE].fleet is None


def test_a_budgeted_policys_sidecars_get_nothing_before_the_epoch_is_in_its_ledger() -> None:
    book = lease_book({POD_A: 4}, budget=True)
    hear(book, report(ONE, 1), 0)
    assert not granted(book, 0)
    ((policy, period),) = book.unopened(AT)
    book.open(policy, period, None, 0)
    assert not granted(book, 0)
    (record,) = book.due(0)
    book.written(record, "1")
    assert slots(book, 0) == {"one": {POD_A: 4}}
    assert book.unopened(AT) == ()


def open_ledgers(book: LeaseBook, now: float) -> None:
    for record in book.due(now):
        book.written(record, str(now))


def test_an_account_is_listed_until_its_period_is_over_and_nothing_is_left_in_it() -> None:
    book = lease_book({POD_A: 4}, budget=True)
    ((policy, today),) = book.unopened(AT)
    book.open(policy, today, None, 0)
    open_ledgers(book, 0)
    state = AccountState(0, 0, 0, 0, Need(50, 50, 1.0, 0.5))
    hear(book, report(ONE, 1, accounts={TODAY: state}), 0)
    granted(book, 0)
    open_ledgers(book, 1)
    given = granted(book, 1)[ONE].accounts[TODAY]
    assert given.granted == 50
    tomorrow = AT + timedelta(days=1)
    ((policy, period),) = book.unopened(tomorrow)
    book.open(policy, period, None, 2)
    open_ledgers(book, 2)
    busy = AccountState(50, 1, 9, 0)
    hear(book, report(ONE, 2, {POD_A: 4}, applied=2, accounts={TODAY: busy}), 2)
    listed = granted(book, 2)[ONE].accounts
    assert (listed[TODAY].keep, listed[TODAY].ends_in) == (0, 0.0)
    assert listed[account_id(period.id, BUDGET)].ends_in > 0
    done = replace(busy, spent=10, reserved=0, returned=40)
    hear(book, report(ONE, 9, {POD_A: 4}, applied=3, accounts={TODAY: done}), 9)
    assert TODAY not in granted(book, 9)[ONE].accounts
    assert book.unopened(AT) == ()  # a clock put back opens no closed period


def test_a_sidecar_without_policy_is_told_why_and_loses_its_slots() -> None:
    book = lease_book({POD_A: 4})
    hear(book, report(ONE, 1), 0)
    granted(book, 0)
    book.follow(ONE, "no policy selects it")
    told = granted(book, 1)[ONE]
    assert (told.refusal, told.slots) == ("no policy selects it", {})


def test_a_deleted_policy_ends_grants_without_harm_to_others() -> None:
    book = lease_book({POD_A: 4})
    hear(book, report(ONE, 1), 0)
    granted(book, 0)
    book.set_documents(Documents({}, {}))
    assert granted(book, 1) == {}
