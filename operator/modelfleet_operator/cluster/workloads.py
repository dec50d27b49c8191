"""The controllers of the embedded cluster: Deployments become pods, pods become processes and endpoints.

In come changes of the store (a scaled Deployment, a node) and of processes (ready, exited); out go pods with
status, Deployments' status and EndpointSlices, all written to the store. Every change leads to the same pass
over everything, which is cheap at the size of one machine.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import json
import re
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from modelfleet_operator.cluster import DELETION_COST
from modelfleet_operator.cluster.fields import integer, items, mapping, text, texts
from modelfleet_operator.cluster.pods import (
    broken_status,
    is_ready,
    place,
    running_status,
    timestamp,
    unscheduled_status,
)
from modelfleet_operator.cluster.processes import (
    ContainerError,
    ContainerState,
    container_of,
    run_container,
)
from modelfleet_operator.cluster.store import ObjectId, ObjectStore, id_of

_PORTS = range(20_000, 32_768)
_ADDRESS = "127.0.0.1"
_TEMPLATE_LABEL = "pod-template-hash"
_MANAGED_LABEL = "endpointslice.kubernetes.io/managed-by"
_MANAGED_BY = "modelfleet-embedded"
_SERVICE_LABEL = "kubernetes.io/service-name"


@dataclass(slots=True)
class _Run:
    """The process of one pod."""

    stop: asyncio.Event
    started: datetime
    port: int
    task: asyncio.Task[None]
    state: ContainerState = ContainerState.STARTING
    restarts: int = 0
    since: datetime = field(default_factory=lambda: datetime.now(UTC))


class Workloads:
    """Keeps pods, processes and endpoints as the store's Deployments, Services and Nodes ask."""

    def __init__(self, store: ObjectStore, *, logs: Path | None) -> None:
        self._store = store
        self._logs = logs
        self._runs: dict[ObjectId, _Run] = {}
        self._numbers = itertools.count(1)
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Follow the store until cancelled, then end every process."""
        end_listening = self._store.listen(lambda *_: self._changed.set())
        self._changed.set()
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                self._pass()
        finally:
            end_listening()
            for run in self._runs.values():
                run.stop.set()
            await asyncio.gather(*(run.task for run in self._runs.values()), return_exceptions=True)

    def _pass(self) -> None:
        deployments = list(self._store.objects("Deployment"))
        owners = {text(mapping(deployment, "metadata"), "uid") for deployment in deployments}
        for pod in self._pods():
            if _owner(pod) not in owners:
                self._terminate(pod)
        for deployment in deployments:
            self._match_replicas(deployment)
        for pod in self._pods():
            self._advance(pod)
        for deployment in deployments:
            self._write_status(deployment)
        self._write_endpoints()

    def _pods(self, owner: str | None = None) -> Sequence[Mapping[str, object]]:
        """Return the pods of one Deployment (by uid), or of all; pods that came as manifests have none."""
        return [p for p in self._store.objects("Pod") if _owner(p) and owner in (None, _owner(p))]

    def _match_replicas(self, deployment: Mapping[str, object]) -> None:
        """Create or terminate pods until as many as asked are wanted, all of the current template."""
        metadata, spec = mapping(deployment, "metadata"), mapping(deployment, "spec")
        template = mapping(spec, "template")
        digest = hashlib.sha256(json.dumps(template, sort_keys=True).encode()).hexdigest()[:10]
        wanted, kept = integer(spec, "replicas", 1), []
        for pod in self._pods(text(metadata, "uid")):
            if text(_labels(pod), _TEMPLATE_LABEL) != digest:
                self._terminate(pod)
            elif not _terminating(pod):
                kept.append(pod)
        # Those that serve least go first, then the cheapest, of equals the youngest, as a ReplicaSet chooses.
        kept.sort(key=lambda pod: (_placed(pod), is_ready(pod), _deletion_cost(pod)), reverse=True)
        for pod in kept[wanted:]:
            self._terminate(pod)
        for _ in range(wanted - len(kept)):
            name = f"{text(metadata, 'name')}-{digest}-{next(self._numbers):05d}"
            owner = {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "name": text(metadata, "name"),
                "uid": text(metadata, "uid"),
            }
            self._store.put(
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "metadata": {
                        "name": name,
                        "namespace": text(metadata, "namespace"),
                        "labels": texts(mapping(template, "metadata"), "labels") | {_TEMPLATE_LABEL: digest},
                        "annotations": texts(mapping(template, "metadata"), "annotations"),
                        "ownerReferences": [owner],
                    },
                    "spec": mapping(template, "spec"),
                    "status": {"phase": "Pending"},
                },
                create=True,
            )

    def _terminate(self, pod: Mapping[str, object]) -> None:
        if not _terminating(pod):
            metadata = {**mapping(pod, "metadata"), "deletionTimestamp": timestamp(datetime.now(UTC))}
            self._store.put({**pod, "metadata": metadata})

    def _advance(self, pod: Mapping[str, object]) -> None:
        """Take the pod one step further: placed, started, its state written, stopped, gone."""
        name = id_of(pod)
        run = self._runs.get(name)
        if run is not None and run.task.done():
            run.task.result()  # an error here is ours: let it end the cluster
            del self._runs[name]
            self._store.delete(name)
        elif _terminating(pod):
            if run is None:
                self._store.delete(name)
            else:
                run.stop.set()
                self._show(pod, run)
        elif run is not None:
            self._show(pod, run)
        elif not _placed(pod):
            self._place(pod)
        elif text(mapping(pod, "status"), "phase") == "Pending":
            self._start(pod)

    def _place(self, pod: Mapping[str, object]) -> None:
        nodes = list(self._store.objects("Node"))
        node = place(pod, nodes, self._store.objects("Pod"))
        if node is None:
            self._store.put({**pod, "status": unscheduled_status(pod, len(nodes))})
        else:
            self._store.put({**pod, "spec": {**mapping(pod, "spec"), "nodeName": node}})

    def _start(self, pod: Mapping[str, object]) -> None:
        name, port = id_of(pod), self._free_port()
        try:
            container = container_of(pod, address=_ADDRESS, port=port)
        except ContainerError as error:
            self._store.put({**pod, "status": broken_status(pod, str(error))})
            return
        stop = asyncio.Event()
        log = self._logs / f"{name.key.name}.log" if self._logs else None
        task = asyncio.create_task(
            run_container(
                container,
                address=_ADDRESS,
                port=port,
                changed=lambda state: self._note(name, state),
                stop=stop,
                log=log,
            )
        )
        task.add_done_callback(lambda _: self._changed.set())
        self._runs[name] = run = _Run(stop=stop, started=datetime.now(UTC), port=port, task=task)
        self._show(pod, run)

    def _note(self, name: ObjectId, state: ContainerState) -> None:
        run = self._runs[name]
        run.restarts += state is ContainerState.STARTING and run.state is ContainerState.EXITED
        run.state, run.since = state, datetime.now(UTC)
        self._changed.set()

    def _show(self, pod: Mapping[str, object], run: _Run) -> None:
        status = running_status(
            pod, run.state, address=_ADDRESS, restarts=run.restarts, started=run.started, since=run.since
        )
        self._store.put({**pod, "status": status})

    def _free_port(self) -> int:
        """Return a port that nothing listens on and no other pod was given.

        It is below the range from which the system serves outgoing connections: one of those could take it
        before the pod listens.
        """
        given = {run.port for run in self._runs.values()}
        while True:
            port = _PORTS[secrets.randbelow(len(_PORTS))]
            if port in given:
                continue
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind((_ADDRESS, port))
                except OSError:
                    continue
            return port

    def _write_status(self, deployment: Mapping[str, object]) -> None:
        metadata = mapping(deployment, "metadata")
        pods = self._pods(text(metadata, "uid"))
        alive = [pod for pod in pods if not _terminating(pod)]
        ready = sum(is_ready(pod) for pod in alive)
        wanted = integer(mapping(deployment, "spec"), "replicas", 1)
        counts = {
            "observedGeneration": integer(metadata, "generation"),
            "replicas": len(alive),
            "updatedReplicas": len(alive),
            "readyReplicas": ready,
            "availableReplicas": ready,
            "unavailableReplicas": max(0, wanted - ready),
        }
        # A real API server leaves counts of zero out, except this one.
        status = {name: count for name, count in counts.items() if count}
        status["terminatingReplicas"] = len(pods) - len(alive)
        self._store.put({**deployment, "status": status})

    def _write_endpoints(self) -> None:
        """Write one EndpointSlice per Service and pod, since every pod here has a port of its own."""
        wanted: dict[ObjectId, Mapping[str, object]] = {}
        for service in self._store.objects("Service"):
            selector = texts(mapping(service, "spec"), "selector")
            for pod in self._pods() if selector else ():
                run = self._runs.get(id_of(pod))
                neighbours = id_of(pod).key.namespace == id_of(service).key.namespace
                if run and neighbours and selector.items() <= _labels(pod).items():
                    slice_ = _endpoint_slice(service, pod, run.port)
                    wanted[id_of(slice_)] = slice_
        for old in self._store.objects("EndpointSlice"):
            if text(_labels(old), _MANAGED_LABEL) == _MANAGED_BY and id_of(old) not in wanted:
                self._store.delete(id_of(old))
        for slice_ in wanted.values():
            self._store.put(slice_)


def _endpoint_slice(
    service: Mapping[str, object], pod: Mapping[str, object], port: int
) -> Mapping[str, object]:
    name, of = id_of(pod).key, id_of(service).key
    ready, terminating = is_ready(pod), _terminating(pod)
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": f"{of.name}-{name.name}",
            "namespace": of.namespace,
            "labels": {_SERVICE_LABEL: of.name, _MANAGED_LABEL: _MANAGED_BY},
        },
        "addressType": "IPv4",
        "endpoints": [
            {
                "addresses": [_ADDRESS],
                "conditions": {
                    "ready": ready and not terminating,
                    "serving": ready,
                    "terminating": terminating,
                },
                "nodeName": text(mapping(pod, "spec"), "nodeName"),
                "targetRef": {
                    "kind": "Pod",
                    "namespace": name.namespace,
                    "name": name.name,
                    "uid": text(mapping(pod, "metadata"), "uid"),
                },
            }
        ],
        "ports": [
            {"name": text(entry, "name"), "port": port, "protocol": "TCP"}
            for entry in items(mapping(service, "spec"), "ports")
        ],
    }


def _labels(manifest: Mapping[str, object]) -> Mapping[str, str]:
    return texts(mapping(manifest, "metadata"), "labels")


def _owner(pod: Mapping[str, object]) -> str:
    """Return the uid of the Deployment that the pod belongs to, or `""`."""
    owners = items(mapping(pod, "metadata"), "ownerReferences")
    return text(owners[0], "uid") if owners else ""


def _deletion_cost(pod: Mapping[str, object]) -> int:
    """Return what the annotation says; text that is no number counts as none, so as 0."""
    cost = texts(mapping(pod, "metadata"), "annotations").get(DELETION_COST, "")
    return int(cost) if re.fullmatch(r"-?[0-9]{1,10}", cost) else 0


def _terminating(pod: Mapping[str, object]) -> bool:
    return "deletionTimestamp" in mapping(pod, "metadata")


def _placed(pod: Mapping[str, object]) -> bool:
    return bool(text(mapping(pod, "spec"), "nodeName"))
