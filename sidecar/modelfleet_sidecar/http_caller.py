"""The HTTP edge: one exchange with one caller, as ASGI has it.

In: a request's scope and messages. Out: its headers and body, bounded; what is answered. Next: `http_api`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from modelfleet_sidecar.asgi import LISTENER, Listener, Receive, Scope, Send
from modelfleet_sidecar.attended import DisconnectedError
from modelfleet_sidecar.failures import Failure, Fault, late

Headers = list[tuple[bytes, bytes]]
DIGITS = 18
"""Of a length that is read as a number."""


class Caller:
    """One HTTP exchange with a caller."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        client = scope.get("client")
        self.peer: str = client[0] if client else ""
        """Its address; empty: it came by a Unix socket."""
        self.started = False
        self.done = False
        """Whether the last of the answer was handed to the connection."""
        self.status = 0
        self.allowed = ""
        """Methods that its path takes, where it came with another; empty: it did not."""
        self._listener: Listener = scope["extensions"].pop(LISTENER)  # which holds the scope
        self._receive = receive
        self._send = send

    async def body(self, limit: int, *, within: float) -> bytes:
        """Return the request's body. Raises Failure as soon as it is over `limit` bytes or `within` seconds,
        DisconnectedError.

        How fast it has to come is the listener's care.
        """
        coded = self.headers.get("content-encoding", "identity")
        if coded != "identity":
            problem = f"the body has content-encoding {coded[:40]!a}; send it as it is, without compression"
            raise Failure(Fault.WRONG_MEDIA, "ContentEncoding", problem)
        declared = self.headers.get("content-length", "")
        if declared.isdecimal() and (len(declared) > DIGITS or int(declared) > limit):
            raise _too_large(limit)
        part, more = await self._part()
        if not more:  # as nearly always, which then costs no timer
            if len(part) > limit:
                raise _too_large(limit)
            return part
        try:
            async with asyncio.timeout(within):
                return await self._rest(part, limit)
        except TimeoutError:
            raise late(within) from None

    async def _rest(self, part: bytes, limit: int) -> bytes:
        parts, size, more = [part], len(part), True
        while more:
            if size > limit:
                raise _too_large(limit)
            part, more = await self._part()
            parts.append(part)
            size += len(part)
        if size > limit:
            raise _too_large(limit)
        return b"".join(parts)

    async def _part(self) -> tuple[bytes, bool]:
        message = await self._receive()
        if message["type"] == "http.disconnect":
            raise DisconnectedError
        return message.get("body", b""), message.get("more_body", False)

    def watch(self, left: Callable[[], None] | None) -> None:
        """Call `left` when the caller goes away, until it is None; the body must have been read."""
        self._listener.watch(left)

    async def start(self, status: int, headers: Headers) -> None:
        self.started = True
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, data: bytes, *, more: bool) -> None:
        self.done = not more
        await self._send({"type": "http.response.body", "body": data, "more_body": more})

    def take(self, data: bytes) -> bool:
        """Write at once what is not the last of the answer; False: the caller does not read fast enough."""
        return self._listener.take(data)

    async def reply(self, status: int, body: bytes, headers: Headers) -> None:
        await self.start(status, [*headers, (b"content-length", str(len(body)).encode())])
        await self.write(body, more=False)


def _too_large(limit: int) -> Failure:
    return Failure(
        Fault.TOO_LARGE, "BodyTooLarge", f"the body is over {limit} bytes; send less or raise limits.maxBody"
    )
