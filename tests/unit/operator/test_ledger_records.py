"""Ledgers are ConfigMaps that are never overwritten unseen, never misread and not deleted too early."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelfleet_core.leasing.accounts import BUDGET
from modelfleet_core.leasing.ledger import LedgerRecord, Stored, budget_period
from modelfleet_core.policy import Period
from modelfleet_core.values import ObjectKey, PeriodId
from modelfleet_operator.cluster import Record, Unavailable
from modelfleet_operator.cluster.embedded import EmbeddedCluster
from modelfleet_operator.ledger_records import RecordLedgers, ledger_key, long_over
from modelfleet_operator.ledgers import LedgerConflictError, LedgerUnavailableError

POLICY = ObjectKey("ml", "assistant")
PERIOD = PeriodId("ml/assistant/Hour/2026-11-22T10")


def _record(watermark: int, version: str | None) -> LedgerRecord:
    return LedgerRecord(POLICY, PERIOD, 1, {BUDGET: Stored(watermark, 0)}, version)


async def test_a_ledger_is_read_as_it_was_written() -> None:
    ledgers = RecordLedgers(EmbeddedCluster())
    assert await ledgers.read(POLICY, PERIOD) is None
    version = await ledgers.write(_record(5, None))
    assert await ledgers.read(POLICY, PERIOD) == _record(5, version)


async def test_a_ledger_that_another_wrote_is_not_overwritten() -> None:
    ledgers = RecordLedgers(EmbeddedCluster())
    version = await ledgers.write(_record(5, None))
    await ledgers.write(_record(6, version))
    for stale in (None, version):
        with pytest.raises(LedgerConflictError):
            await ledgers.write(_record(7, stale))


async def test_a_ledger_that_was_deleted_is_not_written_as_if_it_were_there() -> None:
    ledgers = RecordLedgers(EmbeddedCluster())
    version = await ledgers.write(_record(5, None))
    await ledgers.delete(POLICY, PERIOD)
    with pytest.raises(LedgerConflictError):
        await ledgers.write(_record(6, version))


@pytest.mark.parametrize(
    "change",
    [{"accounts": "much"}, {"accounts": '{"budget": {"watermark": -1, "spent": 0}}'}, {"period": "x"}],
)
async def test_a_ledger_changed_by_hand_grants_nothing(change: dict[str, str]) -> None:
    cluster = EmbeddedCluster()
    data = _record(5, None).data() | change
    await cluster.write_record(Record(ledger_key(POLICY, PERIOD), data, {}))
    with pytest.raises(LedgerUnavailableError, match="restore it from a backup"):
        await RecordLedgers(cluster).read(POLICY, PERIOD)


async def test_an_unreachable_store_is_told_apart_from_an_empty_one(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = EmbeddedCluster()

    async def away(_: object) -> None:
        raise Unavailable("connection refused")

    monkeypatch.setattr(cluster, "read_record", away)
    monkeypatch.setattr(cluster, "write_record", away)
    with pytest.raises(LedgerUnavailableError, match="refused"):
        await RecordLedgers(cluster).read(POLICY, PERIOD)
    with pytest.raises(LedgerUnavailableError, match="refused"):
        await RecordLedgers(cluster).write(_record(5, None))


def test_names_of_ledgers_are_legal_and_distinct() -> None:
    long = ObjectKey("ml", "p" * 253)
    other = ObjectKey("ml", "p" * 252 + "q")
    names = {ledger_key(key, PeriodId(f"{key}/Hour/2026-11-22T10")).name for key in (long, other, POLICY)}
    assert len(names) == 3
    assert all(len(name) <= 253 and name == name.lower() for name in names)
    assert ledger_key(POLICY, PERIOD).name.startswith("modelfleet-ledger-assistant-2026-11-22t10-")


@given(st.sampled_from(Period), st.integers(0, 20 * 366 * 24))
def test_no_ledger_of_the_last_periods_is_deleted(period: Period, hours: int) -> None:
    now = budget_period(POLICY, period, datetime(2020, 1, 1, tzinfo=UTC) + timedelta(hours=hours))
    recent = {now.id}
    starts = now.starts
    for _ in range(7):
        before = budget_period(POLICY, period, starts - timedelta(seconds=1))
        recent.add(before.id)
        starts = before.starts
    old = long_over(POLICY, period, now.starts)
    assert len(set(old)) == 3
    assert not recent & set(old)
