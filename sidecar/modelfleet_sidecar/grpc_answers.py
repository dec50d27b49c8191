"""The gRPC edge, outwards: decisions, pieces of answers and explanations as messages and metadata.

In: values of `router` and the JSON of model servers. Out: protobuf messages for `grpc_api` to send.
"""

from __future__ import annotations

import json
from typing import NamedTuple

from google.protobuf import duration_pb2
from modelfleet.v1 import router_pb2
from modelfleet_core.batching.outcome import Certificate
from modelfleet_core.policy import RetryOn
from modelfleet_core.values import usd

from modelfleet_sidecar.decision import About, Decision
from modelfleet_sidecar.dialect import Usage
from modelfleet_sidecar.exchange import Receipt
from modelfleet_sidecar.explain import Entry, options
from modelfleet_sidecar.failures import Failure, Fault
from modelfleet_sidecar.sse import event_data

Metadata = tuple[tuple[str, str], ...]


class Said(NamedTuple):
    """What a message or a delta of one choice says; empty where it says nothing."""

    text: str
    finish_reason: str
    reasoning: str
    refusal: str
    calls: list[dict[str, object]]


NOTHING = Said("", "", "", "", [])


def answer_message(raw: bytes, decision: Decision, receipt: Receipt) -> router_pb2.ChatResponse:
    """Return a whole answer."""
    said = _first_choice(json.loads(raw), "message")
    return router_pb2.ChatResponse(
        decision=decision_message(decision),
        content=said.text,
        finish_reason=said.finish_reason,
        usage=usage_message(receipt.usage),
        cost_nano_usd=receipt.cost,
        raw=raw,
        tool_calls=[
            router_pb2.ToolCall(id=_text(call, "id"), name=name, arguments=arguments)
            for call in said.calls
            for name, arguments in (_function(call),)
        ],
        reasoning=said.reasoning,
        refusal=said.refusal,
    )


def chunk_message(block: bytes, decision: Decision, *, raw: bool) -> router_pb2.ChatChunk | None:
    """Return what one or more whole events say; None: nothing that the message has a place for.

    `raw`: with the events' JSON. Raises Failure where an event has none.
    """
    payloads = _payloads(block)
    said = [_delta(payload, decision) for payload in payloads]
    finish_reasons = [one.finish_reason for one in said if one.finish_reason]
    chunk = router_pb2.ChatChunk(
        content="".join([one.text for one in said]),
        finish_reason=finish_reasons[-1] if finish_reasons else "",
    )
    if any(one.calls or one.reasoning or one.refusal for one in said):
        chunk.reasoning = "".join(one.reasoning for one in said)
        chunk.refusal = "".join(one.refusal for one in said)
        for one in said:
            chunk.tool_calls.extend(_call_delta(call, place) for place, call in enumerate(one.calls))
    if raw:
        chunk.raw.extend(payloads)
    return chunk if chunk.ByteSize() else None


def _delta(payload: bytes, decision: Decision) -> Said:
    try:
        return _first_choice(json.loads(payload), "delta")
    except (ValueError, RecursionError):
        raise Failure(
            Fault.UNAVAILABLE,
            "UpstreamMalformed",
            f"model {decision.variant} sent an event without JSON",
            retry_on=RetryOn.SERVER_ERROR,
        ) from None


def _payloads(block: bytes) -> list[bytes]:
    if block.startswith(b"data: ") and block.find(b"\n") == len(block) - 2:  # one event, as nearly always
        payloads = [block[6:-2]]
    else:
        payloads = [event_data(event) for event in block.replace(b"\r\n", b"\n").split(b"\n\n")]
    return [payload for payload in payloads if payload and payload != b"[DONE]"]


def _first_choice(answer: object, part: str) -> Said:
    """Return what the first choice says."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    choice = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(choice, dict):
        return NOTHING
    finish_reason = _text(choice, "finish_reason")
    message = choice.get(part)
    if not isinstance(message, dict):
        return NOTHING._replace(finish_reason=finish_reason)
    calls = message.get("tool_calls")
    return Said(
        _text(message, "content"),
        finish_reason,
        # Servers call it one or the other; OpenAI's API has neither.
        _text(message, "reasoning_content") or _text(message, "reasoning"),
        _text(message, "refusal"),
        [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else [],
    )


def _call_delta(call: dict[str, object], place: int) -> router_pb2.ToolCallDelta:
    index = call.get("index")
    if not isinstance(index, int) or not 0 <= index < 2**32:
        index = place
    name, arguments = _function(call)
    return router_pb2.ToolCallDelta(index=index, id=_text(call, "id"), name=name, arguments=arguments)


def _function(call: dict[str, object]) -> tuple[str, str]:
    function = call.get("function")
    if not isinstance(function, dict):
        return "", ""
    return _text(function, "name"), _text(function, "arguments")


def _text(values: dict[str, object], name: str) -> str:
    value = values.get(name)
    return sound(value) if isinstance(value, str) else ""


def sound(text: str) -> str:
    """Return a text that protobuf takes: halves of letters, as JSON may hold, become one replacement each."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def initial_metadata(decision: Decision) -> Metadata:
    """Return what was decided, as the HTTP API says it in headers; only its id where no more is wanted."""
    named = (("x-modelfleet-decision-id", decision.id),)
    if not decision.explained:
        return named
    return (
        *named,
        ("x-modelfleet-model", decision.variant.model),
        ("x-modelfleet-variant", decision.variant.variant),
        ("x-modelfleet-reason", decision.reason.value),
        ("x-modelfleet-tier", decision.tier),
        ("x-modelfleet-attempts", str(len(decision.earlier) + 1)),
        *((("x-modelfleet-rule", decision.rule),) if decision.rule else ()),
    )


def trailing_metadata(decision: Decision, receipt: Receipt) -> Metadata:
    """Return what the request used and cost; nothing where no more than the id is wanted."""
    if not decision.explained:
        return ()
    return (
        ("x-modelfleet-cost-usd", f"{usd(receipt.cost):.9f}"),
        ("x-modelfleet-input-tokens", str(receipt.usage.input_tokens)),
        ("x-modelfleet-output-tokens", str(receipt.usage.output_tokens)),
    )


def usage_message(usage: Usage) -> router_pb2.Usage:
    return router_pb2.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        estimated=usage.estimated,
        cached_tokens=usage.cached_tokens,
    )


def decision_message(decision: Decision) -> router_pb2.RouteDecision:
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
        settle_within=None if decision.settle_within is None else duration(decision.settle_within),
    )


def explanation_message(entry: Entry) -> router_pb2.Explanation:
    """Return why a decision was taken."""
    decision = entry.decision
    return router_pb2.Explanation(
        decision=decision_message(decision),
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
        certificate=certificate_message(decision.certificate),
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
        cost_nano_usd=entry.cost,
        comment="" if entry.feedback is None else sound(entry.feedback.comment),
        usage=None if entry.usage is None else usage_message(entry.usage),
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


def outcome_message(outcome: Decision | Failure) -> router_pb2.RouteOutcome:
    if isinstance(outcome, Decision):
        return router_pb2.RouteOutcome(decision=decision_message(outcome))
    refusal = router_pb2.Refusal(reason=outcome.reason, message=sound(outcome.message))
    if outcome.retry_after is not None:
        refusal.retry_after.CopyFrom(duration(outcome.retry_after))
    return router_pb2.RouteOutcome(refusal=refusal)


def certificate_message(certificate: Certificate) -> router_pb2.Certificate:
    return router_pb2.Certificate(
        objective=certificate.objective,
        bound=certificate.bound,
        gap=certificate.gap,
        termination=certificate.termination.value,
        binding=certificate.binding,
        seconds=certificate.seconds,
    )


def duration(seconds: float) -> duration_pb2.Duration:
    return duration_pb2.Duration(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))
