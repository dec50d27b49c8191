"""Budget periods, ledger records, watermarks, and the purse that grants money."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from modelfleet_core.leasing.ledger import (
    BudgetPeriod,
    LedgerRecord,
    budget_period,
    chunk,
    ended,
    record_from,
    watermark_for,
)
from modelfleet_core.leasing.messages import AccountState, SidecarId
from modelfleet_core.leasing.purse import ForeignEpochError, Purse
from modelfleet_core.policy import Period
from modelfleet_core.values import NanoUsd, ObjectKey, PeriodId

POLICY = ObjectKey("ml", "assistant")
NOON = datetime(2026, 11, 25, 12, 30, 5, tzinfo=UTC)
DAY = budget_period(POLICY, Period.DAY, NOON)
LIMIT = NanoUsd(1280)
ONE = SidecarId("ml", "one", "uid-one", "1")
TWO = SidecarId("ml", "two", "uid-two", "1")


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
    record = LedgerRecord(POLICY, DAY.id, 3, NanoUsd(12), NanoUsd(5), "41")
    assert record_from(record.data(), "41") == record


@pytest.mark.parametrize(
    "change", [{"epoch": "x"}, {"watermarkNanoUsd": "-1"}, {"policy": "assistant"}, {"spentNanoUsd": "1.5"}]
)
def test_a_ledger_changed_by_hand_is_refused_with_a_remedy(change: dict[str, str]) -> None:
    data = LedgerRecord(POLICY, DAY.id, 3, NanoUsd(12), NanoUsd(5), None).data()
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
    granted: int = 0, spent: int = 0, reserved: int = 0, returned: int = 0, wanted: int = 0
) -> AccountState:
    return AccountState(
        NanoUsd(granted), NanoUsd(spent), NanoUsd(reserved), NanoUsd(returned), NanoUsd(wanted)
    )


def opened(stored: LedgerRecord | None = None, epoch: int = 2) -> Purse:
    purse = Purse(POLICY, DAY, epoch, stored)
    write(purse)
    return purse


def write(purse: Purse, now: float = 0.0) -> LedgerRecord:
    record = purse.due(LIMIT, now)
    assert record is not None
    purse.written(str(int(record.version or "0") + 1))
    return record


def stored(watermark: int, epoch: int = 1, version: str = "9") -> LedgerRecord:
    return LedgerRecord(POLICY, DAY.id, epoch, NanoUsd(watermark), NanoUsd(0), version)


def test_nothing_is_granted_before_the_epoch_is_stored() -> None:
    purse = Purse(POLICY, DAY, 2, None)
    purse.hear(ONE, account(wanted=50), 0)
    purse.divide(LIMIT, [ONE])
    assert purse.granted(ONE) == 0
    record = write(purse)
    assert (record.epoch, record.version) == (2, None)
    purse.divide(LIMIT, [ONE])
    assert purse.granted(ONE) == 50


def test_a_grant_beyond_the_watermark_waits_for_its_write() -> None:
    purse = opened()
    purse.hear(ONE, account(wanted=500), 0)
    purse.divide(LIMIT, [ONE])
    first = purse.granted(ONE)
    assert first < 500
    record = write(purse)
    assert record.watermark >= 500
    purse.divide(LIMIT, [ONE])
    assert purse.granted(ONE) == 500


def test_what_an_older_leader_granted_is_spent_until_it_comes_back() -> None:
    purse = opened(stored(1000))
    purse.hear(ONE, account(granted=600, spent=100), 0)
    purse.hear(TWO, account(wanted=900), 0)
    purse.divide(LIMIT, [ONE, TWO])
    write(purse)
    purse.divide(LIMIT, [ONE, TWO])
    assert purse.granted(TWO) == LIMIT - 1000
    purse.hear(ONE, account(granted=600, spent=100, returned=500), 1)
    purse.divide(LIMIT, [ONE, TWO])
    assert purse.granted(TWO) == LIMIT - 500


def test_a_vanished_sidecars_money_counts_as_spent() -> None:
    purse = opened()
    purse.hear(ONE, account(wanted=5), 0)
    purse.divide(LIMIT, [ONE])
    purse.hear(ONE, account(granted=5, spent=2, reserved=1), 1)
    assert purse.spent == 2
    purse.lose(ONE)
    assert purse.spent == 5 == purse.committed
    purse.hear(ONE, account(granted=5, spent=3), 2)
    assert purse.spent == 3


def test_a_closed_account_leaves_its_sums_and_never_lowers_what_may_be_spent() -> None:
    purse = opened(stored(6))
    purse.hear(ONE, account(granted=4, spent=1), 0)  # 4 of the 6 that an older leader granted
    purse.hear(TWO, account(wanted=5), 0)
    purse.divide(LIMIT, [ONE, TWO])
    purse.hear(TWO, account(granted=5, spent=2, reserved=1), 1)
    for sidecar in (ONE, TWO):
        purse.lose(sidecar)
    before = purse.committed, purse.spent
    for sidecar in (ONE, TWO):
        purse.close(sidecar)
        assert not purse.knows(sidecar)
        assert (purse.committed, purse.spent) == before
    purse.hear(TWO, account(granted=5, spent=3), 4000)
    assert purse.committed >= before[0]
    purse.hear(TWO, account(granted=5, spent=3, returned=2), 4001)
    assert purse.committed >= before[0] - 2


def test_scarce_money_is_shared_equally_and_called_back_from_the_idle() -> None:
    purse = opened(stored(LIMIT - 100))
    idle = SidecarId("ml", "idle", "uid-idle", "1")
    purse.hear(idle, account(granted=300, spent=0), 0)
    purse.hear(ONE, account(wanted=400), 0)
    purse.hear(TWO, account(wanted=400), 0)
    purse.divide(LIMIT, [idle, ONE, TWO])
    write(purse)
    purse.divide(LIMIT, [idle, ONE, TWO])
    assert purse.granted(ONE) == purse.granted(TWO) == 50
    assert purse.grant(idle, LIMIT, 60.0).keep == 0
    assert purse.grant(ONE, LIMIT, 60.0).keep == 400


def test_a_busy_sidecar_holds_some_seconds_of_its_spend_ahead() -> None:
    purse = opened()
    purse.hear(ONE, account(wanted=20), 0)  # the first money comes on demand
    for second in range(1, 60):
        purse.divide(LIMIT, [ONE])
        if purse.due(LIMIT, second) is not None:
            purse.written(str(second))
        purse.divide(LIMIT, [ONE])
        purse.hear(ONE, account(granted=purse.granted(ONE), spent=3 * (second - 1)), second)
        assert purse.granted(ONE) >= 3 * (second - 1)
    assert purse.free(ONE) >= 15
    assert purse.grant(ONE, LIMIT, 100.0).keep >= 30


def test_a_need_that_fades_calls_its_money_back_in_few_steps() -> None:
    purse = opened()
    purse.hear(ONE, account(wanted=LIMIT // 2), 0)
    purse.divide(LIMIT, [ONE])
    write(purse)
    purse.divide(LIMIT, [ONE])
    granted = purse.granted(ONE)
    keeps: list[int] = []
    for hundredth in range(1, 3_001):  # a sidecar that gives back at once whatever it need not keep
        keep = purse.grant(ONE, LIMIT, 100.0).keep
        keeps += [keep] if keep not in keeps else []
        purse.hear(ONE, account(granted=granted, returned=max(0, granted - keep)), hundredth / 100)
        purse.divide(LIMIT, [ONE])
    assert purse.free(ONE) <= granted // 8
    assert len(keeps) <= 8


def test_a_ledger_of_another_leader_is_not_taken_over() -> None:
    with pytest.raises(ForeignEpochError, match="epoch 7"):
        Purse(POLICY, DAY, 7, stored(5, epoch=7))
    purse = opened()
    purse.hear(ONE, account(wanted=500), 0)
    purse.divide(LIMIT, [ONE])
    assert purse.due(LIMIT, 1) is not None
    with pytest.raises(ForeignEpochError, match="epoch 3"):
        purse.found(stored(5, epoch=3))


def test_an_older_leaders_last_write_is_taken_over_while_opening() -> None:
    purse = Purse(POLICY, DAY, 2, stored(10, version="1"))
    assert purse.due(LIMIT, 0) is not None
    purse.found(stored(70, version="2"))
    assert purse.committed == 70
    assert write(purse).version == "2"


def test_a_lower_watermark_that_may_still_arrive_bounds_grants_until_it_is_overtaken() -> None:
    purse = opened()
    purse.hear(ONE, account(wanted=500), 0)
    purse.divide(LIMIT, [ONE])
    high = write(purse)
    purse.hear(ONE, account(), 1)  # it wants no more
    purse.divide(LIMIT, [ONE])
    lower = purse.due(LIMIT, 100)
    assert lower is not None
    assert lower.watermark < high.watermark
    purse.found(stored(high.watermark, epoch=2, version="2"))  # the write timed out; the store is as before
    purse.hear(ONE, account(wanted=500), 2)
    purse.divide(LIMIT, [ONE])
    assert purse.committed <= lower.watermark
    assert write(purse).version == "2"  # after this the lower one can only conflict
    purse.divide(LIMIT, [ONE])
    assert purse.granted(ONE) == 500


def test_a_stopping_leader_leaves_no_spare_money_in_the_ledger() -> None:
    purse = opened()
    purse.hear(ONE, account(wanted=5), 0)
    purse.divide(LIMIT, [ONE])
    purse.hear(ONE, account(granted=5), 0)
    record = purse.due(LIMIT, 1, exact=True)
    assert record is not None
    assert record.watermark == 5
