"""The HTTP/1.1 listener: uvicorn as a part of this program, guarded against callers that send too slowly or
too much before anything is known of them.

In: connections. Out: ASGI calls for requests whose head has come whole. Next: `http_api`, `telemetry`.

Timers run only for heads and bodies that did not come whole at once, so that usual requests pay nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import Iterator

import httptools
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from modelfleet_sidecar.asgi import AsgiApp

LAST_WORDS = 1
"""Seconds that connections get to take the end of their answers once all requests are done."""
KEEP_ALIVE = 75
"""Seconds that a connection may stay without a request."""
MAX_HEAD = 64 * 1024
"""Bytes of a request's line and headers."""
MAX_HEADERS = 128
PATIENCE = 10.0
"""Seconds for a head to come whole; and the time in which so much of a body must come:"""
LEAST_PROGRESS = 10 * 1024
"""Bytes."""
OFFERS = frozenset({b"connection", b"upgrade", b"http2-settings"})
"""Headers of an offer to speak another protocol."""
REASONS = {400: "Bad Request", 408: "Request Timeout", 431: "Request Header Fields Too Large"}


class _HeadTooLargeError(Exception):
    """A request's head breaks a bound."""


class GuardedProtocol(HttpToolsProtocol):
    """One connection."""

    _in_head = False
    """Whether a request has begun whose head is not whole."""
    _head_size = 0
    """Bytes of it that came since it began, but for what came with its beginning."""
    _came = 0
    """Bytes that came since the timer was set."""
    _method = b""
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.timeout_keep_alive_task = self.loop.call_later(KEEP_ALIVE, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self._came += len(data)
        going_on = self._in_head
        rest = data
        while rest:
            try:
                self.parser.feed_data(rest)
                rest = b""
            except httptools.HttpParserUpgrade as upgrade:
                if self._method == b"CONNECT":
                    self._refuse(400, "MalformedHttp")
                    return
                # An offer of another protocol, such as h2c, may be ignored: it is read again without.
                rest = self._head_without_offer() + rest[upgrade.args[0] :]
            except httptools.HttpParserError as error:
                large = isinstance(error.__context__, _HeadTooLargeError)
                self._refuse(431 if large else 400, "HeadTooLarge" if large else "MalformedHttp")
                return
        if self._in_head and going_on:
            self._head_size += len(data)
            if self._head_size > MAX_HEAD:
                self._refuse(431, "HeadTooLarge")
                return
        if self._unfinished():
            if self._timer is None:
                self._watch()
        elif self._timer is not None:
            self._stop()

    def on_message_begin(self) -> None:
        self._in_head, self._head_size = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > MAX_HEAD or len(self.headers) > MAX_HEADERS:
            raise _HeadTooLargeError
        self._method = self.parser.get_method()
        if not self.parser.should_upgrade():
            super().on_headers_complete()

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _head_without_offer(self) -> bytes:
        lines = [b"%b %b HTTP/1.1" % (self._method, self.url)]
        lines += [b"%b: %b" % pair for pair in self.headers if pair[0] not in OFFERS]
        return b"\r\n".join((*lines, b"", b""))

    def _unfinished(self) -> bool:
        """Return whether the caller still has to send of a request that it has begun."""
        cycle: RequestResponseCycle | None = self.cycle
        return self._in_head or (cycle is not None and cycle.more_body and not cycle.response_complete)

    def _watch(self) -> None:
        self._came = 0
        self._timer = self.loop.call_later(PATIENCE, self._look)

    def _stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """End the connection of a caller that was too slow for as long as it had to send."""
        self._timer = None
        if not self._unfinished() or self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle
        answering = cycle if cycle is not None and not cycle.response_complete else None
        if answering and (self._in_head or self.flow.read_paused or self._came >= LEAST_PROGRESS):
            self._watch()  # it is not the caller who is slow, or the caller is fast enough
        elif answering and answering.response_started:
            self.transport.close()
        else:
            self._refuse(408, "RequestTooSlow")

    def _refuse(self, status: int, reason: str) -> None:
        """Answer before any application could, and hang up."""
        self._stop()
        if not self.transport.is_closing():
            self.transport.write(refusal(status, reason))
            self.transport.close()


def refusal(status: int, reason: str) -> bytes:
    """Return an HTTP response that says why a request is not taken, in OpenAI's envelope."""
    message = {
        400: "this is no HTTP/1.1 request",
        408: f"the request did not come in time: its head has {PATIENCE:g} s, and of its body at least"
        f" {LEAST_PROGRESS} bytes have to come in each {PATIENCE:g} s",
        431: f"the request's head is over {MAX_HEAD} bytes or {MAX_HEADERS} headers",
    }[status]
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": reason}
    body = json.dumps({"error": error}, separators=(",", ":")).encode()
    head = (
        f"HTTP/1.1 {status} {REASONS[status]}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nx-modelfleet-reason: {reason}\r\nconnection: close\r\n\r\n"
    )
    return head.encode() + body


class WebServer(uvicorn.Server):
    """Uvicorn inside a program that handles signals itself and wants to know when it listens."""

    def __init__(self, app: AsgiApp, *, tls: ssl.SSLContext | None = None) -> None:
        config = uvicorn.Config(
            app,
            http=GuardedProtocol,
            ws="none",
            loop="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=LAST_WORDS,
        )
        if tls is not None:  # uvicorn itself takes files only, which it reads once
            config.load()
            config.ssl = tls
        super().__init__(config)
        self.listening = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
