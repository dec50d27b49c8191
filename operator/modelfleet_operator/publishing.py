"""Stage publish: what the cluster shows reaches the capacity service at once.

In: `World`, at every change. Out: live endpoints, documents and vanished pods to the `Publisher`. Next: its
lease streams. Allocation has a rhythm of its own; a lost endpoint must not wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import NoReturn, Protocol

from modelfleet_core.catalog import Fleet
from modelfleet_core.leasing.grants import Documents
from modelfleet_core.leasing.messages import Document, SidecarId
from modelfleet_core.leasing.rates import rate_limits
from modelfleet_core.leasing.slots import Capacity
from modelfleet_core.policy import Policy
from modelfleet_core.values import EndpointUrl, ObjectKey, VariantKey

from modelfleet_operator.observe import SidecarPod
from modelfleet_operator.spec import Resolution
from modelfleet_operator.views import live_endpoints
from modelfleet_operator.world import Present, World


class CapacitySink(Protocol):
    """What this module asks of the capacity service."""

    def set_capacity(self, capacity: Mapping[ObjectKey, Capacity]) -> None: ...
    def set_documents(
        self, fleets: Mapping[ObjectKey, Document], policies: Mapping[ObjectKey, tuple[Policy, Document]]
    ) -> None: ...
    def set_policy_of(self, policy_of: Callable[[SidecarId], tuple[ObjectKey, ObjectKey] | str]) -> None: ...
    def forget(self, uid: str) -> None: ...


def policy_and_fleet(world: World, sidecar: SidecarId) -> tuple[ObjectKey, ObjectKey] | str:
    """Return the policy and fleet of a sidecar, or why it gets nothing."""
    present = world.now()
    key = ObjectKey(sidecar.namespace, sidecar.pod)
    pod = present.snapshot.pods.get(key)
    if pod is None:
        return (
            f"there is no pod {key} with the label modelfleet.io/inject=true: label the pod, or start the "
            "sidecar with the name and namespace of its own pod"
        )
    if pod.uid != sidecar.uid:
        return f"pod {key} has the UID {pod.uid}, not {sidecar.uid}: start the sidecar with its own pod's UID"
    found = present.resolution.selection[key]
    return found if isinstance(found, str) else (found.policy, found.fleet)


def documents(resolution: Resolution) -> Documents:
    """Return the manifests in force, as sidecars get them."""
    fleets = {
        key: resolved.document
        for key, resolved in resolution.fleets.items()
        if resolved.fleet is not None and resolved.document is not None
    }
    policies = {
        key: (resolved.policy, resolved.document)
        for key, resolved in resolution.policies.items()
        if resolved.policy is not None and resolved.document is not None and resolved.in_force
    }
    return Documents(fleets, policies)


def capacity(present: Present) -> dict[ObjectKey, Capacity]:
    """Return the live slots of every fleet in force, and the units of limits by the minute."""
    return {
        fleet.key: live_endpoints(fleet, present.snapshot) | _rates(fleet)
        for fleet in present.resolution.fleets_in_force()
    }


def _rates(fleet: Fleet) -> dict[VariantKey, dict[EndpointUrl, int]]:
    return {
        key: {endpoint: units}
        for variant in fleet.variants()
        for key, (endpoint, units) in rate_limits(variant).items()
    }


class Publishing:
    """Hands over what changed, and nothing else."""

    def __init__(self, world: World, sink: CapacitySink) -> None:
        self._world = world
        self._sink = sink
        self._documents = Documents({}, {})
        self._capacity: Mapping[ObjectKey, Capacity] = {}
        self._pods: Mapping[ObjectKey, SidecarPod] | None = None
        """None: not listed yet, which is not the same as none."""

    async def run(self) -> NoReturn:
        """Publish what holds now, then every change, until cancelled."""
        present = self._world.now()
        while True:
            self.publish(present)
            present = await self._world.change(present.version)

    def publish(self, present: Present) -> None:
        """Documents before endpoints: a sidecar can use a slot only once it knows the model."""
        new = documents(present.resolution)
        if new != self._documents:
            self._sink.set_documents(new.fleets, new.policies)
            self._documents = new
        live = capacity(present)
        if live != self._capacity:
            self._sink.set_capacity(live)
            self._capacity = live
        pods = present.snapshot.pods
        if pods != self._pods:
            for uid in _uids((self._pods or {}).values()) - _uids(pods.values()):
                self._sink.forget(uid)
            self._sink.set_policy_of(partial(policy_and_fleet, self._world))
            self._pods = pods


def _uids(pods: Collection[SidecarPod]) -> set[str]:
    return {pod.uid for pod in pods}
