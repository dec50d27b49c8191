"""A simulated, OpenAI-compatible model server.

In: `ServerSettings` and HTTP requests on `/v1/chat/completions` and `/v1/completions` (plain and streamed),
`/v1/models`, `/health`, `/metrics`, `/admin/faults`. Out: answers and a record of each request. Next: tests,
the demo's pods, and any client of the OpenAI API.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web
from modelfleet_core.catalog import Pricing

from modelfleet_lab.model_server.answers import Answer
from modelfleet_lab.model_server.changes import Changes
from modelfleet_lab.model_server.faults import Fault, FaultPlan, parse_faults
from modelfleet_lab.model_server.latency import LatencyProfile
from modelfleet_lab.model_server.metrics import Metrics
from modelfleet_lab.model_server.requests_log import RequestLog, RequestRecord
from modelfleet_lab.model_server.serving import Serving
from modelfleet_lab.model_server.slots import Slots
from modelfleet_lab.model_server.wire import error_body

FREE = Pricing(input_femto=0, output_femto=0)
LAST_BYTES = 0.5
"""Seconds for handlers to send what is left when the server stops."""


@dataclass(frozen=True, slots=True)
class ServerSettings:
    """What one simulated server is."""

    model: str
    """The served name; requests for another get 404."""
    concurrency: int = 8
    """Requests that run at once; later ones wait in order."""
    latency: LatencyProfile = field(default_factory=LatencyProfile)
    answers: Mapping[str, Answer] = field(default_factory=dict)
    pricing: Pricing = FREE
    startup: float = 0.0
    """Seconds after the start until `/health` is 200 and requests are taken."""
    time_scale: float = 1.0
    """Simulated seconds last this many real ones."""
    chunk_seconds: float = 0.05
    """Streamed tokens are sent together about this often, in real seconds."""
    seed: int = 0
    name: str = "model-server"
    """Name in the records."""
    log: Path | None = None
    api_key: str = ""
    """Requests for answers must show it as their bearer token, or get 401; empty: none is asked for."""


class ModelServer:
    """A simulated model server that runs in this event loop."""

    def __init__(self, settings: ServerSettings) -> None:
        self.settings = settings
        self._changes = Changes()
        self.slots = Slots(settings.concurrency, self._changes)
        self._log = RequestLog(settings.log, self._changes)
        self._faults = FaultPlan(settings.seed)
        self._metrics = Metrics(settings.model, self.slots)
        self._serving = Serving(
            model=settings.model,
            server=settings.name,
            slots=self.slots,
            latency=settings.latency,
            answers=settings.answers,
            pricing=settings.pricing,
            time_scale=settings.time_scale,
            chunk_seconds=settings.chunk_seconds,
            faults=self._faults,
            log=self._log,
            metrics=self._metrics,
        )
        self._runner: web.AppRunner | None = None
        self._ready = asyncio.Event()
        self._warming: asyncio.Task[None] | None = None
        self.url = ""
        """Base URL without `/v1`, once started."""

    @property
    def records(self) -> tuple[RequestRecord, ...]:
        """The newest records, oldest first."""
        return tuple(self._log.records)

    @property
    def ready(self) -> bool:
        return self._ready.is_set()

    async def until(self, condition: Callable[[ModelServer], bool], *, timeout: float = 10.0) -> None:
        """Return once `condition` holds of this server; raise TimeoutError after `timeout` seconds."""
        async with asyncio.timeout(timeout):
            await self._changes.until(lambda: condition(self))

    def set_faults(self, *faults: Fault) -> None:
        """Put `faults` in force instead of those before; none clears them."""
        self._faults.set(faults)

    async def start(self, host: str = "127.0.0.1", port: int = 0) -> int:
        """Listen; return the port (a free one for 0)."""
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_post("/v1/completions", self._completions)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._health)
        app.router.add_get("/metrics", self._show_metrics)
        app.router.add_get("/admin/faults", self._show_faults)
        app.router.add_post("/admin/faults", self._post_faults)
        app.router.add_delete("/admin/faults", self._clear_faults)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=LAST_BYTES)
        await runner.setup()
        self._runner = runner
        await web.TCPSite(runner, host, port, backlog=1024).start()
        bound = int(runner.addresses[0][1])
        self.url = f"http://{host}:{bound}"
        self._warming = asyncio.create_task(self._warm_up())
        return bound

    async def stop(self, grace: float | None = 0.0) -> None:
        """Refuse new requests, let those in flight end within `grace` seconds (None: in any time), stop."""
        self._ready.clear()
        if self._warming is not None:
            self._warming.cancel()
        if self._runner is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changes.until(lambda: self.slots.in_flight == 0), grace)
            await self._runner.cleanup()
            self._runner = None
        self._log.close()

    async def _warm_up(self) -> None:
        await asyncio.sleep(self.settings.startup * self.settings.time_scale)
        self._ready.set()
        self._changes.notify()

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, chat=True)

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        return await self._generate(request, chat=False)

    async def _generate(self, request: web.Request, *, chat: bool) -> web.StreamResponse:
        if not self._ready.is_set():
            body = error_body("The server starts or stops.", "server_error", "not_ready")
            return web.Response(status=503, body=body, content_type="application/json")
        key = self.settings.api_key
        if key and request.headers.get("Authorization") != f"Bearer {key}":
            body = error_body("The API key is wrong or missing.", "invalid_request_error", "invalid_api_key")
            return web.Response(status=401, body=body, content_type="application/json")
        return await self._serving.serve(request, chat=chat)

    async def _models(self, request: web.Request) -> web.Response:
        row = {"id": self.settings.model, "object": "model", "created": 0, "owned_by": "modelfleet-lab"}
        return web.json_response({"object": "list", "data": [row]})

    async def _health(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self._ready.is_set() else 503)

    async def _show_metrics(self, request: web.Request) -> web.Response:
        return web.Response(body=self._metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4"})

    async def _show_faults(self, request: web.Request) -> web.Response:
        return web.json_response({"faults": self._faults.shown()})

    async def _post_faults(self, request: web.Request) -> web.Response:
        try:
            self._faults.set(parse_faults(await request.read()))
        except ValueError as error:
            body = error_body(str(error), "invalid_request_error", "bad_fault")
            return web.Response(status=400, body=body, content_type="application/json")
        return web.json_response({"faults": self._faults.shown()})

    async def _clear_faults(self, request: web.Request) -> web.Response:
        self._faults.set(())
        return web.json_response({"faults": []})
