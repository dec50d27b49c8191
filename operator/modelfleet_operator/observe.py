"""Stage observe: raw events of the cluster become one typed snapshot.

In: `ObjectEvent`s, in any order and repeated. Out: `Snapshot`, an immutable view of everything that decisions
need. Next: `spec` resolves what was declared, `views` narrows the snapshot to one fleet.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from modelfleet_core.catalog import Fleet
from modelfleet_core.policy import Policy
from modelfleet_core.values import ObjectKey

from modelfleet_operator.cluster import POLICY_ANNOTATION, Kind, ObjectEvent
from modelfleet_operator.cluster.fields import integer, items, mapping, strings, text, texts
from modelfleet_operator.declarations import Declared, declared_fleet, declared_policy
from modelfleet_operator.ownership import foreign_owner

EPOCH_ANNOTATION = "modelfleet.io/epoch"
"""On every Deployment that is scaled: the epoch of the leader that scales it."""
_SERVICE_LABEL = "kubernetes.io/service-name"

K = TypeVar("K")
V = TypeVar("V")


@dataclass(frozen=True, slots=True)
class Workload:
    """A Deployment that may be a variant's target."""

    key: ObjectKey
    replicas: int
    """Asked of it."""
    pods: int
    """That exist and are not terminating."""
    ready: int
    terminating: int
    owner: str
    """Who else sets its replicas, in words; empty: no one."""
    resource_version: str = field(compare=False)
    epoch: int = field(compare=False, default=0)
    """Of the leader that last stamped it; 0: none did."""

    @property
    def occupied(self) -> int:
        """Return the pods that hold GPUs or will: asked for or there, and those that still terminate."""
        return max(self.replicas, self.pods) + self.terminating


@dataclass(frozen=True, slots=True)
class Endpoint:
    address: str
    """IPv4 or bracketed IPv6."""
    pod: str
    """UID of its pod, or the address where the slice names no pod."""
    name: str = ""
    """Of its pod; empty where the slice names none."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Ready endpoints of a Service, from one EndpointSlice."""

    service: ObjectKey
    ports: tuple[tuple[str, int], ...]
    """Name and number."""
    ready: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    labels: Mapping[str, str]
    cordoned: bool
    resources: Mapping[str, int]
    """Whole units of extended resources that pods may use."""


@dataclass(frozen=True, slots=True)
class SidecarPod:
    key: ObjectKey
    uid: str
    labels: Mapping[str, str]
    policy: str
    """The policy that its annotation names; empty: none."""
    placed: bool
    """False: the scheduler found no node, so nothing of it has ever run."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    fleets: Mapping[ObjectKey, Declared[Fleet]]
    policies: Mapping[ObjectKey, Declared[Policy]]
    workloads: Mapping[ObjectKey, Workload]
    slices: Mapping[ObjectKey, Slice]
    nodes: Mapping[str, Node] | None
    """None: nodes are not read."""
    pods: Mapping[ObjectKey, SidecarPod]
    draining: frozenset[str]
    """UIDs of model servers' pods that get no new request, since we let them go."""


class Observer:
    """Keeps the newest state of every object. `await change(seen)` wakes whoever decides on it."""

    def __init__(self, *, nodes: bool = True) -> None:
        """`nodes`: whether they are read."""
        self._reads_nodes = nodes
        self._fleets: dict[ObjectKey, Declared[Fleet]] = {}
        self._policies: dict[ObjectKey, Declared[Policy]] = {}
        self._workloads: dict[ObjectKey, Workload] = {}
        self._slices: dict[ObjectKey, Slice] = {}
        self._nodes: dict[str, Node] = {}
        self._pods: dict[ObjectKey, SidecarPod] = {}
        self._draining: dict[ObjectKey, frozenset[str]] = {}
        self._published: dict[ObjectKey, int] = {}
        """The epoch that each fleet's status tells."""
        self._version = 0
        self._waiting: set[asyncio.Future[None]] = set()

    @property
    def version(self) -> int:
        """Return a number that rises with every change that can matter to a decision."""
        return self._version

    def apply(self, event: ObjectEvent) -> bool:
        """Take in one event; return whether it changed anything that decisions look at."""
        changed = self._store(event)
        if changed:
            self._wake()
        return changed

    def scaled(self, target: ObjectKey, replicas: int) -> None:
        """Count our own patch at once, so that no other decision rests on the number before it."""
        if (workload := self._workloads.get(target)) is not None:
            self._workloads[target] = replace(workload, replicas=replicas)
            self._wake()

    def drain(self, fleet: ObjectKey, pods: frozenset[str]) -> None:
        """Count the pods with these UIDs, and no others of the fleet, as draining from now on."""
        if pods != self._draining.get(fleet, frozenset()):
            self._draining[fleet] = pods
            self._wake()

    def _wake(self) -> None:
        self._version += 1
        for waiter in self._waiting:
            if not waiter.done():
                waiter.set_result(None)
        self._waiting.clear()

    async def change(self, seen: int) -> int:
        """Wait until the version is past `seen` and return it."""
        while self._version <= seen:
            waiter = asyncio.get_running_loop().create_future()
            self._waiting.add(waiter)
            try:
                await waiter
            finally:
                self._waiting.discard(waiter)
        return self._version

    def snapshot(self) -> Snapshot:
        return Snapshot(
            fleets=dict(self._fleets),
            policies=dict(self._policies),
            workloads=dict(self._workloads),
            slices=dict(self._slices),
            nodes=dict(self._nodes) if self._reads_nodes else None,
            pods=dict(self._pods),
            draining=frozenset().union(*self._draining.values()),
        )

    def highest_epoch(self) -> int:
        """Return the highest epoch that any Deployment or a fleet's status carries; 0: none.

        They outlive the release: one that is installed in another namespace leads above all before it.
        """
        scaled = (workload.epoch for workload in self._workloads.values())
        return max((*scaled, *self._published.values()), default=0)

    def fleet(self, key: ObjectKey) -> Declared[Fleet] | None:
        return self._fleets.get(key)

    def policy(self, key: ObjectKey) -> Declared[Policy] | None:
        return self._policies.get(key)

    def _store(self, event: ObjectEvent) -> bool:
        key, manifest, deleted = event.key, event.manifest, event.deleted
        match event.kind:
            case Kind.FLEET:
                _put(self._published, key, None if deleted else _published(manifest))
                fleet = None if deleted else declared_fleet(key, manifest, self._fleets.get(key))
                return _put(self._fleets, key, fleet)
            case Kind.POLICY:
                policy = None if deleted else declared_policy(key, manifest, self._policies.get(key))
                return _put(self._policies, key, policy)
            case Kind.DEPLOYMENT:
                return _put(self._workloads, key, None if deleted else workload_of(key, manifest))
            case Kind.ENDPOINT_SLICE:
                return _put(self._slices, key, None if deleted else slice_of(key, manifest))
            case Kind.NODE:
                return _put(self._nodes, key.name, None if deleted else node_of(manifest))
            case Kind.POD:
                return _put(self._pods, key, None if deleted else _pod_of(key, manifest))


def _put(store: dict[K, V], key: K, value: V | None) -> bool:
    before = store.get(key)
    if value is None:
        store.pop(key, None)
    else:
        store[key] = value
    return value != before


def workload_of(key: ObjectKey, manifest: Mapping[str, object]) -> Workload:
    """Return what a Deployment asks for and has."""
    status = mapping(manifest, "status")
    return Workload(
        key=key,
        replicas=integer(mapping(manifest, "spec"), "replicas", 1),
        pods=integer(status, "replicas"),
        ready=integer(status, "readyReplicas"),
        terminating=integer(status, "terminatingReplicas"),
        owner=foreign_owner(manifest),
        resource_version=text(mapping(manifest, "metadata"), "resourceVersion"),
        epoch=_epoch(texts(mapping(manifest, "metadata"), "annotations").get(EPOCH_ANNOTATION, "")),
    )


def _published(fleet: Mapping[str, object]) -> int:
    """Return the epoch in which a fleet's leases were divided last; 0: none is told."""
    return integer(mapping(mapping(fleet, "status"), "capacity"), "epoch")


def _epoch(written: str) -> int:
    """Return the epoch; what is none, someone else's text, counts as none and is written over."""
    return int(written) if re.fullmatch(r"[0-9]{1,12}", written) else 0


def slice_of(key: ObjectKey, manifest: Mapping[str, object]) -> Slice | None:
    """Return the ready endpoints of an EndpointSlice; None: it belongs to no Service."""
    service = texts(mapping(manifest, "metadata"), "labels").get(_SERVICE_LABEL, "")
    if not service or text(manifest, "addressType") not in ("IPv4", "IPv6"):
        return None
    return Slice(
        service=ObjectKey(key.namespace, service),
        ports=tuple(
            (text(port, "name"), integer(port, "port"))
            for port in items(manifest, "ports")
            if integer(port, "port")
        ),
        ready=tuple(_ready_endpoints(manifest)),
    )


def _ready_endpoints(manifest: Mapping[str, object]) -> Iterator[Endpoint]:
    for endpoint in items(manifest, "endpoints"):
        conditions = mapping(endpoint, "conditions")
        addresses = strings(endpoint, "addresses")
        if conditions.get("ready") is not True or conditions.get("terminating") is True or not addresses:
            continue
        address = f"[{addresses[0]}]" if ":" in addresses[0] else addresses[0]
        pod = mapping(endpoint, "targetRef")
        yield Endpoint(address, text(pod, "uid") or address, text(pod, "name"))


def node_of(manifest: Mapping[str, object]) -> Node:
    """Return a node's labels and extended resources."""
    metadata, status = mapping(manifest, "metadata"), mapping(manifest, "status")
    offered = texts(status, "allocatable") or texts(status, "capacity")
    return Node(
        name=text(metadata, "name"),
        labels=texts(metadata, "labels"),
        cordoned=mapping(manifest, "spec").get("unschedulable") is True,
        resources={
            name: int(amount) for name, amount in offered.items() if re.fullmatch(r"[0-9]{1,9}", amount)
        },
    )


def _pod_of(key: ObjectKey, manifest: Mapping[str, object]) -> SidecarPod | None:
    metadata = mapping(manifest, "metadata")
    status = mapping(manifest, "status")
    if text(status, "phase") in ("Succeeded", "Failed"):
        return None
    scheduled = {text(c, "type"): text(c, "status") for c in items(status, "conditions")}
    return SidecarPod(
        key=key,
        uid=text(metadata, "uid"),
        labels=texts(metadata, "labels"),
        policy=texts(metadata, "annotations").get(POLICY_ANNOTATION, ""),
        placed=scheduled.get("PodScheduled") != "False",
    )
