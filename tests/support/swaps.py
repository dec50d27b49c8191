"""Plays the swap of one model for another on a full pool, and counts requests that find no room meanwhile.

Pods drain, end and start as in a cluster; `scale` and `draining` decide. Requests come in bursts and wait for
a while. Everything follows from the `Swap` and the rule; no clock and no randomness but the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from math import inf

import numpy as np
from modelfleet_core.allocation.throughput import Asked, Room
from modelfleet_core.values import EndpointUrl, ObjectKey, PoolName, VariantKey
from modelfleet_operator.draining import Draining, Held, next_step
from modelfleet_operator.observe import Workload
from modelfleet_operator.planning import PATIENCE
from modelfleet_operator.scale import Patch, next_patches
from modelfleet_operator.views import FleetView, LivePod

from support.fleets import fleet, key, model, on_pool, pool

OLD, NEW = key("old"), key("new")
DT = 0.5
"""Seconds of a step."""
LONGEST = 120.0
"""Seconds of the longest request."""
PATIENT = 4.0
"""Seconds that a request waits for a slot."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Swap:
    size: int
    """GPUs of the pool, all of them in use."""
    old_gpus: int = 1
    """Of one replica."""
    new_gpus: int = 1
    gain: float = 2.0
    """Room of the new model over that of the old one, on the same GPUs."""
    load: float = 0.8
    """Requests over the room of all replicas before."""
    startup: float = 60.0
    """Seconds, as declared."""
    truly: float | None = None
    """Seconds that it takes; infinite: no replica becomes ready; None: as declared."""
    drain: float = 5.0
    """Seconds until the last request of a pod that drains has ended."""
    ending: float = 2.0
    """Seconds that a pod takes to terminate."""
    flap: float = 0.0
    """Seconds in which the plan wants the move, and half of which it then does not, until replicas went."""
    running: int = 0
    """Replicas of the new model that are ready before."""
    hourly_budget: float | None = None
    """USD, where a GPU costs 1; None: the pool limits."""
    seed: int = 0

    @property
    def starts(self) -> float:
        return self.startup if self.truly is None else self.truly

    @property
    def replicas(self) -> tuple[int, int]:
        """Return the replicas of the old model before, and of the new one after."""
        kept = self.size - self.running * self.new_gpus
        return kept // self.old_gpus, self.size // self.new_gpus

    @property
    def fleet(self) -> FleetView:
        """Return the fleet as it is before."""
        before, after = self.size // self.old_gpus, self.size // self.new_gpus
        declared = fleet(
            model(on_pool("old", gpus=self.old_gpus, replicas=(0, before), startup=self.startup)),
            model(on_pool("new", gpus=self.new_gpus, replicas=(0, after), startup=self.startup)),
            pools=(pool(limit=self.size * (1 if self.hourly_budget is None else 2), hourly_cost=1.0),),
            hourly_budget=self.hourly_budget,
        )
        return FleetView(
            fleet=declared,
            workloads={one: Workload(ObjectKey("ml", one.model), 0, 0, 0, 0, "", "1") for one in (OLD, NEW)},
            scalable=frozenset({OLD, NEW}),
            endpoints={},
            pods={},
            stock={PoolName("h100"): declared.pools[0].limit},
            stock_known=True,
        )

    @property
    def takes(self) -> dict[VariantKey, float]:
        """Return the requests per second of one replica."""
        return {OLD: float(self.old_gpus), NEW: self.gain * self.new_gpus}

    @property
    def room(self) -> float:
        """Return the requests per second of all replicas before."""
        return self.replicas[0] * self.takes[OLD] + self.running * self.takes[NEW]

    @property
    def rate(self) -> float:
        """Return requests per second."""
        return self.load * self.room


Rule = Callable[[FleetView, Mapping[VariantKey, int], frozenset[VariantKey], Room], tuple[Patch, ...]]


def by_need(
    view: FleetView, desired: Mapping[VariantKey, int], stalled: frozenset[VariantKey], room: Room
) -> tuple[Patch, ...]:
    """Decide as the operator does."""
    return next_patches(view, desired, external=0.0, stalled=stalled, room=room)


def in_steps(
    view: FleetView, desired: Mapping[VariantKey, int], stalled: frozenset[VariantKey], room: Room
) -> tuple[Patch, ...]:
    """Decide as the operator does where it does not know the requests."""
    return next_patches(view, desired, external=0.0, stalled=stalled)


def all_at_once(
    view: FleetView, desired: Mapping[VariantKey, int], stalled: frozenset[VariantKey], room: Room
) -> tuple[Patch, ...]:
    """Decide as if no request used the replicas that go."""
    return next_patches(view, desired, external=0.0, stalled=stalled, room=Room((Asked(0.0, {}),)))


@dataclass(slots=True)
class _Pod:
    live: LivePod
    ready_at: float
    free_at: float = inf
    """When its last request ends, once it drains."""


@dataclass(frozen=True, slots=True)
class Swapped:
    asked: int
    shed: float
    """Requests that found no room in time."""
    least: float
    """Lowest share of the room before that there was at any time."""
    ended: float
    """When the last replica of the new model was ready; infinite: never."""

    @property
    def lost(self) -> float:
        return self.shed / max(1, self.asked)


@dataclass(slots=True)
class _Play:
    swap: Swap
    rule: Rule
    view: FleetView
    pods: dict[VariantKey, list[_Pod]] = field(default_factory=lambda: {OLD: [], NEW: []})
    ending: dict[VariantKey, list[float]] = field(default_factory=lambda: {OLD: [], NEW: []})
    draining: Draining = field(default_factory=Draining)
    waiting: dict[VariantKey, tuple[float, int]] = field(default_factory=dict)
    now: float = 0.0
    count: int = 0

    def start(self, variant: VariantKey, ready_at: float) -> None:
        self.count += 1
        live = LivePod(
            f"uid-{self.count}",
            f"{variant.model}-{self.count}",
            EndpointUrl(f"http://10.0.0.{self.count}:8000"),
        )
        self.pods[variant].append(_Pod(live, ready_at))

    def ready(self, variant: VariantKey) -> list[_Pod]:
        return [pod for pod in self.pods[variant] if pod.ready_at <= self.now]

    def serving(self, variant: VariantKey) -> int:
        return sum(pod.live.uid not in self.draining.leaving for pod in self.ready(variant))

    def decide(self) -> None:
        desired = self._desired()
        view = self._observe()
        stalled = self._stalled()
        swap = self.swap
        room = Room((Asked(swap.rate, swap.takes),) * 2)
        patches = self.rule(view, desired, stalled, room)
        held = Held(
            {p.live.url: 1 for found in self.pods.values() for p in found if p.free_at > self.now},
            {url for live in view.endpoints.values() for url in live},
        )
        step = next_step(view, patches, self.draining, held, now=self.now, longest=LONGEST)
        self.draining = step.draining.marked(step.mark, self.now)
        for pod in (pod for found in self.pods.values() for pod in found):
            leaves = pod.live.uid in self.draining.leaving
            pod.free_at = min(pod.free_at, self.now + swap.drain) if leaves else inf
        for patch in step.patches:
            for _ in range(patch.replicas - patch.before):
                self.start(patch.variant, self.now + swap.starts)
            self._end(patch.variant, patch.before - patch.replicas)

    def _desired(self) -> dict[VariantKey, int]:
        before, after = self.swap.replicas
        period = 1.5 * self.swap.flap
        if len(self.pods[OLD]) == before and period and self.now % period >= self.swap.flap:
            return {OLD: before, NEW: self.swap.running}
        return {OLD: 0, NEW: after}

    def _observe(self) -> FleetView:
        workloads = {}
        for variant, workload in self.view.workloads.items():
            self.ending[variant] = [at for at in self.ending[variant] if at > self.now]
            count = len(self.pods[variant])
            workloads[variant] = replace(
                workload,
                replicas=count,
                pods=count,
                ready=len(self.ready(variant)),
                terminating=len(self.ending[variant]),
            )
        pods = {variant: tuple(pod.live for pod in self.ready(variant)) for variant in workloads}
        endpoints = {
            variant: {pod.url: 1 for pod in live if pod.uid not in self.draining.leaving}
            for variant, live in pods.items()
        }
        self.view = replace(self.view, workloads=workloads, pods=pods, endpoints=endpoints)
        used = sum(self.view.gpus_occupied().values())
        assert used <= self.view.fleet.pools[0].limit
        assert self.swap.hourly_budget is None or used <= self.swap.hourly_budget
        return self.view

    def _stalled(self) -> frozenset[VariantKey]:
        late = set()
        for variant, workload in self.view.workloads.items():
            if workload.ready >= workload.replicas:
                self.waiting.pop(variant, None)
                continue
            since, ready = self.waiting.get(variant, (self.now, workload.ready))
            since = self.now if workload.ready > ready else since
            self.waiting[variant] = (since, workload.ready)
            if self.now > since + PATIENCE * self.swap.startup:
                late.add(variant)
        return frozenset(late)

    def _end(self, variant: VariantKey, number: int) -> None:
        leaving = self.draining.leaving
        order = sorted(
            self.pods[variant], key=lambda p: (p.ready_at <= self.now, p.live.uid not in leaving, p.free_at)
        )
        for pod in order[: max(0, number)]:
            self.pods[variant].remove(pod)
            self.ending[variant].append(self.now + self.swap.ending)


def play(swap: Swap, rule: Rule, *, starts: float = 6.0) -> Swapped:
    """Return what became of the requests of `starts` start-up times, or of ten minutes if that is longer."""
    random = np.random.default_rng(swap.seed)
    it = _Play(swap, rule, swap.fleet)
    for _ in range(swap.replicas[0]):
        it.start(OLD, 0.0)
    for _ in range(swap.running):
        it.start(NEW, 0.0)
    asked, shed, queue, least, ended = 0, 0.0, 0.0, inf, inf
    burst = 1.0
    for _ in range(round(max(600.0, starts * swap.startup) / DT)):
        it.decide()
        if random.random() < DT / 10.0:
            burst = float(random.choice([0.7, 1.0, 1.3]))
        came = int(random.poisson(swap.rate * burst * DT))
        room = sum(it.serving(variant) * rate for variant, rate in swap.takes.items())
        asked += came
        queue = max(0.0, queue + came - room * DT)
        shed += max(0.0, queue - PATIENT * room)
        queue = min(queue, PATIENT * room)
        least = min(least, room / swap.room)
        if ended == inf and it.serving(NEW) == swap.replicas[1]:
            ended = it.now
        it.now += DT
    return Swapped(asked, shed, least, ended)
