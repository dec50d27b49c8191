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

from modelfleet_sidecar import chat, completions, embeddings, responses
from modelfleet_sidecar.asgi import Receive, Scope, Send
from modelfleet_sidecar.attended import Attended, DisconnectedError
from modelfleet_sidecar.calls import LARGE, Call
from modelfleet_sidecar.decision import Decision
from modelfleet_sidecar.exchange import Exchange
from modelfleet_sidecar.explanation import compact, explanation
from modelfleet_sidecar.failures import DRAINING, Failure, Fault, internal
from modelfleet_sidecar.feedback import parse_feedback
from modelfleet_sidecar.gate import Gate
from modelfleet_sidecar.http_caller import Caller, Headers
from modelfleet_sidecar.passing import REQUEST_ID, passed
from modelfleet_sidecar.router import Router
from modelfleet_sidecar.telemetry import Telemetry
from modelfleet_sidecar.wishes import EXPLAIN_FULL, EXPLAIN_HEADER

JSON = (b"content-type", b"application/json")
ATTEMPTS = b"x-modelfleet-attempts"
DECISION_ID = b"x-modelfleet-decision-id"
EXPLANATION = b"x-modelfleet-explanation"
CALLS: Mapping[str, Callable[[bytes], Call]] = {
    "/v1/chat/completions": chat.parse_json,
    "/v1/completions": completions.parse_json,
    "/v1/embeddings": embeddings.parse_json,
    "/v1/responses": responses.parse_json,
}
UNREAD = frozenset({Fault.TOO_LARGE, Fault.WRONG_MEDIA})
"""After which nobody reads what the caller may still send, so that the connection ends."""
MAX_FEEDBACK = 64 * 1024
"""Bytes."""
LAST_WORDS = 0.5
"""Seconds that a caller whose deadline has passed gets to take its error."""


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
                caller.headers = await self._gate.admit(caller.headers, caller.peer)
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
        if (parse := CALLS.get(path)) is not None:
            _allow(caller, method, ("POST",), path)
            await self._call(caller, parse)
            return
        handlers: Mapping[str, tuple[tuple[str, ...], Callable[[Caller], Awaitable[None]]]] = {
            "/v1/feedback": (("POST",), self._feedback),
            "/v1/models": (("GET", "HEAD"), self._models),
            "/v1/models/": (("GET", "HEAD"), partial(self._model, path.removeprefix("/v1/models/"))),
            "/v1/decisions/": (("GET", "HEAD"), partial(self._decision, path.removeprefix("/v1/decisions/"))),
        }
        named = next(
            (prefix for prefix in handlers if prefix.endswith("/") and path.startswith(prefix)), path
        )
        allowed, handler = handlers.get(named, ((), None))
        if handler is None:
            raise Failure(
                Fault.NOT_FOUND,
                "PathNotFound",
                f"nothing is served at {path[:200]!a}; there are {', '.join(CALLS)}, /v1/feedback,"
                " /v1/models, /v1/models/NAME and /v1/decisions/ID",
            )
        _allow(caller, method, allowed, path)
        await handler(caller)

    async def _call(self, caller: Caller, parse: Callable[[bytes], Call]) -> None:
        body = await caller.body(self._router.max_body, within=self._router.max_request)
        await self._router.turn()
        call = parse(body) if len(body) <= LARGE else await asyncio.to_thread(parse, body)
        # Whoever goes away ends the model's work.
        async with Attended(caller.watch, lambda: caller.done):
            await self._answer(caller, call)

    async def _answer(self, caller: Caller, call: Call) -> None:
        ask = self._router.ask(call, caller.headers, remaining=None)
        async with self._router.serve(ask, stream=call.stream) as exchange:
            if call.stream:
                await self._stream(caller, exchange)
                return
            headers = [JSON, *_decision_headers(exchange.decision, caller)]
            if exchange.receipt is not None and exchange.decision.explained:
                headers.append((b"x-modelfleet-cost-usd", f"{usd(exchange.receipt.cost):.9f}".encode()))
            await caller.reply(200, exchange.answer, headers)

    async def _stream(self, caller: Caller, exchange: Exchange) -> None:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            *_decision_headers(exchange.decision, caller),
        ]
        await caller.start(200, headers)
        async with aclosing(exchange.events(caller.take)) as events:
            async for data in events:
                await caller.write(data, more=True)
        await caller.write(b"", more=False)

    async def _feedback(self, caller: Caller) -> None:
        said = parse_feedback(await caller.body(MAX_FEEDBACK, within=self._router.max_request))
        counted = self._router.feedback(said)
        answer = {"decision_id": counted.decision_id, "score": counted.score, "repeated": counted.repeated}
        await caller.reply(200, _json(answer), [JSON])

    async def _models(self, caller: Caller) -> None:
        listed = [_model(name) for name in self._router.models()]
        await caller.reply(200, _json({"object": "list", "data": listed}), [JSON])

    async def _model(self, name: str, caller: Caller) -> None:
        await caller.reply(200, _json(_model(self._router.model(name))), [JSON])

    async def _decision(self, decision_id: str, caller: Caller) -> None:
        await caller.reply(200, _json(explanation(self._router.explain(decision_id))), [JSON])

    async def _tell(self, caller: Caller, failure: Failure) -> None:
        """Say what went wrong: as a status, or as an event where the stream has begun."""
        envelope = _json(failure.envelope())
        try:
            async with asyncio.timeout(LAST_WORDS if caller.started else None):
                if caller.started:
                    # Not a clean end: no [DONE] follows.
                    await caller.write(b"data: " + envelope + b"\n\n", more=False)
                    return
                headers = [JSON, (b"x-modelfleet-reason", failure.reason.encode()), *_request_id(caller, "")]
                if caller.allowed:
                    headers.append((b"allow", caller.allowed.encode()))
                if failure.reason == DRAINING or failure.fault in UNREAD:
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


def _allow(caller: Caller, method: str, allowed: tuple[str, ...], path: str) -> None:
    if method not in allowed:
        caller.allowed = ", ".join(allowed)
        problem = f"{path[:200]!a} takes {caller.allowed}, not {method[:20]}"
        raise Failure(Fault.WRONG_METHOD, "WrongMethod", problem)


def _decision_headers(decision: Decision, caller: Caller) -> Headers:
    """Return what tells of a decision; only its id to callers who want nothing explained."""
    headers = [(DECISION_ID, decision.id.encode()), *_request_id(caller, decision.id)]
    if not decision.explained:
        return headers
    named = {
        "model": decision.variant.model,
        "variant": decision.variant.variant,
        "reason": decision.reason.value,
        "tier": decision.tier,
        "rule": decision.rule,
    }
    headers += [
        (f"x-modelfleet-{name}".encode(), value.encode("latin-1", "replace"))
        for name, value in named.items()
        if value
    ]
    headers.append((ATTEMPTS, str(len(decision.earlier) + 1).encode()))
    if caller.headers.get(EXPLAIN_HEADER) == EXPLAIN_FULL:
        headers.append((EXPLANATION, compact(decision).encode()))
    return headers


def _request_id(caller: Caller, otherwise: str) -> Headers:
    """Return the id by which the caller knows its request; `otherwise` where it gave none."""
    named = passed(caller.headers).get(REQUEST_ID, otherwise)
    return [(REQUEST_ID.encode(), named.encode())] if named else []


def _model(name: str) -> dict[str, object]:
    return {"id": name, "object": "model", "created": 0, "owned_by": "modelfleet"}


def _json(value: object) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()
