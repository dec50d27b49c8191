"""The HTTP/1.1 listener: uvicorn as a part of this program, guarded against callers that send too slowly or
too much before anything is known of them.

In: connections. Out: ASGI calls for requests whose head has come whole. Next: `http_api`, `admin`.

Timers run only for heads and bodies that did not come whole at once, so that usual requests pay nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import Iterator
from typing import cast

import httptools
import uvicorn
from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from modelfleet_sidecar.asgi import LISTENER, AsgiApp
from modelfleet_sidecar.http_cycle import HttpCycle

LAST_WORDS = 1
"""Seconds that connections get to take the end of their answers once all requests are done."""
TICK = 1.0
"""Seconds between looks at the clock, for the header `date`."""
KEEP_ALIVE = 75
"""Seconds that a connection may stay without a request."""
MAX_HEAD = 64 * 1024
"""Bytes of a request's line and headers."""
MAX_HEADERS = 128
MAX_CONNECTIONS = 4096
MAX_PIPELINED = 16
"""Requests of one connection that may wait for the answer of the one before."""
HANDSHAKE = 10.0
"""Seconds for TLS to be agreed on."""
GOODBYE = 5.0
"""Seconds for a caller to end TLS."""
PATIENCE = 10.0
"""Seconds for a head to come whole; and the time in which so much of a body must come:"""
LEAST_PROGRESS = 10 * 1024
"""Bytes."""
LINGER = 2.0
"""Seconds for a caller that still sends to take its answer and to hang up."""
LINGER_BYTES = 64 * 1024 * 1024
"""That are thrown away meanwhile."""
OFFERS = frozenset({b"connection", b"upgrade", b"http2-settings"})
"""Headers of an offer to speak another protocol."""
REASONS = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
}


class _HeadTooLargeError(Exception):
    """A request's head breaks a bound, or is one too many."""


class GuardedProtocol(HttpToolsProtocol):
    """One connection."""

    _in_head = False
    """Whether a request has begun whose head is not whole."""
    _in_body = False
    """Whether the body of the last request whose head came is not whole."""
    _beside = 0
    """Bytes that came since the request began or a part of its body came, but for what came along with that:
    the head, trailers, sizes of chunks and what is said beside them."""
    _came = 0
    """Bytes that came since the timer was set."""
    _method = b""
    _answered: HttpCycle | None = None
    """The last request that the application was given; others wait for its answer."""
    _timer: asyncio.TimerHandle | None = None
    _lingers = False
    """Whether the connection ends and what comes is thrown away."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > MAX_CONNECTIONS:
            self._refuse(503, "TooManyConnections")
        else:
            self._wait_for_request()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)
        if self._answered is not None:
            self._answered.gone()

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        self._came += len(data)
        self._beside += len(data)
        if self._lingers:
            if self._beside > LINGER_BYTES:
                self.transport.close()
            return
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
        if self._unfinished():
            if self._beside > MAX_HEAD:
                self._refuse(431, "HeadTooLarge")
            elif self._timer is None:
                self._watch()
            return
        if self._timer is not None:
            self._stop()
        if not self._answering() and not self.transport.is_closing():
            self._wait_for_request()  # what came was the rest of a request that had its answer before

    def on_message_begin(self) -> None:
        self._in_head, self._in_body, self._beside = True, False, 0
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head:  # nobody needs trailers, which could be endless
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._in_head = False
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > MAX_HEAD or len(self.headers) > MAX_HEADERS or len(self.pipeline) >= MAX_PIPELINED:
            raise _HeadTooLargeError
        self._method = self.parser.get_method()
        if not self.parser.should_upgrade():
            super().on_headers_complete()
            self._in_body = True
            if len(self.pipeline) == 1:  # which stops reading; but who leaves meanwhile has to be noticed
                self.flow.resume_reading()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        cycle.__class__ = HttpCycle  # uvicorn has no place to say so
        self._answered = cast(HttpCycle, cycle)
        cycle.scope["extensions"] = {LISTENER: cycle}  # type: ignore[dict-item]
        super()._start_asgi_task(cycle, app)

    def on_body(self, body: bytes) -> None:
        self._beside = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._in_body = False
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        cycle: RequestResponseCycle | None = self.cycle
        if cycle is not None and cycle.response_complete and cycle.more_body and not cycle.keep_alive:
            self._linger()

    def _linger(self) -> None:
        """End a connection whose caller still sends what nobody wants.

        Were it closed now, what comes would be answered by a reset, which takes the answer from the caller.
        """
        if self.transport.is_closing():
            return
        self._stop()
        self._unset_keepalive_if_required()
        self._lingers, self._beside = True, 0
        if self.transport.can_write_eof():
            self.transport.write_eof()
        self._timer = self.loop.call_later(LINGER, self.transport.close)

    def _head_without_offer(self) -> bytes:
        lines = [b"%b %b HTTP/1.1" % (self._method, self.url)]
        lines += [b"%b: %b" % pair for pair in self.headers if pair[0] not in OFFERS]
        return b"\r\n".join((*lines, b"", b""))

    def _unfinished(self) -> bool:
        """Return whether the caller still has to send of a request that it has begun."""
        return self._in_head or self._in_body

    def _answering(self) -> bool:
        """Return whether a request is being answered, or waits for it."""
        cycle: RequestResponseCycle | None = self.cycle
        return cycle is not None and not cycle.response_complete

    def _wait_for_request(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(KEEP_ALIVE, self.timeout_keep_alive_handler)

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
        if self._answering() and (self._in_head or self.flow.read_paused or self._came >= LEAST_PROGRESS):
            self._watch()  # it is not the caller who is slow, or the caller is fast enough
        elif self._in_body and cycle is not None and cycle.response_started:
            self.transport.close()  # it has its answer, or a part of it
        else:
            self._refuse(408, "RequestTooSlow")

    def _refuse(self, status: int, reason: str) -> None:
        """Answer before any application could, and hang up.

        Where it would look like the answer of a request before, only hang up.
        """
        self._stop()
        if self.transport.is_closing():
            return
        cycle: RequestResponseCycle | None = self.cycle
        own = self._in_body and cycle is not None and not cycle.response_started
        if not self.pipeline and (own or not self._answering()):
            self.transport.write(refusal(status, reason))
        self.transport.close()


def refusal(status: int, reason: str) -> bytes:
    """Return an HTTP response that says why a request is not taken, in OpenAI's envelope."""
    message = {
        400: "this is no HTTP/1.1 request",
        408: f"the request did not come in time: its head has {PATIENCE:g} s, and of its body at least"
        f" {LEAST_PROGRESS} bytes have to come in each {PATIENCE:g} s",
        431: f"the request's head is over {MAX_HEAD} bytes or {MAX_HEADERS} headers",
        503: f"there are {MAX_CONNECTIONS} connections; close some that are idle, or try again later",
    }[status]
    later = "retry-after: 5\r\n" if status == 503 else ""
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": reason}
    body = json.dumps({"error": error}, separators=(",", ":")).encode()
    head = (
        f"HTTP/1.1 {status} {REASONS[status]}\r\ncontent-type: application/json\r\n"
        f"content-length: {len(body)}\r\nx-modelfleet-reason: {reason}\r\n{later}connection: close\r\n\r\n"
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
        self._told = asyncio.Event()

    def stop(self) -> None:
        """Let `serve` close the listeners and return."""
        self.should_exit = True
        self._told.set()

    async def main_loop(self) -> None:
        """As uvicorn's own, but over as soon as it is told, and awake once a second, for the date."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK):
                    await self._told.wait()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """As uvicorn's own, but with bounds for TLS."""
        loop, config = asyncio.get_running_loop(), self.config

        def connected() -> asyncio.Protocol:
            return GuardedProtocol(config=config, server_state=self.server_state, app_state={})

        secured = config.ssl is not None
        self.servers = [
            await loop.create_server(
                connected,
                sock=one,
                ssl=config.ssl,
                backlog=config.backlog,
                ssl_handshake_timeout=HANDSHAKE if secured else None,
                ssl_shutdown_timeout=GOODBYE if secured else None,
            )
            for one in sockets or ()
        ]
        self.started = True
        self.listening.set()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
