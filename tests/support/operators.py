"""An operator in the test's own loop, on an embedded cluster whose user is the test."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

from modelfleet_core.values import ObjectKey
from modelfleet_operator.app import Operator
from modelfleet_operator.cluster import Kind, ObjectEvent
from modelfleet_operator.cluster.embedded import EmbeddedCluster
from modelfleet_operator.settings import Address, ClusterKind, Settings

from support.clusters import PATIENCE, EventLog, deployment, field, node, service
from support.manifests import Manifest, fleet_manifest, policy_manifest

NAMESPACE = "test"
SETTINGS = Settings(
    cluster=ClusterKind.EMBEDDED,
    manifests=(),
    logs=None,
    capacity_listen=Address("127.0.0.1", 0),
    http_listen=Address("127.0.0.1", 0),
    watch_namespace="",
    namespace=NAMESPACE,
    capacity_tls=None,
    token_audience="modelfleet",
    capacity_service="",
    pod_ip="",
    watch_nodes=True,
    log_level=logging.INFO,
    clock_offset=0.0,
)


class WatchedCluster(EmbeddedCluster):
    """An embedded cluster that runs while `living`, whichever operators watch it."""

    def __init__(self, manifests: list[Mapping[str, object]]) -> None:
        super().__init__(manifests)
        self.log = EventLog(NAMESPACE)
        self._sinks: list[Callable[[ObjectEvent], None]] = [self.log]
        self._alive: asyncio.Task[None] | None = None

    @asynccontextmanager
    async def living(self) -> AsyncIterator[None]:
        synced = asyncio.Event()
        self._alive = asyncio.create_task(super().run(self._tell, synced))
        try:
            yield
        finally:
            self._alive.cancel()
            await asyncio.wait({self._alive})

    async def run(self, sink: Callable[[ObjectEvent], None], synced: asyncio.Event) -> None:
        """Watch as an operator does; that one stops watching ends no pod."""
        for (kind, name), manifest in list(self.log.objects.items()):
            sink(ObjectEvent(kind, ObjectKey("" if kind is Kind.NODE else NAMESPACE, name), False, manifest))
        self._sinks.append(sink)
        synced.set()
        try:
            await asyncio.Event().wait()
        finally:
            self._sinks.remove(sink)

    def _tell(self, event: ObjectEvent) -> None:
        for sink in tuple(self._sinks):
            sink(event)

    async def condition_becomes(self, kind: Kind, name: str, condition: str, reason: str) -> str:
        """Wait until an object's condition has `reason`; return its message."""

        def now() -> Mapping[str, object]:
            conditions = field(self.log.state(kind, name), "status", "conditions")
            found = conditions if isinstance(conditions, list) else []
            return next((item for item in found if item["type"] == condition), {})

        await self.log.until(lambda: now().get("reason") == reason, f"{condition} of {name} is {reason}")
        return str(now()["message"])

    def replicas(self, name: str) -> object:
        return field(self.log.state(Kind.DEPLOYMENT, name), "spec", "replicas")


@asynccontextmanager
async def running_operator(cluster: EmbeddedCluster) -> AsyncIterator[tuple[Address, Address]]:
    """Run an operator until the block ends, with the addresses of capacity and probes. Raises its failure."""
    stop = asyncio.Event()
    operator = Operator(SETTINGS, cluster)
    running = asyncio.create_task(operator.run(stop))
    try:
        either: list[asyncio.Future[Any]] = [running, operator.listening]
        done, _ = await asyncio.wait(either, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        assert done, f"the operator does not listen within {PATIENCE} s"
        if running in done:
            await running
        yield operator.listening.result()
    finally:
        stop.set()
        await running


def objects(*extra: Mapping[str, object], gpus: int = 8) -> list[Mapping[str, object]]:
    """Return a node, a fleet with one model on it, its Deployment and Service, a policy, and `extra`."""
    return [
        node("host", gpus=gpus),
        fleet(),
        without_replicas(deployment(NAMESPACE, "large", replicas=1, gpus=2)),
        service(NAMESPACE, "large"),
        policy(),
        *extra,
    ]


def fleet(name: str = "chat", *, target: str = "large", least: int = 0) -> Manifest:
    manifest = fleet_manifest(name, NAMESPACE)
    spec = manifest["spec"]
    spec["models"] = spec["models"][:1]
    spec["pools"][0]["nodeSelector"] = {}
    spec["scaling"] = {"interval": "1s", "scaleDownStabilization": "0s"}
    variant = spec["models"][0]["variants"][0]
    variant["scaleTargetRef"]["name"] = variant["service"]["name"] = target
    variant["replicas"] = {"min": least, "max": 4}
    return manifest


def policy() -> Manifest:
    return policy_manifest(namespace=NAMESPACE)


def without_replicas(manifest: Mapping[str, object]) -> Mapping[str, object]:
    spec = manifest["spec"]
    assert isinstance(spec, Mapping)
    return {**manifest, "spec": {name: value for name, value in spec.items() if name != "replicas"}}
