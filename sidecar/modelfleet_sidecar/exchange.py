"""Stage forward: the answer to one request, read whole or event by event, and settled at its end.

In: a connection that a model server has begun to answer 200 on. Out: an `Exchange` (answer or events), a
`Receipt`. Next: the API modules relay it; the receipt's cost is booked in the lease.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from functools import partial

from modelfleet_core.estimation.tokens import tokens_of
from modelfleet_core.values import NanoUsd

from modelfleet_sidecar.calls import Call
from modelfleet_sidecar.connection import Connection, CutError, Relay
from modelfleet_sidecar.decision import Decision
from modelfleet_sidecar.dialect import Usage
from modelfleet_sidecar.estimates import Timing
from modelfleet_sidecar.failures import Failure
from modelfleet_sidecar.patience import Vigil
from modelfleet_sidecar.spoken import Spoken
from modelfleet_sidecar.sse import BadStreamError, EventStream
from modelfleet_sidecar.upstream_errors import broke, cut, empty, malformed

MAX_ANSWER = 64 * 1024 * 1024
MAX_HELD = 1024 * 1024
"""Bytes of a stream that are held back while nothing has content."""
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
        counted: Callable[[int], None],
        spoken: Spoken | None = None,
    ) -> None:
        """`stream` reads the events; None: the answer comes whole. `vigil` ends an attempt that takes too
        long. `began` is called with the first content, `counted` with the tokens of the prompt where the
        server tells them, both before anything is settled. `spoken` collects what is said; None: nobody wants
        to know."""
        self._spoken = spoken
        self.decision = decision
        self._clock = clock
        self._noted = noted
        self._began = began
        self._counted = counted
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

    async def events(self, take: Relay | None = None) -> AsyncGenerator[bytes, None]:
        """Yield whole events as they come, up to the stream's last one. Raises Failure where it breaks.

        Events that need no look go to `take` while the next ones are waited for, and are yielded where it
        does not take them.
        """
        stream = self._stream
        assert stream is not None  # noqa: S101 - asked for as a stream
        at_once = None if take is None else partial(self._pass_on, stream, take)
        relay = self._first or await self._next(stream, at_once)
        while relay:
            yield relay
            relay = await self._next(stream, at_once)

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

    def _pass_on(self, stream: EventStream, take: Relay, data: bytes) -> bool:
        """Let `take` have what came, where nothing in it has to be looked at; return whether it did."""
        if not stream.answer_id or not stream.plain(data) or not take(data):
            return False
        stream.count(data)
        if self._spoken is not None:
            self._spoken.events(data)
        return True

    async def _next(self, stream: EventStream, at_once: Relay | None = None) -> bytes:
        """Return the next whole events, at the end nothing. Raises Failure."""
        if self._broken is not None:
            raise self._broken
        if self._ended:
            return b""
        try:
            while data := await self._connection.read(at_once):
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
            self._counted(usage.input_tokens)
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
