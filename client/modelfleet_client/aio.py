"""A client of the sidecar's Router API for asyncio.

In: questions. Out: answers, streams, decisions; `errors` where there is none. `client` is the same in plain
calls.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Self, TypeVar, Unpack

import grpc
import grpc.aio
from modelfleet.v1 import router_pb2, router_pb2_grpc

from modelfleet_client import wire
from modelfleet_client.client import ADDRESS, DEFAULT_ADDRESS
from modelfleet_client.errors import Late, ModelfleetError
from modelfleet_client.retrying import Retries
from modelfleet_client.routed import Routed
from modelfleet_client.streaming import Said
from modelfleet_client.values import (
    Answer,
    Batch,
    Chat,
    Counted,
    Decision,
    Explanation,
    Message,
    Options,
    Outcome,
    Piece,
    Settled,
    Usage,
)

_T = TypeVar("_T")


class AsyncStream(Said):
    """An answer as it comes: iterate it for its text. Leaving it early cancels the model's work."""

    def __init__(self, call: Any, first: router_pb2.ChatChunk) -> None:
        super().__init__(first)
        self._call = call

    async def __aiter__(self) -> AsyncIterator[str]:
        """Yield the pieces of text. Raises ModelfleetError where the answer breaks off."""
        async for said in self.pieces():
            if said.text:
                yield said.text

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yield all that is said: text, reasoning, tool calls. Raises ModelfleetError."""
        try:
            async for chunk in self._call:
                if (said := self.hear(chunk)) is not None:
                    yield said
        except grpc.RpcError as error:
            raise wire.error_of(error) from error

    def close(self) -> None:
        """Cancel what has not come yet."""
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class AsyncClient:
    """A connection to one sidecar, for the tasks of one event loop."""

    def __init__(
        self,
        address: str | None = None,
        *,
        timeout: float | None = None,
        retries: Retries | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        metadata: Mapping[str, str] | Callable[[], Mapping[str, str]] | None = None,
    ) -> None:
        """`address`: `host:port` or `unix:/path`; None: $MODELFLEET_ADDRESS, or 127.0.0.1:17070.

        `timeout`: seconds that a call gets where it says nothing itself, all its attempts; None: the policy's
        `limits.maxRequest`. `credentials` and `metadata` (such as `authorization`) are for a shared gateway;
        a function is asked before each attempt, as for a token that is renewed.
        """
        self.address = address or os.environ.get(ADDRESS) or DEFAULT_ADDRESS
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(self.address, options=wire.CHANNEL)
        else:
            self._channel = grpc.aio.secure_channel(self.address, credentials, options=wire.CHANNEL)
        self._stub = router_pb2_grpc.RouterStub(self._channel)
        self._timeout = timeout
        self._retries = retries if retries is not None else Retries()
        self._metadata = metadata if callable(metadata) else lambda: metadata or {}

    async def complete(
        self,
        messages: str | Sequence[Message] | Chat,
        *,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Answer:
        """Return a whole answer. Raises ModelfleetError."""
        request = wire.chat_request(wire.chat_of(messages, options))
        return wire.answer(await self._call(self._stub.Complete, request, timeout))

    async def stream(
        self,
        messages: str | Sequence[Message] | Chat,
        *,
        timeout: float | None = None,
        raw: bool = False,
        **options: Unpack[Options],
    ) -> AsyncStream:
        """Return an answer as it comes, once it has begun. `raw`: pieces bring the server's events.

        Raises ModelfleetError; what has begun is never asked for again.
        """
        request = wire.chat_request(wire.chat_of(messages, options), raw=raw)

        async def begin(request: router_pb2.ChatRequest, **given: Any) -> AsyncStream:
            call: Any = self._stub.Chat(request, **given)
            return AsyncStream(call, await anext(aiter(call)))

        return await self._call(begin, request, timeout)

    async def route(
        self,
        messages: str | Sequence[Message] | Chat,
        *,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Decision:
        """Return where to send a request, whose slot and money are held until it is settled.

        Raises ModelfleetError. Next: `settling`, or `settle`.
        """
        request = wire.route_request(wire.chat_of(messages, options))
        return wire.decision(await self._call(self._stub.Route, request, timeout))

    async def route_batch(self, chats: Sequence[str | Chat], *, timeout: float | None = None) -> Batch:
        """Assign up to 10,000 requests jointly; outcomes in their order. Raises ModelfleetError."""
        requests = [wire.route_request(wire.chat_of(chat, {})) for chat in chats]
        request = router_pb2.RouteBatchRequest(requests=requests)
        return wire.batch(await self._call(self._stub.RouteBatch, request, timeout))

    async def settle(
        self,
        decision_id: str,
        usage: Usage | None = None,
        *,
        outcome: Outcome = Outcome.OK,
        timeout: float | None = None,
    ) -> Settled:
        """Book what a routed request used; None: it never reached the model. Raises ModelfleetError."""
        request = wire.settle_request(decision_id, usage, outcome)
        return wire.settled(await self._call(self._stub.Settle, request, timeout, idempotent=True))

    @asynccontextmanager
    async def settling(self, decision: Decision) -> AsyncIterator[Routed]:
        """Call the model in the body, and say there what it `used`: the decision is settled at its end.

        Where nothing was said, nothing was sent: the decision's slot and money go back at once.
        """
        routed = Routed(decision)
        try:
            yield routed
        except BaseException as error:
            try:
                await self._end(routed, failed=True)
            except ModelfleetError as unsettled:
                error.add_note(f"and decision {decision.id} is not settled: {unsettled}")
            raise
        await self._end(routed, failed=False)

    async def feedback(
        self,
        decision_id: str,
        *,
        score: float | None = None,
        rating: int | None = None,
        label: str | None = None,
        comment: str = "",
        timeout: float | None = None,
    ) -> Counted:
        """Say how good an answer was: a score from 0 to 1, a rating from 1 to 5, or a label such as good.

        Raises ModelfleetError.
        """
        request = wire.feedback_request(decision_id, score, rating, label, comment)
        return wire.counted(await self._call(self._stub.Feedback, request, timeout, idempotent=True))

    async def explain(self, decision_id: str, *, timeout: float | None = None) -> Explanation:
        """Return why a recent decision was taken. Raises ModelfleetError."""
        request = router_pb2.ExplainRequest(decision_id=decision_id)
        return wire.explanation(await self._call(self._stub.Explain, request, timeout, idempotent=True))

    async def close(self) -> None:
        """Close the connection; calls that are under way are cancelled."""
        await self._channel.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _end(self, routed: Routed, *, failed: bool) -> None:
        bill = routed.bill(failed=failed)
        if bill is not None:
            usage, outcome = bill
            routed.settled = await self.settle(routed.decision.id, usage, outcome=outcome)

    async def _call(
        self,
        method: Callable[..., Awaitable[_T]],
        request: object,
        timeout: float | None,
        *,
        idempotent: bool = False,
    ) -> _T:
        """Call until there is an answer, or an error that another attempt would not mend."""
        given = timeout if timeout is not None else self._timeout
        end = None if given is None else time.monotonic() + given
        attempt = 1
        while True:
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                raise Late("the time for the call was over before it was sent", code="DEADLINE_EXCEEDED")
            try:
                return await method(request, timeout=left, metadata=tuple(self._metadata().items()))
            except grpc.RpcError as error:
                failure = wire.error_of(error)
                left = None if end is None else end - time.monotonic()
                draw = random.random()  # noqa: S311 - not for secrets
                pause = self._retries.pause(failure, attempt, left, draw, idempotent=idempotent)
                if pause is None:
                    raise failure from error
            await asyncio.sleep(pause)
            attempt += 1
