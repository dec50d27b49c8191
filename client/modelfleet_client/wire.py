"""The client's edge: its values as protobuf messages and back, statuses as errors.

In: values, and answers of the sidecar. Out: messages to send, values, errors. `client` and `aio` call.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import grpc
from google.protobuf import duration_pb2, struct_pb2
from google.rpc import error_details_pb2  # type: ignore[import-untyped]
from grpc_status import rpc_status  # type: ignore[import-untyped]
from modelfleet.v1 import router_pb2

from modelfleet_client.errors import BadRequest, ModelfleetError, error_class
from modelfleet_client.values import (
    Answer,
    Attempt,
    Batch,
    Candidate,
    Certificate,
    Chat,
    Counted,
    Decision,
    Explanation,
    Image,
    Message,
    Options,
    Outcome,
    Part,
    Piece,
    Refusal,
    Settled,
    ToolCall,
    ToolCallPiece,
    Usage,
)

CHANNEL = (
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.enable_http_proxy", 0),  # a sidecar is never behind the proxy of the environment
)


def chat_of(messages: str | Chat | Any, options: Options) -> Chat:
    """Return a request with `options` instead of what it says itself."""
    return replace(messages, **options) if isinstance(messages, Chat) else Chat(messages, **options)


def chat_request(chat: Chat, *, raw: bool = False) -> router_pb2.ChatRequest:
    """Return a request's message. Raises BadRequest where a value is nothing that JSON can say."""
    messages = [Message("user", chat.messages)] if isinstance(chat.messages, str) else chat.messages
    parameters = {**chat.parameters, **({"tools": list(chat.tools)} if chat.tools else {})}
    try:
        return router_pb2.ChatRequest(
            model=chat.model,
            messages=[_message(message) for message in messages],
            max_output_tokens=chat.max_output_tokens,
            parameters=_struct(parameters) if parameters else None,
            headers=_headers(chat),
            raw=raw,
        )
    except (TypeError, ValueError) as error:
        raise BadRequest(f"the request can not be sent: {error}", code="INVALID_ARGUMENT") from error


def route_request(chat: Chat) -> router_pb2.RouteRequest:
    return router_pb2.RouteRequest(chat=chat_request(chat))


def settle_request(decision_id: str, usage: Usage | None, outcome: Outcome) -> router_pb2.SettleRequest:
    used = None
    if usage is not None:
        used = router_pb2.Usage(
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_tokens=usage.cached_tokens,
        )
    return router_pb2.SettleRequest(
        decision_id=decision_id, usage=used, outcome=router_pb2.Outcome.Value(outcome.value)
    )


def feedback_request(
    decision_id: str, score: float | None, rating: int | None, label: str | None, comment: str
) -> router_pb2.FeedbackRequest:
    """Return a feedback's message. Raises BadRequest where not exactly one verdict is given."""
    if sum(verdict is not None for verdict in (score, rating, label)) != 1:
        raise BadRequest("give exactly one of score, rating and label", code="INVALID_ARGUMENT")
    request = router_pb2.FeedbackRequest(decision_id=decision_id, comment=comment)
    try:
        if score is not None:
            request.score = score
        elif rating is not None:
            request.rating = rating
        elif label is not None:
            request.label = label
    except (TypeError, ValueError) as error:
        raise BadRequest(f"the feedback can not be sent: {error}", code="INVALID_ARGUMENT") from error
    return request


def answer(message: router_pb2.ChatResponse) -> Answer:
    return Answer(
        decision=decision(message.decision),
        text=message.content,
        finish_reason=message.finish_reason,
        usage=usage_of(message.usage),
        cost_nano_usd=message.cost_nano_usd,
        tool_calls=tuple(ToolCall(call.id, call.name, call.arguments) for call in message.tool_calls),
        reasoning=message.reasoning,
        refusal=message.refusal,
        raw=message.raw,
    )


def piece(chunk: router_pb2.ChatChunk) -> Piece:
    return Piece(
        text=chunk.content,
        reasoning=chunk.reasoning,
        refusal=chunk.refusal,
        tool_calls=tuple(
            ToolCallPiece(call.index, call.id, call.name, call.arguments) for call in chunk.tool_calls
        ),
        finish_reason=chunk.finish_reason,
        raw=tuple(chunk.raw),
    )


def usage_of(message: router_pb2.Usage) -> Usage:
    return Usage(message.input_tokens, message.output_tokens, message.cached_tokens, message.estimated)


def decision(message: router_pb2.RouteDecision) -> Decision:
    return Decision(
        id=message.decision_id,
        model=message.model,
        variant=message.variant,
        served_name=message.served_name,
        endpoint=message.endpoint,
        tier=message.tier,
        task=message.task,
        reason=message.reason,
        expected_quality=message.expected_quality,
        expected_cost_nano_usd=message.expected_cost_nano_usd,
        reserved_nano_usd=message.reserved_nano_usd,
        max_output_tokens=message.max_output_tokens,
        settle_within=_seconds(message.settle_within) if message.HasField("settle_within") else None,
    )


def batch(message: router_pb2.RouteBatchResponse) -> Batch:
    outcomes: list[Decision | Refusal] = []
    for outcome in message.outcomes:
        if outcome.HasField("decision"):
            outcomes.append(decision(outcome.decision))
            continue
        refusal = outcome.refusal
        after = _seconds(refusal.retry_after) if refusal.HasField("retry_after") else None
        outcomes.append(Refusal(refusal.reason, refusal.message, after))
    return Batch(
        tuple(outcomes), _certificate(message.certificate) if message.HasField("certificate") else None
    )


def settled(message: router_pb2.SettleResponse) -> Settled:
    return Settled(message.cost_nano_usd, message.repeated, message.expired)


def counted(message: router_pb2.FeedbackResponse) -> Counted:
    return Counted(message.score, message.repeated)


def explanation(message: router_pb2.Explanation) -> Explanation:
    return Explanation(
        decision=decision(message.decision),
        candidates=tuple(
            Candidate(
                model=candidate.model,
                variant=candidate.variant,
                quality=candidate.quality,
                quality_deviation=candidate.quality_deviation,
                cost_nano_usd=candidate.cost_nano_usd,
                service_seconds=candidate.service_seconds,
                value=candidate.value,
                excluded_by=candidate.excluded_by,
                stopped_by=candidate.stopped_by,
            )
            for candidate in message.candidates
        ),
        certificate=_certificate(message.certificate),
        batch_size=message.batch_size,
        waited_seconds=message.waited_seconds,
        confidence=message.confidence,
        rule=message.rule,
        explored=message.explored,
        failed_by=message.failed_by,
        earlier_attempts=tuple(
            Attempt(attempt.decision_id, attempt.model, attempt.variant, attempt.failed_by)
            for attempt in message.earlier_attempts
        ),
        cost_nano_usd=message.cost_nano_usd if message.HasField("cost_nano_usd") else None,
        score=message.score if message.HasField("score") else None,
        usage=usage_of(message.usage) if message.HasField("usage") else None,
    )


def error_of(call: grpc.RpcError) -> ModelfleetError:
    """Return what a call that failed is raised as."""
    # Errors of grpc are calls as well, which its types do not say.
    failed: Any = call
    code, message = failed.code().name, failed.details() or ""
    info, used_up, retry_after = error_details_pb2.ErrorInfo(), error_details_pb2.QuotaFailure(), None
    try:
        status = rpc_status.from_call(failed)
    except ValueError:  # details of another status: not the sidecar's
        status = None
    for detail in status.details if status is not None else ():
        if detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            told = error_details_pb2.RetryInfo()
            detail.Unpack(told)
            retry_after = _seconds(told.retry_delay)
        elif detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            detail.Unpack(info)
        elif detail.Is(error_details_pb2.QuotaFailure.DESCRIPTOR):
            detail.Unpack(used_up)
    attempts = info.metadata.get("attempts", "0")
    return error_class(code, info.reason)(
        message or code,
        code=code,
        reason=info.reason,
        field=info.metadata.get("field", ""),
        retry_after=retry_after,
        decision_id=info.metadata.get("decision_id", ""),
        attempts=int(attempts) if attempts.isdecimal() else 0,
        limit=used_up.violations[0].subject if used_up.violations else "",
    )


def _message(message: Message) -> router_pb2.Message:
    if not isinstance(message, Message):
        raise TypeError(
            f"a message is a {type(message).__name__}; write modelfleet_client.Message('user', 'text')"
        )
    plain = isinstance(message.content, str)
    return router_pb2.Message(
        role=message.role,
        content=message.content if isinstance(message.content, str) else "",
        parts=() if plain else [_part(part) for part in message.content],
        name=message.name,
        tool_calls=[
            router_pb2.ToolCall(id=call.id, name=call.name, arguments=call.arguments)
            for call in message.tool_calls
        ],
        tool_call_id=message.tool_call_id,
        other=_struct(message.other) if message.other else None,
    )


def _part(part: Part) -> router_pb2.Part:
    if isinstance(part, str):
        return router_pb2.Part(text=part)
    if not isinstance(part, Image):
        return router_pb2.Part(other=_struct(part))
    image = router_pb2.Image(media_type=part.media_type if part.data else "", detail=part.detail)
    if part.data:
        image.data = part.data
    else:
        image.url = part.url
    return router_pb2.Part(image=image)


def _headers(chat: Chat) -> dict[str, str]:
    own = {
        "tier": chat.tier,
        "task": chat.task,
        "max-cost-usd": "" if chat.max_cost_usd is None else f"{chat.max_cost_usd:.9f}",
        "min-quality": "" if chat.min_quality is None else f"{chat.min_quality:.6f}",
        "session": chat.session,
        "exclude": ",".join(chat.exclude),
        "explain": chat.explain,
    }
    return {
        **chat.headers,
        **{f"x-modelfleet-{name}": value for name, value in own.items() if value},
    }


def _struct(values: Mapping[str, object]) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    struct.update(values)  # type: ignore[arg-type]
    return struct


def _certificate(message: router_pb2.Certificate) -> Certificate:
    return Certificate(
        objective=message.objective,
        bound=message.bound,
        gap=message.gap,
        termination=message.termination,
        binding=tuple(message.binding),
        seconds=message.seconds,
    )


def _seconds(duration: duration_pb2.Duration) -> float:
    return duration.seconds + duration.nanos / 1e9
