"""The HTTP/1.1 listener, its answers: the head goes out with what follows it, as one write.

In: ASGI messages of an answer. Out: bytes. `web_server` lets uvicorn's requests be answered by this: its own
way writes twice and searches each header by two patterns, which is 3 % of what a request costs in all.
"""

from __future__ import annotations

import re
from collections.abc import Callable, MutableMapping
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

_STATUS_LINES = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus
}
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
_JOINED = 64 * 1024
"""Bytes of a body up to which copying it is less than another system call."""


class HttpCycle(RequestResponseCycle):
    """A request of a connection, and its answer. The application names headers in lower case."""

    _head = b""
    """Of the answer, until something follows it."""

    _left: Callable[[], None] | None = None
    """Whom to tell that the caller has gone."""

    def watch(self, left: Callable[[], None] | None) -> None:
        """Call `left` when the caller goes away, until it is None; the body must have been read."""
        self._left = left
        if left is None:
            return
        if self.disconnected:
            left()
        else:
            self.flow.resume_reading()  # a connection that is not read does not show its end

    def gone(self) -> None:
        """The caller has gone."""
        if self.response_complete:
            return
        self.disconnected = True
        self.message_event.set()
        if self._left is not None:
            self._left()

    def take(self, body: bytes) -> bool:
        """Write a part of an answer that has begun and goes on; False: it can not take any now."""
        if self.flow.write_paused or self.disconnected or self.response_complete:
            return False
        self._go_on(body, more=True)
        return True

    async def send(self, message: MutableMapping[str, Any]) -> None:  # type: ignore[override]
        """Take the next message of the answer; wait while the caller does not read."""
        if self.flow.write_paused and not self.disconnected:
            await self.flow.drain()
        if self.disconnected:
            return
        if self.response_complete:
            raise RuntimeError("the answer was complete before")
        if not self.response_started:
            self._head = self._begun(message["status"], message["headers"])
        else:
            self._go_on(message["body"], more=message.get("more_body", False))

    def _begun(self, status: int, headers: list[tuple[bytes, bytes]]) -> bytes:
        """Return the head of the answer. Raises RuntimeError where a header would break out of it."""
        self.response_started = True
        self.waiting_for_100_continue = False
        lines = [_STATUS_LINES[status]]
        for name, value in (*self.default_headers, *headers):
            lines.append(b"%b: %b\r\n" % (name, value))
            if name == b"content-length":
                self.chunked_encoding, self.expected_content_length = False, int(value)
            elif name == b"connection" and value == b"close":
                self.keep_alive = False
        if not self.keep_alive and (b"connection", b"close") not in headers:
            lines.append(b"connection: close\r\n")
        if self.chunked_encoding is None:
            self.chunked_encoding = True
            lines.append(b"transfer-encoding: chunked\r\n")
        head = b"".join(lines)
        if not head.count(b"\r") == head.count(b"\n") == len(lines) or _CONTROL.search(head) is not None:
            raise RuntimeError("a header of the answer holds a control character")
        return head + b"\r\n"

    def _go_on(self, body: bytes, *, more: bool) -> None:
        """Write a part of the body, before it the head that was not written yet."""
        head, self._head = self._head, b""
        if self.scope["method"] == "HEAD":
            body, self.expected_content_length = b"", 0
        elif self.chunked_encoding:
            if body:
                body = b"%x\r\n%b\r\n" % (len(body), body)
            if not more:
                body += b"0\r\n\r\n"
        else:
            self.expected_content_length -= len(body)
            if self.expected_content_length < 0 or (self.expected_content_length and not more):
                raise RuntimeError("the answer is not as long as its content-length")
        if len(body) > _JOINED:
            self.transport.writelines((head, body))
        elif head or body:
            self.transport.write(head + body)
        if not more:
            self.response_complete = True
            self.message_event.set()
            if not self.keep_alive and not self.more_body:  # else `web_server` lets the caller read it first
                self.transport.close()
            self.on_response()
