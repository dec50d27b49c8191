"""The gRPC Router API over the same router as HTTP: protobuf to asks and back, failures to rich statuses.

In: calls of `modelfleet.v1.Router`. Out: its messages; the decision as initial metadata, cost as trailing.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import NoReturn

import grpc
import grpc.aio
from google.protobuf import any_pb2, duration_pb2, json_format
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status  # type: ignore[import-untyped]
from modelfleet.v1 import router_pb2, router_pb2_grpc
from modelfleet_core.batching.outcome import Certificate
from modelfleet_core.policy import RetryOn
from modelfleet_core.values import usd

from modelfleet_sidecar.chat import ChatCall, parse_fields
from modelfleet_sidecar.decision import About, Ask, Decision
from modelfleet_sidecar.explain import options
from modelfleet_sidecar.failures import Failure, Fault, bad_field, internal
from modelfleet_sidecar.feedback import Source, feedback
from modelfleet_sidecar.forward import Exchange, Receipt
from modelfleet_sidecar.router import Router
from modelfleet_sidecar.sse import Usage, event_data
from modelfleet_sidecar.telemetry import Telemetry

Context = grpc.aio.ServicerContext[object, object]
Metadata = tuple[tuple[str, str], ...]
DOMAIN = "modelfleet.io"
MAX_BATCH = 10_000
MOST_OUTPUT_TOKENS = 2**31 - 1
"""Any more means the policy's limit as well."""
MAX_MESSAGE = 1_500
"""Bytes of a status message; it travels twice, and clients refuse calls that end with over 8 KiB."""
OWN_FIELDS = {
    "model": "use the message's own field model",
    "messages": "use the message's own field messages",
    "max_tokens": "use the message's own field max_output_tokens",
    "max_completion_tokens": "use the message's own field max_output_tokens",
    "stream": "call Chat for a stream and Complete for a whole answer",
    "stream_options": "leave it out, the last chunk of Chat always has the usage",
    "n": "this API returns one choice, call it again for another",
}
"""Fields that `parameters` may not hold, and what to do instead."""


class GrpcApi(router_pb2_grpc.RouterServicer):
    """The servicer."""

    def __init__(self, *, router: Router, telemetry: Telemetry) -> None:
        self._router = router
        self._telemetry = telemetry

    async def Route(  # noqa: N802 - named by the protocol
        self, request: router_pb2.RouteRequest, context: Context
    ) -> router_pb2.RouteDecision:
        async with self._call(request, context):
            return _decision(await self._router.decide(self._ask(request.chat, context, routed=True)))

    async def RouteBatch(  # noqa: N802
        self, request: router_pb2.RouteBatchRequest, context: Context
    ) -> router_pb2.RouteBatchResponse:
        async with self._call(request, context):
            if len(request.requests) > MAX_BATCH:
                raise bad_field(
                    "requests", f"holds {len(request.requests)} requests; send at most {MAX_BATCH}"
                )
            self._router.models()  # without a lease the whole call fails, not each request
            asks: list[Ask | Failure] = []
            for index, one in enumerate(request.requests):
                if index % 20 == 19:  # what is read of each takes half a millisecond
                    await asyncio.sleep(0)
                try:
                    asks.append(self._ask(one.chat, context, routed=True))
                except Failure as failure:
                    asks.append(failure)
            outcomes, certificate = await self._router.decide_all(asks)
            response = router_pb2.RouteBatchResponse(
                certificate=None if certificate is None else _certificate(certificate)
            )
            try:
                for start in range(0, len(outcomes), 500):
                    response.outcomes.extend([_outcome(one) for one in outcomes[start : start + 500]])
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
        async with self._call(request, context):
            ask = self._ask(request, context)
            async with self._router.serve(ask, stream=True) as exchange:
                await context.send_initial_metadata(_initial(exchange.decision))
                await context.write(router_pb2.ChatChunk(decision=_decision(exchange.decision)))
                async with aclosing(exchange.events()) as events:
                    async for block in events:
                        if (piece := _piece(block, exchange.decision)) is not None:
                            await context.write(piece)
                receipt = _receipt(exchange)
                context.set_trailing_metadata(_trailing(receipt))
                await context.write(router_pb2.ChatChunk(usage=_usage(receipt), cost_nano_usd=receipt.cost))

    async def Complete(  # noqa: N802
        self, request: router_pb2.ChatRequest, context: Context
    ) -> router_pb2.ChatResponse:
        async with self._call(request, context):
            ask = self._ask(request, context)
            async with self._router.serve(ask, stream=False) as exchange:
                await context.send_initial_metadata(_initial(exchange.decision))
                raw = exchange.answer
            receipt = _receipt(exchange)
            context.set_trailing_metadata(_trailing(receipt))
            content, finish_reason = _first_choice(json.loads(raw), "message")
            return router_pb2.ChatResponse(
                decision=_decision(exchange.decision),
                content=content,
                finish_reason=finish_reason,
                usage=_usage(receipt),
                cost_nano_usd=receipt.cost,
                raw=raw,
            )

    async def Settle(  # noqa: N802
        self, request: router_pb2.SettleRequest, context: Context
    ) -> router_pb2.SettleResponse:
        async with self._call(request, context):
            usage = None
            if request.HasField("usage"):
                usage = Usage(request.usage.input_tokens, request.usage.output_tokens)
            broken = request.outcome == router_pb2.OUTCOME_ERROR
            settled = self._router.settle(request.decision_id, usage, broken=broken)
            return router_pb2.SettleResponse(
                cost_nano_usd=settled.cost, repeated=settled.repeated, expired=settled.expired
            )

    async def Feedback(  # noqa: N802
        self, request: router_pb2.FeedbackRequest, context: Context
    ) -> router_pb2.FeedbackResponse:
        async with self._call(request, context):
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
        async with self._call(request, context):
            entry = self._router.explain(request.decision_id)
            decision = entry.decision
            return router_pb2.Explanation(
                decision=_decision(decision),
                candidates=[
                    router_pb2.Candidate(
                        model=option.variant.model,
                        variant=option.variant.variant,
                        quality=option.quality,
                        cost_nano_usd=round(option.cost * 1e9),
                        service_seconds=option.service_time,
                        slot_price=option.slot_price,
                        value=option.value,
                        batch_price=option.batch_price,
                        excluded_by=option.excluded_by,
                        stopped_by=option.stopped_by,
                        quality_deviation=option.deviation,
                        samples=option.samples,
                        service_samples=option.service_samples,
                    )
                    for option in options(decision)
                ],
                certificate=_certificate(decision.certificate),
                batch_size=decision.batch_size,
                waited_seconds=decision.waited,
                money_price=decision.considered.money_price,
                failed_by=entry.failure,
                earlier_attempts=[
                    router_pb2.Attempt(
                        decision_id=attempt.decision_id,
                        model=attempt.variant.model,
                        variant=attempt.variant.variant,
                        endpoint=attempt.endpoint,
                        failed_by=attempt.failure,
                    )
                    for attempt in decision.earlier
                ],
                rule=decision.rule,
                rule_matched_by=decision.about.matched_by,
                profile=_profile(decision.about),
                confidence=decision.grounds.confidence,
                estimator_version=decision.grounds.estimator_version,
                learned_version=decision.grounds.learned_version,
                explored=decision.grounds.explored,
                score=None if entry.feedback is None else entry.feedback.score,
            )

    @asynccontextmanager
    async def _call(self, request: Message, context: Context) -> AsyncIterator[None]:
        """Bound the request's size and end the call by the one status that its failure has."""
        code = "OK"
        try:
            if request.ByteSize() > self._router.max_body:
                raise Failure(
                    Fault.TOO_LARGE,
                    "BodyTooLarge",
                    f"the request is over {self._router.max_body} bytes; send less or raise limits.maxBody",
                )
            yield
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

    def _ask(self, chat: router_pb2.ChatRequest, context: Context, *, routed: bool = False) -> Ask:
        headers = {name.lower(): value for name, value in chat.headers.items()}
        for name, value in context.invocation_metadata() or ():
            if isinstance(value, str):
                headers[name] = value
        # Without a deadline grpc says None, whatever its types promise.
        remaining: float | None = context.time_remaining()
        return self._router.ask(_chat_call(chat), headers, remaining=remaining, routed=routed)


def _chat_call(chat: router_pb2.ChatRequest) -> ChatCall:
    try:
        parameters = json_format.MessageToDict(chat.parameters)
    except (json_format.Error, ValueError):
        raise bad_field("parameters", "holds NaN or Infinity, which JSON can not say") from None
    fields = {name: _plain(value) for name, value in parameters.items()}
    for name, instead in OWN_FIELDS.items():
        if name in fields:
            raise bad_field(f"parameters.{name}", f"is not a parameter here; {instead}")
    for index, message in enumerate(chat.messages):
        if not message.role:
            raise bad_field(f"messages[{index}].role", "is empty; give a role such as user")
    fields["messages"] = [{"role": message.role, "content": message.content} for message in chat.messages]
    fields["model"] = chat.model
    if chat.HasField("max_output_tokens"):
        if chat.max_output_tokens == 0:
            raise bad_field("max_output_tokens", "must be at least 1; leave it out for the policy's limit")
        fields["max_tokens"] = min(chat.max_output_tokens, MOST_OUTPUT_TOKENS)
    return parse_fields(fields)


def _plain(value: object) -> object:
    """Give back their form to whole numbers, which a Struct keeps as floats."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    return value


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
        details[1].Pack(error_details_pb2.RetryInfo(retry_delay=_duration(failure.retry_after)))
    code: grpc.StatusCode = getattr(grpc.StatusCode, failure.status.grpc)
    message = f"{failure.reason}: {_sound(failure.message)}".encode()[:MAX_MESSAGE].decode(errors="ignore")
    rich = rpc_status.to_status(status_pb2.Status(code=code.value[0], message=message, details=details))
    await context.abort(code, message, rich.trailing_metadata)


def _piece(block: bytes, decision: Decision) -> router_pb2.ChatChunk | None:
    """Return what one or more whole events say; None: nothing that the message has a place for."""
    texts: list[str] = []
    finish_reason = ""
    for event in block.replace(b"\r\n", b"\n").split(b"\n\n"):
        payload = event_data(event)
        if not payload or payload == b"[DONE]":
            continue
        try:
            text, reason = _first_choice(json.loads(payload), "delta")
        except (ValueError, RecursionError):
            raise Failure(
                Fault.UNAVAILABLE,
                "UpstreamMalformed",
                f"model {decision.variant} sent an event without JSON",
                retry_on=RetryOn.SERVER_ERROR,
            ) from None
        texts.append(text)
        finish_reason = reason or finish_reason
    content = "".join(texts)
    if not content and not finish_reason:
        return None
    return router_pb2.ChatChunk(content=content, finish_reason=finish_reason)


def _first_choice(answer: object, part: str) -> tuple[str, str]:
    """Return text and finish reason of the first choice, empty where there is none."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        return "", ""
    message = choice.get(part)
    content = message.get("content") if isinstance(message, dict) else None
    reason = choice.get("finish_reason")
    return (
        _sound(content) if isinstance(content, str) else "",
        _sound(reason) if isinstance(reason, str) else "",
    )


def _sound(text: str) -> str:
    """Return a text that protobuf takes: halves of letters, as JSON may hold, become one replacement each."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _receipt(exchange: Exchange) -> Receipt:
    assert exchange.receipt is not None  # noqa: S101 - it is there once the answer was read to its end
    return exchange.receipt


def _initial(decision: Decision) -> Metadata:
    return (
        ("x-modelfleet-model", decision.variant.model),
        ("x-modelfleet-variant", decision.variant.variant),
        ("x-modelfleet-decision-id", decision.id),
        ("x-modelfleet-reason", decision.reason.value),
        ("x-modelfleet-tier", decision.tier),
        ("x-modelfleet-attempts", str(len(decision.earlier) + 1)),
        *((("x-modelfleet-rule", decision.rule),) if decision.rule else ()),
    )


def _trailing(receipt: Receipt) -> Metadata:
    return (
        ("x-modelfleet-cost-usd", f"{usd(receipt.cost):.9f}"),
        ("x-modelfleet-input-tokens", str(receipt.usage.input_tokens)),
        ("x-modelfleet-output-tokens", str(receipt.usage.output_tokens)),
    )


def _usage(receipt: Receipt) -> router_pb2.Usage:
    usage = receipt.usage
    return router_pb2.Usage(
        input_tokens=usage.input_tokens, output_tokens=usage.output_tokens, estimated=usage.estimated
    )


def _decision(decision: Decision) -> router_pb2.RouteDecision:
    return router_pb2.RouteDecision(
        decision_id=decision.id,
        model=decision.variant.model,
        variant=decision.variant.variant,
        served_name=decision.served_name,
        endpoint=decision.endpoint,
        tier=decision.tier,
        task=decision.task,
        reason=decision.reason.value,
        expected_quality=decision.quality,
        expected_cost_nano_usd=decision.expected_cost,
        reserved_nano_usd=decision.reserved,
        max_output_tokens=decision.max_output_tokens,
        settle_within=None if decision.settle_within is None else _duration(decision.settle_within),
    )


def _profile(about: About) -> router_pb2.Profile:
    subject = about.subject
    return router_pb2.Profile(
        script=subject.script,
        language=subject.language,
        domain=subject.domain,
        style=subject.style.value,
        urgency=about.urgency.value,
        difficulty=about.difficulty,
        output_tokens=about.output_tokens,
        signs=about.signs,
    )


def _outcome(outcome: Decision | Failure) -> router_pb2.RouteOutcome:
    if isinstance(outcome, Decision):
        return router_pb2.RouteOutcome(decision=_decision(outcome))
    refusal = router_pb2.Refusal(reason=outcome.reason, message=outcome.message)
    if outcome.retry_after is not None:
        refusal.retry_after.CopyFrom(_duration(outcome.retry_after))
    return router_pb2.RouteOutcome(refusal=refusal)


def _certificate(certificate: Certificate) -> router_pb2.Certificate:
    return router_pb2.Certificate(
        objective=certificate.objective,
        bound=certificate.bound,
        gap=certificate.gap,
        termination=certificate.termination.value,
        binding=certificate.binding,
        seconds=certificate.seconds,
    )


def _duration(seconds: float) -> duration_pb2.Duration:
    return duration_pb2.Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))
