"""What a crashed sidecar left is known from its journal, and a new start of it finishes the old one."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelfleet_core.demand.sketch import NO_DEMAND
from modelfleet_core.leasing.accounts import BUDGET
from modelfleet_core.leasing.holding import Holding
from modelfleet_core.leasing.journal import Entry, JournalError, Life, life_from, line_of
from modelfleet_core.leasing.messages import Report
from modelfleet_core.leasing.reservations import Reservation
from modelfleet_core.values import AccountName, EndpointUrl, NanoUsd, account_id, rate_key
from support.lease_values import DAY, LARGE, ONE, POD_A, TODAY, YESTERDAY, grant, money

QUOTA = AccountName("quota:Day:large")
LIMIT = EndpointUrl("https://a#large/h100!requests")
FIRST = next(Life(ONE, "machine").lines())


class Start:
    """A start of a sidecar with a journal in memory."""

    def __init__(self) -> None:
        self.lines = [FIRST]
        self.held = Holding(ONE, record=self._record)
        self.held.adopt(1)

    def _record(self, entry: Entry) -> None:
        self.lines.append(line_of(entry))

    def take(self, now: float, amount: int) -> Reservation:
        reservation = self.held.reserve(
            now, POD_A, NanoUsd(amount), now + 60, charges={BUDGET: amount, QUOTA: 1}, rates={LIMIT: 1}
        )
        assert isinstance(reservation, Reservation)
        return reservation

    def finishing(self, now: float) -> Holding:
        return Holding.finishing(life_from(self.lines), now, settles_at=now + 5)


def started(*, granted: int = 100) -> Start:
    start = Start()
    accounts = {TODAY: money(granted), account_id(DAY, QUOTA): money(5)}
    start.held.apply(
        grant(1, {POD_A: 9, LIMIT: 9}, accounts, variants={LIMIT: rate_key(LARGE, "requests")}), 0
    )
    return start


def report_of(held: Holding, now: float) -> Report:
    return held.report(now, demand=NO_DEMAND, fleet_version="", policy_version="")


def test_a_new_start_settles_what_the_crashed_one_left_and_returns_the_rest() -> None:
    crashed = started()
    settled = crashed.take(1, 10)
    crashed.held.settle(settled.id, NanoUsd(4), 2)
    crashed.take(3, 20)
    cancelled = crashed.take(3, 30)
    crashed.held.cancel(cancelled.id, 3)
    last = report_of(crashed.held, 4)

    finishing = crashed.finishing(10)
    finishing.adopt(1)
    said = report_of(finishing, 10)
    assert (said.sidecar, said.leaving, said.sequence) == (ONE, True, last.sequence + 1)
    assert said.slots[POD_A].kept == 1
    money_left = said.accounts[TODAY]
    assert (money_left.spent, money_left.reserved, money_left.returned) == (4, 20, 76)
    assert not finishing.idle()
    ((_, settlement),) = finishing.expire(15)
    assert settlement.first
    done = report_of(finishing, 15)
    assert (done.accounts[TODAY].spent, done.accounts[TODAY].granted - done.accounts[TODAY].returned) == (
        24,
        24,
    )
    quota = done.accounts[account_id(DAY, QUOTA)]
    assert (quota.spent, quota.granted - quota.returned) == (2, 2)
    assert POD_A not in done.slots
    assert not finishing.has_money()


def test_limits_by_the_minute_stay_used_for_their_minute_after_a_crash() -> None:
    crashed = started()
    crashed.held.settle(crashed.take(1, 1).id, None, 2)
    crashed.take(25, 1)
    finishing = crashed.finishing(40)
    assert report_of(finishing, 40).slots[LIMIT].kept == 2
    assert report_of(finishing, 62).slots[LIMIT].kept == 1
    assert LIMIT not in report_of(finishing, 86).slots


def test_what_was_returned_before_the_crash_is_not_returned_twice() -> None:
    crashed = started()
    crashed.held.apply(grant(2, {POD_A: 1}, {TODAY: money(100, keep=30)}), 1)
    assert report_of(crashed.held, 2).accounts[TODAY].returned == 70
    state = report_of(crashed.finishing(3), 3).accounts[TODAY]
    assert (state.granted, state.returned) == (100, 100)


def test_money_that_was_on_its_way_when_the_sidecar_crashed_goes_back_too() -> None:
    finishing = started().finishing(3)
    finishing.adopt(1)
    report_of(finishing, 3)
    finishing.apply(grant(1, {}, {TODAY: money(150)}), 3)
    assert finishing.has_money()
    assert report_of(finishing, 4).accounts[TODAY].returned == 150


def test_a_free_request_on_an_account_that_was_granted_nothing_yet_is_journalled() -> None:
    start = started(granted=0)
    start.take(1, 0)
    (unsettled,) = life_from(start.lines).unsettled.values()
    assert unsettled.amounts[TODAY] == 0


def test_an_account_that_is_over_is_forgotten() -> None:
    start = started()
    start.held.apply(grant(2, {POD_A: 1}, {YESTERDAY: money(3)}), 1)
    assert set(life_from(start.lines).accounts) == {YESTERDAY}


def test_a_last_line_that_was_cut_off_says_nothing() -> None:
    start = started()
    start.take(1, 10)
    whole = life_from(start.lines)
    for length in range(len(start.lines[-1])):
        torn = life_from([*start.lines[:-1], start.lines[-1][:length]] if length else start.lines[:-1])
        assert torn.unsettled == {}
    assert len(whole.unsettled) == 1


@pytest.mark.parametrize(
    "lines",
    [
        [],
        ["nonsense\n"],
        ['["taken",1,"x",{},{},0]\n'],
        [FIRST, "\n"],
        [FIRST, FIRST],
        [FIRST.replace("1", "9", 1)],
        [FIRST, '["granted","a",-1]\n'],
        [FIRST, '["granted","a",true]\n'],
        [FIRST, '["ended",7,{}]\n'],
        [FIRST, '["taken",1,"x",{"a":5},{},0]\n'],
        [FIRST, '["taken",1,"x",[],{},0]\n'],
        [FIRST, '["over","a"]\n'],
        [FIRST, '["later"]\n'],
        [FIRST, '["rate","a","soon",1]\n'],
        [FIRST, "[" * 100_000 + "\n"],
        [FIRST, "5\n"],
    ],
)
def test_what_is_no_journal_is_refused_at_its_line(lines: list[str]) -> None:
    with pytest.raises(JournalError, match=r"line \d|no first line"):
        life_from(lines)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["take", "settle", "cancel", "report", "grant"]), st.integers(0, 9)))
)
def test_a_journal_and_its_shortest_form_tell_the_same_as_the_holding(steps: list[tuple[str, int]]) -> None:
    start = started(granted=40)
    taken: list[Reservation] = []
    life = life_from(start.lines)
    for number, (what, amount) in enumerate(steps, 2):
        now = float(number)
        match what:
            case "take":
                asked = start.held.reserve(
                    now,
                    POD_A,
                    NanoUsd(amount),
                    now + 60,
                    charges={BUDGET: amount, QUOTA: 1},
                    rates={LIMIT: 1},
                )
                taken += [asked] if isinstance(asked, Reservation) else []
            case "settle" if taken:
                start.held.settle(taken.pop(amount % len(taken)).id, NanoUsd(0), now)
            case "cancel" if taken:
                start.held.cancel(taken.pop(amount % len(taken)).id, now)
            case "report":
                report_of(start.held, now)
            case "grant":
                accounts = {TODAY: money(40 + number, keep=amount), account_id(DAY, QUOTA): money(5)}
                given_slots = {POD_A: 9, LIMIT: 9}
                variants = {LIMIT: rate_key(LARGE, "requests")}
                start.held.apply(grant(number, given_slots, accounts, variants=variants), now)
        life = life_from(start.lines)
        for key in start.held.accounts():
            state, lived = start.held.account(key), life.accounts.get(key)
            assert state is not None
            if lived is None:
                assert (state.granted, state.spent) == (0, 0)
            else:
                assert (state.granted, state.spent, state.returned) == (
                    lived.granted,
                    lived.spent,
                    lived.returned,
                )
        assert set(life.unsettled) == {reservation.id for reservation in taken}
    again = life_from(life.lines())
    assert (again.accounts, again.rates, again.reports) == (life.accounts, life.rates, life.reports)
    assert again.unsettled.keys() == life.unsettled.keys()
