"""Clusters under test: the adapter, a user's hands on the objects behind it, and the manifests it applies."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path

from modelfleet_core.values import ObjectKey
from modelfleet_operator.cluster import Cluster, Conflict, Kind, ObjectEvent
from modelfleet_operator.cluster.embedded import EmbeddedCluster

from support.manifests import Manifest, fleet_manifest, policy_manifest

POD_SERVER = Path(__file__).with_name("pod_server.py")
HOSTNAME = "kubernetes.io/hostname"
GPU = "nvidia.com/gpu"
PATIENCE = 30.0
"""Seconds after which a condition that has not come true fails the test."""


class EventLog:
    """A sink that keeps the latest state of every object of one namespace, and every event in order."""

    def __init__(self, namespace: str) -> None:
        self._namespace = namespace
        self._more = asyncio.Event()
        self.events: list[ObjectEvent] = []
        self.objects: dict[tuple[Kind, str], Mapping[str, object]] = {}

    def __call__(self, event: ObjectEvent) -> None:
        if event.key.namespace not in (self._namespace, ""):
            return
        self.events.append(event)
        if event.deleted:
            self.objects.pop((event.kind, event.key.name), None)
        else:
            self.objects[event.kind, event.key.name] = event.manifest
        self._more.set()

    async def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until `condition` holds, looking again after every event."""
        try:
            async with asyncio.timeout(PATIENCE):
                while not condition():
                    self._more.clear()
                    await self._more.wait()
        except TimeoutError:
            seen = [(e.kind.value, e.key.name, e.deleted) for e in self.events[-20:]]
            raise AssertionError(f"{what}: not within {PATIENCE} s; last events: {seen}") from None

    def state(self, kind: Kind, name: str) -> Mapping[str, object]:
        """Return the object as last told; nothing when it is not there."""
        return self.objects.get((kind, name), {})

    def ready_urls(self, service: str) -> set[str]:
        """Return the addresses of the service's ready endpoints, from its EndpointSlices."""
        urls: set[str] = set()
        for (kind, _), slice_ in self.objects.items():
            labels = field(slice_, "metadata", "labels")
            if kind is not Kind.ENDPOINT_SLICE or not isinstance(labels, Mapping):
                continue
            if labels.get("kubernetes.io/service-name") != service:
                continue
            ports, endpoints = slice_.get("ports") or [], slice_.get("endpoints") or []
            assert isinstance(ports, list)
            assert isinstance(endpoints, list)
            for endpoint in endpoints:
                if field(endpoint, "conditions", "ready"):
                    urls |= {f"http://{a}:{p['port']}" for a in endpoint["addresses"] for p in ports}
        return urls


class ClusterUnderTest(ABC):
    """One adapter, a namespace of its own, and a user's hands on the objects behind it."""

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.log = EventLog(namespace)
        self._watching: asyncio.Task[None] | None = None

    @abstractmethod
    async def apply(self, manifest: Mapping[str, object]) -> None:
        """Create or change an object as `kubectl apply` does."""

    @abstractmethod
    async def delete(self, kind: str, name: str) -> None:
        """Delete an object as `kubectl delete --wait=false` does."""

    @abstractmethod
    async def events(self) -> list[Mapping[str, object]]:
        """Return the Events of this namespace, as `kubectl get events` lists them."""

    def key(self, name: str) -> ObjectKey:
        return ObjectKey(self.namespace, name)

    async def scale(self, name: str, replicas: int) -> None:
        """Scale a Deployment, again if its controller wrote to it in between."""
        while True:
            now = await self.cluster.get(Kind.DEPLOYMENT, self.key(name))
            with contextlib.suppress(Conflict):
                await self.cluster.scale(self.key(name), replicas, version(now))
                return

    async def watch(self) -> None:
        """Run the adapter into `log` and return once it has synced."""
        synced = asyncio.Event()
        self._watching = asyncio.create_task(self.cluster.run(self.log, synced))
        waiting = asyncio.create_task(synced.wait())
        await asyncio.wait({self._watching, waiting}, timeout=PATIENCE, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self._watching.done():
            await self._watching
        assert synced.is_set(), f"the watch has not synced within {PATIENCE} s"

    async def close(self) -> None:
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
        await self.cluster.close()


class EmbeddedUnderTest(ClusterUnderTest):
    """The in-memory adapter; its own `apply` and `delete` are the user's hands."""

    def __init__(self) -> None:
        self._embedded = EmbeddedCluster([node("host", gpus=0)])
        super().__init__(self._embedded, "test")

    async def apply(self, manifest: Mapping[str, object]) -> None:
        self._embedded.apply(manifest)

    async def delete(self, kind: str, name: str) -> None:
        self._embedded.delete(kind, ObjectKey("" if kind == "Node" else self.namespace, name))

    async def events(self) -> list[Mapping[str, object]]:
        return self._embedded.events()


def field(manifest: object, *path: str) -> object:
    """Return the value at the path of nested objects, or `None`."""
    for name in path:
        manifest = manifest.get(name) if isinstance(manifest, Mapping) else None
    return manifest


def version(manifest: Mapping[str, object]) -> str:
    return str(field(manifest, "metadata", "resourceVersion"))


def fleet(namespace: str) -> Manifest:
    """Return a fleet named `chat` as a user writes it."""
    return _as_written(fleet_manifest(namespace=namespace))


def policy(namespace: str) -> Manifest:
    """Return a policy named `assistant` as a user writes it."""
    return _as_written(policy_manifest(namespace=namespace))


def _as_written(manifest: Manifest) -> Manifest:
    for name in ("uid", "generation"):
        manifest["metadata"].pop(name, None)
    return manifest


def node(name: str, gpus: int) -> Mapping[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {HOSTNAME: name}},
        "status": {"capacity": {GPU: str(gpus)}, "allocatable": {GPU: str(gpus)}},
    }


def deployment(
    namespace: str,
    name: str,
    *,
    replicas: int,
    gpus: int = 0,
    stubborn: bool = False,
    node_selector: Mapping[str, str] | None = None,
) -> Mapping[str, object]:
    """Return a Deployment of test pods, which become ready at once and end at once, or late if `stubborn`."""
    labels = {"app": name}
    probe = {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 1, "failureThreshold": 1}
    container: dict[str, object] = {
        "name": "server",
        "image": "none",
        "command": [sys.executable, str(POD_SERVER)],
        "env": [
            {"name": "STUBBORN", "value": "yes" if stubborn else ""},
            {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        ],
        "ports": [{"name": "http", "containerPort": 8000}],
        "readinessProbe": probe,
    }
    if gpus:
        container["resources"] = {"limits": {GPU: str(gpus)}}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "terminationGracePeriodSeconds": 4,
                    "nodeSelector": dict(node_selector or {}),
                    "containers": [container],
                },
            },
        },
    }


def service(namespace: str, name: str) -> Mapping[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": {"app": name}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    }
