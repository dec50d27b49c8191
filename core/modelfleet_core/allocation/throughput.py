"""Stage allocate, how many requests the replicas can take: what a move may not lower at once.

In: an `AllocationProblem`. Out: `Room`, which compares replicas before and after a move. Next: `stabilise`
says whether a move waits, and scale how much of it may happen at one time.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelfleet_core.allocation.problem import AllocationProblem
from modelfleet_core.catalog import PoolPlacement
from modelfleet_core.division import capacity
from modelfleet_core.values import VariantKey

_SPARE = 2.0
"""How many times the requests of now there must be room for: they come in bursts and may become more."""
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Asked:
    """Requests of one class, or of all classes together."""

    rate: float
    """Requests per second."""
    takes: Mapping[VariantKey, float]
    """Requests per second that one replica takes; an absent variant takes none."""

    def room(self, replicas: Mapping[VariantKey, int]) -> float:
        """Return the requests per second that `replicas` take."""
        return sum(replicas.get(key, 0) * rate for key, rate in self.takes.items())


@dataclass(frozen=True, slots=True)
class Room:
    """What replicas take of the present requests. External endpoints stay as they are and are left out."""

    asked: tuple[Asked, ...]
    """For each class, and last for all in their present mix."""

    def takes_less(self, before: Mapping[VariantKey, int], after: Mapping[VariantKey, int]) -> bool:
        """Return whether `after` has room for fewer requests, in all or of some class.

        Room beyond twice the requests of now does not count.
        """
        return any(
            found.room(after) < min(found.room(before), _SPARE * found.rate) * (1 - _ROUNDING)
            for found in self.asked
        )

    def urgency(self, before: Mapping[VariantKey, int], after: Mapping[VariantKey, int]) -> float:
        """Return the share of the way from `before` to `after` that brings the room which requests lack.

        0 where none lacks room that `after` has; 1 where all of it is lacking. Of all classes the highest.
        """
        highest = 0.0
        for found in self.asked:
            now, then = found.room(before), found.room(after)
            if now < found.rate and then > now * (1 + _ROUNDING):
                highest = max(highest, min(1.0, (found.rate - now) / (then - now)))
        return highest

    def uses(self, key: VariantKey) -> bool:
        """Return whether any request may use the variant."""
        return any(key in found.takes for found in self.asked)


def room(problem: AllocationProblem) -> Room:
    """Return what replicas of pools take of the problem's requests."""
    speeds = capacity.speeds(problem.fleet)
    slots = {
        variant.key: variant.concurrency * speeds[variant.key]
        for variant in problem.fleet.variants()
        if isinstance(variant.placement, PoolPlacement)
    }
    asked: list[Asked] = []
    busy: dict[VariantKey, float] = {}
    rates: dict[VariantKey, float] = {}
    for demand in problem.classes:
        takes: dict[VariantKey, float] = {}
        for key, count in slots.items():
            offer = demand.offers.get(key.model)
            if offer is None or offer.service_time <= 0 or demand.rate <= 0:
                continue
            takes[key] = count / offer.service_time
            rates[key] = rates.get(key, 0.0) + demand.rate
            busy[key] = busy.get(key, 0.0) + demand.rate * offer.service_time
        asked.append(Asked(demand.rate, takes))
    mixed = {key: slots[key] * rates[key] / busy[key] for key in busy}
    return Room((*asked, Asked(sum(demand.rate for demand in problem.classes), mixed)))
