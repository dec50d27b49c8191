"""Stage publish, the sidecar's side: moves reports and grants between `Holding` and the leader.

In come what the sidecar wants and the demand it sees; out go leases, the fleet and policy to follow, and
prices. Next are `batch` and `assign`, which read them. Without the leader the lease runs out, and `run`
goes on connecting.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeVar

import grpc
import grpc.aio
from modelfleet_core.catalog import Fleet
from modelfleet_core.demand import ModelOffer
from modelfleet_core.demand.sketch import NO_DEMAND, Sketch
from modelfleet_core.errors import SpecError
from modelfleet_core.estimation.experience import NO_EXPERIENCE, Experience
from modelfleet_core.leasing.bounds import WireError
from modelfleet_core.leasing.holding import Holding
from modelfleet_core.leasing.messages import Document, Grant, Need, SidecarId, Want
from modelfleet_core.manifests import parse_fleet, parse_policy
from modelfleet_core.policy import Policy
from modelfleet_core.values import AccountName, ModelName, TaskName, TierName, VariantKey

from modelfleet_sidecar.lease_stream import Leader, OperatorStream, ProtocolError, Talk
from modelfleet_sidecar.operator_access import AccessError, OperatorAccess, explain

Parsed = TypeVar("Parsed")

log = logging.getLogger(__name__)

REPORT_INTERVAL = 1.0
"""Seconds between reports that nothing presses for, unless the leader asks for more."""
PRESSING_DELAY = 0.001
"""Seconds that a pressing report waits for others to join it."""
UNUSED_AFTER = 0.2
"""Seconds after which smaller wants are reported: a slot unused for that long may go to others."""
HELLO_TIMEOUT = 5.0
LAST_WORD = 0.1
"""Seconds in which the leader's reason may follow after a report could not be sent."""
RETRY_FIRST = 0.1
RETRY_SPREAD = 0.5
"""Seconds over which sidecars that lose one leader at the same moment come back at least."""
RETRY_MOST = 3.0
NO_DOCUMENT = Document("", b"")
NO_VERSIONS: Mapping[str, str] = {"fleet": "", "policy": "", "estimator": "", "learned": ""}
DEMAND_INTERVAL = 0.5
"""Seconds between reports that tell of demand: pressing ones need not."""

boot_clock: Callable[[], float] = partial(time.clock_gettime, time.CLOCK_BOOTTIME)
"""Returns seconds on the monotonic clock that counts suspend. Each request asks it some twenty times."""


def reconnect_after(failures: int, chance: float) -> float:
    """Return the seconds to wait after so many failed streams in a row; `chance` is from 0 to 1."""
    longest = max(RETRY_SPREAD, min(RETRY_MOST, RETRY_FIRST * 2.0 ** min(failures, 10)))
    return RETRY_FIRST + chance * (longest - RETRY_FIRST)


class Evidence(Protocol):
    """What reports tell of answers and scores."""

    def changes(self) -> Experience:
        """Return what the leader does not know yet."""
        ...

    def sent(self, sequence: int) -> None:
        """Remember which report the last `changes` went out with."""
        ...

    def answered_to(self, sequence: int) -> None:
        """Take note that the leader has heard all reports up to this one."""
        ...

    def unheard(self) -> None:
        """Tell everything again: a new stream begins."""
        ...


class LeaseClient:
    """Keeps `holding` up to date over one stream to the leader.

    Everything runs in one event loop. Reservations are made and settled on `holding` itself; `holding.want`
    is not called by others than `want`.
    """

    def __init__(
        self,
        leader: Leader | OperatorAccess | str,
        sidecar: SidecarId,
        *,
        clock: Callable[[], float] = boot_clock,
        retry_random: Callable[[], float] = random.random,
        holding: Holding | None = None,
    ) -> None:
        """`leader`: who grants, or how an operator is reached; an address is reached in plaintext.

        `holding`: that of `sidecar`, where it is journalled or finishes a former start."""
        access = OperatorAccess(leader) if isinstance(leader, str) else leader
        self.leader: Leader = OperatorStream(access) if isinstance(access, OperatorAccess) else access
        self.holding = holding if holding is not None else Holding(sidecar)
        self.holding.pressing = self._press
        self.fleet: Fleet | None = None
        self.policy: Policy | None = None
        self.slot_prices: Mapping[VariantKey, float] = {}
        self.money_price = 0.0
        self._report_every = REPORT_INTERVAL
        self.refusal = ""
        self.connected = False
        self.trouble = ""
        """Why the last stream ended; empty while one goes well."""
        self._clock = clock
        self._random = retry_random
        self.estimator = self.learned = NO_DOCUMENT
        """What estimates rest on, as the leader sent it; `estimates` reads it."""
        self._versions = dict(NO_VERSIONS)
        self._sketch = Sketch()
        self._evidence: Evidence | None = None
        self._demand_at = 0.0
        self._next_report = 0.0
        self._report_moved = asyncio.Event()
        self._changed = asyncio.Event()
        self._giving_back: asyncio.TimerHandle | None = None
        self._gives_back_at = math.inf
        """When that rings."""
        self._farewell: int | None = None
        """Sequence of the report that gave everything back."""
        self._farewell_heard = False
        self._finishing = False

    def now(self) -> float:
        """Return seconds on the clock that `holding` goes by."""
        return self._clock()

    def tell_of(self, evidence: Evidence) -> None:
        """Let reports tell of `evidence` from now on."""
        self._evidence = evidence

    def want(self, wants: Mapping[VariantKey, Want], needs: Mapping[AccountName, Need]) -> None:
        """Tell the leader what could be used now; at once if it is more than is held, else after a while."""
        before = self.holding.wanted()
        self.holding.want(wants, needs)
        self.give_back()
        if self.holding.wanted() == before:
            return
        if self.holding.short(self._clock()):
            self._press()
        else:
            self._report_within(UNUSED_AFTER)

    def give_back(self) -> None:
        """Give back what is unused for too long, now and when it is due next."""
        now = self._clock()
        self.holding.give_back(now)
        due = self.holding.next_give_back(now)
        if due is None or due >= self._gives_back_at:
            return  # a timer that rings too early looks again
        if self._giving_back is not None:
            self._giving_back.cancel()
        self._gives_back_at = due
        self._giving_back = asyncio.get_running_loop().call_later(due - now, self._give_back_due)

    def _give_back_due(self) -> None:
        self._gives_back_at = math.inf
        self.give_back()

    def record(
        self,
        tier: TierName,
        cluster: TaskName,
        offers: Mapping[ModelName, ModelOffer],
        *,
        arrivals: float = 1.0,
    ) -> None:
        """Count an arrival, as `Sketch.record` does."""
        self._sketch.record(tier, cluster, offers, arrivals=arrivals)

    async def wait_change(self, timeout: float) -> bool:
        """Wait until a grant was applied, the stream was lost, or `timeout` seconds passed (then False)."""
        try:
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Keep a stream to the leader until cancelled; connect again after jittered waits."""
        failures = 0
        while True:
            try:
                async with self.leader.talk() as talk:
                    await self._converse(talk)
            except (grpc.aio.AioRpcError, AccessError, ProtocolError, WireError, TimeoutError) as error:
                before, self.trouble = self.trouble, _reason(error)
                level = logging.DEBUG if self.trouble == before else logging.WARNING
                log.log(level, "the lease stream to %s ended: %s", self.leader.address, self.trouble)
            finally:
                failures = 0 if self.connected else failures + 1
                self.connected = False
                self.holding.alone()
                self._pulse()
            await asyncio.sleep(reconnect_after(failures, self._random()))

    async def drain(self, timeout: float = 5.0) -> bool:
        """Reserve nothing more, wait until nothing is in flight, give all back and see it acknowledged.

        `run` must go on meanwhile. Returns False if that took more than `timeout` seconds; the leader then
        counts this sidecar's slots as held until the lease and its longest request are over.
        """
        self.holding.leave(self._clock())
        self._press()
        try:
            async with asyncio.timeout(timeout):
                while not self._farewell_heard:
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def finish(self) -> None:
        """Settle what a former start left, give all back and see it acknowledged; `run` must go on."""
        self._finishing = True
        while not self._farewell_heard:
            if self.holding.expire(self._clock()):
                self._press()
            await self.wait_change(REPORT_INTERVAL)

    async def _converse(self, talk: Talk) -> None:
        """Speak over one stream until it ends, always by an error."""
        async with asyncio.timeout(HELLO_TIMEOUT):
            hello = await talk.hear()
        if not self.holding.adopt(hello.epoch):
            raise ProtocolError(
                f"the leader of epoch {hello.epoch} is older than epoch {self.holding.epoch}; "
                "waiting for the present leader"
            )
        self._next_report = self._demand_at = self._clock()
        self._sketch.unheard()
        if self._evidence is not None:
            self._evidence.unheard()
        listener = asyncio.create_task(self._listen(talk))
        sender = asyncio.create_task(self._send(talk))
        try:
            await asyncio.wait((listener, sender), return_when=asyncio.FIRST_COMPLETED)
            if not listener.done():  # it knows best why the stream ended, if it did
                await asyncio.wait((listener,), timeout=LAST_WORD)
        finally:
            for task in (listener, sender):
                task.cancel()
            await asyncio.wait((listener, sender))
        if listener.cancelled():
            error = None if sender.cancelled() else sender.exception()
            log.error("no report could be made or sent", exc_info=error)
            raise ProtocolError(f"no report could be made or sent ({type(error).__name__})")
        listener.result()

    async def _listen(self, talk: Talk) -> None:
        while True:
            self._take(await talk.hear())

    async def _send(self, talk: Talk) -> None:
        while True:
            while (wait := self._next_report - self._clock()) > 0:
                self._report_moved.clear()
                with contextlib.suppress(TimeoutError):  # the report is due
                    async with asyncio.timeout(wait):
                        await self._report_moved.wait()
            self._next_report = self._clock() + max(REPORT_INTERVAL, self._report_every)
            telling = self._clock() >= self._demand_at
            report = self.holding.report(
                self._clock(),
                demand=self._sketch.changes() if telling else NO_DEMAND,
                fleet_version=self._versions["fleet"],
                policy_version=self._versions["policy"],
            )
            report = replace(
                report,
                estimator_version=self._versions["estimator"],
                learned_version=self._versions["learned"],
                experience=self._evidence.changes() if telling and self._evidence else NO_EXPERIENCE,
            )
            nothing_left = self.holding.idle() and not (self._finishing and report.slots)
            if report.leaving and nothing_left and self._farewell is None:
                self._farewell = report.sequence
            if telling:
                self._sketch.sent(report.sequence)
                if self._evidence is not None:
                    self._evidence.sent(report.sequence)
                self._demand_at = self._clock() + DEMAND_INTERVAL
            await talk.say(report)

    def _take(self, grant: Grant) -> None:
        versions = dict(self._versions)
        if grant.sequence > self.holding.applied:
            self._follow(grant)
        self._sketch.answered(grant.answers)
        if self._evidence is not None:
            self._evidence.answered_to(grant.answers)
        if not self.holding.apply(grant, self._clock()):
            return
        self.connected = True
        self.trouble = ""
        self.slot_prices = grant.slot_prices
        self.money_price = grant.money_price
        self._report_every = grant.report_every
        if grant.refusal and grant.refusal != self.refusal:
            log.warning("the operator grants nothing: %s", grant.refusal)
        self.refusal = grant.refusal
        if self._farewell is not None and grant.answers >= self._farewell:
            self._farewell_heard = not self.holding.has_money()
            self._farewell = None  # money that was on its way goes back with another one
        if versions != self._versions:
            self._press()
        self._pulse()

    def _follow(self, grant: Grant) -> None:
        """Take over the documents of a grant; one that can not be read leaves the last good one in force."""
        if grant.refusal:
            self.fleet = self.policy = None
            self.estimator = self.learned = NO_DOCUMENT
            self._versions = dict(NO_VERSIONS)
        if grant.fleet is not None:
            self._versions["fleet"] = grant.fleet.version
            self.fleet = _read("fleet", grant.fleet, parse_fleet) or self.fleet
        if grant.policy is not None:
            self._versions["policy"] = grant.policy.version
            self.policy = _read("policy", grant.policy, parse_policy) or self.policy
        if grant.estimator is not None:
            self._versions["estimator"] = grant.estimator.version
            self.estimator = grant.estimator
        if grant.learned is not None:
            self._versions["learned"] = grant.learned.version
            self.learned = grant.learned
        self.holding.follow(self.policy)

    def _press(self) -> None:
        self._report_within(PRESSING_DELAY)

    def _report_within(self, delay: float) -> None:
        due = self._clock() + delay
        if due < self._next_report:
            self._next_report = due
            self._report_moved.set()

    def _pulse(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _read(kind: str, document: Document, parse: Callable[[Mapping[str, object]], Parsed]) -> Parsed | None:
    try:
        manifest = json.loads(document.manifest)
        if not isinstance(manifest, dict):
            raise SpecError(kind, "is not a JSON object", "use an operator of a compatible version")
        return parse(manifest)
    except (SpecError, ValueError, RecursionError) as error:
        log.error(
            "version %s of the %s can not be read, the last good one stays: %s", document.version, kind, error
        )
        return None


def _reason(error: BaseException) -> str:
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {explain(error.details() or '')}"
    if isinstance(error, TimeoutError):
        return f"no greeting within {HELLO_TIMEOUT:g} s"
    return str(error)
