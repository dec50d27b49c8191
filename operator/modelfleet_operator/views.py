"""Stage observe: the snapshot narrowed to one fleet.

In: `Snapshot` and `Resolution`. Out: `FleetView`: replicas, GPUs and live endpoints of one fleet. Next:
`reconcile` plans it, `publishing` hands its endpoints to the capacity service.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from modelfleet_core.catalog import ExternalPlacement, Fleet, Pool, PoolPlacement, Replicas, ServicePort
from modelfleet_core.values import EndpointUrl, ObjectKey, PoolName, VariantKey, leased_endpoint

from modelfleet_operator.observe import Node, Slice, Snapshot, Workload
from modelfleet_operator.spec import Resolution


@dataclass(frozen=True, slots=True)
class LivePod:
    """A ready pod of a variant's Service."""

    uid: str
    name: str
    """Empty where no one says it."""
    url: EndpointUrl


@dataclass(frozen=True, slots=True)
class FleetView:
    fleet: Fleet
    """With the replicas of variants that can not be scaled fixed at what they have."""
    workloads: Mapping[VariantKey, Workload]
    """Of every pool variant whose Deployment exists."""
    scalable: frozenset[VariantKey]
    endpoints: Mapping[VariantKey, Mapping[EndpointUrl, int]]
    """Slots of every live endpoint that is not draining."""
    pods: Mapping[VariantKey, tuple[LivePod, ...]]
    """Every ready pod, those that drain included."""
    stock: Mapping[PoolName, int]
    """GPUs that nodes offer and other fleets and pools do not hold; the limit where nodes are not read."""
    stock_known: bool
    """False: nodes are not read."""

    def current(self) -> dict[VariantKey, int]:
        """Return the replicas asked of every workload."""
        return {key: workload.replicas for key, workload in self.workloads.items()}

    def occupied(self) -> dict[VariantKey, int]:
        """Return the pods that hold GPUs or soon will, terminating ones too."""
        return {key: workload.occupied for key, workload in self.workloads.items()}

    def gpus_occupied(self) -> dict[PoolName, int]:
        """Return the GPUs of each pool that pods hold or soon will."""
        total = {pool.name: 0 for pool in self.fleet.pools}
        occupied = self.occupied()
        for variant in self.fleet.variants():
            if isinstance(variant.placement, PoolPlacement):
                total[variant.placement.pool] += variant.placement.gpus * occupied.get(variant.key, 0)
        return total


def fleet_view(fleet: Fleet, snapshot: Snapshot, resolution: Resolution) -> FleetView:
    """Return the view of a fleet in force."""
    kept_out = resolution.fleets[fleet.key].kept_out
    workloads = workloads_of(fleet, snapshot)
    scalable = frozenset(workloads.keys() - kept_out.keys())
    return FleetView(
        fleet=_fixed(fleet, workloads, scalable),
        workloads=workloads,
        scalable=scalable,
        endpoints=live_endpoints(fleet, snapshot),
        pods=live_pods(fleet, snapshot),
        stock={
            pool.name: pool.limit
            if snapshot.nodes is None
            else _stock(pool, fleet, snapshot, snapshot.nodes, resolution)
            for pool in fleet.pools
        },
        stock_known=snapshot.nodes is not None,
    )


def workloads_of(fleet: Fleet, snapshot: Snapshot) -> dict[VariantKey, Workload]:
    """Return the Deployments of the fleet's variants that exist."""
    found: dict[VariantKey, Workload] = {}
    for variant in fleet.variants():
        if isinstance(variant.placement, PoolPlacement):
            key = ObjectKey(fleet.key.namespace, variant.placement.target.name)
            if (workload := snapshot.workloads.get(key)) is not None:
                found[variant.key] = workload
    return found


def live_endpoints(fleet: Fleet, snapshot: Snapshot) -> dict[VariantKey, dict[EndpointUrl, int]]:
    """Return the slots of every ready endpoint of every variant; external ones are always live.

    A pod that drains is none: what is held there is recalled, and nothing more is granted.
    """
    pods = live_pods(fleet, snapshot)
    live: dict[VariantKey, dict[EndpointUrl, int]] = {}
    for variant in fleet.variants():
        placement = variant.placement
        if isinstance(placement, ExternalPlacement):
            live[variant.key] = {leased_endpoint(placement.url, variant.key): variant.concurrency}
        else:
            live[variant.key] = {
                pod.url: variant.concurrency for pod in pods[variant.key] if pod.uid not in snapshot.draining
            }
    return live


def live_pods(fleet: Fleet, snapshot: Snapshot) -> dict[VariantKey, tuple[LivePod, ...]]:
    """Return the ready pods of every variant on a pool, by URL."""
    by_service: dict[ObjectKey, list[Slice]] = {}
    for slice_ in snapshot.slices.values():
        by_service.setdefault(slice_.service, []).append(slice_)
    return {
        variant.key: _pods(
            variant.placement.service,
            by_service.get(ObjectKey(fleet.key.namespace, variant.placement.service.name), []),
        )
        for variant in fleet.variants()
        if isinstance(variant.placement, PoolPlacement)
    }


def _pods(service: ServicePort, slices: Iterable[Slice]) -> tuple[LivePod, ...]:
    """Return each pod once, also if it has two address families or moves between slices."""
    found: dict[str, LivePod] = {}
    for slice_ in slices:
        port = _port(service, slice_)
        for endpoint in slice_.ready if port is not None else ():
            url = EndpointUrl(f"{service.scheme}://{endpoint.address}:{port}")
            known = found.get(endpoint.pod)
            # The least URL, so that the order of slices does not matter; IPv4 sorts before "[".
            if known is None or url < known.url:
                found[endpoint.pod] = LivePod(endpoint.pod, endpoint.name, url)
    return tuple(sorted({pod.url: pod for pod in found.values()}.values(), key=lambda pod: pod.url))


def _port(service: ServicePort, slice_: Slice) -> int | None:
    for name, number in slice_.ports:
        if service.port in (name, str(number)):
            return number
    # A number may be the Service's own, which its slices do not show; with one port there is no doubt.
    return slice_.ports[0][1] if service.port.isdecimal() and len(slice_.ports) == 1 else None


def _fixed(fleet: Fleet, workloads: Mapping[VariantKey, Workload], scalable: frozenset[VariantKey]) -> Fleet:
    """Return the fleet with the replicas that are not ours to change fixed at what they are."""
    if all(variant.key in scalable for variant in fleet.variants()):
        return fleet
    models = []
    for model in fleet.models:
        variants = []
        for variant in model.variants:
            if isinstance(variant.placement, PoolPlacement) and variant.key not in scalable:
                count = workloads[variant.key].replicas if variant.key in workloads else 0
                placement = replace(variant.placement, replicas=Replicas(count, count))
                variants.append(replace(variant, placement=placement))
            else:
                variants.append(variant)
        models.append(replace(model, variants=tuple(variants)))
    return replace(fleet, models=tuple(models))


def _stock(
    pool: Pool, fleet: Fleet, snapshot: Snapshot, known: Mapping[str, Node], resolution: Resolution
) -> int:
    nodes = _nodes_of(pool, fleet, known)
    offered = sum(known[name].resources.get(pool.resource, 0) for name in nodes)
    for other in resolution.fleets_in_force():
        rivals = {
            rival.name
            for rival in other.pools
            if other.key != fleet.key
            and rival.resource == pool.resource
            and not nodes.isdisjoint(_nodes_of(rival, other, known))
        }
        workloads = workloads_of(other, snapshot) if rivals else {}
        for variant in other.variants() if rivals else ():
            placement = variant.placement
            if isinstance(placement, PoolPlacement) and placement.pool in rivals and variant.key in workloads:
                offered -= placement.gpus * workloads[variant.key].occupied
    return max(0, offered)


def _nodes_of(pool: Pool, fleet: Fleet, known: Mapping[str, Node]) -> set[str]:
    """Return the nodes whose GPUs belong to the pool: of the fleet's pools, the first that selects a node.

    Cordoned nodes take no pods, so their GPUs do not count.
    """

    def selects(candidate: Pool, node: Node) -> bool:
        return candidate.node_selector.items() <= node.labels.items()

    earlier = [other for other in fleet.pools[: fleet.pools.index(pool)] if other.resource == pool.resource]
    return {
        node.name
        for node in known.values()
        if not node.cordoned and selects(pool, node) and not any(selects(other, node) for other in earlier)
    }
