"""Model servers that fail in each way that networks and servers know, on real sockets, and say what they saw.

In: which `Ill` a server has. Out: the URL that a lease names, and a log, in order over all servers that share
it, of what each request was given. A server without an illness answers every request.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cache

import trustme
from modelfleet_core.values import EndpointUrl

INPUT, OUTPUT = 3, 4
"""Tokens that a whole answer says it used; each is one piece of a stream."""
PIECES = ("one ", "two ", "three ", "four")
ANSWER = "".join(PIECES)
GONE = "gone.invalid"
"""A host without an address; `nameless` makes sure of that."""
RETRY_AFTER = 7
PACE = 0.05
"""Seconds between two tokens of a server that trickles."""
TRICKLED = 200
"""Tokens of its answer."""
HELD = 30.0
"""Seconds after which a server gives up that waits for its caller to leave."""


class Ill(Enum):
    """What is wrong with a server."""

    NOTHING = "nothing"
    REFUSED = "connection refused"
    RESET_BEFORE = "reset before the request is read"
    RESET_AFTER = "reset after the request is read"
    NO_NAME = "host name without an address"
    TLS = "certificate of nobody we trust"
    BUSY = "429"
    BUSY_UNTIL = "429 with Retry-After"
    BROKEN = "500"
    UNAVAILABLE = "503"
    STALL_FIRST = "stall before the first token"
    STALL_BETWEEN = "stall between tokens"
    TRICKLE = "tokens too slowly"
    CUT_FIRST = "cut before the first token"
    CUT_BETWEEN = "cut after the first token"
    ERROR_FIRST = "error event before content"
    ERROR_BETWEEN = "error event after content"
    MALFORMED_FIRST = "malformed JSON"
    MALFORMED_BETWEEN = "malformed JSON after content"
    WRONG_TYPE = "wrong content type"
    NO_BYTES = "no bytes"
    NO_CONTENT = "no content"
    NO_USAGE = "no usage"
    RUNNING_USAGE = "running usage with each token"
    REPEATED_USAGE = "usage twice"


REFUSALS = {Ill.BUSY: 429, Ill.BUSY_UNTIL: 429, Ill.BROKEN: 500, Ill.UNAVAILABLE: 503}
UNHEARD = frozenset({Ill.REFUSED, Ill.NO_NAME, Ill.TLS})
"""No request reaches such a server."""


@dataclass(slots=True)
class Seen:
    """One request at a server, or a connection reset before its request was read."""

    server: str
    request_id: str = ""
    stream: bool = False
    body: bytes = b""
    pieces: int = 0
    """Tokens of content that went out."""
    ended: bool = False
    """The server is through with it."""
    left: bool = False
    """Its caller went away before that."""


@dataclass(slots=True)
class Log:
    """What all servers that share it saw, in order."""

    seen: list[Seen] = field(default_factory=list)
    heard: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once a caller has the first content, for which faults after it wait."""
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    def note(self, seen: Seen) -> None:
        self.seen.append(seen)
        self.tell()

    def tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def until(self, requests: int, *, pieces: int = 0, ended: bool = False) -> None:
        """Return once so many requests have come, the last with so many tokens out, all of them ended."""
        while (
            len(self.seen) < requests
            or (pieces and self.seen[-1].pieces < pieces)
            or (ended and not all(seen.ended or seen.left for seen in self.seen))
        ):
            await self._changed.wait()


@dataclass(frozen=True, slots=True)
class Wire:
    """How one server writes on one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    seen: Seen
    log: Log

    async def send(self, data: bytes, pieces: int = 0) -> None:
        self.writer.write(data)
        await self.writer.drain()
        self.seen.pieces += pieces
        self.log.tell()

    async def chunk(self, data: bytes, pieces: int = 0) -> None:
        await self.send(b"%x\r\n" % len(data) + data + b"\r\n", pieces)

    async def left(self, within: float = HELD) -> bool:
        """Return whether the caller leaves within a time; note it if so."""
        try:
            async with asyncio.timeout(within):
                while await self.reader.read(1024):
                    pass
        except TimeoutError:
            return False
        except ConnectionError:
            pass  # left without a word
        self.seen.left = True
        self.log.tell()
        return True

    def reset(self) -> None:
        """Close with a reset instead of an end."""
        tcp = self.writer.get_extra_info("socket")
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@contextlib.asynccontextmanager
async def faulty_server(ill: Ill, log: Log, name: str = "") -> AsyncIterator[EndpointUrl]:
    """Serve on loopback; yields the URL at which nothing but this illness is met."""
    if ill is Ill.NO_NAME:
        yield EndpointUrl(f"http://{GONE}:80")
        return
    if ill is Ill.REFUSED:
        with socket.socket() as taken:  # which listens to nobody
            taken.bind(("127.0.0.1", 0))
            yield EndpointUrl(f"http://127.0.0.1:{taken.getsockname()[1]}")
        return

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await _one(ill, name, reader, writer, log):
                pass
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # its caller went away
        finally:
            writer.close()

    tls = _unknown() if ill is Ill.TLS else None
    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    origin = "http://127.0.0.1" if tls is None else "https://localhost"
    try:
        yield EndpointUrl(f"{origin}:{server.sockets[0].getsockname()[1]}")
    finally:
        server.close()
        await server.wait_closed()


async def _one(
    ill: Ill, name: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, log: Log
) -> bool:
    """Play one request; returns whether the connection may take another."""
    if ill is Ill.RESET_BEFORE:
        seen = Seen(name, ended=True)
        log.note(seen)
        Wire(reader, writer, seen, log).reset()
        return False
    head = await reader.readuntil(b"\r\n\r\n")
    length = re.search(rb"(?i)content-length: *(\d+)", head)
    assert length is not None
    body = await reader.readexactly(int(length[1]))
    named = re.search(rb"(?i)x-request-id: *(\S+)", head)
    asked = json.loads(body)
    seen = Seen(name, named[1].decode() if named else "", asked.get("stream") is True, body)
    log.note(seen)
    wire = Wire(reader, writer, seen, log)
    try:
        if ill is Ill.RESET_AFTER:
            wire.reset()
            return False
        if ill in REFUSALS:
            wait = b"retry-after: %d\r\n" % RETRY_AFTER if ill is Ill.BUSY_UNTIL else b""
            said = json.dumps({"error": {"message": "too much to do"}}).encode()
            await wire.send(_head(REFUSALS[ill], b"application/json", len(said), wait) + said)
            return True
        if ill is Ill.WRONG_TYPE:
            page = b"<html><body>Sign in to this network</body></html>"
            await wire.send(_head(200, b"text/html", len(page)) + page)
            return True
        if ill is Ill.NO_BYTES:
            kind = b"text/event-stream" if seen.stream else b"application/json"
            await wire.send(_head(200, kind, 0))
            return True
        return await (_stream(ill, wire) if seen.stream else _whole(ill, wire))
    except ConnectionError:
        seen.left = True
        raise
    finally:
        seen.ended = not seen.left
        log.tell()


async def _whole(ill: Ill, wire: Wire) -> bool:
    text = whole_answer(ill)
    if ill is Ill.STALL_FIRST:
        await wire.left()
        return False
    await wire.send(_head(200, b"application/json", len(text)))
    if ill is Ill.CUT_FIRST:
        return False
    if ill is Ill.TRICKLE:
        for at in range(len(text)):
            if await wire.left(PACE):
                return False
            await wire.send(text[at : at + 1])
        return True
    if ill in (Ill.STALL_BETWEEN, Ill.CUT_BETWEEN):
        await wire.send(text[: len(text) // 2], OUTPUT // 2)
        if ill is Ill.STALL_BETWEEN:
            await wire.left()
        return False
    await wire.send(text, 0 if ill in WORTHLESS else OUTPUT)
    return True


LATE = frozenset({Ill.CUT_BETWEEN, Ill.ERROR_BETWEEN, Ill.MALFORMED_BETWEEN})
WORTHLESS = frozenset({Ill.ERROR_FIRST, Ill.ERROR_BETWEEN, Ill.MALFORMED_FIRST, Ill.MALFORMED_BETWEEN})


async def _stream(ill: Ill, wire: Wire) -> bool:
    await wire.send(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    )
    opening = {"role": "assistant", "content": ""}
    await wire.chunk(event({"id": "x", "choices": [{"index": 0, "delta": opening}]}))
    match ill:
        case Ill.STALL_FIRST:
            await wire.left()
            return False
        case Ill.CUT_FIRST:
            return False
        case Ill.ERROR_FIRST:
            await wire.chunk(event({"error": {"message": "the engine is overloaded"}}))
            return False
        case Ill.MALFORMED_FIRST:
            await wire.chunk(b'data: {"choices": [{"delta": {"content": "on\n\n')
            return False
    pieces: Sequence[str] = PIECES if ill is not Ill.TRICKLE else ("a",) * TRICKLED
    for number, text in enumerate(pieces if ill is not Ill.NO_CONTENT else (), 1):
        if ill is Ill.TRICKLE and await wire.left(PACE):
            return False
        running = _usage(number) if ill is Ill.RUNNING_USAGE else None
        await wire.chunk(piece(text, running), 1)
        if ill in LATE:
            await wire.log.heard.wait()
        match ill:
            case Ill.STALL_BETWEEN:
                await wire.left()
                return False
            case Ill.CUT_BETWEEN:
                return False
            case Ill.ERROR_BETWEEN:
                await wire.chunk(event({"error": {"message": "the engine is overloaded"}}))
                return False
            case Ill.MALFORMED_BETWEEN:
                await wire.chunk(b'data: {"choices": [{"delta": {"content": "tw\n\n')
                return False
    if ill is not Ill.NO_CONTENT:
        await wire.chunk(event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}))
    if ill is not Ill.NO_USAGE:
        for _ in range(2 if ill is Ill.REPEATED_USAGE else 1):
            await wire.chunk(event({"choices": [], "usage": _usage(OUTPUT)}))
    await wire.chunk(b"data: [DONE]\n\n")
    await wire.send(b"0\r\n\r\n")
    return True


def whole_answer(ill: Ill = Ill.NOTHING) -> bytes:
    """Return the body of an answer that is not streamed."""
    if ill in (Ill.ERROR_FIRST, Ill.ERROR_BETWEEN):
        return json.dumps({"error": {"message": "the engine is overloaded"}}).encode()
    message = {"role": "assistant", "content": ANSWER}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    answer: dict[str, object] = {"id": "x", "object": "chat.completion", "choices": choices}
    if ill is Ill.NO_CONTENT:
        answer["choices"] = []
    if ill is not Ill.NO_USAGE:
        answer["usage"] = _usage(OUTPUT)
    text = json.dumps(answer).encode()
    if ill is Ill.REPEATED_USAGE:  # two fields of one name, the same
        text = text[:-1] + b', "usage": ' + json.dumps(_usage(OUTPUT)).encode() + b"}"
    return text[:-20] if ill in (Ill.MALFORMED_FIRST, Ill.MALFORMED_BETWEEN) else text


def event(value: object) -> bytes:
    """Return one event of a stream."""
    return b"data: " + json.dumps(value).encode() + b"\n\n"


def piece(text: str, usage: object = None) -> bytes:
    """Return an event with a piece of content."""
    chunk: dict[str, object] = {"id": "x", "choices": [{"index": 0, "delta": {"content": text}}]}
    return event(chunk if usage is None else chunk | {"usage": usage})


def _usage(output: int) -> dict[str, int]:
    return {"prompt_tokens": INPUT, "completion_tokens": output, "total_tokens": INPUT + output}


def _head(status: int, kind: bytes, length: int, more: bytes = b"") -> bytes:
    return b"HTTP/1.1 %d X\r\ncontent-type: %s\r\ncontent-length: %d\r\n%s\r\n" % (status, kind, length, more)


@cache
def _unknown() -> ssl.SSLContext:
    """Return TLS with a certificate for localhost that no client has reason to trust."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("localhost").configure_cert(context)
    return context
