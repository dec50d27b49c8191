"""The gRPC Router API over the same router as HTTP: calls to asks and back, failures to rich statuses.

In: calls of `modelfleet.v1.Router`. Out: its messages; the decision as initial metadata, cost as trailing.
`grpc_requests` and `grpc_answers` translate what is in the messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any, NoReturn

import grpc
import grpc.aio
from google.protobuf import any_pb2, message_factory
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status  # type: ignore[import-untyped]
from modelfleet.v1 import router_pb2, router_pb2_grpc

from modelfleet_sidecar.calls import LARGE, Call
from modelfleet_sidecar.decision import Ask, Decision
from modelfleet_sidecar.dialect import Usage
from modelfleet_sidecar.exchange import Exchange, Receipt
from modelfleet_sidecar.failures import Failure, Fault, bad_field, internal
from modelfleet_sidecar.feedback import Source, feedback
from modelfleet_sidecar.gate import Gate
from modelfleet_sidecar.grpc_answers import (
    answer_message,
    certificate_message,
    chunk_message,
    decision_message,
    duration,
    explanation_message,
    initial_metadata,
    outcome_message,
    sound,
    trailing_metadata,
    usage_message,
)
from modelfleet_sidecar.grpc_requests import chat_call
from modelfleet_sidecar.router import Router
from modelfleet_sidecar.telemetry import Telemetry

Context = grpc.aio.ServicerContext[object, object]
_ADMITTED: ContextVar[dict[str, str]] = ContextVar("admitted")
"""Headers of the call that is served, as its gate lets them be seen."""
SERVICE = router_pb2.DESCRIPTOR.services_by_name["Router"]
DOMAIN = "modelfleet.io"
MAX_BATCH = 10_000
MAX_MESSAGE = 1_500
"""Bytes of a status message; it travels twice, and clients refuse calls that end with over 8 KiB."""


class GrpcApi(router_pb2_grpc.RouterServicer):
    """The servicer. What its methods raise is told by `add_to`, which is how a server must get it."""

    def __init__(self, *, router: Router, telemetry: Telemetry, gate: Gate | None = None) -> None:
        """`gate`: who may call; None: whoever reaches it."""
        self._router = router
        self._telemetry = telemetry
        self._gate = gate

    def add_to(self, server: grpc.aio.Server) -> None:
        """Let `server` serve the API, with requests bounded and every failure as one rich status."""
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        for method in SERVICE.methods:
            parse = message_factory.GetMessageClass(method.input_type).FromString
            answer = message_factory.GetMessageClass(method.output_type).SerializeToString
            called = self._called(getattr(self, method.name), parse)
            if self._gate is not None:
                # As streams, whose messages are read when asked for: after the caller has shown who it is.
                behind = self._behind(self._gate, called)
                if method.server_streaming:
                    handlers[method.name] = grpc.stream_stream_rpc_method_handler(behind, None, answer)
                else:
                    handlers[method.name] = grpc.stream_unary_rpc_method_handler(behind, None, answer)
            elif method.server_streaming:
                handlers[method.name] = grpc.unary_stream_rpc_method_handler(called, None, answer)
            else:
                handlers[method.name] = grpc.unary_unary_rpc_method_handler(called, None, answer)
        server.add_registered_method_handlers(SERVICE.full_name, handlers)

    async def Route(  # noqa: N802 - named by the protocol
        self, request: router_pb2.RouteRequest, context: Context
    ) -> router_pb2.RouteDecision:
        ask = await self._asked(request.chat, context, routed=True)
        return decision_message(await self._router.decide(ask))

    async def RouteBatch(  # noqa: N802
        self, request: router_pb2.RouteBatchRequest, context: Context
    ) -> router_pb2.RouteBatchResponse:
        if len(request.requests) > MAX_BATCH:
            raise bad_field("requests", f"holds {len(request.requests)} requests; send at most {MAX_BATCH}")
        self._router.models()  # without a lease the whole call fails, not each request
        asks: list[Ask | Failure] = []
        for index, one in enumerate(request.requests):
            if index % 20 == 19:  # what is read of each takes half a millisecond
                await asyncio.sleep(0)
            try:
                asks.append(self._ask(chat_call(one.chat), one.chat, context, routed=True))
            except Failure as failure:
                asks.append(failure)
        outcomes, certificate = await self._router.decide_all(asks)
        response = router_pb2.RouteBatchResponse(
            certificate=None if certificate is None else certificate_message(certificate)
        )
        try:
            for start in range(0, len(outcomes), 500):
                response.outcomes.extend([outcome_message(one) for one in outcomes[start : start + 500]])
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self._router.release([one for one in outcomes if isinstance(one, Decision)])
            raise
        return response

    async def Chat(  # type: ignore[override]  # noqa: N802 - written by `context.write`, not as a generator:
        # a cancelled call must end the exchange at once, whatever it is doing.
        self,
        request: router_pb2.ChatRequest,
        context: Context,
    ) -> None:
        ask = await self._asked(request, context)
        async with self._router.serve(ask, stream=True) as exchange:
            decision = exchange.decision
            await context.send_initial_metadata(initial_metadata(decision))
            await context.write(router_pb2.ChatChunk(decision=decision_message(decision)))
            async with aclosing(exchange.events()) as events:
                async for block in events:
                    if (chunk := chunk_message(block, decision, raw=request.raw)) is not None:
                        await context.write(chunk)
            receipt = _receipt(exchange)
            context.set_trailing_metadata(trailing_metadata(exchange.decision, receipt))
            last = router_pb2.ChatChunk(usage=usage_message(receipt.usage), cost_nano_usd=receipt.cost)
            await context.write(last)

    async def Complete(  # noqa: N802
        self, request: router_pb2.ChatRequest, context: Context
    ) -> router_pb2.ChatResponse:
        ask = await self._asked(request, context)
        async with self._router.serve(ask, stream=False) as exchange:
            await context.send_initial_metadata(initial_metadata(exchange.decision))
            raw = exchange.answer
        receipt = _receipt(exchange)
        context.set_trailing_metadata(trailing_metadata(exchange.decision, receipt))
        return answer_message(raw, exchange.decision, receipt)

    async def Settle(  # noqa: N802
        self, request: router_pb2.SettleRequest, context: Context
    ) -> router_pb2.SettleResponse:
        usage = None
        if request.HasField("usage"):
            said = request.usage
            usage = Usage(said.input_tokens, said.output_tokens, cached_tokens=said.cached_tokens)
        broken = request.outcome == router_pb2.OUTCOME_ERROR
        settled = self._router.settle(request.decision_id, usage, broken=broken)
        return router_pb2.SettleResponse(
            cost_nano_usd=settled.cost, repeated=settled.repeated, expired=settled.expired
        )

    async def Feedback(  # noqa: N802
        self, request: router_pb2.FeedbackRequest, context: Context
    ) -> router_pb2.FeedbackResponse:
        named = request.WhichOneof("verdict")
        said = feedback(
            request.decision_id,
            None if named is None else Source(named),
            None if named is None else getattr(request, named),
            request.comment,
        )
        counted = self._router.feedback(said)
        return router_pb2.FeedbackResponse(repeated=counted.repeated, score=counted.score)

    async def Explain(  # noqa: N802
        self, request: router_pb2.ExplainRequest, context: Context
    ) -> router_pb2.Explanation:
        return explanation_message(self._router.explain(request.decision_id))

    def _called(
        self, method: Callable[[Any, Context], Awaitable[object]], parse: Callable[[bytes], object]
    ) -> Callable[[bytes, Context], Awaitable[object]]:
        """Return what serves a method: it bounds the request, reads it, and ends by the failure's status.

        The request is parsed here, since what grpc parses itself ends as UNKNOWN where it is garbage.
        """

        async def called(raw: bytes, context: Context) -> object:
            code = "OK"
            try:
                if len(raw) > self._router.max_body:
                    raise Failure(
                        Fault.TOO_LARGE,
                        "BodyTooLarge",
                        f"the request is over {self._router.max_body} bytes; send less or raise"
                        " limits.maxBody",
                    )
                return await method(_parsed(raw, parse), context)
            except Failure as failure:
                code = failure.status.grpc
                await _abort(context, failure)
            except asyncio.CancelledError:
                code = "CANCELLED"
                raise
            except Exception as error:  # noqa: BLE001 - the caller must get one error whatever broke
                code = "INTERNAL"
                self._telemetry.bug("grpc", error)
                await _abort(context, internal(error))
            finally:
                self._telemetry.response("grpc", code)

        return called

    def _behind(
        self, gate: Gate, called: Callable[[bytes, Context], Awaitable[object]]
    ) -> Callable[[AsyncIterator[bytes], Context], Awaitable[object]]:
        """Return what serves a method for those whom the gate lets in; of others it reads nothing."""

        async def admitted(messages: AsyncIterator[bytes], context: Context) -> object:
            code = ""
            try:
                _ADMITTED.set(await gate.admit(_metadata(context), _address(context.peer())))
                raw = await anext(messages, None)
                if raw is None:
                    raise Failure(Fault.BAD_REQUEST, "MalformedMessage", "the request holds no message")
            except Failure as failure:
                code = failure.status.grpc
                await _abort(context, failure)
            except asyncio.CancelledError:
                code = "CANCELLED"
                raise
            finally:
                if code:
                    self._telemetry.response("grpc", code)
            return await called(raw, context)

        return admitted

    async def _asked(self, chat: router_pb2.ChatRequest, context: Context, *, routed: bool = False) -> Ask:
        """Return what is asked; large pictures are written out beside the event loop."""
        await self._router.turn()
        large = chat.ByteSize() > LARGE
        call = await asyncio.to_thread(chat_call, chat) if large else chat_call(chat)
        return self._ask(call, chat, context, routed=routed)

    def _ask(
        self, call: Call, chat: router_pb2.ChatRequest, context: Context, *, routed: bool = False
    ) -> Ask:
        headers = {name.lower(): value for name, value in chat.headers.items()}
        headers |= _metadata(context) if self._gate is None else _ADMITTED.get()
        # Without a deadline grpc says None, whatever its types promise.
        remaining: float | None = context.time_remaining()
        return self._router.ask(call, headers, remaining=remaining, routed=routed)


def _metadata(context: Context) -> dict[str, str]:
    return {name: value for name, value in context.invocation_metadata() or () if isinstance(value, str)}


def _address(peer: str) -> str:
    """Return the address of a peer as gRPC names it, such as `ipv4:10.0.0.1:5`; empty: a Unix socket's."""
    kind, _, rest = peer.partition(":")
    return rest.rpartition(":")[0] if kind in ("ipv4", "ipv6") else ""


def _parsed(raw: bytes, parse: Callable[[bytes], object]) -> object:
    try:
        return parse(raw)
    except DecodeError:
        raise Failure(
            Fault.BAD_REQUEST,
            "MalformedMessage",
            "the request is no message of modelfleet.v1.Router, is nested too deeply, or has text that is not"
            " UTF-8",
        ) from None


async def _abort(context: Context, failure: Failure) -> NoReturn:
    metadata = {} if failure.field is None else {"field": failure.field}
    if failure.attempts:
        metadata |= {"attempts": str(failure.attempts), "decision_id": failure.decision_id}
    details = [any_pb2.Any()]
    details[0].Pack(
        error_details_pb2.ErrorInfo(
            reason=failure.reason,
            domain=DOMAIN,
            metadata=metadata,
        )
    )
    if failure.retry_after is not None:
        details.append(any_pb2.Any())
        details[-1].Pack(error_details_pb2.RetryInfo(retry_delay=duration(failure.retry_after)))
    if failure.limit:
        used_up = error_details_pb2.QuotaFailure.Violation(
            subject=failure.limit, description=sound(failure.message)
        )
        details.append(any_pb2.Any())
        details[-1].Pack(error_details_pb2.QuotaFailure(violations=[used_up]))
    code: grpc.StatusCode = getattr(grpc.StatusCode, failure.status.grpc)
    message = f"{failure.reason}: {sound(failure.message)}".encode()[:MAX_MESSAGE].decode(errors="ignore")
    rich = rpc_status.to_status(status_pb2.Status(code=code.value[0], message=message, details=details))
    await context.abort(code, message, rich.trailing_metadata)


def _receipt(exchange: Exchange) -> Receipt:
    assert exchange.receipt is not None  # noqa: S101 - it is there once the answer was read to its end
    return exchange.receipt
