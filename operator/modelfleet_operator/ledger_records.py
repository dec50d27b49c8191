"""Stage publish: ledgers as ConfigMaps, one per policy and period, each with all accounts of that period.

In: the publisher's reads and writes. Out: compare-and-swap writes of records in the policy's namespace. They
are not owned by the policy: deleting and creating it again must not grant a period's money twice.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

from modelfleet_core.leasing.ledger import LedgerRecord, budget_period, record_from
from modelfleet_core.policy import Period
from modelfleet_core.values import ObjectKey, PeriodId

from modelfleet_operator.cluster import Cluster, ClusterError, Conflict, NotFound, Record, Rejected
from modelfleet_operator.ledgers import LedgerConflictError, LedgerUnavailableError

_LABELS = {"app.kubernetes.io/managed-by": "modelfleet", "modelfleet.io/ledger": "budget"}
_LONGEST_POLICY = 150
"""Letters of a policy's name in that of its ledgers, which must stay below 253."""
KEPT = 7
"""Past periods whose ledgers stay."""
DELETED_AT_ONCE = 3
"""Old ledgers looked for in each period, so that those of a pause of the operator go too."""


class RecordLedgers:
    """A `LedgerStore` in the cluster."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    async def read(self, policy: ObjectKey, period: PeriodId) -> LedgerRecord | None:
        try:
            record = await self._cluster.read_record(ledger_key(policy, period))
        except ClusterError as error:
            raise LedgerUnavailableError(str(error)) from error
        if record is None:
            return None
        try:
            found = record_from(record.data, record.resource_version or "")
        except ValueError as error:
            # Nothing is granted on a ledger that can not be read: a wrong guess would spend money twice.
            raise LedgerUnavailableError(f"ConfigMap {record.key}: {error}") from error
        if (found.policy, found.period) != (policy, period):
            raise LedgerUnavailableError(
                f"ConfigMap {record.key} is the ledger of {found.period}, not of {period}: restore it from a "
                "backup"
            )
        return found

    async def write(self, record: LedgerRecord) -> str:
        key = ledger_key(record.policy, record.period)
        try:
            stored = await self._cluster.write_record(Record(key, record.data(), _LABELS, record.version))
        except (Conflict, NotFound) as error:
            raise LedgerConflictError(str(error)) from error
        except Rejected as error:
            raise LedgerUnavailableError(f"the API server refuses it: {error.message}") from error
        except ClusterError as error:
            raise LedgerUnavailableError(str(error)) from error
        return stored.resource_version or ""

    async def delete(self, policy: ObjectKey, period: PeriodId) -> None:
        """Delete the ledger of a period that is long over; raises `ClusterError`."""
        await self._cluster.delete_record(ledger_key(policy, period))


def long_over(policy: ObjectKey, period: Period, starts: datetime) -> tuple[PeriodId, ...]:
    """Return some periods well before the one that begins at `starts`.

    The last one's ledger still answers for requests that were reserved in it, and those before it are kept in
    case that the clock is ahead: a period that is deleted and comes again would be granted twice.
    """
    past = []
    for _ in range(KEPT + DELETED_AT_ONCE):
        found = budget_period(policy, period, starts - timedelta(seconds=1))
        past.append(found.id)
        starts = found.starts
    return tuple(past[KEPT:])


def ledger_key(policy: ObjectKey, period: PeriodId) -> ObjectKey:
    """Return the ConfigMap of a policy's period; readable, and unique by a hash of the period's id."""
    digest = hashlib.sha256(period.encode()).hexdigest()[:8]
    date = period.rsplit("/", 1)[-1].lower()
    name = f"modelfleet-ledger-{policy.name[:_LONGEST_POLICY]}-{date}-{digest}"
    return ObjectKey(policy.namespace, name)
