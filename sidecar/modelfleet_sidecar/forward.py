"""Stage forward: one decided request to its model server, settled exactly once in every path.

In: a `Decision` with its reservation, and the `Call`. Out: its `Exchange`, once the server has answered 200.
Next: `exchange` reads the answer.

A request that never reached the server costs nothing; an answer with usage costs what it used; anything else
(cut, cancelled, late, no usage) is booked at its reserve, so that the budget holds whatever the server did.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from types import TracebackType
from typing import Protocol

from modelfleet_core.policy import RetryOn, Timeouts
from modelfleet_core.values import NanoUsd

from modelfleet_sidecar.calls import Call
from modelfleet_sidecar.connection import ConnectError, Connection, CutError, Target
from modelfleet_sidecar.decision import Decision
from modelfleet_sidecar.exchange import HANG_UP_PATIENCE, Exchange, Noted, Settle, cost_of
from modelfleet_sidecar.failures import Failure, Fault
from modelfleet_sidecar.keys import ApiKeys
from modelfleet_sidecar.passing import REQUEST_ID
from modelfleet_sidecar.patience import Vigil, hung_after
from modelfleet_sidecar.spoken import Spoken
from modelfleet_sidecar.sse import EventStream
from modelfleet_sidecar.upstream import Pool
from modelfleet_sidecar.upstream_body import upstream_body
from modelfleet_sidecar.upstream_errors import cut, hung, malformed, refused, unreachable

MAX_ERROR = 64 * 1024
USUAL = Timeouts()


class Hearing(Protocol):
    """Who hears how attempts end, before they are settled. `began` is when they did."""

    def answered(self, decision: Decision, began: float) -> None:
        """The server began to answer."""

    def counted(self, decision: Decision, input_tokens: int) -> None:
        """The server counted so many tokens of the prompt."""

    def failed(self, decision: Decision, began: float, failure: Failure) -> None:
        """The attempt failed before its answer was whole."""


class Forwarder:
    """Sends decided requests to their endpoints."""

    def __init__(
        self,
        *,
        pool: Pool,
        settle: Settle,
        release: Callable[[Iterable[Decision]], None],
        keys: ApiKeys,
        clock: Callable[[], float],
        noted: Noted,
        attempts: Hearing,
    ) -> None:
        """`release` gives back all that decisions hold that were not sent; `attempts` hears how each ends."""
        self._attempts = attempts
        self._clock = clock
        self._noted = noted
        self._keys = keys
        self._pool = pool
        self._settle = settle
        self._release = release
        self._hanging_up: set[asyncio.Task[None]] = set()

    def open(
        self,
        decision: Decision,
        call: Call,
        *,
        stream: bool,
        timeouts: Timeouts = USUAL,
        spoken: Spoken | None = None,
    ) -> Attempt:
        """Send the request; enter once the server has answered 200. Leaving early cancels it at the server.

        Raises Failure: unreachable, refused, cut, too slow or not understood.
        """
        return Attempt(self, decision, call, stream=stream, timeouts=timeouts, spoken=spoken)

    async def send(self, attempt: Attempt) -> Exchange:
        """Send an attempt's request; return its exchange. Raises Failure."""
        decision, call, timeouts = attempt.decision, attempt.call, attempt.timeouts
        begun = attempt.begun = self._clock()
        write = partial(
            upstream_body,
            call,
            served_name=decision.served_name,
            max_output_tokens=decision.max_output_tokens,
            stream=attempt.stream,
            changes=decision.changes,
        )
        body = await asyncio.to_thread(write) if call.large else write()
        key = self._key(decision)
        try:
            target = Target.parse(decision.slot, decision.certified)
            connection = await self._pool.acquire(target, within=timeouts.connect)
        except ConnectError as error:
            raise unreachable(decision, error) from None
        attempt.connection = connection
        dialect = call.dialect
        events = EventStream(keep_usage=call.wants_usage, dialect=dialect) if attempt.stream else None
        vigil = attempt.vigil = Vigil(timeouts, begun, connection, events, self._clock)
        sent_at = self._clock()
        try:
            named = {REQUEST_ID: decision.id, **decision.passed}
            await connection.send(target, dialect.path, body, named, bearer=key)
            status, headers = await connection.head()
        except CutError as error:
            raise cut(decision, error) from None
        if status != 200:
            said = await _said(connection)
            attempt.actual = NanoUsd(0)
            raise refused(decision, call, status, headers, said, key)
        _check_type(decision, headers, stream=attempt.stream)
        return Exchange(
            decision,
            call,
            connection,
            self._settle,
            stream=events,
            vigil=vigil,
            secret=key,
            sent_at=sent_at,
            clock=self._clock,
            noted=self._noted,
            began=partial(self._began, attempt),
            counted=lambda tokens: self._attempts.counted(decision, tokens),
            spoken=attempt.spoken,
        )

    def _began(self, attempt: Attempt) -> None:
        attempt.spoke = True
        self._attempts.answered(attempt.decision, attempt.begun)

    def _hung(self, attempt: Attempt) -> Failure | None:
        """Return the failure of a server that had been silent for too long; None: it had not."""
        decision, call = attempt.decision, attempt.call
        # How long images, fetched from anywhere, or what is stored at the server takes, its caller chooses.
        if attempt.connection is None or attempt.spoke or call.images or call.unbounded:
            return None
        silent = self._clock() - attempt.begun
        usual = decision.usual_first_token if attempt.stream else decision.usual_longest
        if silent < hung_after(usual, decision.input_tokens + call.hidden_tokens):
            return None
        return hung(decision, silent)

    def end(self, attempt: Attempt, error: BaseException | None) -> None:
        """Say how an attempt ended, and settle it."""
        exchange, attempt.exchange = attempt.exchange, None  # it knows the attempt, and both would stay
        if isinstance(error, Failure) and (exchange is None or not exchange.through):
            self._attempts.failed(attempt.decision, attempt.begun, error)
        elif isinstance(error, asyncio.CancelledError) and (failure := self._hung(attempt)) is not None:
            self._attempts.failed(attempt.decision, attempt.begun, failure)
        if attempt.vigil is not None:
            attempt.vigil.end()
        if exchange is not None and exchange.usage is not None:
            attempt.actual = cost_of(attempt.decision, exchange.usage)
        self._part(attempt.decision, attempt.connection, attempt.actual)

    def _key(self, decision: Decision) -> str:
        """Return the API key to send, empty: none is asked for. Raises Failure where it has gone."""
        if decision.api_key is None:
            return ""
        key = self._keys.find(decision.api_key)
        if key is None:
            raise Failure(
                Fault.UNAVAILABLE,
                "ApiKeyMissing",
                f"the API key {decision.api_key} of model {decision.variant} is not there (any more)",
                retry_after=5.0,
                retry_on=RetryOn.SERVER_ERROR,
            )
        return key

    def _part(self, decision: Decision, connection: Connection | None, actual: NanoUsd | None) -> None:
        """Settle, at once where the server is through, otherwise when it has noticed that we left."""
        if connection is None:
            self._release((decision,))
        elif connection.complete or not connection.usable:
            self._pool.release(connection)
            self._settle(decision, actual)
        else:
            task = asyncio.create_task(self._hang_up(decision, connection, actual))
            self._hanging_up.add(task)
            task.add_done_callback(self._hanging_up.discard)

    async def _hang_up(self, decision: Decision, connection: Connection, actual: NanoUsd | None) -> None:
        try:
            await connection.hang_up(HANG_UP_PATIENCE)
        finally:
            connection.abort()
            self._settle(decision, actual)

    async def settled(self) -> None:
        """Wait until every cancelled request is settled."""
        if self._hanging_up:
            await asyncio.wait(self._hanging_up)

    async def close(self) -> None:
        """The same, then close all connections."""
        await self.settled()
        await self._pool.close()


class Attempt:
    """The context of one attempt: its request is sent on entry, and it is settled however it is left.

    A class of its own, for a generator costs every request more.
    """

    __slots__ = (
        *("_forwarder", "actual", "begun", "call", "connection", "decision", "exchange"),
        *("spoke", "spoken", "stream", "timeouts", "vigil"),
    )

    def __init__(
        self,
        forwarder: Forwarder,
        decision: Decision,
        call: Call,
        *,
        stream: bool,
        timeouts: Timeouts,
        spoken: Spoken | None,
    ) -> None:
        self._forwarder = forwarder
        self.decision = decision
        self.call = call
        self.stream = stream
        self.timeouts = timeouts
        self.spoken = spoken
        self.begun = 0.0
        self.spoke = False
        """Whether there was any content."""
        self.connection: Connection | None = None
        self.exchange: Exchange | None = None
        self.vigil: Vigil | None = None
        self.actual: NanoUsd | None = None
        """What it cost, as far as that is known otherwise than by its usage."""

    async def __aenter__(self) -> Exchange:
        try:
            exchange = self.exchange = await self._forwarder.send(self)
        except BaseException as error:
            self._forwarder.end(self, error)
            raise
        return exchange

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _where: TracebackType | None
    ) -> None:
        self._forwarder.end(self, error)


async def _said(connection: Connection) -> bytes:
    """Return the beginning of an answer other than 200."""
    text = b""
    try:
        while data := await connection.read():
            text += data
            if len(text) > MAX_ERROR:
                break
    except CutError:
        pass  # what came of the reason is enough
    return text


def _check_type(decision: Decision, headers: Mapping[bytes, bytes], *, stream: bool) -> None:
    """Raise Failure where an answer says that it is something else than what was asked for."""
    said = headers.get(b"content-type")
    if said is None:
        return
    kind = said.partition(b";")[0].strip().lower()
    if kind == b"text/event-stream" if stream else kind.endswith(b"json"):
        return
    shown = kind[:100].decode("latin-1")
    due = "text/event-stream" if stream else "application/json"
    raise malformed(decision, f"its answer is {shown!r}, not {due}")
