"""Stage allocate, how many requests the replicas can take: what a move may not lower at once.

In: an `AllocationProblem` and replicas before and after. Out: whether fewer of the present requests fit.
Next: `stabilise`.
"""

from __future__ import annotations

from collections.abc import Mapping

from modelfleet_core.allocation.limits import Limits
from modelfleet_core.allocation.problem import AllocationProblem
from modelfleet_core.division import capacity
from modelfleet_core.values import VariantKey

_SPARE = 2.0
"""How many times the requests of now there must be room for: they come in bursts and may become more."""
_ROUNDING = 1e-9


def takes_less(
    problem: AllocationProblem,
    within: Limits,
    before: Mapping[VariantKey, int],
    after: Mapping[VariantKey, int],
) -> bool:
    """Return whether `after` has room for fewer requests per second of the present mix than `before`.

    Room beyond twice the requests of now does not count, in all and for each class. Where a class has too
    little before and more after, nothing else counts: what it lacks is lost now. External endpoints are the
    same before and after and are left out.
    """
    speeds = capacity.speeds(problem.fleet)
    slots = {key: v.variant.concurrency * speeds[key] for key, v in within.variants.items()}
    busy: dict[VariantKey, float] = {}
    asked: dict[VariantKey, float] = {}
    less = False
    for demand in problem.classes:
        room_before = room_after = 0.0
        for key, count in slots.items():
            offer = demand.offers.get(key.model)
            if offer is None or offer.service_time <= 0 or demand.rate <= 0:
                continue
            room_before += before.get(key, 0) * count / offer.service_time
            room_after += after.get(key, 0) * count / offer.service_time
            asked[key] = asked.get(key, 0.0) + demand.rate
            busy[key] = busy.get(key, 0.0) + demand.rate * offer.service_time
        if room_before < demand.rate and room_after > room_before * (1 + _ROUNDING):
            return False
        less |= _less(room_before, room_after, demand.rate)
    rates = {key: slots[key] * asked[key] / busy[key] for key in busy}
    all_before = sum(before.get(key, 0) * rate for key, rate in rates.items())
    all_after = sum(after.get(key, 0) * rate for key, rate in rates.items())
    return less or _less(all_before, all_after, sum(demand.rate for demand in problem.classes))


def _less(before: float, after: float, rate: float) -> bool:
    return after < min(before, _SPARE * rate) * (1 - _ROUNDING)
