"""The injector's composition root: watch, certificates, probes and webhook, and their end in order.

In: `ServeSettings` and a stop event. Out: returns once stopped. Next: `__main__` makes it an exit code.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import replace

from modelfleet_operator.cluster import ClusterError, Kind
from modelfleet_operator.cluster.kubernetes import KubernetesCluster
from modelfleet_operator.health import Health
from modelfleet_operator.injection.certificates import Authority, Certificates, refresh
from modelfleet_operator.injection.followed import Followed
from modelfleet_operator.injection.server import Server, Webhook
from modelfleet_operator.injection.settings import ServeSettings
from modelfleet_operator.injection.sidecar import Template
from modelfleet_operator.injection.telemetry import Telemetry
from modelfleet_operator.probes import Probes
from modelfleet_operator.settings import Address

_log = logging.getLogger(__name__)

KNOWN, STAYING = "fleets and policies are known", "another injector takes over: this one ends"
LOOK_SECONDS, LATE = 2.0, 60.0
"""Between two looks at the certificates' files, and after which a missing look counts as hung."""
AGAIN_SECONDS = 5.0
"""After which a watch that ended is tried again."""
KINDS = (Kind.FLEET, Kind.POLICY)


class Injector:
    """One injector process."""

    def __init__(self, settings: ServeSettings) -> None:
        """Raises `CertificateError`."""
        self.listening: asyncio.Future[tuple[Address, Address]] = asyncio.get_running_loop().create_future()
        """Where webhook and probes are served, once they are."""
        self._settings = settings
        self._certificates = Certificates(settings.tls)
        self._authority = Authority(settings.authority)
        self._followed = Followed()
        self._telemetry = Telemetry()
        self._telemetry.expires.set(self._certificates.expires)
        self._health = Health(clock=time.monotonic, awaited=(KNOWN,))
        self._probes = Probes(self._telemetry.registry, self._health)
        self._server = Server(
            Webhook(
                template=self._template,
                followed=lambda: self._followed,
                namespace=settings.watch_namespace,
                telemetry=self._telemetry,
            )
        )

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until `stop` is set, then drain. Raises `OSError` when an address can not be listened on."""
        try:
            probes = await self._probes.start(self._settings.http_listen)
            webhook = await self._server.start(self._settings.listen, self._certificates.context)
            self.listening.set_result((webhook, probes))
            _log.info("listening", extra={"webhook": str(webhook), "http": str(probes)})
            loops = [asyncio.create_task(self._watch()), asyncio.create_task(self._refresh())]
            stopped = asyncio.create_task(stop.wait())
            try:
                await asyncio.wait({*loops, stopped}, return_when=asyncio.FIRST_COMPLETED)
                for loop in loops:
                    if loop.done():
                        loop.result()
                await self._drain()
            finally:
                for task in (*loops, stopped):
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        await task
        finally:
            await self._server.stop()
            await self._probes.stop()

    async def _drain(self) -> None:
        """Say that this one ends, and serve on until API servers had time to hear of it."""
        self._health.await_again(STAYING)
        self._server.leave()
        _log.info("draining", extra={"seconds": self._settings.drain_seconds})
        await asyncio.sleep(self._settings.drain_seconds)

    async def _watch(self) -> None:
        """Keep `followed` as the cluster is; while it can not be seen, what was known goes on to hold."""
        while True:
            fresh, synced = Followed(), asyncio.Event()
            adopting = asyncio.create_task(self._adopt(fresh, synced))
            try:
                await self._observe(fresh, synced)
            except ClusterError as error:
                _log.warning("fleets and policies are not watched, trying again: %s", error)
            finally:
                adopting.cancel()
                self._telemetry.following.set(0)
            await asyncio.sleep(AGAIN_SECONDS)

    async def _observe(self, fresh: Followed, synced: asyncio.Event) -> None:
        cluster = await KubernetesCluster.connect(namespace=self._settings.watch_namespace, kinds=KINDS)
        try:
            await cluster.run(fresh.take, synced)
        finally:
            await cluster.close()

    async def _adopt(self, fresh: Followed, synced: asyncio.Event) -> None:
        await synced.wait()
        self._followed = fresh
        self._telemetry.following.set(1)
        self._health.done(KNOWN)
        _log.info("fleets and policies are known")

    async def _refresh(self) -> None:
        while True:
            self._health.beat("certificates", within=LATE)
            for look, what in (
                (self._certificates.look, "the webhook's certificate"),
                (self._authority.look, "the operator's authority"),
            ):
                changed = refresh(look, what)
                if changed is not False:
                    self._telemetry.reloads.labels("used" if changed else "unusable").inc()
            self._telemetry.expires.set(self._certificates.expires)
            await asyncio.sleep(LOOK_SECONDS)

    def _template(self) -> Template:
        return replace(self._settings.template, authority=self._authority.text)
