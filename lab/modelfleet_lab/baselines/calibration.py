"""Finds the price of money at which a baseline spends its budget, on past traffic.

In: past requests with their offers and service times, the slots, the budget. Out: the price of `Priced`.
Next: `demo.rivals`. Past traffic is simulated with its bursts and the slots of the servers, since a full
favourite sends requests elsewhere, which changes what they cost.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modelfleet_lab.baselines import Offer, Priced, Rule

DEAREST = 1e9
"""Quality per USD at which nothing but free models is chosen."""
STEPS = 25


@dataclass(frozen=True, slots=True)
class PastRequest:
    at: float
    offers: tuple[Offer, ...]
    seconds: Mapping[str, float]
    """How long each model takes."""


def simulated_spend(rule: Rule, past: Sequence[PastRequest], slots: Mapping[str, int]) -> float:
    """Return what `rule` spends on `past`, in USD: requests wait in order of arrival for a free slot."""
    free = dict(slots)
    ends: list[tuple[float, str]] = []
    waiting: deque[PastRequest] = deque()
    spent = 0.0

    def send(now: float) -> float:
        cost = 0.0
        while waiting:
            model = rule.choose(waiting[0].offers, free)
            if model is None:
                break
            request = waiting.popleft()
            free[model] -= 1
            heapq.heappush(ends, (now + request.seconds[model], model))
            cost += next(offer.cost for offer in request.offers if offer.model == model)
        return cost

    for request in past:
        while ends and ends[0][0] <= request.at:
            now, model = heapq.heappop(ends)
            free[model] += 1
            spent += send(now)
        waiting.append(request)
        spent += send(request.at)
    while ends:
        now, model = heapq.heappop(ends)
        free[model] += 1
        spent += send(now)
    return spent


def calibrated_price(past: Sequence[PastRequest], slots: Mapping[str, int], budget: float) -> float:
    """Return the lowest price (by bisection) at which `past` costs at most `budget` USD; 0 if money is
    plenty.
    """
    if simulated_spend(Priced(0.0), past, slots) <= budget:
        return 0.0
    low, high = 0.0, 1.0
    while simulated_spend(Priced(high), past, slots) > budget and high < DEAREST:
        low, high = high, high * 4
    for _ in range(STEPS):
        middle = (low + high) / 2
        if simulated_spend(Priced(middle), past, slots) > budget:
            low = middle
        else:
            high = middle
    return high
