"""Stage scale, without loss: a ready replica that is to go gets no new request, and goes once its last ended.

In: the patches that take replicas away, the fleet's pods and the slots that sidecars hold. Out: the pods that
are leased no more, the marks that make Kubernetes choose them, and the patches that are safe now. Next:
`reconcile` tells the observer, so that `publishing` takes their slots back, and `scale` writes the rest.

Nothing of it is stored: a new leader leases all pods again and decides anew. The marks that it finds on pods
weigh less than its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf

from modelfleet_core.values import EndpointUrl, VariantKey

from modelfleet_operator.scale import Patch
from modelfleet_operator.views import FleetView, LivePod

LEAD = 0.5
"""Seconds between the mark on a pod and the patch of `/scale`, in which controllers learn of the mark."""
_NAME_CUT = 58
"""Characters that Kubernetes keeps of the name before a pod's own five."""


@dataclass(frozen=True, slots=True)
class Held:
    """What the capacity service says of slots."""

    slots: Mapping[EndpointUrl, int]
    """That may be in use, also at endpoints that are leased no more."""
    leased: Collection[EndpointUrl]
    """Endpoints at which slots may be granted."""
    in_flight: Mapping[EndpointUrl, int] = field(default_factory=dict)
    """Requests that sidecars told of."""
    heard_all: bool = True
    """False: a sidecar may hold slots of an earlier leader that it has not told this one of."""

    def free(self, pod: LivePod) -> bool:
        return self.heard_all and pod.url not in self.leased and not self.slots.get(pod.url, 0)


@dataclass(frozen=True, slots=True)
class Leaving:
    """A pod that gets no new request. Times are the leader's seconds."""

    variant: VariantKey
    pod: LivePod
    since: float
    marked_at: float = inf
    """When Kubernetes was told to choose it; infinite: not yet."""


@dataclass(frozen=True, slots=True)
class Draining:
    """The pods of one fleet that are to go, by UID."""

    leaving: Mapping[str, Leaving] = field(default_factory=dict)

    @property
    def pods(self) -> frozenset[str]:
        return frozenset(self.leaving)

    def marked(self, pods: Iterable[LivePod], now: float) -> Draining:
        """Return the state once `pods` carry the mark."""
        told = {pod.uid: replace(self.leaving[pod.uid], marked_at=now) for pod in pods}
        return Draining({**self.leaving, **told})

    def news(self, held: Held, now: float, longest: float) -> frozenset[tuple[str, bool, bool]]:
        """Return what the next step depends on, to be compared: which pods may be marked, which may go."""
        return frozenset(
            (uid, _spent(leaving, held, now, longest), now >= leaving.marked_at + LEAD)
            for uid, leaving in self.leaving.items()
        )

    def words(self, held: Held) -> dict[VariantKey, str]:
        """Return, for each variant, how many pods leave and how many slots sidecars still hold there."""
        pods: dict[VariantKey, list[LivePod]] = {}
        for leaving in self.leaving.values():
            pods.setdefault(leaving.variant, []).append(leaving.pod)
        return {
            key: f"{len(found)} leaving, {sum(held.slots.get(pod.url, 0) for pod in found)} slots held"
            for key, found in sorted(pods.items())
        }


@dataclass(frozen=True, slots=True)
class Step:
    draining: Draining
    mark: tuple[LivePod, ...]
    """Pods that Kubernetes is to choose."""
    unmark: tuple[LivePod, ...]
    """Pods that stay after all; or are gone, or not ready now, which might come back with the mark."""
    patches: tuple[Patch, ...]
    """Safe now; those that add replicas first."""
    blind: tuple[VariantKey, ...]
    """Variants whose replicas go without a drain, since their pods can not be told by name."""


def next_step(
    view: FleetView, patches: Sequence[Patch], before: Draining, held: Held, *, now: float, longest: float
) -> Step:
    """Return what to do towards `patches`, none of which goes further than asked.

    `longest`: seconds of the longest request, after which a pod goes though slots are held there. Replicas
    that are not ready go at once, since Kubernetes takes these first. Of the ready ones those go that leave
    already, then those with the fewest requests, then those with the fewest slots held.
    """
    leaving: dict[str, Leaving] = {}
    mark: list[LivePod] = []
    blind: list[VariantKey] = []
    now_safe = [patch for patch in patches if patch.replicas > patch.before]
    downs = {patch.variant: patch for patch in patches if patch.replicas < patch.before}
    for key in sorted(view.scalable):
        workload, patch, live = view.workloads[key], downs.get(key), view.pods.get(key, ())
        keep = workload.replicas if patch is None else patch.replicas
        if patch is not None and not all(_belongs(pod, patch.target.name) for pod in live):
            blind.append(key)
            now_safe.append(patch)
            continue
        # Without a patch only those still leave that Kubernetes was told to take.
        may_go = [pod for pod in live if patch is not None or _is_marked(before, pod)]
        too_many = max(0, max(len(live), workload.ready if patch is not None else 0) - keep)
        chosen = sorted(may_go, key=lambda pod: _rank(before, held, pod))[:too_many]
        gone = 0
        for pod in chosen:
            known = before.leaving.get(pod.uid, Leaving(key, pod, now))
            leaving[pod.uid] = known
            if _spent(known, held, now, longest):
                if known.marked_at == inf:
                    mark.append(pod)
                gone += now >= known.marked_at + LEAD
        if patch is not None and (replicas := keep + len(chosen) - gone) < patch.before:
            now_safe.append(replace(patch, replicas=replicas))
    staying = [
        known.pod for uid, known in before.leaving.items() if uid not in leaving and known.marked_at < inf
    ]
    return Step(Draining(leaving), tuple(mark), tuple(staying), tuple(now_safe), tuple(blind))


def _rank(before: Draining, held: Held, pod: LivePod) -> tuple[bool, bool, int, int, str]:
    return (
        not _is_marked(before, pod),
        pod.uid not in before.leaving,
        held.in_flight.get(pod.url, 0),
        held.slots.get(pod.url, 0),
        pod.name,
    )


def _is_marked(before: Draining, pod: LivePod) -> bool:
    return pod.uid in before.leaving and before.leaving[pod.uid].marked_at < inf


def _spent(leaving: Leaving, held: Held, now: float, longest: float) -> bool:
    return held.free(leaving.pod) or now >= leaving.since + longest


def _belongs(pod: LivePod, deployment: str) -> bool:
    """Return whether a pod is named as those of the Deployment are: then a mark on it counts."""
    return pod.name.startswith(f"{deployment}-"[:_NAME_CUT])
