"""Stage publish: the account of what was ever granted, one record per policy and period.

In come the length of a policy's period and the wall clock's time; out go the period it falls in and the
record to store before anything is granted. `purse.py` decides what to grant; the operator's store writes it.

The watermark is written ahead in chunks: it is never below what sidecars may have spent or may still spend,
so that a leader that knows nothing else may grant `limit - watermark` and never more.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from modelfleet_core.leasing.accounts import BUDGET
from modelfleet_core.policy import Period
from modelfleet_core.values import AccountName, ObjectKey, PeriodId

CHUNKS = 128
"""A chunk is this part of the limit: the most that a failover leaves idle, and writes per period."""


@dataclass(frozen=True, slots=True)
class BudgetPeriod:
    """One period of a policy's accounts; `starts` and `ends` in UTC, `ends` excluded."""

    id: PeriodId
    length: Period
    starts: datetime
    ends: datetime


def budget_period(policy: ObjectKey, period: Period, at: datetime) -> BudgetPeriod:
    """Return the period that `at` falls in. `at` needs a time zone; periods follow UTC.

    The id names the policy too, such as `ml/assistant/Day/2026-11-22`: a pod that changes its policy
    keeps its accounts apart.
    """
    if at.tzinfo is None:
        raise ValueError(f"{at} has no time zone; budget periods follow UTC")
    at = at.astimezone(UTC)
    midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
    match period:
        case Period.HOUR:
            starts = at.replace(minute=0, second=0, microsecond=0)
            ends = starts + timedelta(hours=1)
        case Period.DAY:
            starts = midnight
            ends = starts + timedelta(days=1)
        case Period.WEEK:
            starts = midnight - timedelta(days=at.weekday())
            ends = starts + timedelta(days=7)
        case Period.MONTH:
            starts = midnight.replace(day=1)
            ends = (starts + timedelta(days=31)).replace(day=1)
    found = PeriodId(f"{policy}/{period.value}/{starts:{_STARTS[period]}}")
    return BudgetPeriod(found, period, starts, ends)


def period_of(period: PeriodId) -> BudgetPeriod | None:
    """Return the period with this id; None: it is not an id of ours."""
    parts = period.split("/")
    if len(parts) != 4:
        return None
    namespace, name, kind, starts = parts
    try:
        length = Period(kind)
        start = datetime.strptime(starts, _STARTS[length]).replace(tzinfo=UTC)
    except ValueError:
        return None
    return budget_period(ObjectKey(namespace, name), length, start)


def ended(period: PeriodId, at: datetime) -> bool:
    """Return whether the period with this id is over at `at`; False for an id that is not one of ours."""
    found = period_of(period)
    return found is not None and at >= found.ends


_STARTS = {
    Period.HOUR: "%Y-%m-%dT%H",
    Period.DAY: "%Y-%m-%d",
    Period.WEEK: "%Y-%m-%d",
    Period.MONTH: "%Y-%m",
}


@dataclass(frozen=True, slots=True)
class Stored:
    """What a ledger says of one account, in its unit."""

    watermark: int
    """Nothing beyond this may have been granted and not returned."""
    spent: int
    """A view for people and for pacing after a failover; limits never rest on it."""


@dataclass(frozen=True, slots=True)
class LedgerRecord:
    """What is stored of one policy and period: all accounts whose periods are of that length."""

    policy: ObjectKey
    period: PeriodId
    epoch: int
    """Of the leader that wrote it."""
    accounts: Mapping[AccountName, Stored]
    """Also those that the policy does not declare any more: it may declare them again."""
    version: str | None
    """The store's version of the record that this one replaces; None: there is none yet."""
    forecast: str = ""
    """A view of past demand, as `demand.forecast` writes it; no limit rests on it."""

    def data(self) -> dict[str, str]:
        """Return the record as text fields, as a ConfigMap holds them."""
        accounts = {
            name: {"watermark": stored.watermark, "spent": stored.spent}
            for name, stored in sorted(self.accounts.items())
        }
        return {
            "policy": str(self.policy),
            "period": self.period,
            "epoch": str(self.epoch),
            "accounts": json.dumps(accounts, indent=1),
            "forecast": self.forecast,
        }


def record_from(data: Mapping[str, str], version: str) -> LedgerRecord:
    """Return the record that `LedgerRecord.data` wrote; ValueError: it was changed by hand and is not one."""
    try:
        namespace, _, name = data["policy"].partition("/")
        record = LedgerRecord(
            policy=ObjectKey(namespace, name),
            period=PeriodId(data["period"]),
            epoch=int(data["epoch"]),
            accounts=_stored(data),
            version=version,
            forecast=data.get("forecast", ""),
        )
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"a budget ledger can not be read ({error!r}); restore it from a backup") from error
    amounts = [amount for stored in record.accounts.values() for amount in (stored.watermark, stored.spent)]
    if not (namespace and name) or min(record.epoch, *amounts, 0) < 0:
        raise ValueError(f"a budget ledger holds impossible values: {dict(data)}; restore it from a backup")
    return record


def _stored(data: Mapping[str, str]) -> dict[AccountName, Stored]:
    if "accounts" not in data:  # written when the budget was the only account
        return {BUDGET: Stored(int(data["watermarkNanoUsd"]), int(data["spentNanoUsd"]))}
    return {
        AccountName(name): Stored(operator.index(entry["watermark"]), operator.index(entry["spent"]))
        for name, entry in json.loads(data["accounts"]).items()
    }


def chunk(limit: int) -> int:
    """Return the amount by which watermarks rise."""
    return max(1, limit // CHUNKS)


def watermark_for(committed: int, watermark: int, limit: int) -> int:
    """Return the watermark to write so that `committed` may be granted.

    It stays while it covers `committed` with at most two chunks to spare; else it becomes `committed` and a
    chunk, at most `limit`. It never falls below `committed`, which a lowered limit may.
    """
    step = chunk(limit)
    if committed <= watermark <= committed + 2 * step:
        return watermark
    return max(committed, min(limit, committed + step))
