"""The admin port: `/healthz`, `/readyz`, `/metrics`.

In: the registry of `telemetry`, whether the sidecar is ready. Out: an ASGI app. Next: `web_server` serves it.
"""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from modelfleet_sidecar.asgi import Receive, Scope, Send


class AdminApp:
    """The admin port as an ASGI app; it answers these three paths and nothing else.

    `trouble` says why there is no stream to the operator, empty: there is one. A sidecar is ready without it.
    """

    def __init__(
        self, *, registry: CollectorRegistry, ready: Callable[[], bool], trouble: Callable[[], str]
    ) -> None:
        self._registry = registry
        self._ready = ready
        self._trouble = trouble

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        status, body, kind = self._answer(scope["path"])
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def _answer(self, path: str) -> tuple[int, bytes, str]:
        text = "text/plain; charset=utf-8"
        if path == "/healthz":
            return 200, b"ok\n", text
        if path == "/readyz":
            if not self._ready():
                return 503, b"draining\n", text
            trouble = self._trouble()
            return 200, (f"ok, but without the operator: {trouble}\n" if trouble else "ok\n").encode(), text
        if path == "/metrics":
            return 200, generate_latest(self._registry), CONTENT_TYPE_LATEST
        return 404, b"only /healthz, /readyz and /metrics are here\n", text
