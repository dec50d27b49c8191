"""Stage publish: the capacity service, one lease stream per sidecar.

In come live capacity, documents, prices and the sidecars' reports; out go grants, at once when anything
changed, and the demand seen for the next allocation. Decisions are the `LeaseBook`'s; here are the streams,
the clocks and the ledger's writes, each of which ends before a grant that rests on it leaves.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, NoReturn, Protocol

import grpc
import grpc.aio
from modelfleet.v1 import capacity_pb2, capacity_pb2_grpc
from modelfleet_core.demand import DemandClass, SharedDemand
from modelfleet_core.demand.meter import DemandMeter
from modelfleet_core.estimation.experience import Experience
from modelfleet_core.leasing.accounts import JUDGE
from modelfleet_core.leasing.bounds import WireError
from modelfleet_core.leasing.estimators import NO_ESTIMATORS, Estimators
from modelfleet_core.leasing.grants import Documents, LeaseBook, Prices
from modelfleet_core.leasing.holders import Follows
from modelfleet_core.leasing.messages import Document, SidecarId
from modelfleet_core.leasing.slots import Capacity
from modelfleet_core.leasing.terms import NARROWEST, Terms
from modelfleet_core.policy import Policy
from modelfleet_core.values import EndpointUrl, ObjectKey, VariantKey

from modelfleet_operator.capacity_views import (
    SidecarView,
    Slots,
    Usage,
    followers,
    leased,
    sidecars,
    usage,
)
from modelfleet_operator.identity import AdmissionError, Caller
from modelfleet_operator.ledgers import LeadershipLostError, LedgerStore, LedgerWork
from modelfleet_operator.streams import Stream, Streams
from modelfleet_operator.wire import experience_from, grant_to, greeting, report_from, snapshot_to

log = logging.getLogger(__name__)

TTL = 30.0
TICK = 0.5
"""Seconds between passes when nothing happens: leases run out and periods end."""
GATHER = 0.001
"""Least seconds between passes, so that changes at one moment make one grant."""
SERVER_OPTIONS = (
    # Sidecars ask by pings whether a silent leader still lives.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 1_000),
    ("grpc.keepalive_permit_without_calls", 1),
)
"""For the server that serves a `Publisher`."""


class Admission(Protocol):
    """Who calls; every call is admitted as the pod of its token."""

    async def admit(self, metadata: Iterable[tuple[str, str | bytes]]) -> Caller:
        """Raise `AdmissionError` where that is not known."""


Learn = Callable[[SidecarId, ObjectKey, Experience], None]
"""Takes over what a sidecar that follows a policy saw. Returns at once and never raises."""
PolicyOf = Callable[[SidecarId], tuple[ObjectKey, ObjectKey] | str]
"""Returns the policy and the fleet that a sidecar follows, or why it gets nothing."""


def _not_yet(sidecar: SidecarId) -> str:
    return f"the operator has not listed pods yet, so it does not know {sidecar.namespace}/{sidecar.pod}"


def _nobody_learns(sidecar: SidecarId, policy: ObjectKey, experience: Experience) -> None:
    """Until the stage that learns has started."""


class Publisher(capacity_pb2_grpc.CapacityServicer):
    """Serves `modelfleet.v1.Capacity` while this process leads. Everything runs in one event loop.

    `leads` says whether leadership is still sure, asked right before grants are made, so that a process that
    was suspended grants nothing after its time. `clock` gives seconds that never go back and count suspend,
    `wall_clock` UTC for budget periods. `beat` is called at every turn of the loop.
    """

    def __init__(
        self,
        *,
        store: LedgerStore,
        leads: Callable[[], bool] = lambda: True,
        ttl: float = TTL,
        clock: Callable[[], float] = lambda: time.clock_gettime(time.CLOCK_BOOTTIME),
        wall_clock: Callable[[], datetime] = lambda: datetime.now(UTC),
        beat: Callable[[], None] = lambda: None,
        admission: Admission | None = None,
        refused: Callable[[str], None] = lambda reason: None,
        refused_experience: Callable[[], None] = lambda: None,
    ) -> None:
        """`admission`: None where callers are trusted, as those of a loopback address are. `refused` is
        called with the reason of each call that is not served, `refused_experience` for each report from
        which nothing can be learned.
        """
        self._store = store
        self._beat = beat
        self._admission = admission
        self._refused = refused
        self._refused_experience = refused_experience
        self._policy_of: PolicyOf = _not_yet
        self._leads = leads
        self._ttl = ttl
        self._clock = clock
        self._wall_clock = wall_clock
        self._book: LeaseBook | None = None
        self._stopping = False
        self._capacity: Mapping[ObjectKey, Capacity] = {}
        self._documents = Documents({}, {})
        self._prices = Prices({}, {})
        self._estimators = NO_ESTIMATORS
        self._learn: Learn = _nobody_learns
        self._streams = Streams()
        self._looked_at = -math.inf
        self._meter = DemandMeter()
        self._ledgers: LedgerWork | None = None
        """Of `_book`."""
        self._woken = asyncio.Event()

    # What the operator's other stages say.

    def set_capacity(self, capacity: Mapping[ObjectKey, Capacity]) -> None:
        """Publish the live slots of every fleet, by variant and endpoint."""
        self._capacity = capacity
        if self._book is not None:
            self._book.set_capacity(capacity)
        self._wake()

    def set_documents(
        self, fleets: Mapping[ObjectKey, Document], policies: Mapping[ObjectKey, tuple[Policy, Document]]
    ) -> None:
        """Publish the accepted fleets and policies."""
        self._documents = Documents(fleets, policies)
        if self._book is not None:
            self._book.set_documents(self._documents)
        self._looked_at = -math.inf
        self._follow_anew()

    def set_prices(
        self, slots: Mapping[ObjectKey, Mapping[VariantKey, float]], money: Mapping[ObjectKey, float]
    ) -> None:
        """Publish prices: quality per slot-second by fleet and variant, quality per USD by policy."""
        self._prices = Prices(slots, money)
        if self._book is not None:
            self._book.set_prices(self._prices)

    def set_estimators(self, estimators: Estimators) -> None:
        """Publish the estimators of policies."""
        if estimators == self._estimators:
            return
        self._estimators = estimators
        if self._book is not None:
            self._book.set_estimators(estimators)
        self._wake()

    def set_learn(self, learn: Learn) -> None:
        """Say who learns from what sidecars report."""
        self._learn = learn

    def set_targets(self, fleet: ObjectKey, busy: Mapping[SidecarId, Mapping[VariantKey, float]]) -> None:
        """Say how many slots each sidecar of a fleet would keep busy, which leans slots that are free."""
        if self._book is not None:
            self._book.set_targets(fleet, busy)

    def set_allowances(self, allowances: Mapping[ObjectKey, Mapping[SidecarId, float]]) -> None:
        """Say how many USD per second each sidecar of a policy should spend on average."""
        if self._book is not None:
            self._book.set_allowances(allowances)

    def set_forecast(self, policy: ObjectKey, forecast: str) -> None:
        """Keep what is known of a policy's demand by the hour beside its ledger."""
        if self._book is not None:
            self._book.set_forecast(policy, forecast)

    def set_policy_of(self, policy_of: PolicyOf) -> None:
        """Say how to find a sidecar's policy; call it anew when pods or policies changed."""
        self._policy_of = policy_of
        self._follow_anew()

    def _follow_anew(self) -> None:
        if self._book is not None:
            for holder in self._book.holders():
                self._book.follow(holder.id, self._follows(holder.id))
        self._wake()

    def forget(self, uid: str) -> None:
        """The API server shows this pod gone."""
        if self._book is not None:
            self._book.forget(uid, self._clock())
        self._wake()

    # Leading.

    async def open_epoch(
        self, epoch: int, may_hold: Collection[str] | None = None, inherited: Terms = NARROWEST
    ) -> None:
        """Lead from now on. A policy's sidecars get nothing before the epoch is in its ledger; one that can
        not be read holds up only its own policy.

        `may_hold`: UIDs of the pods that may hold an older leader's lease; None: not known, so nothing beyond
        what is reported is granted until every old lease is over. The first epoch has no older one.
        `inherited`: the `terms` of the leader before.
        """
        nobody = epoch <= 1
        book = LeaseBook(
            epoch=epoch,
            ttl=self._ttl,
            now=self._clock(),
            may_hold=() if nobody else may_hold,
            inherited=NARROWEST if nobody else inherited,
        )
        book.set_capacity(self._capacity)
        book.set_documents(self._documents)
        book.set_prices(self._prices)
        book.set_estimators(self._estimators)
        self._book, self._ledgers = book, LedgerWork(self._store, book, self._wake)
        self._wake()

    def terms(self) -> Terms | None:
        """Return the widest terms that a lease may have, for the next leader; None: this one has no book."""
        return self._book.terms if self._book is not None else None

    async def run(self) -> NoReturn:
        """Divide and grant until cancelled; raises `LeadershipLostError` when another leader is found."""
        while True:
            self._beat()
            try:
                async with asyncio.timeout(TICK):
                    await self._woken.wait()
            except TimeoutError:
                pass  # time alone changes leases
            self._woken.clear()
            began = time.perf_counter()
            if self._book is not None and self._ledgers is not None:
                if self._ledgers.failure is not None:
                    raise self._ledgers.failure
                if not self._stopping and self._leads():
                    self._pass(self._book, self._ledgers)
            # However many sidecars report, the other half of the time is for everything else.
            await asyncio.sleep(max(GATHER, time.perf_counter() - began))

    def dismiss(self) -> None:
        """Grant nothing more and end all streams: a sidecar that nobody leads keeps its slots, while one that
        still has a stream gives back those that others wait for, and nobody would pass them on."""
        self._stopping = True
        self._streams.end(grpc.StatusCode.UNAVAILABLE, "this operator stops leading; connect again")

    async def stop(self, within: float = 3.0) -> None:
        """Grant nothing more, end all streams, and leave no spare money behind in the ledgers.

        Sidecars keep their leases until these end or another leader renews them. Ledgers that take longer
        than `within` seconds keep a chunk of money idle until their period ends; no limit breaks.
        """
        self.dismiss()
        if (ledgers := self._ledgers) is not None:
            try:
                async with asyncio.timeout(within):
                    await ledgers.finish()
                    if ledgers.failure is None and self._leads():
                        await ledgers.close(self._clock())
            except TimeoutError:
                log.warning("the ledgers were not brought up to date within %g s", within)
            except LeadershipLostError as error:
                log.warning("another leader has the ledgers already: %s", error)
            ledgers.cancel()

    def _pass(self, book: LeaseBook, ledgers: LedgerWork) -> None:
        now = self._clock()
        if now >= self._looked_at + TICK:
            self._looked_at = now
            book.prune(now)
            for policy, period in book.unopened(self._wall_clock()):
                ledgers.open(policy, period, self._clock)
        for sidecar, grant in book.turn(now, self._streams.ready):
            self._streams.offer(sidecar, grant)
        for record in book.due(now):
            ledgers.write(record)

    def _wake(self) -> None:
        self._woken.set()

    def _follows(self, sidecar: SidecarId) -> Follows | str:
        found = self._policy_of(sidecar)
        if isinstance(found, str):
            return found
        follows = Follows(*found)
        if follows.policy not in self._documents.policies:
            return f"RoutingPolicy {follows.policy} is not accepted; its status says why"
        if follows.fleet not in self._documents.fleets:
            return f"ModelFleet {follows.fleet} does not exist or is not accepted; its status says why"
        return follows

    # The service.

    async def Lease(  # noqa: N802
        self,
        request_iterator: AsyncIterator[capacity_pb2.LeaseReport],
        context: grpc.aio.ServicerContext[capacity_pb2.LeaseReport, capacity_pb2.LeaseGrant],
    ) -> AsyncIterator[capacity_pb2.LeaseGrant]:
        """Greet with the epoch, then send this sidecar's grants while its reports come in.

        Its token is looked at once, here: the stream stays that of its pod, gets nothing once the pod is
        gone, and lives on while the API server is away or the token is renewed.
        """
        caller, book = await self._admit(context)
        try:
            stream = self._streams.open(caller)
        except AdmissionError as error:
            await self._refuse(context, error)
        reader: asyncio.Task[None] | None = None
        try:
            yield greeting(book.epoch)
            reader = asyncio.create_task(self._hear(book, stream, request_iterator))
            reader.add_done_callback(stream.heard_out)
            while True:
                step = await stream.next()
                if isinstance(step, tuple):
                    if step[0] is grpc.StatusCode.OK:
                        return
                    await context.abort(*step)
                yield grant_to(step)
                self._sent(book, stream)
        finally:
            if reader is not None:
                reader.cancel()
            self._part(book, stream)

    async def _admit(self, context: grpc.aio.ServicerContext[Any, Any]) -> tuple[Caller | None, LeaseBook]:
        """Return who calls, None: it need not be known. A call that can not be served ends here."""
        caller = None
        if self._admission is not None and self._book is not None and not self._stopping:
            try:
                caller = await self._admission.admit(context.invocation_metadata() or ())
            except AdmissionError as error:
                await self._refuse(context, error)
        book = self._book
        if book is None or self._stopping:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "this operator does not lead; try another")
        return caller, book

    async def _refuse(self, context: grpc.aio.ServicerContext[Any, Any], error: AdmissionError) -> NoReturn:
        self._refused(error.reason)
        await context.abort(error.code, error.message)

    async def _hear(
        self, book: LeaseBook, stream: Stream, reports: AsyncIterator[capacity_pb2.LeaseReport]
    ) -> None:
        try:
            async for message in reports:
                report = report_from(message)
                if stream.caller is not None:
                    stream.caller.check(report.sidecar)
                stream.leaving = report.leaving
                if stream.sidecar is None:
                    self._arrive(book, stream, report.sidecar)
                elif stream.sidecar != report.sidecar:
                    raise WireError("identity", "it changed within one stream")
                if self._streams.newest(report.sidecar) is not stream:
                    break
                new = not book.knows(report.sidecar)
                if book.hear(report, self._clock()):
                    if new:
                        book.follow(report.sidecar, self._follows(report.sidecar))
                    self._meter.hear(report.sidecar, report.demand, self._clock())
                    if message.HasField("experience"):
                        self._hear_experience(stream, report.sidecar, message.experience)
                    if book.pressed:
                        self._wake()
        except WireError as error:
            log.warning("a report of %s was refused: %s", stream.sidecar, error)
            stream.end(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        except AdmissionError as error:
            log.warning("a report was refused: %s", error.message)
            self._refused(error.reason)
            stream.end(error.code, error.message)

    def _hear_experience(self, stream: Stream, sidecar: SidecarId, message: capacity_pb2.Experience) -> None:
        """Pass on what a sidecar saw. What is wrong with it costs no lease."""
        follows = self._follows(sidecar)
        if isinstance(follows, str):
            return
        try:
            experience = experience_from(message)
        except WireError as error:
            self._refused_experience()
            if not stream.unlearned:
                stream.unlearned = True
                log.warning("nothing is learned from reports of %s: %s", sidecar, error)
        else:
            self._learn(sidecar, follows.policy, experience)

    def _arrive(self, book: LeaseBook, stream: Stream, sidecar: SidecarId) -> None:
        self._streams.arrive(stream, sidecar)
        book.connect(sidecar)
        if stream.leaving:
            return  # perhaps a former start, finished by one whose own stream may be away for a moment
        for earlier in book.starts(sidecar.uid):
            if earlier != sidecar and self._streams.newest(earlier) is None:
                book.replaced(earlier, self._clock())

    def _sent(self, book: LeaseBook, stream: Stream) -> None:
        sidecar = stream.sidecar
        if sidecar is not None and stream.idle and self._streams.newest(sidecar) is stream:
            self._streams.ready.add(sidecar)
            if book.pressed:
                self._wake()

    def _part(self, book: LeaseBook, stream: Stream) -> None:
        sidecar = stream.sidecar
        if not self._streams.close(stream) or sidecar is None:
            return
        book.part(sidecar)
        if self._streams.stays(sidecar.uid):
            book.replaced(sidecar, self._clock())
        self._wake()

    # Views.

    async def Snapshot(  # noqa: N802
        self,
        request: capacity_pb2.SnapshotRequest,
        context: grpc.aio.ServicerContext[capacity_pb2.SnapshotRequest, capacity_pb2.SnapshotResponse],
    ) -> capacity_pb2.SnapshotResponse:
        """Return the leader's present view of sidecars, endpoints and ledgers.

        A caller that is known by its token sees its own namespace only.
        """
        caller, book = await self._admit(context)

        def seen(namespace: str) -> bool:
            return caller is None or caller.namespace == namespace

        return snapshot_to(
            book.epoch,
            (view for view in self.sidecars() if seen(view.id.namespace)),
            {fleet: live for fleet, live in self._capacity.items() if seen(fleet.namespace)},
            self.leased(),
            {policy: self.usage(policy) for policy in self._documents.policies if seen(policy.namespace)},
        )

    def demand(self) -> tuple[DemandClass, ...]:
        """Return the smoothed demand over all sidecars that follow a policy."""
        return self._meter.classes(*self._followers(), self._clock())

    def shared_demand(self) -> SharedDemand:
        """Return the same demand in fewer classes, with each sidecar's part."""
        return self._meter.shared(*self._followers(), self._clock())

    def _followers(self) -> tuple[dict[SidecarId, ObjectKey], dict[ObjectKey, Policy]]:
        found = followers(self._book) if self._book is not None else {}
        return found, {key: policy for key, (policy, _) in self._documents.policies.items()}

    def leased(self) -> Slots:
        """Return the slots held at each live endpoint."""
        return leased(self._capacity, self.held())

    def held(self) -> Mapping[EndpointUrl, int]:
        """Return the slots that may be in use by endpoint, also at those that are leased no more."""
        return self._book.held() if self._book is not None else {}

    def heard_all(self) -> bool:
        """Return whether every sidecar that may hold slots of an earlier leader has told this one of them."""
        return self._book is not None and not self._book.recovering(self._clock())

    def forecast(self, policy: ObjectKey) -> str:
        """Return what `set_forecast` kept, maybe in an earlier epoch; empty: nothing."""
        return self._book.forecast(policy) if self._book is not None else ""

    def following(self, policy: ObjectKey) -> int:
        """Return how many sidecars follow a policy and are connected."""
        return sum(
            view.connected and isinstance(view.follows, Follows) and view.follows.policy == policy
            for view in self.sidecars()
        )

    def usage(self, policy: ObjectKey) -> Usage | None:
        """Return a policy's money in its present period; None: it has no budget or its ledger is not open."""
        return usage(self._book, self._documents, policy) if self._book is not None else None

    def judge_usage(self, policy: ObjectKey) -> Usage | None:
        """Return the same of the account of the policy's judge."""
        return usage(self._book, self._documents, policy, JUDGE) if self._book is not None else None

    def sidecars(self) -> tuple[SidecarView, ...]:
        """Return all sidecars that hold something or may soon."""
        return sidecars(self._book, self._clock()) if self._book is not None else ()
