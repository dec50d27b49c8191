"""Periods, ledger records, watermarks, and the purses that grant money and requests."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

import pytest
from modelfleet_core.leasing.accounts import BUDGET
from modelfleet_core.leasing.ledger import (
    BudgetPeriod,
    LedgerRecord,
    Stored,
    budget_period,
    chunk,
    ended,
    record_from,
    watermark_for,
)
from modelfleet_core.leasing.messages import AccountState, Need, SidecarId
from modelfleet_core.leasing.period_accounts import ForeignEpochError, PeriodAccounts
from modelfleet_core.leasing.purse import BARRED, UNUSED, Purse
from modelfleet_core.policy import Period
from modelfleet_core.values import AccountId, AccountName, ObjectKey, PeriodId, account_id

POLICY = ObjectKey("ml", "assistant")
NOON = datetime(2026, 11, 25, 12, 30, 5, tzinfo=UTC)
DAY = budget_period(POLICY, Period.DAY, NOON)
LIMIT = 1280
QUOTA = AccountName("quota:Day:large")
ONE = SidecarId("ml", "one", "uid-one", "1")
TWO = SidecarId("ml", "two", "uid-two", "1")
IDLE = SidecarId("ml", "idle", "uid-idle", "1")


@pytest.mark.parametrize(
    ("period", "name", "starts", "ends"),
    [
        (Period.HOUR, "Hour/2026-11-25T12", "2026-11-25T12:00", "2026-11-25T13:00"),
        (Period.DAY, "Day/2026-11-25", "2026-11-25T00:00", "2026-11-26T00:00"),
        (Period.WEEK, "Week/2026-11-23", "2026-11-23T00:00", "2026-11-30T00:00"),
        (Period.MONTH, "Month/2026-11", "2026-11-01T00:00", "2026-12-01T00:00"),
    ],
)
def test_periods_start_on_the_hour_day_monday_and_first_in_utc(
    period: Period, name: str, starts: str, ends: str
) -> None:
    found = budget_period(POLICY, period, NOON.astimezone(timezone(timedelta(hours=13))))
    assert found == BudgetPeriod(
        PeriodId(f"ml/assistant/{name}"),
        period,
        datetime.fromisoformat(f"{starts}Z"),
        datetime.fromisoformat(f"{ends}Z"),
    )
    assert not ended(found.id, found.ends - timedelta(microseconds=1))
    assert ended(found.id, found.ends)


def test_december_ends_with_the_year() -> None:
    period = budget_period(POLICY, Period.MONTH, datetime(2026, 12, 31, tzinfo=UTC))
    assert period.ends == datetime(2027, 1, 1, tzinfo=UTC)


def test_a_time_without_zone_has_no_period() -> None:
    with pytest.raises(ValueError, match="no time zone"):
        budget_period(POLICY, Period.DAY, datetime(2026, 11, 25))  # noqa: DTZ001


@pytest.mark.parametrize("name", ["", "Day/2026-11-25", "ml/assistant/Day/today", "ml/assistant/Year/2026"])
def test_an_unknown_period_never_ends(name: str) -> None:
    assert not ended(PeriodId(name), datetime(2099, 1, 1, tzinfo=UTC))


def test_a_record_survives_its_storage() -> None:
    accounts = {BUDGET: Stored(12, 5), QUOTA: Stored(7, 7)}
    record = LedgerRecord(POLICY, DAY.id, 3, accounts, "41", "profile")
    assert record_from(record.data(), "41") == record


def test_a_record_of_the_time_when_the_budget_was_the_only_account_is_read() -> None:
    data = {"policy": "ml/assistant", "period": DAY.id, "epoch": "3"}
    old = data | {"watermarkNanoUsd": "12", "spentNanoUsd": "5"}
    assert record_from(old, "41") == LedgerRecord(POLICY, DAY.id, 3, {BUDGET: Stored(12, 5)}, "41")


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": "x"},
        {"policy": "assistant"},
        {"accounts": "much"},
        {"accounts": "[]"},
        {"accounts": '{"budget": {"watermark": -1, "spent": 0}}'},
        {"accounts": '{"budget": {"watermark": 1, "spent": 0.5}}'},
        {"accounts": '{"budget": 5}'},
        {"accounts": "[" * 100_000},
    ],
)
def test_a_ledger_changed_by_hand_is_refused_with_a_remedy(change: dict[str, str]) -> None:
    data = LedgerRecord(POLICY, DAY.id, 3, {BUDGET: Stored(12, 5)}, None).data()
    with pytest.raises(ValueError, match="restore it from a backup"):
        record_from(data | change, "1")


def test_watermarks_rise_in_chunks_and_fall_when_much_came_back() -> None:
    step = chunk(LIMIT)
    assert watermark_for(0, 0, LIMIT) == 0
    assert watermark_for(1, 0, LIMIT) == 1 + step
    assert watermark_for(LIMIT - 1, 0, LIMIT) == LIMIT
    assert watermark_for(100, 100 + 2 * step, LIMIT) == 100 + 2 * step
    assert watermark_for(100, 101 + 2 * step, LIMIT) == 100 + step
    assert watermark_for(LIMIT + 7, LIMIT, LIMIT) == LIMIT + 7


def account(
    granted: int = 0,
    spent: int = 0,
    reserved: int = 0,
    returned: int = 0,
    *,
    wanted: int = 0,
    first: int = 0,
    price: float = 0.1,
) -> AccountState:
    """Return an account as a report shows it; `wanted`: what waiting requests need beyond what is free."""
    free = granted - returned - spent - reserved
    need = Need(free + wanted, first or free + wanted, 1.0, price) if wanted else None
    return AccountState(granted, spent, reserved, returned, need)


class Ledger:
    """Accounts of a day as one leader keeps them; without `limits` only the budget."""

    def __init__(
        self, *, record: LedgerRecord | None = None, limits: dict[AccountName, int] | None = None
    ) -> None:
        self.accounts = PeriodAccounts(POLICY, DAY, 2, record)
        self.accounts.set_limits(limits or {BUDGET: LIMIT})
        self._states: dict[SidecarId, dict[AccountId, AccountState]] = {}

    def hear(self, sidecar: SidecarId, state: AccountState, now: float, name: AccountName = BUDGET) -> None:
        states = self._states.setdefault(sidecar, {})
        states[account_id(DAY.id, name)] = state
        self.accounts.hear(sidecar, states, now)
        self.accounts.enrol(sidecar, now)

    def divide(self, now: float = 0.0) -> set[SidecarId]:
        return self.accounts.divide(now)

    def write(self, now: float = 0.0) -> LedgerRecord:
        record = self.accounts.due(now)
        assert record is not None
        self.accounts.written(str(int(record.version or "0") + 1))
        return record

    def served(self, now: float = 0.0) -> None:
        """Divide and write until nothing changes any more."""
        for _ in range(5):
            self.divide(now)
            if self.accounts.due(now) is not None:
                self.accounts.written("1")

    def granted(self, sidecar: SidecarId, name: AccountName = BUDGET) -> int:
        purse = self.accounts.purse(name)
        return purse.granted(sidecar) if purse is not None else 0

    def free(self, sidecar: SidecarId) -> int:
        purse = self.accounts.purse(BUDGET)
        return purse.free(sidecar) if purse is not None else 0

    def keep(self, sidecar: SidecarId) -> int:
        purse = self.accounts.purse(BUDGET)
        return purse.keep(sidecar) if purse is not None else 0

    @property
    def committed(self) -> int:
        purse = self.accounts.purse(BUDGET)
        return purse.committed if purse is not None else 0

    @property
    def spent(self) -> int:
        purse = self.accounts.purse(BUDGET)
        return purse.spent if purse is not None else 0


def opened(record: LedgerRecord | None = None, limits: dict[AccountName, int] | None = None) -> Ledger:
    ledger = Ledger(record=record, limits=limits)
    ledger.write()
    return ledger


def stored(watermark: int, epoch: int = 1, version: str = "9") -> LedgerRecord:
    return LedgerRecord(POLICY, DAY.id, epoch, {BUDGET: Stored(watermark, 0)}, version)


def test_nothing_is_granted_before_the_epoch_is_stored() -> None:
    ledger = Ledger()
    ledger.hear(ONE, account(wanted=50), 0)
    ledger.divide()
    assert ledger.granted(ONE) == 0
    record = ledger.write()
    assert (record.epoch, record.version) == (2, None)
    ledger.divide()
    assert ledger.granted(ONE) == 50


def test_a_grant_beyond_the_watermark_waits_for_its_write() -> None:
    ledger = opened()
    ledger.hear(ONE, account(wanted=500), 0)
    ledger.divide()
    first = ledger.granted(ONE)
    assert first < 500
    record = ledger.write()
    assert record.accounts[BUDGET].watermark >= 500
    ledger.divide()
    assert ledger.granted(ONE) == 500


def test_what_an_older_leader_granted_is_spent_until_it_comes_back() -> None:
    ledger = opened(stored(1000))
    ledger.hear(ONE, account(granted=600, spent=100), 0)
    ledger.hear(TWO, account(wanted=900, first=1), 0)
    ledger.divide()
    ledger.write()
    ledger.divide()
    assert ledger.granted(TWO) == LIMIT - 1000
    ledger.hear(ONE, account(granted=600, spent=100, returned=500), 1)
    ledger.divide()
    assert ledger.granted(TWO) == LIMIT - 500


def test_a_vanished_sidecars_money_counts_as_spent() -> None:
    ledger = opened()
    ledger.hear(ONE, account(wanted=5), 0)
    ledger.divide()
    ledger.hear(ONE, account(granted=5, spent=2, reserved=1), 1)
    assert ledger.spent == 2
    ledger.accounts.lose(ONE)
    assert ledger.spent == 5 == ledger.committed
    ledger.hear(ONE, account(granted=5, spent=3), 2)
    assert ledger.spent == 3


def test_a_closed_account_leaves_its_sums_and_never_lowers_what_may_be_spent() -> None:
    ledger = opened(stored(6))
    ledger.hear(ONE, account(granted=4, spent=1), 0)  # 4 of the 6 that an older leader granted
    ledger.hear(TWO, account(wanted=5), 0)
    ledger.divide()
    ledger.hear(TWO, account(granted=5, spent=2, reserved=1), 1)
    for sidecar in (ONE, TWO):
        ledger.accounts.lose(sidecar)
    before = ledger.committed, ledger.spent
    for sidecar in (ONE, TWO):
        ledger.accounts.close(sidecar)
        assert not ledger.accounts.purse(BUDGET).knows(sidecar)
        assert (ledger.committed, ledger.spent) == before
    ledger.hear(TWO, account(granted=5, spent=3), 4000)
    assert ledger.committed >= before[0]
    ledger.hear(TWO, account(granted=5, spent=3, returned=2), 4001)
    assert ledger.committed >= before[0] - 2


def test_scarce_money_is_granted_in_whole_needs_and_called_back_from_the_idle() -> None:
    ledger = opened(stored(LIMIT - 100))
    ledger.hear(IDLE, account(granted=300), 0)
    ledger.hear(ONE, account(wanted=400, first=30), 0)
    ledger.hear(TWO, account(wanted=400, first=40), 0)
    told = ledger.divide()
    ledger.write()
    told |= ledger.divide()
    assert (ledger.granted(ONE), ledger.granted(TWO)) == (60, 40)
    assert told == {IDLE, ONE, TWO}
    assert (ledger.keep(IDLE), ledger.keep(ONE)) == (0, 400)


def test_who_bids_more_comes_first_then_who_waits_longer() -> None:
    ledger = opened(stored(LIMIT - 100))
    ledger.hear(ONE, account(wanted=60, price=0.1), 0)
    ledger.served(0)
    assert ledger.granted(ONE) == 60
    ledger.hear(TWO, account(wanted=50, price=0.1), 1)
    ledger.served(1)
    ledger.hear(IDLE, account(wanted=50, price=0.2), 2)
    ledger.served(2)
    assert (ledger.granted(TWO), ledger.granted(IDLE)) == (0, 0)
    ledger.hear(ONE, account(granted=60, spent=20, returned=40), 3)
    ledger.served(3)
    assert (ledger.granted(TWO), ledger.granted(IDLE)) == (0, 50)


def test_the_first_in_line_is_waited_for_while_called_back_money_comes() -> None:
    ledger = opened(stored(LIMIT - 10))
    ledger.hear(IDLE, account(granted=60), 0)
    ledger.hear(ONE, account(wanted=50, price=0.9), 0)
    ledger.hear(TWO, account(wanted=10, price=0.1), 0)
    ledger.served(0)
    assert (ledger.granted(ONE), ledger.granted(TWO)) == (0, 0)
    ledger.hear(IDLE, account(granted=60, returned=60), 1)
    ledger.served(1)
    assert (ledger.granted(ONE), ledger.granted(TWO)) == (50, 10)


def test_a_need_that_nothing_can_meet_does_not_hold_up_others() -> None:
    ledger = opened(stored(LIMIT - 10))
    ledger.hear(ONE, account(wanted=50, price=0.9), 0)
    ledger.hear(TWO, account(wanted=10, price=0.1), 0)
    ledger.served(0)
    assert (ledger.granted(ONE), ledger.granted(TWO)) == (0, 10)


def test_a_part_of_a_need_is_called_back_for_others() -> None:
    ledger = opened(stored(LIMIT))
    ledger.hear(ONE, account(granted=30, wanted=20, first=50), 0)
    ledger.hear(TWO, account(granted=20, wanted=5, first=25), 0)
    told = ledger.divide(0)
    assert told == {ONE, TWO}
    assert (ledger.keep(ONE), ledger.keep(TWO)) == (0, 0)
    ledger.hear(ONE, account(granted=30, returned=30, wanted=50), 1)
    ledger.hear(TWO, account(granted=20, returned=20, wanted=25), 1)
    ledger.served(1)
    assert (ledger.granted(ONE), ledger.granted(TWO)) in {(80, 20), (30, 45)}


def test_scarce_money_that_waits_beside_requests_goes_to_others_after_a_moment() -> None:
    ledger = opened(stored(LIMIT - 50))
    ledger.hear(ONE, account(wanted=50, price=0.9), 0)
    ledger.served(0)
    ledger.hear(TWO, account(wanted=50, price=0.1), 0.1)
    ledger.served(0.1)
    waits = Need(50, 50, 1.0, 0.9)
    assert ledger.keep(ONE) == 50
    ledger.hear(ONE, replace(account(granted=50), need=waits), UNUSED)  # it has the money but no slot
    assert ONE in ledger.divide(UNUSED)
    assert ledger.keep(ONE) == 0
    ledger.hear(ONE, account(granted=50, returned=50, wanted=50, price=0.9), UNUSED)
    ledger.served(UNUSED)
    assert (ledger.granted(ONE), ledger.granted(TWO)) == (50, 50)
    ledger.hear(TWO, account(granted=50, returned=50), UNUSED + BARRED)
    ledger.served(UNUSED + BARRED)
    assert ledger.granted(ONE) == 100


def test_each_account_has_its_own_limit_and_one_record_covers_all() -> None:
    ledger = opened(limits={BUDGET: LIMIT, QUOTA: 3})
    for sidecar in (ONE, TWO):
        ledger.hear(sidecar, account(wanted=2, first=1), 0, QUOTA)
    ledger.hear(ONE, account(wanted=100), 0)
    ledger.divide()
    record = ledger.write()
    ledger.divide()
    assert record.accounts[QUOTA].watermark == 3
    assert record.accounts[BUDGET].watermark >= 100
    assert ledger.granted(ONE) == 100
    assert sorted([ledger.granted(ONE, QUOTA), ledger.granted(TWO, QUOTA)]) == [1, 2]


def test_an_account_that_is_not_declared_any_more_keeps_what_was_charged() -> None:
    ledger = opened(limits={BUDGET: LIMIT, QUOTA: 30})
    ledger.hear(ONE, account(wanted=20), 0, QUOTA)
    ledger.served(0)
    ledger.accounts.set_limits({BUDGET: LIMIT})
    ledger.hear(ONE, account(granted=20, spent=1, wanted=5), 1, QUOTA)
    told = ledger.divide(1)
    quota = ledger.accounts.purse(QUOTA)
    assert quota is not None
    assert (told, quota.keep(ONE), quota.granted(ONE)) == ({ONE}, 0, 20)
    ledger.hear(ONE, account(granted=20, spent=1, returned=19), 2, QUOTA)
    ledger.divide(2)
    record = ledger.accounts.due(40)
    assert record is not None
    assert record.accounts[QUOTA] == Stored(1, 1)


def test_only_what_changed_is_looked_at_while_money_is_not_scarce(monkeypatch: pytest.MonkeyPatch) -> None:
    ledger = opened()
    for number in range(50):
        ledger.hear(SidecarId("ml", f"s{number}", f"u{number}", "1"), account(wanted=1), 0)
    ledger.served(0)
    looked: list[SidecarId] = []
    look = Purse._look_at

    def counted(self: Purse, sidecar: SidecarId, now: float) -> None:
        looked.append(sidecar)
        look(self, sidecar, now)

    monkeypatch.setattr(Purse, "_look_at", counted)
    ledger.hear(ONE, account(wanted=5), 1)
    assert ledger.divide(1) == {ONE}
    assert set(looked) == {ONE}


def test_a_busy_sidecar_holds_some_seconds_of_its_spend_ahead() -> None:
    ledger = opened()
    ledger.hear(ONE, account(wanted=20), 0)  # the first money comes on demand
    for second in range(1, 60):
        ledger.divide()
        if ledger.accounts.due(second) is not None:
            ledger.accounts.written(str(second))
        ledger.divide()
        ledger.hear(ONE, account(granted=ledger.granted(ONE), spent=3 * (second - 1)), second)
        assert ledger.granted(ONE) >= 3 * (second - 1)
    assert ledger.free(ONE) >= 15
    assert ledger.keep(ONE) >= 30


def test_a_need_that_fades_calls_its_money_back_in_few_steps() -> None:
    ledger = opened()
    ledger.hear(ONE, account(wanted=LIMIT // 2), 0)
    ledger.divide()
    ledger.write()
    ledger.divide()
    granted = ledger.granted(ONE)
    keeps: list[int] = []
    for hundredth in range(1, 3_001):  # a sidecar that gives back at once whatever it need not keep
        keep = ledger.keep(ONE)
        keeps += [keep] if keep not in keeps else []
        ledger.hear(ONE, account(granted=granted, returned=max(0, granted - keep)), hundredth / 100)
        ledger.divide()
    assert ledger.free(ONE) <= granted // 8
    assert len(keeps) <= 8


def test_a_ledger_of_another_leader_is_not_taken_over() -> None:
    with pytest.raises(ForeignEpochError, match="epoch 7"):
        PeriodAccounts(POLICY, DAY, 7, stored(5, epoch=7))
    ledger = opened()
    ledger.hear(ONE, account(wanted=500), 0)
    ledger.divide()
    assert ledger.accounts.due(1) is not None
    with pytest.raises(ForeignEpochError, match="epoch 3"):
        ledger.accounts.found(stored(5, epoch=3))


def test_an_older_leaders_last_write_is_taken_over_while_opening() -> None:
    ledger = Ledger(record=stored(10, version="1"))
    assert ledger.accounts.due(0) is not None
    ledger.accounts.found(stored(70, version="2"))
    assert ledger.committed == 70
    assert ledger.write().version == "2"


def test_a_lower_watermark_that_may_still_arrive_bounds_grants_until_it_is_overtaken() -> None:
    ledger = opened()
    ledger.hear(ONE, account(wanted=500), 0)
    ledger.divide()
    high = ledger.write()
    ledger.hear(ONE, account(), 1)  # it wants no more
    ledger.divide()
    lower = ledger.accounts.due(100)
    assert lower is not None
    assert lower.accounts[BUDGET].watermark < high.accounts[BUDGET].watermark
    ledger.accounts.found(
        stored(high.accounts[BUDGET].watermark, epoch=2, version="2")
    )  # the write timed out; the store is as before
    ledger.hear(ONE, account(wanted=500), 2)
    ledger.divide()
    assert ledger.committed <= lower.accounts[BUDGET].watermark
    assert ledger.write().version == "2"  # after this the lower one can only conflict
    ledger.divide()
    assert ledger.granted(ONE) == 500


def test_a_stopping_leader_leaves_no_spare_money_in_the_ledger() -> None:
    ledger = opened()
    ledger.hear(ONE, account(wanted=5), 0)
    ledger.divide()
    ledger.hear(ONE, account(granted=5), 0)
    record = ledger.accounts.due(1, exact=True)
    assert record is not None
    assert record.accounts[BUDGET].watermark == 5
