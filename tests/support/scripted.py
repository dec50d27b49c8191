"""Model servers that do to each request exactly what a test says, on real sockets."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum

from modelfleet_core.values import EndpointUrl

INPUT, OUTPUT = 3, 2
"""Tokens that an answer says it used."""


class Act(Enum):
    """What becomes of one request."""

    ANSWER = "answer"
    RESET = "reset"
    """Closed before a byte of the answer."""
    CUT = "cut"
    """Closed in the middle of the answer; streamed: after the first event."""
    EARLY = "early"
    """Closed after the headers; a stream has no event by then."""
    BUSY = "busy"
    """Status 429."""
    BROKEN = "broken"
    """Status 500."""
    NONSENSE = "nonsense"
    """No JSON; streamed: in the first event."""
    REFUSE = "refuse"
    """Status 400: no other server would do better."""
    STRANGER = "stranger"
    """Status 401."""
    UNKNOWN = "unknown"
    """Status 404: it has no such model."""
    STREAM_ERROR = "stream_error"
    """An error where the answer should be, after a first event if streamed."""


@dataclass(slots=True)
class Served:
    """What one server saw."""

    url: EndpointUrl
    heads: list[str] = field(default_factory=list)
    held: asyncio.Event | None = None
    """What the answer to the next request waits for."""
    came: asyncio.Event = field(default_factory=asyncio.Event)

    def hold(self, until: asyncio.Event) -> None:
        """Let the next request wait for its answer until `until` is set."""
        self.held = until

    async def until(self, requests: int) -> None:
        """Return once so many requests have come."""
        while len(self.heads) < requests:
            self.came.clear()
            await self.came.wait()


Script = Callable[[], Act]


@asynccontextmanager
async def scripted_server(
    script: Script, *, says: str = "no reason", tls: ssl.SSLContext | None = None
) -> AsyncIterator[Served]:
    """Serve on loopback; `script` is asked what to do with each request once it has come whole.

    `says`: what its errors quote. With `tls` it is https://localhost.
    """
    served = Served(EndpointUrl(""))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await _one(reader, writer, script, served, says):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the sidecar went away, as some tests want
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    origin = "http://127.0.0.1" if tls is None else "https://localhost"
    served.url = EndpointUrl(f"{origin}:{server.sockets[0].getsockname()[1]}")
    try:
        yield served
    finally:
        server.close()
        await server.wait_closed()


async def _one(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, script: Script, served: Served, says: str
) -> bool:
    """Play one request; returns whether the connection may take another."""
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    body = await reader.readexactly(int(length.split(b":")[1]))
    served.heads.append(head.decode())
    served.came.set()
    act, stream = script(), json.loads(body).get("stream") is True
    held, served.held = served.held, None
    if held is not None:
        await held.wait()
    status = {
        Act.BUSY: 429,
        Act.BROKEN: 500,
        Act.REFUSE: 400,
        Act.STRANGER: 401,
        Act.UNKNOWN: 404,
    }.get(act)
    if act is Act.RESET:
        return False
    if status is not None:
        text = json.dumps({"error": {"message": says}}).encode()
        writer.write(b"HTTP/1.1 %d X\r\ncontent-length: %d\r\n\r\n" % (status, len(text)) + text)
    elif stream:
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        for event in _events(act, says):
            writer.write(b"%x\r\n" % len(event) + event + b"\r\n")
            await writer.drain()
        if act is not Act.ANSWER:
            return False
        writer.write(b"0\r\n\r\n")
    else:
        text = _answer()
        if act is Act.NONSENSE:
            text = b"<html>"
        if act is Act.STREAM_ERROR:
            text = json.dumps({"error": {"message": says}}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(text))
        await writer.drain()
        if act is Act.EARLY:
            return False
        if act is Act.CUT:
            writer.write(text[: len(text) // 2])
            await writer.drain()
            return False
        writer.write(text)
    await writer.drain()
    return True


def _answer() -> bytes:
    usage = {"prompt_tokens": INPUT, "completion_tokens": OUTPUT, "total_tokens": INPUT + OUTPUT}
    message = {"role": "assistant", "content": "ok"}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    return json.dumps({"id": "x", "object": "chat.completion", "choices": choices, "usage": usage}).encode()


def _events(act: Act, says: str) -> list[bytes]:
    if act is Act.EARLY:
        return []
    if act is Act.NONSENSE:
        return [b'data: {"error": \n\n']
    piece = json.dumps({"choices": [{"index": 0, "delta": {"content": "ok"}}]}).encode()
    end = {"choices": [], "usage": {"prompt_tokens": INPUT, "completion_tokens": OUTPUT}}
    events = [b"data: " + piece + b"\n\n"]
    if act is Act.STREAM_ERROR:
        events.append(b"data: " + json.dumps({"error": {"message": says}}).encode() + b"\n\n")
    if act is Act.ANSWER:
        events += [b"data: " + json.dumps(end).encode() + b"\n\n", b"data: [DONE]\n\n"]
    return events
