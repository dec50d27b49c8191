"""However requests are cut into pieces on their way, each gets its own answer, in order, and none is lost."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from modelfleet_sidecar import web_server
from modelfleet_sidecar.asgi import LISTENER, AsgiApp, Receive, Scope, Send
from modelfleet_sidecar.attended import Attended, DisconnectedError
from modelfleet_sidecar.web_server import WebServer

OFFER = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AA\r\n"
KINDS = ("get", "length", "chunks", "trailers", "offer", "offer with chunks", "early", "blank")


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with path, body and names of headers; at /early before the body has come."""
    body, more = b"", True
    while more and (scope["path"] != "/early" or not body):
        message = await receive()
        if message["type"] != "http.request":
            return
        body += message["body"]
        more = message["more_body"]
    names = b",".join(name for name, _ in scope["headers"])
    answer = b"early" if scope["path"] == "/early" else b"|".join((scope["path"].encode(), body, names))
    length = (b"content-length", str(len(answer)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": answer, "more_body": False})


def drawn(draw: random.Random) -> tuple[bytes, bytes | None]:
    """Return a request and its answer; None: it is none."""
    kind = draw.choice(KINDS)
    body = bytes(draw.choices(b"abc", k=draw.choice([0, 1, 5, 3000])))
    head = b"POST /x HTTP/1.1\r\nhost: x\r\n"
    lengthy = head + b"content-length: %d\r\n" % len(body)
    chunked = head + b"transfer-encoding: chunked\r\n"
    parts = [body[i : i + 700] for i in range(0, len(body), 700)]
    chunks = b"".join(b"%x;beside=1\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n"
    said = b"/x|" + body
    match kind:
        case "blank":
            return b"\r\n", None
        case "get":
            return b"GET /g HTTP/1.1\r\nhost: x\r\n\r\n", b"/g||host"
        case "length":
            return lengthy + b"\r\n" + body, said + b"|host,content-length"
        case "early":
            return lengthy.replace(b"/x", b"/early") + b"\r\n" + body, b"early"
        case "offer":
            return lengthy + OFFER + b"\r\n" + body, said + b"|host,content-length"
        case "chunks":
            return chunked + b"\r\n" + chunks + b"\r\n", said + b"|host,transfer-encoding"
        case "trailers":
            return chunked + b"\r\n" + chunks + b"x-tier: gold\r\n\r\n", said + b"|host,transfer-encoding"
        case _:
            return chunked + OFFER + b"\r\n" + chunks + b"\r\n", said + b"|host,transfer-encoding"


@asynccontextmanager
async def serving(app: AsgiApp = echo) -> AsyncIterator[tuple[WebServer, int]]:
    listener = socket.create_server(("127.0.0.1", 0))
    server = WebServer(app)
    running = asyncio.create_task(server.serve([listener]))
    await server.listening.wait()
    try:
        yield server, listener.getsockname()[1]
    finally:
        server.stop()
        await running


async def talk(port: int, draw: random.Random) -> None:
    requests = [drawn(draw) for _ in range(draw.randint(1, 8))]
    sent = b"".join(request for request, _ in requests)
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def send() -> None:
        at = 0
        while at < len(sent):
            size = draw.choice([1, 2, 7, 50, 1000, 10**6])
            writer.write(sent[at : at + size])
            at += size
            await asyncio.sleep(0)

    sending = asyncio.create_task(send())
    for _, answer in requests:
        if answer is not None:
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            size = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
            assert await reader.readexactly(size) == answer
    await sending
    assert await reader.read() == b"", "nothing more comes, and the connection does not stay for ever"
    writer.close()


async def test_requests_in_any_pieces_are_answered_each_and_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_server, "KEEP_ALIVE", 0.5)
    async with serving() as (server, port):
        async with asyncio.timeout(30.0):
            await asyncio.gather(*(talk(port, random.Random(seed)) for seed in range(200)))
        assert not server.server_state.connections


@pytest.mark.parametrize("along", [True, False], ids=["sent with it", "sent while it is answered"])
async def test_who_leaves_is_noticed_also_with_another_request_on_its_way(along: bool) -> None:
    begun, noticed = asyncio.Event(), asyncio.Event()

    async def works(scope: Scope, receive: Receive, _send: Send) -> None:
        await receive()
        with contextlib.suppress(DisconnectedError):
            async with Attended(scope["extensions"][LISTENER].watch, lambda: False):
                begun.set()
                await asyncio.Event().wait()
        noticed.set()

    async with serving(works) as (server, port), asyncio.timeout(10.0):
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
        writer.write(2 * request if along else request)
        await begun.wait()
        if not along:
            writer.write(request)
            while not _pipelined(server):  # noqa: ASYNC110
                await asyncio.sleep(0)
        writer.close()
        await noticed.wait()


def _pipelined(server: WebServer) -> bool:
    """Return whether a request waits for the answer of the one before."""
    return any(connection.pipeline for connection in server.server_state.connections)  # type: ignore[union-attr]
