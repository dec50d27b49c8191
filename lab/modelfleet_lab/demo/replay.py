"""Sends the requests of a scenario at their times, streamed and without retries, and notes how each ended.

In: requests and where each goes. Out: an `Outcome` for each, as its caller saw it. Next: `evidence` joins
them with the model servers' logs.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum

import aiohttp

from modelfleet_lab.demo.scenario import Request
from modelfleet_lab.questions import grade

GRACE = 3.0
"""Seconds after the deadline within which the end must reach the caller, else the request counts as lost."""


class Ending(Enum):
    """How a request ended for its caller."""

    ANSWERED = "answered"
    REFUSED = "refused"
    """One clear error: an HTTP status with OpenAI's error envelope, or an error event in the stream."""
    LOST = "lost"
    """Neither: a cut connection, a stream without end, silence past the deadline, an unexplained error."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request as its caller saw it."""

    question: str
    at: float
    """Seconds from the start of the replay."""
    latency: float
    ending: Ending
    correct: bool
    model: str
    """Which model answered, as the response says; empty when none did."""
    detail: str
    """The error's code or message; empty when answered."""


@dataclass(slots=True)
class Progress:
    """Counts of a replay under way, for the live view."""

    total: int
    sent: int = 0
    outcomes: list[Outcome] = field(default_factory=list)

    def right(self) -> int:
        return sum(outcome.correct for outcome in self.outcomes)

    def count(self, ending: Ending) -> int:
        return sum(outcome.ending is ending for outcome in self.outcomes)


@dataclass(frozen=True, slots=True)
class Reply:
    """How one HTTP call ended."""

    ending: Ending
    text: str = ""
    model: str = ""
    detail: str = ""
    tokens: tuple[int, int] = (0, 0)
    """Input and output tokens of the usage that the stream reported."""


Ask = Callable[[Request], Awaitable[Reply]]
"""Sends one request and returns how it ended; never raises for a failed request."""


async def replay(requests: Sequence[Request], ask: Ask, progress: Progress) -> None:
    """Send each request at its time through `ask`; fill `progress`; return when all have ended."""
    start = time.monotonic()

    async def one(request: Request) -> None:
        sent = time.monotonic()
        reply = await ask(request)
        right = reply.ending is Ending.ANSWERED and grade(request.question, reply.text)
        progress.outcomes.append(
            Outcome(
                question=request.question.question_id,
                at=sent - start,
                latency=time.monotonic() - sent,
                ending=reply.ending,
                correct=right,
                model=reply.model,
                detail=reply.detail,
            )
        )

    async with asyncio.TaskGroup() as tasks:
        for request in requests:
            await asyncio.sleep(max(0.0, start + request.at - time.monotonic()))
            progress.sent += 1
            tasks.create_task(one(request))


async def ask_over_http(
    session: aiohttp.ClientSession,
    base: str,
    model: str,
    request: Request,
    *,
    max_tokens: int,
    timeout: float,
) -> Reply:
    """Ask `model` at `base` (no `/v1`) for a streamed answer; give up after `timeout` seconds."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": request.question.prompt}],
        "max_tokens": max_tokens,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    headers = {"x-modelfleet-task": request.question.task}
    try:
        async with (
            asyncio.timeout(timeout),
            session.post(f"{base}/v1/chat/completions", json=body, headers=headers) as response,
        ):
            if response.status != 200:
                return _refusal(response.status, await response.read())
            named = response.headers.get("x-modelfleet-model", model)
            return await _read_stream(response, named)
    except TimeoutError:
        return Reply(Ending.LOST, detail=f"nothing for {timeout:g} s")
    except (aiohttp.ClientError, ValueError) as error:
        return Reply(Ending.LOST, detail=f"{type(error).__name__}: {error}")


def _refusal(status: int, body: bytes) -> Reply:
    message = _error_of(body)
    if message is None:
        return Reply(Ending.LOST, detail=f"status {status} without an error that says why")
    return Reply(Ending.REFUSED, detail=f"{status} {message}")


def _error_of(body: bytes | str) -> str | None:
    """Return the code (else the message) of OpenAI's error envelope, if `body` is one."""
    try:
        row = json.loads(body)
    except ValueError:
        return None
    error = row.get("error") if isinstance(row, dict) else None
    if not isinstance(error, dict) or not error.get("message"):
        return None
    return str(error.get("code") or error["message"])


async def _read_stream(response: aiohttp.ClientResponse, model: str) -> Reply:
    parts: list[str] = []
    usage: dict[str, int] = {}
    async for line in response.content:
        if not line.startswith(b"data:"):
            continue
        data = line[5:].strip()
        if data == b"[DONE]":
            tokens = (usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0))
            return Reply(Ending.ANSWERED, "".join(parts), model, tokens=tokens)
        row = json.loads(data)
        if "error" in row:
            message = _error_of(data)
            return Reply(Ending.LOST if message is None else Ending.REFUSED, detail=message or "empty error")
        for choice in row["choices"]:
            parts.append(choice["delta"].get("content") or "")
        usage = row.get("usage") or usage
    return Reply(Ending.LOST, detail="the stream ended without [DONE]")
