"""Serves stage status: metrics and probes of the operator over HTTP.

In: counts and times of the loops, `Figures` of every fleet and policy, `Health`. Out: `/metrics`, `/healthz`
(fails when a loop is late) and `/readyz` (fails until the cluster is observed and sidecars can connect).
"""

from __future__ import annotations

from aiohttp import web
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from modelfleet_operator.figures import Figures
from modelfleet_operator.health import Health
from modelfleet_operator.settings import Address

_SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)


class Telemetry:
    """All metrics of one program, in a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)
        self.figures = Figures()
        self.registry.register(self.figures)
        self.leading = Gauge(
            "modelfleet_operator_leading", "1 while this process leads.", registry=self.registry
        )
        self.epoch = Gauge(
            "modelfleet_operator_epoch", "Epoch of this process; 0: it never led.", registry=self.registry
        )
        self.events = Counter(
            "modelfleet_events", "Events of the cluster, by kind.", ("kind",), registry=self.registry
        )
        self.passes = Counter(
            "modelfleet_passes",
            "Passes of a fleet's reconcile loop, by outcome.",
            ("namespace", "fleet", "outcome"),
            registry=self.registry,
        )
        self.pass_seconds = Histogram(
            "modelfleet_pass_seconds",
            "Seconds of one reconcile pass.",
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.scales = Counter(
            "modelfleet_scale_patches",
            "Patches of /scale, by outcome.",
            ("namespace", "fleet", "outcome"),
            registry=self.registry,
        )


class Probes:
    """The HTTP server of metrics and probes."""

    def __init__(self, telemetry: Telemetry, health: Health) -> None:
        self._telemetry = telemetry
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
        body = generate_latest(self._telemetry.registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_LATEST})
