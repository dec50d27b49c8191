"""The OpenAI-compatible HTTP API, as a raw ASGI app: unchanged clients speak to the router.

In: ASGI requests from uvicorn. Out: OpenAI's answers, event streams, error envelopes. `router` works.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable, Mapping
from contextlib import aclosing
from functools import partial

from modelfleet_core.values import usd

from modelfleet_sidecar.attended import Attended, DisconnectedError
from modelfleet_sidecar.calls import Call
from modelfleet_sidecar.chat import parse_json
from modelfleet_sidecar.decision import About, Decision
from modelfleet_sidecar.explain import Entry, options
from modelfleet_sidecar.failures import DRAINING, Failure, Fault, internal, late
from modelfleet_sidecar.feedback import parse_feedback
from modelfleet_sidecar.forward import Exchange
from modelfleet_sidecar.gate import Gate
from modelfleet_sidecar.router import Router
from modelfleet_sidecar.telemetry import Receive, Scope, Send, Telemetry

Headers = list[tuple[bytes, bytes]]
JSON = (b"content-type", b"application/json")
ATTEMPTS = b"x-modelfleet-attempts"
DECISION_ID = b"x-modelfleet-decision-id"
MAX_FEEDBACK = 64 * 1024
"""Bytes."""
LAST_WORDS = 0.5
"""Seconds that a caller whose deadline has passed gets to take its error."""


class Caller:
    """One HTTP exchange with a caller."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.started = False
        self.done = False
        """Whether the last of the answer was handed to the connection."""
        self.status = 0
        self._receive = receive
        self._send = send

    async def body(self, limit: int) -> bytes:
        """Return the request's body. Raises Failure as soon as it is over `limit`, DisconnectedError."""
        declared = self.headers.get("content-length", "")
        if declared.isdecimal() and int(declared) > limit:
            raise _too_large(limit)
        parts: list[bytes] = []
        size = 0
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise DisconnectedError
            part = message.get("body", b"")
            size += len(part)
            if size > limit:
                raise _too_large(limit)
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)

    async def gone(self) -> None:
        """Return when the caller has gone away; call it once the body is read."""
        while (await self._receive())["type"] != "http.disconnect":
            pass

    async def start(self, status: int, headers: Headers) -> None:
        self.started = True
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes, *, more: bool) -> None:
        self.done = not more
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    async def reply(self, status: int, body: bytes, headers: Headers) -> None:
        await self.start(status, [*headers, (b"content-length", str(len(body)).encode())])
        await self.write(body, more=False)


class HttpApi:
    """The ASGI app."""

    def __init__(self, *, router: Router, telemetry: Telemetry, gate: Gate | None = None) -> None:
        """`gate`: who may call; None: whoever reaches it."""
        self._router = router
        self._telemetry = telemetry
        self._gate = gate

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"no {scope['type']} is served here")
        caller = Caller(scope, receive, send)
        try:
            if self._gate is not None:
                caller.headers = await self._gate.admit(caller.headers)
            await self._route(scope["method"], scope["path"], caller)
        except DisconnectedError:
            caller.status = 499
        except Failure as failure:
            await self._tell(caller, failure)
        except Exception as error:  # noqa: BLE001 - the caller must get one error whatever broke
            self._telemetry.bug("http", error)
            await self._tell(caller, internal(error))
        finally:
            self._telemetry.response("http", str(caller.status))

    async def _route(self, method: str, path: str, caller: Caller) -> None:
        handlers: Mapping[str, tuple[str, Callable[[Caller], Awaitable[None]]]] = {
            "/v1/chat/completions": ("POST", self._chat),
            "/v1/feedback": ("POST", self._feedback),
            "/v1/models": ("GET", self._models),
            "/v1/models/": ("GET", partial(self._model, path.removeprefix("/v1/models/"))),
            "/v1/decisions/": ("GET", partial(self._decision, path.removeprefix("/v1/decisions/"))),
        }
        named = next(
            (prefix for prefix in handlers if prefix.endswith("/") and path.startswith(prefix)), path
        )
        allowed, handler = handlers.get(named, ("", None))
        if handler is None:
            raise Failure(
                Fault.NOT_FOUND,
                "PathNotFound",
                f"nothing is served at {path[:200]}; there are /v1/chat/completions, /v1/feedback,"
                " /v1/models, /v1/models/NAME and /v1/decisions/ID",
            )
        if method != allowed:
            raise Failure(Fault.WRONG_METHOD, "WrongMethod", f"{path} takes {allowed}, not {method}")
        await handler(caller)

    async def _body(self, caller: Caller, limit: int) -> bytes:
        try:
            async with asyncio.timeout(self._router.max_request):
                return await caller.body(limit)
        except TimeoutError:
            raise late(self._router.max_request) from None

    async def _chat(self, caller: Caller) -> None:
        call = parse_json(await self._body(caller, self._router.max_body))
        # Whoever goes away ends the model's work.
        async with Attended(caller.gone, lambda: caller.done):
            await self._answer(caller, call)

    async def _answer(self, caller: Caller, call: Call) -> None:
        ask = self._router.ask(call, caller.headers, remaining=None)
        async with self._router.serve(ask, stream=call.stream) as exchange:
            if call.stream:
                await self._stream(caller, exchange)
                return
            headers = [JSON, *_decision_headers(exchange.decision)]
            if exchange.receipt is not None:
                headers.append((b"x-modelfleet-cost-usd", f"{usd(exchange.receipt.cost):.9f}".encode()))
            await caller.reply(200, exchange.answer, headers)

    async def _stream(self, caller: Caller, exchange: Exchange) -> None:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            *_decision_headers(exchange.decision),
        ]
        await caller.start(200, headers)
        async with aclosing(exchange.events()) as events:
            async for data in events:
                await caller.write(data, more=True)
        await caller.write(b"", more=False)

    async def _feedback(self, caller: Caller) -> None:
        said = parse_feedback(await self._body(caller, MAX_FEEDBACK))
        counted = self._router.feedback(said)
        answer = {"decision_id": counted.decision_id, "score": counted.score, "repeated": counted.repeated}
        await caller.reply(200, _json(answer), [JSON])

    async def _models(self, caller: Caller) -> None:
        listed = [_model(name) for name in self._router.models()]
        await caller.reply(200, _json({"object": "list", "data": listed}), [JSON])

    async def _model(self, name: str, caller: Caller) -> None:
        await caller.reply(200, _json(_model(self._router.model(name))), [JSON])

    async def _decision(self, decision_id: str, caller: Caller) -> None:
        await caller.reply(200, _json(_explanation(self._router.explain(decision_id))), [JSON])

    async def _tell(self, caller: Caller, failure: Failure) -> None:
        """Say what went wrong: as a status, or as an event where the stream has begun."""
        envelope = _json(failure.envelope())
        try:
            async with asyncio.timeout(LAST_WORDS if caller.started else None):
                if caller.started:
                    # Not a clean end: no [DONE] follows.
                    await caller.write(b"data: " + envelope + b"\n\n", more=False)
                    return
                headers = [JSON, (b"x-modelfleet-reason", failure.reason.encode())]
                if failure.reason == DRAINING:
                    headers.append((b"connection", b"close"))
                if failure.attempts:
                    headers.append((ATTEMPTS, str(failure.attempts).encode()))
                    headers.append((DECISION_ID, failure.decision_id.encode()))
                if failure.fault is Fault.UNAUTHENTICATED:
                    headers.append((b"www-authenticate", b"Bearer"))
                if failure.retry_after is not None:
                    headers.append((b"retry-after", str(math.ceil(failure.retry_after)).encode()))
                await caller.reply(failure.status.http, envelope, headers)
        except TimeoutError:
            return  # the caller does not read; it has its deadline's end already


def _decision_headers(decision: Decision) -> Headers:
    named = {
        "model": decision.variant.model,
        "variant": decision.variant.variant,
        "decision-id": decision.id,
        "reason": decision.reason.value,
        "tier": decision.tier,
        "rule": decision.rule,
    }
    return [
        *(
            (f"x-modelfleet-{name}".encode(), value.encode("latin-1", "replace"))
            for name, value in named.items()
            if value
        ),
        (ATTEMPTS, str(len(decision.earlier) + 1).encode()),
    ]


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "modelfleet"}


def _explanation(entry: Entry) -> dict[str, object]:
    decision = entry.decision
    certificate = decision.certificate
    return {
        "id": decision.id,
        "model": decision.variant.model,
        "variant": decision.variant.variant,
        "endpoint": decision.endpoint,
        "tier": decision.tier,
        "task": decision.task,
        "rule": decision.rule,
        "rule_matched_by": list(decision.about.matched_by),
        "profile": _profile(decision.about),
        "reason": decision.reason.value,
        "expected_quality": decision.quality,
        "expected_cost_usd": usd(decision.expected_cost),
        "reserved_usd": usd(decision.reserved),
        "cost_usd": None if entry.cost is None else usd(entry.cost),
        "failed_by": entry.failure,
        "confidence": decision.grounds.confidence,
        "estimator_version": decision.grounds.estimator_version,
        "learned_version": decision.grounds.learned_version,
        "explored": decision.grounds.explored,
        "score": None if entry.feedback is None else entry.feedback.score,
        "comment": None if entry.feedback is None else entry.feedback.comment or None,
        "earlier_attempts": [
            {
                "decision_id": attempt.decision_id,
                "model": attempt.variant.model,
                "variant": attempt.variant.variant,
                "endpoint": attempt.endpoint,
                "failed_by": attempt.failure,
            }
            for attempt in decision.earlier
        ],
        "max_output_tokens": decision.max_output_tokens,
        "waited_seconds": decision.waited,
        "money_price": decision.considered.money_price,
        "batch_size": decision.batch_size,
        "certificate": {
            "objective": certificate.objective,
            "bound": certificate.bound,
            "gap": certificate.gap,
            "termination": certificate.termination.value,
            "binding": list(certificate.binding),
            "seconds": certificate.seconds,
        },
        "candidates": [
            {
                "model": option.variant.model,
                "variant": option.variant.variant,
                "quality": option.quality,
                "cost_usd": option.cost,
                "service_seconds": option.service_time,
                "slot_price": option.slot_price,
                "value": option.value,
                "batch_price": option.batch_price,
                "excluded_by": option.excluded_by,
                "stopped_by": option.stopped_by,
                "quality_deviation": option.deviation,
                "samples": option.samples,
                "service_samples": option.service_samples,
            }
            for option in options(decision)
        ],
    }


def _profile(about: About) -> dict[str, object]:
    subject = about.subject
    return {
        "script": subject.script,
        "language": subject.language,
        "domain": subject.domain,
        "style": subject.style.value,
        "urgency": about.urgency.value,
        "difficulty": about.difficulty,
        "output_tokens": about.output_tokens,
        "signs": about.signs,
    }


def _too_large(limit: int) -> Failure:
    return Failure(
        Fault.TOO_LARGE, "BodyTooLarge", f"the body is over {limit} bytes; send less or raise limits.maxBody"
    )


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
