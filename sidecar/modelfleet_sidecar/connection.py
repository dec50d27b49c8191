"""Stage forward, the wire: one HTTP/1.1 connection to a model server, with keep-alive.

In: a request's bytes. Out: status, headers and body chunks as they come. Next: `upstream` keeps connections,
`forward` asks over them.

A client of our own, since slots must be exact: after a cancel it closes its sending side and then waits until
the server has closed too, which tells that the server has noticed and its slot is free.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import cast
from urllib.parse import urlsplit

import httptools
from modelfleet_core.values import EndpointUrl

from modelfleet_sidecar.dialing import Origin, Proxy

Relay = Callable[[bytes], bool]
"""Takes what has come of a body, or returns False; called by the event loop, so it must not raise."""

MAX_HEAD = 64 * 1024
OVER_HEAD = f"the response's headers are over {MAX_HEAD} bytes"
HIGH_WATER = 256 * 1024
"""Bytes read ahead of the caller before the server is held back."""
SILENCE = {
    socket.TCP_KEEPIDLE: 5,
    socket.TCP_KEEPINTVL: 3,
    socket.TCP_KEEPCNT: 3,
    socket.TCP_USER_TIMEOUT: 14_000,
}
"""After 14 s in which a server's machine acknowledges nothing its connection counts as lost (seconds, and
milliseconds). A model may think for longer: that its machine is there is enough."""


class ConnectError(Exception):
    """No connection came about: the server got nothing. `late`: it did not answer in time."""

    def __init__(self, problem: str, *, late: bool = False) -> None:
        super().__init__(problem)
        self.late = late


class CutError(Exception):
    """The connection ended, or made no sense, before the response was whole."""


@dataclass(frozen=True, slots=True)
class Target:
    """An endpoint's parsed URL."""

    origin: Origin
    authority: str
    path: str

    @classmethod
    @lru_cache(1024)
    def parse(cls, endpoint: EndpointUrl, certified: str = "") -> Target:
        """Return the target of an endpoint as its slots are counted, whose certificate must be for the name
        `certified`; empty: for its host. Raises ConnectError where it is no http(s) URL."""
        try:
            url = urlsplit(endpoint)
            port = url.port
        except ValueError as error:
            raise ConnectError(f"{endpoint!r} is no URL: {error}") from None
        if url.scheme not in ("http", "https") or not url.hostname or not endpoint.isascii():
            raise ConnectError(f"{endpoint!r} is no http or https URL in ASCII")
        secure = url.scheme == "https"
        authority = url.netloc.rpartition("@")[2]
        return cls(
            # Slots of external endpoints are counted by URL#MODEL/VARIANT, those of pods by their URL.
            Origin(
                secure,
                url.hostname,
                port or (443 if secure else 80),
                outside=bool(url.fragment),
                certified=certified if secure else "",
            ),
            authority,
            url.path.rstrip("/"),
        )


class Connection(asyncio.Protocol):
    """One connection; `send`, `head`, then `read` until it returns b""."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        origin: Origin,
        *,
        opened_at: float = 0.0,
        proxy: Proxy | None = None,
    ) -> None:
        """`proxy`: what requests are sent to instead of the server, which then are in the clear."""
        self.origin = origin
        self.opened_at = opened_at
        self.idle_since = 0.0
        self._proxy = proxy
        self.closed = loop.create_future()
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._incoming: select.poll | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._waiter: asyncio.Future[None] | None = None
        self._waiting_since = 0.0
        self._relay: Relay | None = None
        """What who waits for the body wants to do with it at once."""
        self._reading = True
        self._problem = ""
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.waited = 0.0
        """Seconds in all for which somebody waited for the server, without the present wait."""
        self._interruption: CutError | None = None  # what came too late for the last response is over
        self._status = 0
        self._headers: dict[bytes, bytes] = {}
        self._head_size = 0
        """Bytes that came before the headers ended."""
        self._named = 0
        """Bytes of the headers so far."""
        self._head_done = False
        self._chunks: deque[bytes] = deque()
        self._buffered = 0
        self._complete = False
        self._keep = False

    @property
    def usable(self) -> bool:
        """Whether it can take another request."""
        return self._transport is not None and not self._transport.is_closing() and not self._problem

    @property
    def complete(self) -> bool:
        """Whether the whole response has come (not all of it need be read)."""
        return self._complete

    @property
    def silent(self) -> float:
        """Seconds for which somebody has been waiting for the server now; 0: nobody is."""
        return 0.0 if self._waiter is None else self._loop.time() - self._waiting_since

    def interrupt(self, error: CutError) -> None:
        """Let who waits for the response, now or next, get `error` instead."""
        self._interruption = error
        self._writable.set()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)

    @property
    def reusable(self) -> bool:
        return self._complete and self._keep and self._reading and self.usable

    @property
    def quiet(self) -> bool:
        """Whether nothing has come since the last response, also not what the loop has yet to read."""
        return self._incoming is not None and not self._incoming.poll(0)

    async def send(
        self, target: Target, path: str, body: bytes, passed: Mapping[str, str], *, bearer: str = ""
    ) -> None:
        """POST `body`; waits while the server does not take it. A lost connection shows in `head`.

        `passed`: headers that go along; `bearer`: what authorises it, empty: nothing. Neither holds any
        character that a header can not hold.
        """
        assert self._transport is not None  # noqa: S101 - set before the pool hands it out
        self._begin()
        authorization = f"authorization: Bearer {bearer}\r\n" if bearer else ""
        along = "".join([f"{name}: {value}\r\n" for name, value in passed.items()])
        where = ""
        if self._proxy is not None:
            where = f"http://{target.authority}"
            if self._proxy.authorization:
                authorization += f"proxy-authorization: {self._proxy.authorization}\r\n"
        head = (
            f"POST {where}{target.path}{path} HTTP/1.1\r\nhost: {target.authority}\r\n"
            "content-type: application/json\r\naccept: application/json, text/event-stream\r\n"
            f"accept-encoding: identity\r\nuser-agent: modelfleet\r\n"
            f"{along}"
            f"{authorization}"
            f"content-length: {len(body)}\r\n\r\n"
        )
        self._transport.write(head.encode("latin-1") + body)
        await self._writable.wait()

    async def head(self) -> tuple[int, dict[bytes, bytes]]:
        """Return status and headers (lower-case names). Raises CutError."""
        while not self._head_done:
            await self._more()
        if self._named > MAX_HEAD:
            raise CutError(OVER_HEAD)
        return self._status, self._headers

    async def read(self, relay: Relay | None = None) -> bytes:
        """Return what has come since the last read; b"" once the response is whole. Raises CutError.

        What comes while it waits goes to `relay` first, and is returned only where that does not take it: a
        stream's piece then costs no turn of the task.
        """
        while not self._chunks:
            if self._complete:
                return b""
            self._relay = relay
            try:
                await self._more()
            finally:
                self._relay = None
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._buffered = 0
        if not self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = True
            self._transport.resume_reading()
        return data

    async def hang_up(self, patience: float) -> None:
        """End the request at once; return when the server has closed too, or after `patience` seconds."""
        if self._transport is None or self.closed.done():
            return
        self._chunks.clear()
        self._buffered = 0
        self._problem = self._problem or "given up"
        if not self._reading and not self._transport.is_closing():
            self._reading = True
            self._transport.resume_reading()
        if not self._transport.is_closing():
            if self._transport.can_write_eof():
                try:
                    self._transport.write_eof()
                except OSError:  # it was reset, which the loop has not seen yet
                    self._transport.close()
            else:  # TLS has no half-close
                self._transport.close()
        await asyncio.wait([self.closed], timeout=patience)
        self.abort()

    def abort(self) -> None:
        """Close without waiting for anything."""
        if self._transport is not None:
            self._transport.abort()

    async def _more(self) -> None:
        if self._problem:
            raise CutError(self._problem)
        if self._interruption is not None:
            raise self._interruption
        self._waiter = self._loop.create_future()
        self._waiting_since = since = self._loop.time()
        try:
            await self._waiter
        finally:
            self._waiter = None
            self.waited += self._loop.time() - since

    def _came(self) -> None:
        """Hand on what came of the body, or wake who waits for it."""
        waits = self._waiter is not None and not self._waiter.done()
        if waits and not self._complete and self._relay is not None:
            data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
            if self._relay(data):
                self._chunks.clear()
                self._buffered = 0
                now = self._loop.time()
                self.waited += now - self._waiting_since
                self._waiting_since = now
                return
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _fail(self, problem: str) -> None:
        self._problem = self._problem or problem
        self._wake()
        self.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        # A pod whose node or network has gone sends nothing, not even an end: its kernel's silence tells.
        tcp = transport.get_extra_info("socket")
        self._incoming = select.poll()
        self._incoming.register(tcp.fileno(), select.POLLIN)
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in SILENCE.items():
            tcp.setsockopt(socket.IPPROTO_TCP, option, value)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._head_done and not self._complete and not self._framed():
            self._complete = True  # a body without a length ends with the connection
        self._problem = self._problem or (
            f"connection lost: {exc}" if exc else "connection closed by the server"
        )
        del self._parser  # it holds the connection: only a full collection, which is rare, would free the two
        self._writable.set()
        if not self.closed.done():
            self.closed.set_result(None)
        self._wake()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        if self._problem:
            return  # given up; only the close is awaited
        if self._complete:
            self._fail("the server sent more than its response")
            return
        if not self._head_done:
            self._head_size += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._fail(f"no HTTP response: {type(error).__name__}")
            return
        if self._chunks:
            self._came()
        if not self._head_done and self._head_size > MAX_HEAD:
            self._fail(OVER_HEAD)
        elif self._buffered > HIGH_WATER and self._reading and not self.complete and self.usable:
            self._reading = False
            cast(asyncio.Transport, self._transport).pause_reading()

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._complete:
            self._fail("the server sent more than its response")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._named += len(name) + len(value)
        if self._named > MAX_HEAD:
            self._fail(OVER_HEAD)
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()
        self._keep = self._parser.should_keep_alive()
        if self._status >= 200:  # interim responses announce nothing that we asked for
            self._head_done = True
            self._wake()

    def on_body(self, data: bytes) -> None:
        self._chunks.append(data)
        self._buffered += len(data)

    def on_message_complete(self) -> None:
        if self._head_done:
            self._complete = True
            self._wake()
        else:
            self._headers = {}

    def _framed(self) -> bool:
        return b"content-length" in self._headers or b"transfer-encoding" in self._headers
