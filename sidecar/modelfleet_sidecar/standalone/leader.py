"""Stage publish, without an operator: grants this process its lease by the operator's own lease book.

In: what the file declares, and reports of the lease client in the same event loop. Out: grants. The ledger is
written before what it covers is granted, so a crash forgets no money. `lease` speaks to it as to an operator.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any, Protocol

import numpy.ma  # noqa: F401 - loaded by the meter's first `np.unique`, it would keep the event loop for 30 ms
from modelfleet_core.catalog import ExternalPlacement, Fleet
from modelfleet_core.demand import SharedDemand
from modelfleet_core.demand.meter import DemandMeter
from modelfleet_core.estimation.experience import Experience
from modelfleet_core.leasing.estimators import Estimators
from modelfleet_core.leasing.grants import Documents, LeaseBook, Prices
from modelfleet_core.leasing.holders import Follows
from modelfleet_core.leasing.ledger import BudgetPeriod, LedgerRecord
from modelfleet_core.leasing.messages import Grant, Report, SidecarId
from modelfleet_core.leasing.period_accounts import PeriodAccounts
from modelfleet_core.leasing.rates import rate_limits
from modelfleet_core.leasing.slots import Capacity
from modelfleet_core.values import EndpointUrl, ObjectKey, PeriodId, VariantKey, leased_endpoint

from modelfleet_sidecar.lease_stream import ProtocolError, Talk
from modelfleet_sidecar.standalone.manifests import Declared
from modelfleet_sidecar.standalone.state import StateError

log = logging.getLogger(__name__)

TTL = 30.0
TICK = 0.5
"""Seconds between turns when nothing happens: periods end, and rates come free."""
LAST_WRITES = 2.0
"""Seconds that reads and writes under way get at the end."""
RETRY = 1.0
"""Seconds between tries to read a ledger."""


class Ledgers(Protocol):
    """Where ledgers are kept; see `StateFolder`."""

    def read(self, policy: ObjectKey, period: PeriodId) -> LedgerRecord | None: ...
    def write(self, record: LedgerRecord) -> str: ...
    def forget(self, at: datetime) -> None: ...


class MemoryLedgers:
    """Ledgers that end with the process."""

    def __init__(self) -> None:
        self._writes = 0

    def read(self, policy: ObjectKey, period: PeriodId) -> LedgerRecord | None:
        return None

    def write(self, record: LedgerRecord) -> str:
        self._writes += 1
        return str(self._writes)

    def forget(self, at: datetime) -> None:
        """Nothing is kept."""


class LocalLeader:
    """Grants to the sidecar of this process, and to former starts of it that left a journal.

    `clock` gives seconds that never go back, `wall_clock` UTC for budget periods.
    """

    address = "this process"

    def __init__(
        self,
        declared: Declared,
        *,
        epoch: int,
        ledgers: Ledgers,
        clock: Callable[[], float],
        wall_clock: Callable[[], datetime],
    ) -> None:
        """`epoch`: above that of every former start with the same ledgers."""
        self.declared = declared
        self.learn: Callable[[SidecarId, Experience], None] = lambda sidecar, experience: None
        """Takes over what the sidecar saw."""
        self._book = LeaseBook(epoch=epoch, ttl=TTL, now=clock(), may_hold=())
        self._ledgers = ledgers
        self._clock = clock
        self._wall_clock = wall_clock
        self._meter = DemandMeter()
        self._talks: dict[SidecarId, _LocalTalk] = {}
        self._woken = asyncio.Event()
        self._work: set[asyncio.Task[None]] = set()
        self._opening: set[PeriodId] = set()
        self.follow(declared)

    def follow(self, declared: Declared) -> None:
        """Go by another file from now on."""
        self.declared = declared
        fleet, policy = declared.fleet, declared.policy
        self._book.set_documents(
            Documents({fleet.key: declared.fleet_document}, {policy.key: (policy, declared.policy_document)})
        )
        self._book.set_capacity({fleet.key: _capacity(fleet)})
        for holder in self._book.holders():
            self._book.follow(holder.id, self._follows)
        self._woken.set()

    @property
    def _follows(self) -> Follows:
        return Follows(self.declared.policy.key, self.declared.fleet.key)

    def set_estimators(self, estimators: Estimators) -> None:
        """Hand these out from now on."""
        self._book.set_estimators(estimators)
        self._woken.set()

    # What pricing asks and says.

    def demand(self) -> SharedDemand:
        """Return what the sidecar asks for."""
        policy = self.declared.policy
        followers = {holder.id: policy.key for holder in self._book.holders() if holder.retired_at is None}
        return self._meter.shared(followers, {policy.key: policy}, self._clock())

    def budget(self) -> PeriodAccounts | None:
        """Return the present period of the policy's budget; None: it has none, or it is not read yet."""
        return self._book.budget(self.declared.policy.key)

    def slots(self) -> dict[VariantKey, int]:
        """Return how many requests each variant takes at once."""
        return {variant.key: variant.concurrency for variant in self.declared.fleet.variants()}

    def set_prices(
        self, slots: Mapping[VariantKey, float], money: float, allowances: Mapping[SidecarId, float]
    ) -> None:
        """Publish prices: quality per slot-second and per USD; and the USD per second to spend."""
        fleet, policy = self.declared.fleet.key, self.declared.policy.key
        self._book.set_prices(Prices({fleet: slots}, {policy: money}))
        self._book.set_allowances({policy: allowances})

    # Talking.

    @asynccontextmanager
    async def talk(self) -> AsyncIterator[Talk]:
        """Open a stream for a lease client."""
        talk = _LocalTalk(self._book.epoch, self._hear, self._woken.set)
        try:
            yield talk
        finally:
            if talk.sidecar is not None and self._talks.get(talk.sidecar) is talk:
                del self._talks[talk.sidecar]
                self._book.part(talk.sidecar)

    def _hear(self, talk: _LocalTalk, report: Report) -> None:
        if talk.sidecar is None:
            talk.sidecar = report.sidecar
            self._talks[report.sidecar] = talk
            self._book.connect(report.sidecar)
        new = not self._book.knows(report.sidecar)
        if not self._book.hear(report, self._clock()):
            return
        if new:
            self._book.follow(report.sidecar, self._follows)
        self._meter.hear(report.sidecar, report.demand, self._clock())
        try:
            self.learn(report.sidecar, report.experience)
        except Exception:  # what can not be learned costs no lease
            log.exception("nothing was learned from a report")
        self._woken.set()

    async def run(self) -> None:
        """Divide and grant until cancelled."""
        await asyncio.to_thread(self._forget)
        while True:
            self._turn()
            self._woken.clear()
            try:
                async with asyncio.timeout(TICK):
                    await self._woken.wait()
            except TimeoutError:
                continue  # time alone changes leases

    async def close(self) -> None:
        """Bring the ledgers up to date once the lease is given back: no spare money stays behind in them."""
        if self._work:
            _, stuck = await asyncio.wait(self._work, timeout=LAST_WRITES)
            for work in stuck:  # such as one that waits for a ledger to be mended
                work.cancel()
        for record in self._book.due(self._clock(), exact=True):
            await self._write(record)

    def _turn(self) -> None:
        now = self._clock()
        self._book.prune(now)
        for policy, period in self._book.unopened(self._wall_clock()):
            if period.id not in self._opening:
                self._opening.add(period.id)
                self._start(self._open(policy, period))
        ready = {sidecar for sidecar, talk in self._talks.items() if talk.idle}
        for sidecar, grant in self._book.turn(now, ready):
            self._talks[sidecar].offer(grant)
        for record in self._book.due(now):
            self._start(self._write(record))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._work.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._work.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a ledger could not be kept", exc_info=error)
        self._woken.set()

    async def _open(self, policy: ObjectKey, period: BudgetPeriod) -> None:
        stored = await self._read(policy, period.id)
        self._opening.discard(period.id)
        self._book.open(policy, period, stored, self._clock())

    async def _write(self, record: LedgerRecord) -> None:
        try:
            version = await asyncio.to_thread(self._ledgers.write, record)
        except OSError as error:
            log.error(
                "the ledger of %s can not be written, no more money is granted: %s", record.period, error
            )
            await asyncio.sleep(RETRY)
            self._book.found(record, await self._read(record.policy, record.period))
        else:
            self._book.written(record, version)

    async def _read(self, policy: ObjectKey, period: PeriodId) -> LedgerRecord | None:
        told = ""
        while True:
            try:
                return await asyncio.to_thread(self._ledgers.read, policy, period)
            except StateError as error:
                if str(error) != told:
                    told = str(error)
                    log.error("no money of period %s is granted: %s", period, error)
                await asyncio.sleep(RETRY)

    def _forget(self) -> None:
        try:
            self._ledgers.forget(self._wall_clock())
        except OSError as error:
            log.warning("ledgers of periods long over can not be deleted: %s", error)


class _LocalTalk:
    """A stream within the process."""

    def __init__(
        self, epoch: int, heard: Callable[[_LocalTalk, Report], None], taken: Callable[[], None]
    ) -> None:
        self.sidecar: SidecarId | None = None
        self._heard = heard
        self._taken = taken
        self._outbox: asyncio.Queue[Grant] = asyncio.Queue()
        self.offer(_greeting(epoch))

    @property
    def idle(self) -> bool:
        return self._outbox.empty()

    def offer(self, grant: Grant) -> None:
        self._outbox.put_nowait(grant)

    async def hear(self) -> Grant:
        grant = await self._outbox.get()
        if self.idle:
            self._taken()
        return grant

    async def say(self, report: Report) -> None:
        if self.sidecar not in (None, report.sidecar):
            raise ProtocolError("its identity changed within one stream")
        self._heard(self, report)


def _capacity(fleet: Fleet) -> Capacity:
    """Return the slots of every endpoint, and the units of limits by the minute."""
    live: dict[VariantKey, Mapping[EndpointUrl, int]] = {}
    for variant in fleet.variants():
        if isinstance(variant.placement, ExternalPlacement):
            live[variant.key] = {leased_endpoint(variant.placement.url, variant.key): variant.concurrency}
        live.update({key: {limit: units} for key, (limit, units) in rate_limits(variant).items()})
    return live


def _greeting(epoch: int) -> Grant:
    return Grant(
        epoch=epoch,
        sequence=0,
        answers=0,
        report_sent_at=-math.inf,
        ttl=0.0,
        slots={},
        accounts={},
        slot_prices={},
        money_price=0.0,
        fleet=None,
        policy=None,
        refusal="",
    )
