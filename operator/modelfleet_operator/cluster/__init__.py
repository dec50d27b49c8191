"""Serves stages observe, scale, publish and status: the objects of a cluster, as the operator needs them.

In come watched objects and the operator's few writes; out go `ObjectEvent`s to `observe` and results of
compare-and-swap writes. Two adapters stand behind `Cluster` and pass one contract suite: `kubernetes` (a real
API server) and `embedded` (in memory, pods as local processes).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Protocol

from modelfleet_core.values import ObjectKey

INJECT_LABEL = "modelfleet.io/inject"
"""Only pods whose label of this name is `true` are watched: those are the ones that carry a sidecar."""
POLICY_ANNOTATION = "modelfleet.io/policy"
"""On a pod: the RoutingPolicy that its sidecar follows; without it, the oldest whose podSelector matches."""

DELETION_COST = "controller.kubernetes.io/pod-deletion-cost"
"""Annotation of a pod by which controllers choose the pods that go when fewer are asked for."""


class Kind(Enum):
    """The kinds that the operator watches, by the name that Kubernetes gives them."""

    FLEET = "ModelFleet"
    POLICY = "RoutingPolicy"
    DEPLOYMENT = "Deployment"
    ENDPOINT_SLICE = "EndpointSlice"
    NODE = "Node"
    POD = "Pod"


@dataclass(frozen=True, slots=True)
class ObjectEvent:
    """One object as it is now, or as it last was when `deleted`. Nodes have the namespace `""`."""

    kind: Kind
    key: ObjectKey
    deleted: bool
    manifest: Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Record:
    """A ConfigMap that the operator owns or reads. `resource_version`: `None` while it does not exist yet."""

    key: ObjectKey
    data: Mapping[str, str]
    labels: Mapping[str, str]
    resource_version: str | None = None
    binary: Mapping[str, bytes] = field(default_factory=dict)
    """Its `binaryData`; with `data` at most 1 MiB."""


@dataclass(frozen=True, slots=True)
class LeaderLease:
    """A `coordination.k8s.io/Lease`: who leads, since when, and how often leaders changed (`transitions`).

    `terms` is an annotation: what a successor must know of the leases that were granted; empty: not said.
    """

    key: ObjectKey
    holder: str
    acquired: datetime
    renewed: datetime
    duration_seconds: int
    transitions: int
    terms: str = ""
    resource_version: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a fleet or policy, as `kubectl describe` shows it.

    `name` is that of the Event object itself: the same thing has the same name, so that it is counted and not
    repeated. `times` is how often it happened from `first` to `last`, both UTC.
    """

    name: str
    kind: Kind
    key: ObjectKey
    uid: str
    reason: str
    message: str
    warning: bool
    reporter: str
    first: datetime
    last: datetime
    times: int


@dataclass(frozen=True, slots=True)
class LeaderEndpoint:
    """The EndpointSlice `SERVICE-leader` of a Service without selector: where the leader serves.

    Whatever in the stored object is not as `write_endpoint` writes it makes this value differ.
    """

    service: ObjectKey
    service_uid: str
    """Owns the slice, so that the two go together."""
    port_name: str
    """As the Service's first port is named."""
    port: int
    addresses: tuple[str, ...]
    """IPv4 or IPv6, of one family for ever; none: nobody served yet."""
    ready: bool
    """False: connections are refused, since nobody serves."""
    epoch: int
    """Of the leader that wrote it; 0: none did."""
    resource_version: str | None = None


@dataclass(frozen=True, slots=True)
class TokenReview:
    """What the API server says of a bearer token."""

    authenticated: bool
    user: str = ""
    """Such as `system:serviceaccount:NAMESPACE:NAME`."""
    audiences: tuple[str, ...] = ()
    """Those that were asked for and that the token is for."""
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    error: str = ""


class ClusterError(Exception):
    """A request to the cluster that did not succeed."""


class Conflict(ClusterError):  # noqa: N818 - an outcome of compare-and-swap that callers expect
    """The object changed since it was read, or exists already: read it again and decide anew."""


class NotFound(ClusterError):  # noqa: N818 - an outcome that callers expect
    """No such object."""


class Rejected(ClusterError):  # noqa: N818 - an outcome that callers expect
    """The API server refuses the request; its message says why. Repeating it unchanged is useless."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Forbidden(Rejected):
    """RBAC does not allow the request; the message names verb and resource."""


class Unavailable(ClusterError):  # noqa: N818 - an outcome that callers expect
    """The API server can not be reached, is overloaded or failed: try again later."""


class Cluster(Protocol):
    """What the operator asks of a cluster. Every method may raise `Unavailable`."""

    async def run(self, sink: Callable[[ObjectEvent], None], synced: asyncio.Event) -> None:
        """Call `sink` with each existing object, set `synced`, then call it with changes until cancelled.

        `sink` is called in the running loop and must not block. An event may repeat what is already known.
        """

    async def get(self, kind: Kind, key: ObjectKey) -> Mapping[str, object]:
        """Return the object as the API server has it now. Raises `NotFound`."""

    async def scale(self, target: ObjectKey, replicas: int, resource_version: str) -> None:
        """Set a Deployment's replicas through `/scale`. Raises `Conflict` (stale), `NotFound`, `Rejected`."""

    async def annotate(self, target: ObjectKey, annotations: Mapping[str, str], resource_version: str) -> str:
        """Set annotations on a Deployment itself, never on its pods, and return its new version.

        Raises `Conflict` (stale), `NotFound`, `Rejected`.
        """

    async def mark_pod(self, pod: ObjectKey, cost: int | None) -> None:
        """Say how dear a pod's end is: of ready pods the cheapest go first. `None`: 0, as the others.

        Raises `NotFound`, `Rejected`.
        """

    async def write_status(
        self, kind: Kind, key: ObjectKey, resource_version: str, status: Mapping[str, object]
    ) -> None:
        """Replace an object's whole status. Raises `Conflict` (stale), `NotFound`, `Rejected`."""

    async def read_record(self, key: ObjectKey) -> Record | None:
        """Return the ConfigMap, or `None` when there is none. Raises `Rejected`."""

    async def record_version(self, key: ObjectKey) -> str | None:
        """Return only the version of the ConfigMap, which is cheap, or `None` when there is none."""

    async def write_record(self, record: Record) -> Record:
        """Create (no `resource_version`) or replace a ConfigMap and return it with its new version.

        Raises `Conflict` when it exists already or was written since, `Rejected` with the server's reason.
        """

    async def delete_record(self, key: ObjectKey) -> None:
        """Delete the ConfigMap; one that does not exist is fine."""

    async def read_lease(self, key: ObjectKey) -> LeaderLease | None:
        """Return the Lease, or `None` when there is none."""

    async def write_lease(self, lease: LeaderLease) -> LeaderLease:
        """Create or replace a Lease as `write_record` does. Raises `Conflict`, `Rejected`."""

    async def post(self, event: Event) -> None:
        """Create the Event, or add its `times` to the one of its name. Raises `Conflict`, `Rejected`."""

    async def read_endpoint(self, service: ObjectKey) -> LeaderEndpoint:
        """Return where the Service leads now; without `resource_version` while there is no slice.

        Raises `NotFound` when there is no such Service, `Rejected`.
        """

    async def write_endpoint(self, endpoint: LeaderEndpoint) -> LeaderEndpoint:
        """Create or replace the slice as `write_record` does. Raises `Conflict`, `Rejected`."""

    async def review_token(self, token: str, audience: str) -> TokenReview:
        """Ask whose token it is, and whether it is for `audience`. Raises `Rejected`."""

    async def close(self) -> None:
        """Free connections and end what the adapter started. The object is of no use afterwards."""
