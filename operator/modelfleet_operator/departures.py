"""Stage scale, without loss: carries out the drains that `draining` decides, for one fleet.

In: the patches that a pass would write. Out: those that are safe now; the others follow once the pods that
are to go have no request left. Next: `reconcile` writes them by `scale`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from modelfleet_core.values import EndpointUrl, ObjectKey, VariantKey

from modelfleet_operator.capacity_views import SidecarView
from modelfleet_operator.draining import Draining, Held, next_step
from modelfleet_operator.scale import Patch, Scaler
from modelfleet_operator.views import FleetView
from modelfleet_operator.world import World

log = logging.getLogger(__name__)


class SlotsView(Protocol):
    """What this module asks of the capacity service."""

    def leased(self) -> Mapping[ObjectKey, Mapping[VariantKey, Mapping[EndpointUrl, int]]]: ...
    def held(self) -> Mapping[EndpointUrl, int]: ...
    def heard_all(self) -> bool: ...
    def sidecars(self) -> tuple[SidecarView, ...]: ...


class Departures:
    """The pods of one fleet that leave. `clock` is monotonic."""

    def __init__(
        self,
        fleet: ObjectKey,
        *,
        world: World,
        slots: SlotsView,
        scaler: Scaler,
        clock: Callable[[], float],
    ) -> None:
        self._fleet = fleet
        self._world = world
        self._slots = slots
        self._scaler = scaler
        self._clock = clock
        self._draining = Draining()
        self._longest = 0.0
        self._known = self._news()

    @property
    def waits(self) -> bool:
        """Whether pods leave, so that `due` may become true at any time."""
        return bool(self._draining.leaving)

    def due(self) -> bool:
        """Return whether a pod became free, or its time is up, since `towards` was called."""
        return self._news() != self._known

    def words(self) -> dict[VariantKey, str]:
        """Return what leaves now, for humans."""
        return self._draining.words(self._held())

    async def towards(self, patches: Sequence[Patch], view: FleetView, longest: float) -> tuple[Patch, ...]:
        """Let pods leave as `patches` ask, and those stay that may; return the patches that are safe now.

        `longest`: seconds of the longest request. Raises `NotLeadingError` and `Unavailable`; then the pods
        that left before still do.
        """
        now = self._clock()
        held = replace(self._held(), in_flight=self._in_flight())
        step = next_step(view, patches, self._draining, held, now=now, longest=longest)
        self._complain(await self._scaler.mark([self._key(pod.name) for pod in step.unmark], leaving=False))
        self._draining, self._longest = step.draining, longest
        self._world.drain(self._fleet, step.draining.pods)
        self._complain(await self._scaler.mark([self._key(pod.name) for pod in step.mark], leaving=True))
        self._draining = self._draining.marked(step.mark, now)
        for variant in step.blind:
            log.warning(
                "fleet %s: replicas of %s go without a drain: its Service does not name the pods of its "
                "Deployment, so that Kubernetes chooses which one goes",
                self._fleet,
                variant,
            )
        self._known = self._news()
        return step.patches

    def end(self) -> None:
        """Let every pod stay: the fleet is not ours to scale any more."""
        self._draining = Draining()
        self._world.drain(self._fleet, frozenset())

    def _news(self) -> frozenset[tuple[str, bool, bool]]:
        if not self._draining.leaving:
            return frozenset()
        return self._draining.news(self._held(), self._clock(), self._longest)

    def _held(self) -> Held:
        variants = self._slots.leased().get(self._fleet, {})
        leased = frozenset(url for urls in variants.values() for url in urls)
        return Held(self._slots.held(), leased, heard_all=self._slots.heard_all())

    def _in_flight(self) -> dict[EndpointUrl, int]:
        total: dict[EndpointUrl, int] = {}
        for sidecar in self._slots.sidecars():
            for url, state in sidecar.slots.items():
                total[url] = total.get(url, 0) + state.in_flight
        return total

    def _key(self, pod: str) -> ObjectKey:
        return ObjectKey(self._fleet.namespace, pod)

    def _complain(self, problems: Mapping[ObjectKey, str]) -> None:
        for pod, problem in problems.items():
            log.warning(
                "fleet %s: pod %s can not be marked, so that Kubernetes chooses which pod goes: %s; let the "
                "operator patch pods",
                self._fleet,
                pod,
                problem,
            )
