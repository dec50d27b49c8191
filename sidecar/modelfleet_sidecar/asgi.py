"""The types of ASGI, which the HTTP API, the admin port and the web server share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
LISTENER = "modelfleet"
"""Of a scope's extensions, under which `web_server` gives a `Listener`."""


class Listener(Protocol):
    """What the web server offers for a request beside ASGI's messages."""

    def watch(self, left: Callable[[], None] | None) -> None:
        """Call `left` when the caller goes away, until it is None; the body must have been read."""

    def take(self, body: bytes) -> bool:
        """Write a part of an answer that has begun and goes on; False: it can not take any now."""


AsgiApp = Callable[[Scope, Receive, Send], Awaitable[None]]
