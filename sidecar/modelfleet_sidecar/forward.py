"""Stage forward: one decided request to its model server and back, settled exactly once in every path.

In: a `Decision` with its reservation, and the `Call`. Out: an `Exchange` (answer or events), a `Receipt`.
Next: the API modules relay it; the receipt's cost is booked in the lease.

A request that never reached the server costs nothing; an answer with usage costs what it used; anything else
(cut, cancelled, late, no usage) is booked at its reserve, so that the budget holds whatever the server did.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from modelfleet_core.estimation.tokens import tokens_of
from modelfleet_core.policy import RetryOn, Timeouts
from modelfleet_core.values import NanoUsd

from modelfleet_sidecar.calls import Call
from modelfleet_sidecar.connection import ConnectError, Connection, CutError, Target
from modelfleet_sidecar.decision import Decision
from modelfleet_sidecar.dialect import Usage
from modelfleet_sidecar.estimates import Timing
from modelfleet_sidecar.failures import Failure, Fault
from modelfleet_sidecar.keys import ApiKeys
from modelfleet_sidecar.passing import REQUEST_ID
from modelfleet_sidecar.patience import Vigil
from modelfleet_sidecar.spoken import Spoken
from modelfleet_sidecar.sse import BadStreamError, EventStream
from modelfleet_sidecar.upstream import Pool
from modelfleet_sidecar.upstream_body import upstream_body
from modelfleet_sidecar.upstream_errors import broke, cut, empty, malformed, refused, unreachable

MAX_ANSWER = 64 * 1024 * 1024
MAX_ERROR = 64 * 1024
MAX_HELD = 1024 * 1024
"""Bytes of a stream that are held back while nothing has content."""
USUAL = Timeouts()
HANG_UP_PATIENCE = 0.5
"""Seconds that a cancelled request's slot waits for the server's word that it has noticed."""
TAIL_PATIENCE = 1.0
"""Seconds that a server has to end its response after the stream's last event."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a request used and cost."""

    usage: Usage
    cost: NanoUsd


Noted = Callable[["Exchange", "Timing"], None]
"""Take note of a whole answer, before the caller has its end."""
Settle = Callable[[Decision, NanoUsd | None], NanoUsd]
"""Book a decision's cost (None: its reserve), free its slot and return what was charged. Idempotent."""


class Hearing(Protocol):
    """Who hears how attempts end, before they are settled. `began` is when they did."""

    def answered(self, decision: Decision, began: float) -> None:
        """The server began to answer."""

    def failed(self, decision: Decision, began: float, failure: Failure) -> None:
        """The attempt failed before its answer was whole."""


class Exchange:
    """One request at a model server. `begin`, then `answer` or `events` to the end: `receipt` is there."""

    def __init__(
        self,
        decision: Decision,
        call: Call,
        connection: Connection,
        settle: Settle,
        *,
        stream: EventStream | None,
        vigil: Vigil,
        secret: str,
        sent_at: float,
        clock: Callable[[], float],
        noted: Noted,
        began: Callable[[], None],
        spoken: Spoken | None = None,
    ) -> None:
        """`stream` reads the events; None: the answer comes whole. `vigil` ends an attempt that takes too
        long. `began` is called with the first content, before anything is settled. `spoken` collects what is
        said; None: nobody wants to know."""
        self._spoken = spoken
        self.decision = decision
        self._clock = clock
        self._noted = noted
        self._began = began
        self.through = False
        """Whether the whole answer has come; what fails then is not the server's fault."""
        self._sent_at = sent_at
        self._first_at: float | None = None
        self.answer_id = ""
        """As the server named its answer; empty: it did not."""
        self.cut = False
        """Whether the answer ended at its token limit."""
        self.receipt: Receipt | None = None
        self._call = call
        self._connection = connection
        self._settle = settle
        self._secret = secret
        self._stream = stream
        self._vigil = vigil
        self._first = b""
        """The whole answer, or a stream's events up to its first content."""
        self._broken: Failure | None = None
        """What is to be said once the events before it are relayed."""
        self._ended = False
        self.usage: Usage | None = None
        """Of the whole answer, once the server has said it."""

    async def begin(self) -> None:
        """Read what a caller gets first: a whole answer, or a stream's events up to its first content. Raises
        Failure.

        Until it returns the request may be tried elsewhere: its caller has nothing of it.
        """
        if self._stream is None:
            self._first = await self._whole()
            return
        held: list[bytes] = []
        size = 0
        while relay := await self._next(self._stream):
            held.append(relay)
            size += len(relay)
            if self._first_at is not None or self._ended:
                break
            if size > MAX_HELD:
                raise malformed(self.decision, f"no content within {MAX_HELD} bytes of its stream")
        self._first = held[0] if len(held) == 1 else b"".join(held)

    @property
    def cut_by_us(self) -> bool:
        """Whether the policy's limit of tokens cut the answer, not one that the caller set."""
        asked = self._call.asked_output_tokens
        return self.cut and (asked is None or asked > self.decision.max_output_tokens)

    @property
    def answer(self) -> bytes:
        """The whole JSON answer as it came."""
        return self._first

    async def events(self) -> AsyncGenerator[bytes, None]:
        """Yield whole events as they come, up to the stream's last one. Raises Failure where it breaks."""
        assert self._stream is not None  # noqa: S101 - asked for as a stream
        relay = self._first or await self._next(self._stream)
        while relay:
            yield relay
            relay = await self._next(self._stream)

    async def _whole(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        decision, dialect = self.decision, self._call.dialect
        try:
            while data := await self._connection.read():
                parts.append(data)
                size += len(data)
                if size > MAX_ANSWER:
                    raise malformed(decision, f"its answer is over {MAX_ANSWER} bytes")
        except CutError as error:
            raise cut(decision, error) from None
        whole = b"".join(parts)
        try:
            value = json.loads(whole)
        except (ValueError, RecursionError):
            raise malformed(decision, "its answer is no JSON") from None
        if not isinstance(value, dict):
            raise malformed(decision, "its answer is no JSON object")
        if (said := dialect.failure(value)) is not None:
            raise broke(decision, said, self._secret)
        self.usage = dialect.usage(value)
        if not dialect.answers(value):
            raise empty(decision)
        if self._spoken is not None:
            self._spoken.whole(value)
        self.answer_id, self.cut = dialect.id(value), dialect.cut(value)
        self._finish(0 if self.usage is not None else tokens_of(dialect.text(value)))
        return whole

    async def _next(self, stream: EventStream) -> bytes:
        """Return the next whole events, at the end nothing. Raises Failure."""
        if self._broken is not None:
            raise self._broken
        if self._ended:
            return b""
        try:
            while data := await self._connection.read():
                relay = stream.feed(data)
                if self._first_at is None and stream.spoke:
                    self._first_at = self._clock()
                    self._vigil.spoke()
                    self._began()
                if self._spoken is not None:
                    self._spoken.events(relay)
                if stream.done:
                    await self._through(stream)
                if stream.error is not None:
                    self._broken = broke(self.decision, stream.error, self._secret)
                    if not relay or not stream.spoke:
                        raise self._broken
                if relay:
                    return relay
        except CutError as error:
            raise cut(self.decision, error) from None
        except BadStreamError as bad:
            raise malformed(self.decision, str(bad)) from None
        raise cut(self.decision, CutError("the stream ended without its last event"))

    async def _through(self, stream: EventStream) -> None:
        """Book a stream whose last event has come, so that a caller who gets that finds it settled."""
        self._ended = True
        # Usage before the end may be a running count, which the bill would pass.
        self.usage = stream.usage
        if not (stream.spoke or stream.finished):
            raise empty(self.decision)
        self.answer_id, self.cut = stream.answer_id, stream.cut
        whole = self._clock()
        self._vigil.end()
        await self._tail()
        self._finish(math.ceil(stream.tokens), whole)

    async def _tail(self) -> None:
        """Read the end of the response, which tells that the server's slot is free."""
        try:
            async with asyncio.timeout(TAIL_PATIENCE):
                while await self._connection.read():
                    pass
        except (TimeoutError, CutError):
            await self._connection.hang_up(HANG_UP_PATIENCE)

    def _finish(self, guessed_output: int, whole: float | None = None) -> None:
        """Settle an answer that was whole at that time, by the clock; None: now."""
        decision = self.decision
        self.through = True
        if self._first_at is None:
            self._began()
        if self.usage is not None:
            usage = self.usage
            actual: NanoUsd | None = cost_of(decision, usage)
        else:
            most = decision.max_output_tokens * self._call.choices
            usage = Usage(decision.input_tokens, min(guessed_output, most), estimated=True)
            actual = None
        self.receipt = Receipt(usage, self._settle(decision, actual))
        first = None if self._first_at is None else self._first_at - self._sent_at
        self._noted(self, Timing(first, (self._clock() if whole is None else whole) - self._sent_at))


def cost_of(decision: Decision, usage: Usage) -> NanoUsd:
    """Return what an answer costs by what it used."""
    return decision.pricing.cost(usage.input_tokens, usage.output_tokens, usage.cached_tokens)


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

    @asynccontextmanager
    async def open(
        self,
        decision: Decision,
        call: Call,
        *,
        stream: bool,
        timeouts: Timeouts = USUAL,
        spoken: Spoken | None = None,
    ) -> AsyncIterator[Exchange]:
        """Send the request; enter once the server has answered 200. Leaving early cancels it at the server.

        Raises Failure: unreachable, refused, cut, too slow or not understood.
        """
        begun = self._clock()
        connection: Connection | None = None
        exchange: Exchange | None = None
        vigil: Vigil | None = None
        actual: NanoUsd | None = None
        try:
            write = partial(
                upstream_body,
                call,
                served_name=decision.served_name,
                max_output_tokens=decision.max_output_tokens,
                stream=stream,
                changes=decision.changes,
            )
            body = await asyncio.to_thread(write) if call.large else write()
            key = self._key(decision)
            try:
                target = Target.parse(decision.endpoint)
                connection = await self._pool.acquire(target, within=timeouts.connect)
            except ConnectError as error:
                raise unreachable(decision, error) from None
            dialect = call.dialect
            events = EventStream(keep_usage=call.wants_usage, dialect=dialect) if stream else None
            vigil = Vigil(timeouts, begun, connection, events, self._clock)
            sent_at = self._clock()
            try:
                named = {REQUEST_ID: decision.id, **decision.passed}
                await connection.send(target, dialect.path, body, named, bearer=key)
                status, headers = await connection.head()
            except CutError as error:
                raise cut(decision, error) from None
            if status != 200:
                said = await _said(connection)
                actual = NanoUsd(0)
                raise refused(decision, status, headers, said, key)
            _check_type(decision, headers, stream=stream)
            exchange = Exchange(
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
                began=lambda: self._attempts.answered(decision, begun),
                spoken=spoken,
            )
            yield exchange
        except Failure as failure:
            if exchange is None or not exchange.through:
                self._attempts.failed(decision, begun, failure)
            raise
        finally:
            if vigil is not None:
                vigil.end()
            if exchange is not None and exchange.usage is not None:
                actual = cost_of(decision, exchange.usage)
            self._part(decision, connection, actual)

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
