"""Stage scale, patience: what has just changed is not changed back at once.

In: a `Plan`, its problem and the time. Out: the plan to apply and the next `Stabiliser`. Next: scale.

Idle replicas go once no plan of the window wanted them; where a second window is set, replicas are added once
all plans of that one wanted them. A move, where other variants need the GPUs or the money, happens at once if
afterwards no fewer requests fit (`throughput`), since the program takes only moves that gain more than they
cost; what a move has brought then stays for the window. So alternating demand changes a variant's direction
once in a window. A move to fewer slots of better models is a scale-down too, and waits as one: what was
asked for some seconds does not say that the slots stay idle.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from modelfleet_core.allocation.limits import Limits, limits
from modelfleet_core.allocation.problem import AllocationProblem
from modelfleet_core.allocation.result import Plan, Reason, VariantPlan
from modelfleet_core.allocation.throughput import room
from modelfleet_core.values import VariantKey

History = tuple[tuple[float, int], ...]
"""(time, replicas wanted), oldest first."""


@dataclass(frozen=True, slots=True)
class Stabiliser:
    """What recent plans wanted and did. Of those in the window the highest counts for scaling down.

    What runs when a variant is first seen counts as wanted then. No hold keeps a plan over its pools or its
    budget: where it would, it ends.
    """

    window: float
    """Seconds, for scaling down."""
    up_window: float = 0.0
    """Seconds, for scaling up: the lowest of recent plans counts. 0: at once."""
    wanted: Mapping[VariantKey, History] = field(default_factory=dict)
    lows: Mapping[VariantKey, History] = field(default_factory=dict)
    """What was wanted, as far as it can still be the lowest."""
    gained: Mapping[VariantKey, float] = field(default_factory=dict)
    """When a variant last grew within a window of others, or itself, having shrunk: no move takes that."""
    shrunk: float = float("-inf")
    """When any variant last shrank."""

    @classmethod
    def resumed(cls, window: float, running: Mapping[VariantKey, int], now: float) -> Stabiliser:
        """Return the state after a restart: for a window nothing is taken from what `running` has."""
        return cls(window=window, gained={key: now for key, count in running.items() if count > 0})

    def settle(self, plan: Plan, problem: AllocationProblem, now: float) -> tuple[Stabiliser, Plan]:
        """Return the next state and `plan` with what has to wait held back."""
        within = limits(problem)
        current = {key: v.now for key, v in within.variants.items()}
        planned = {key: variant.replicas for key, variant in plan.variants.items()}
        lows = {key: self._lows(key, count, current[key], now) for key, count in planned.items()}
        target = {
            key: min(count, max(current[key], lows[key][0][1], within.variants[key].placement.replicas.min))
            for key, count in planned.items()
        }
        wanted = {key: self._history(key, count, current[key], now) for key, count in target.items()}
        held = {
            key: high
            for key, count in target.items()
            if count < (high := min(current[key], wanted[key][0][1]))
        }
        if target != planned:  # what is to replace them does not start yet
            held |= {key: current[key] for key, count in target.items() if count < current[key]}
        protected = {key for key, since in self.gained.items() if since > now - self.window}
        external = plan.hourly_cost - within.cost(target)
        replicas = _settled(within, external, current, target, held, protected)
        if held.keys() - protected and _takes_room(problem, current, replicas):
            replicas = _settled(within, external, current, target, held, protected | held.keys())
        shrunk = now if any(replicas[key] < current[key] for key in replicas) else self.shrunk
        gained = {key: since for key, since in self.gained.items() if key in protected and key in target}
        if shrunk > now - self.window:
            gained |= {key: now for key, count in replicas.items() if count > current[key]}
        state = replace(self, wanted=wanted, lows=lows, gained=gained, shrunk=shrunk)
        variants = {
            key: variant
            if replicas[key] == variant.replicas
            else self._held(variant, replicas[key], early=target[key] < planned[key])
            for key, variant in plan.variants.items()
        }
        settled = replace(
            plan,
            variants=variants,
            hourly_cost=within.cost(replicas) + external,
            gpus=within.used(replicas),
        )
        return state, settled

    def _history(self, key: VariantKey, count: int, current: int, now: float) -> History:
        """Return what was wanted; only what is higher than all after it can still be the highest."""
        before = self.wanted.get(key, ((now, current),))
        recent = (entry for entry in before if entry[0] > now - self.window)
        return (*(entry for entry in recent if entry[1] > count), (now, count))

    def _lows(self, key: VariantKey, count: int, current: int, now: float) -> History:
        """Return what was wanted; only what is lower than all after it can still be the lowest."""
        if self.up_window <= 0:
            return ((now, count),)
        before = self.lows.get(key, ((now, current),))
        recent = (entry for entry in before if entry[0] > now - self.up_window)
        return (*(entry for entry in recent if entry[1] < count), (now, count))

    def _held(self, variant: VariantPlan, count: int, *, early: bool) -> VariantPlan:
        if early:
            why = f"{variant.replicas} are wanted, but not by every plan of the last {self.up_window:g} s"
        elif count > variant.replicas:
            why = f"{variant.replicas} would do, but {count} were wanted within the last {self.window:g} s"
        else:
            why = (
                f"{variant.replicas} are wanted, but other variants keep the GPUs or the money for them "
                f"until {self.window:g} s after they got them or the operator started, or, where fewer "
                f"requests would fit, after a plan last wanted them"
            )
        words = f"{count} replica" if count == 1 else f"{count} replicas"
        return VariantPlan(count, Reason.HELD_BY_STABILISATION, f"{words}: {why}")


def _takes_room(
    problem: AllocationProblem, before: Mapping[VariantKey, int], after: Mapping[VariantKey, int]
) -> bool:
    """Return whether a move takes room from requests, and brings none that others lack: that is lost now."""
    found = room(problem)
    return found.urgency(before, after) <= 0 and found.takes_less(before, after)


def _settled(
    within: Limits,
    external: float,
    current: Mapping[VariantKey, int],
    target: Mapping[VariantKey, int],
    held: Mapping[VariantKey, int],
    protected: Collection[VariantKey],
) -> dict[VariantKey, int]:
    """Return `target` with as much of `held` as leaves room for what grows; `protected` makes no room."""
    growing = [key for key, count in target.items() if count > current[key]]
    highest = dict(target) | dict(held)
    least = {key: min(count, current[key]) for key, count in target.items()}
    replicas = _lowered(within, external, highest, least, [key for key in held if key not in protected])
    if within.fits(replicas, external):
        return replicas
    replicas = _lowered(within, external, replicas, least, growing)
    replicas = _lowered(within, external, replicas, target, tuple(held))
    for key in (*growing, *held):
        while replicas[key] < highest[key] and within.fits(
            more := replicas | {key: replicas[key] + 1}, external
        ):
            replicas = more
    return replicas


def _lowered(
    within: Limits,
    external: float,
    replicas: Mapping[VariantKey, int],
    least: Mapping[VariantKey, int],
    keys: Collection[VariantKey],
) -> dict[VariantKey, int]:
    """Return `replicas` with those of `keys` lowered towards `least`, one at a time, until all fits."""
    lowered = dict(replicas)
    while True:
        over, poor = within.over(lowered), not within.affordable(lowered, external)
        helping = [
            key
            for key in keys
            if lowered[key] > least[key]
            and (within.variants[key].placement.pool in over or (poor and within.variants[key].hourly > 0))
        ]
        if not helping:
            return lowered
        lowered[max(helping, key=lambda key: lowered[key] - least[key])] -= 1
