"""Stage publish: keeps the policies' ledgers in step with the lease book.

In come the records that the book needs read or written; out goes what the store holds. `publish.py` starts
these; a leader that finds another one's epoch in a ledger ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from modelfleet_core.leasing.grants import LeaseBook
from modelfleet_core.leasing.ledger import BudgetPeriod, LedgerRecord
from modelfleet_core.leasing.period_accounts import ForeignEpochError
from modelfleet_core.values import ObjectKey, PeriodId

log = logging.getLogger(__name__)

RETRY = 1.0
"""Seconds between tries to reach the store."""


class LedgerConflictError(Exception):
    """The stored record is not the version that the written one replaces."""


class LedgerUnavailableError(Exception):
    """The store could not be asked; a write may or may not have happened."""


class LeadershipLostError(Exception):
    """Another leader wrote a ledger: this process must stop granting and end."""


class LedgerStore(Protocol):
    """Where ledgers are kept, one record per policy and period. Both may raise `LedgerUnavailableError`."""

    async def read(self, policy: ObjectKey, period: PeriodId) -> LedgerRecord | None:
        """Return the newest record with its version, not a cached one; None: there is none."""

    async def write(self, record: LedgerRecord) -> str:
        """Replace the version that `record.version` names (None: create) and return the new version.

        Raises `LedgerConflictError` if the store holds another one, or none.
        """


async def open_ledger(
    store: LedgerStore, book: LeaseBook, policy: ObjectKey, period: BudgetPeriod, clock: Callable[[], float]
) -> None:
    """Give `book` the stored record of a period; its next `due` writes the epoch into it."""
    stored = await _read(store, policy, period.id)
    try:
        book.open(policy, period, stored, clock())
    except ForeignEpochError as error:
        raise LeadershipLostError(str(error)) from error


async def write_ledger(store: LedgerStore, book: LeaseBook, record: LedgerRecord) -> None:
    """Write one record and tell `book` what became of it."""
    try:
        version = await store.write(record)
    except (LedgerConflictError, LedgerUnavailableError) as error:
        log.warning("the ledger of %s was not written, reading it anew: %s", record.period, error)
        stored = await _read(store, record.policy, record.period)
        try:
            book.found(record, stored)
        except ForeignEpochError as foreign:
            raise LeadershipLostError(str(foreign)) from foreign
    else:
        book.written(record, version)


async def _read(store: LedgerStore, policy: ObjectKey, period: PeriodId) -> LedgerRecord | None:
    while True:
        try:
            return await store.read(policy, period)
        except LedgerUnavailableError as error:
            log.warning("the ledger of %s can not be read, no more money is granted: %s", period, error)
            await asyncio.sleep(RETRY)
