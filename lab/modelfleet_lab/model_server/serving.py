"""One request at a simulated server, from its arrival to its record.

In: a request, the answer file and the latency profile. Out: the answer, paced as a loaded server would pace
it, and a record of what was billed. A slot is given back before the last bytes leave, so that a caller who
sees the end may send the next request at once.
"""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace

from aiohttp import web
from modelfleet_core.catalog import Pricing

from modelfleet_lab.model_server.answers import Answer, find_answer, text_tokens
from modelfleet_lab.model_server.faults import FAULT_HEADER, Fault, FaultKind, FaultPlan, fault_of_header
from modelfleet_lab.model_server.latency import LatencyProfile
from modelfleet_lab.model_server.metrics import Metrics
from modelfleet_lab.model_server.requests_log import RequestLog, RequestRecord
from modelfleet_lab.model_server.slots import Slots
from modelfleet_lab.model_server.wire import (
    DONE,
    AnswerForm,
    BadRequestError,
    Generation,
    error_body,
    event,
    parse_generation,
)

REFUSALS = {FaultKind.RATE_LIMIT: 429, FaultKind.SERVER_ERROR: 500, FaultKind.UNAVAILABLE: 503}
REQUEST_ID_HEADERS = ("x-request-id", "x-modelfleet-decision-id")


@dataclass(slots=True)
class Course:
    """What happened to one request so far."""

    request_id: str
    generation: Generation
    answer: Answer
    function: str | None
    """That the answer calls; None: it is text."""
    limit: int
    """Output tokens that it will generate."""
    fault: Fault | None
    arrived: float
    in_flight_at_arrival: int
    first_token: float | None = None
    generated: int = 0
    admitted: bool = False
    """Whether the server worked on it, so that its input is billed."""
    holds_slot: bool = False
    status: int = 0
    ended: bool = False
    cancelled: bool = False
    recorded: bool = False

    @property
    def finish(self) -> str:
        return "length" if self.limit < self.answer.output_tokens else "stop"

    @property
    def text(self) -> str:
        """The text of all tokens that it may generate."""
        return self.text_until(self.limit)

    def text_until(self, tokens: int) -> str:
        share = len(self.answer.text) * tokens // max(1, self.answer.output_tokens)
        return self.answer.text[:share]


class Serving:
    """Serves the requests of one simulated server."""

    def __init__(
        self,
        *,
        model: str,
        server: str,
        slots: Slots,
        latency: LatencyProfile,
        answers: Mapping[str, Answer],
        pricing: Pricing,
        time_scale: float,
        chunk_seconds: float,
        faults: FaultPlan,
        log: RequestLog,
        metrics: Metrics,
    ) -> None:
        self._model = model
        self._server = server
        self._slots = slots
        self._latency = latency
        self._answers = answers
        self._pricing = pricing
        self._time_scale = time_scale
        self._chunk_seconds = chunk_seconds
        self._faults = faults
        self._log = log
        self._metrics = metrics
        self._number = itertools.count()

    async def serve(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        """Answer `request`; the record is written however it ends."""
        try:
            generation = parse_generation(await request.read(), chat=chat)
            header = request.headers.get(FAULT_HEADER)
            fault = fault_of_header(header) if header else self._faults.strike()
        except ValueError as error:
            kind = "bad_request" if isinstance(error, BadRequestError) else "bad_fault"
            return _refusal(400, str(error), "invalid_request_error", kind)
        if generation.model != self._model:
            text = f"The model `{generation.model}` does not exist; this server runs `{self._model}`."
            return _refusal(404, text, "invalid_request_error", "model_not_found")
        answer = find_answer(self._answers, generation.message)
        function = None
        if answer.call is not None and answer.call.name in generation.functions:
            function, arguments = answer.call.name, answer.call.arguments
            answer = replace(answer, text=arguments, output_tokens=text_tokens(arguments))
        limit = answer.output_tokens
        course = Course(
            request_id=self._request_id(request),
            generation=generation,
            answer=answer,
            function=function,
            limit=min(limit, generation.max_tokens or limit),
            fault=fault,
            arrived=time.time(),
            in_flight_at_arrival=self._slots.in_flight,
        )
        try:
            return await self._play(request, course)
        except (asyncio.CancelledError, ConnectionResetError):
            course.cancelled = True  # The caller left.
            raise
        finally:
            self._free(course)
            self._record(course)

    def _request_id(self, request: web.Request) -> str:
        for name in REQUEST_ID_HEADERS:
            if request.headers.get(name):
                return request.headers[name]
        return f"{self._server}-{next(self._number)}"

    async def _play(self, request: web.Request, course: Course) -> web.StreamResponse:
        kind = course.fault.kind if course.fault is not None else None
        if course.fault is not None and kind in REFUSALS:
            course.status = REFUSALS[kind]
            wait = {"Retry-After": f"{course.fault.seconds:g}"} if kind is FaultKind.RATE_LIMIT else {}
            return _refusal(course.status, "The server is overloaded.", "server_error", kind.value, wait)
        if kind is FaultKind.CUT_BEFORE_FIRST:
            _cut(request)
            return web.Response()
        await self._slots.take()
        course.holds_slot = True
        course.admitted = True
        if course.fault is not None and kind in (FaultKind.STALL, FaultKind.SLOW_START):
            await asyncio.sleep(course.fault.seconds * self._time_scale)
        await self._sleep_first(course)
        form = AnswerForm(
            f"chatcmpl-{uuid.uuid4().hex[:24]}",
            int(course.arrived),
            self._model,
            course.generation.chat,
            course.function,
        )
        if course.generation.stream:
            return await self._stream(request, course, form)
        return await self._whole(request, course, form)

    async def _sleep_first(self, course: Course) -> None:
        seconds = self._latency.first_token(self._slots.running, course.generation.input_tokens)
        await asyncio.sleep(seconds * self._time_scale)
        course.first_token = time.time()
        course.generated = min(1, course.limit)
        self._metrics.first_token(course.first_token - course.arrived)

    async def _sleep_tokens(self, course: Course) -> int:
        """Sleep for the tokens of one chunk; return how many are generated by then."""
        per_token = self._latency.next_token(self._slots.running) * self._time_scale
        left = course.limit - course.generated
        tokens = left if per_token <= 0 else max(1, min(left, round(self._chunk_seconds / per_token)))
        await asyncio.sleep(tokens * per_token)
        course.generated += tokens
        return course.generated

    async def _whole(self, request: web.Request, course: Course, form: AnswerForm) -> web.StreamResponse:
        while course.generated < course.limit:
            await self._sleep_tokens(course)
        body = form.whole(course.text, course.finish, (course.generation.input_tokens, course.limit))
        self._free(course)
        course.status = 200
        kind = course.fault.kind if course.fault is not None else None
        if kind is FaultKind.MALFORMED:
            body = body[: len(body) // 2]
        elif kind is FaultKind.OVERLOAD_IN_STREAM:
            body = error_body("The engine is overloaded.", "server_error", "overloaded")
        elif kind in (FaultKind.CUT_AFTER_FIRST, FaultKind.STALL_MIDSTREAM):
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            response.content_length = len(body)
            await response.prepare(request)
            await response.write(body[: len(body) // 2])
            if course.fault is not None and kind is FaultKind.STALL_MIDSTREAM:
                await asyncio.sleep(course.fault.seconds * self._time_scale)
                await response.write(body[len(body) // 2 :])
                self._end(course)
            else:
                _cut(request)
            return response
        else:
            self._end(course)
        return web.Response(body=body, content_type="application/json")

    async def _stream(self, request: web.Request, course: Course, form: AnswerForm) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
        )
        await response.prepare(request)
        course.status = 200
        shown = course.text_until(course.generated)
        await response.write(form.piece(shown, first=True))
        if await self._strike_midstream(request, response, course):
            return response
        while course.generated < course.limit:
            text = course.text_until(await self._sleep_tokens(course))
            if course.generated < course.limit:
                await response.write(form.piece(text[len(shown) :], first=False))
                shown = text
        last = form.piece(course.text[len(shown) :], first=False, finish=course.finish)
        if course.generation.include_usage:
            last += form.usage((course.generation.input_tokens, course.generated))
        self._free(course)
        self._end(course)
        await response.write(last + DONE)
        return response

    async def _strike_midstream(
        self, request: web.Request, response: web.StreamResponse, course: Course
    ) -> bool:
        """Play a fault that comes after the first chunk; return whether the answer ends by it."""
        if course.fault is None:
            return False
        match course.fault.kind:
            case FaultKind.STALL_MIDSTREAM:
                await asyncio.sleep(course.fault.seconds * self._time_scale)
                return False
            case FaultKind.CUT_AFTER_FIRST:
                _cut(request)
                return True
            case FaultKind.MALFORMED:
                await response.write(event(b'{"id": "broken", "choices": [{'))
                return False
            case FaultKind.OVERLOAD_IN_STREAM:
                self._free(course)
                await response.write(
                    event(error_body("The engine is overloaded.", "server_error", "overloaded")) + DONE
                )
                return True
            case _:
                return False

    def _end(self, course: Course) -> None:
        """Book the answer as whole, before its last bytes leave: whoever has it finds the record."""
        course.ended = True
        self._metrics.answered(course.finish, time.time() - course.arrived)
        self._record(course)

    def _free(self, course: Course) -> None:
        if course.holds_slot:
            course.holds_slot = False
            self._slots.release()

    def _record(self, course: Course) -> None:
        if course.recorded:
            return
        course.recorded = True
        tokens_in = course.generation.input_tokens if course.admitted else 0
        self._metrics.billed(tokens_in, course.generated)
        whole = course.ended and course.finish == "stop"
        correct = course.answer.correct if whole else (None if course.answer.correct is None else False)
        self._log.add(
            RequestRecord(
                request_id=course.request_id,
                question=course.answer.question,
                model=self._model,
                server=self._server,
                start=course.arrived,
                end=time.time(),
                first_token=course.first_token,
                input_tokens=tokens_in,
                output_tokens=course.generated,
                cost_nano_usd=self._pricing.cost(tokens_in, course.generated),
                in_flight_at_arrival=course.in_flight_at_arrival,
                peak_in_flight=self._slots.peak,
                concurrency=self._slots.concurrency,
                over_concurrency=course.in_flight_at_arrival >= self._slots.concurrency,
                correct=correct,
                cancelled=course.cancelled,
                status=course.status,
                fault=course.fault.kind.value if course.fault is not None else None,
            )
        )


def _refusal(
    status: int, message: str, kind: str, code: str, headers: Mapping[str, str] | None = None
) -> web.Response:
    return web.Response(
        status=status,
        body=error_body(message, kind, code),
        content_type="application/json",
        headers=dict(headers or {}),
    )


def _cut(request: web.Request) -> None:
    """Close the connection without ending the answer."""
    if request.transport is not None:
        request.transport.abort()
