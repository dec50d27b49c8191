"""Stage publish: keeps the policies' ledgers in step with the lease book.

In come the records that the book needs read or written; out goes what the store holds. `publish.py` starts
the work; a leader that finds another one's epoch in a ledger ends.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

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


class LedgerWork:
    """Reads and writes that are under way for one book. `ended` is called after each."""

    def __init__(self, store: LedgerStore, book: LeaseBook, ended: Callable[[], None]) -> None:
        self.failure: BaseException | None = None
        """What ended leadership."""
        self._store = store
        self._book = book
        self._ended = ended
        self._opening: set[PeriodId] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self, policy: ObjectKey, period: BudgetPeriod, clock: Callable[[], float]) -> None:
        """Start to read a period's record, unless that is under way."""
        if period.id not in self._opening:
            self._opening.add(period.id)
            self._start(self._open(policy, period, clock))

    def write(self, record: LedgerRecord) -> None:
        """Start to write a record."""
        self._start(write_ledger(self._store, self._book, record))

    async def finish(self) -> None:
        """Wait for what is under way."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self, now: float) -> None:
        """Write what is left, without spare money. Raises `LeadershipLostError`."""
        for record in self._book.due(now, exact=True):
            await write_ledger(self._store, self._book, record)

    def cancel(self) -> None:
        for task in self._tasks:
            task.cancel()

    async def _open(self, policy: ObjectKey, period: BudgetPeriod, clock: Callable[[], float]) -> None:
        try:
            await open_ledger(self._store, self._book, policy, period, clock)
        finally:
            self._opening.discard(period.id)

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self.failure = task.exception()
        self._ended()


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
