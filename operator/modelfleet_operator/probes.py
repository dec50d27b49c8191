"""Serves every stage: metrics and probes of a program over HTTP.

In: a registry of metrics and `Health`. Out: `/metrics`, `/healthz` (fails when a loop is late) and `/readyz`
(fails while something is awaited).
"""

from __future__ import annotations

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest

from modelfleet_operator.health import Health
from modelfleet_operator.settings import Address


class Probes:
    """The HTTP server of metrics and probes."""

    def __init__(self, registry: CollectorRegistry, health: Health) -> None:
        self._registry = registry
        self._health = health
        self._runner: web.AppRunner | None = None

    async def start(self, listen: Address) -> Address:
        """Listen and return the address, with the port that was given if it was 0."""
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, listen.host, listen.port).start()
        return Address(listen.host, int(self._runner.addresses[0][1]))

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _healthz(self, _: web.Request) -> web.Response:
        late = self._health.late()
        if late:
            return web.Response(status=503, text=f"late: {', '.join(late)}\n")
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        awaited = self._health.awaited()
        if awaited:
            return web.Response(status=503, text=f"not yet: {', '.join(awaited)}\n")
        return web.Response(text="ok\n")

    async def _metrics(self, _: web.Request) -> web.Response:
        body = generate_latest(self._registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})
