"""Stage allocate, the fallback without a program: replicas by marginal value per GPU, then swaps.

In: an `AllocationProblem` and bounds of replicas. Out: replicas and their value. Next: `solver`.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from modelfleet_core.allocation.limits import Limits
from modelfleet_core.allocation.problem import AllocationProblem
from modelfleet_core.allocation.program import SECONDS_PER_HOUR
from modelfleet_core.allocation.worth import Worth
from modelfleet_core.values import ModelName, VariantKey

_WORK = 1_000_000
"""Offers looked at in all: it bounds the time, since one evaluation passes once over all of them."""
_LEAST_EVALUATIONS = 50
_GAIN = 1e-9


class _Evaluator:
    """Value of a choice of replicas when demand takes its best models first."""

    def __init__(self, problem: AllocationProblem, within: Limits, worth: Worth) -> None:
        self._problem = problem
        self._within = within
        self._worth = worth
        self._cells = sorted(
            (
                (demand.weight * offer.quality + demand.shed_penalty, k, name, side)
                for k, demand in enumerate(problem.classes)
                for name, offer in demand.offers.items()
                for side in (0, 1)
                if side == 0 or name in worth.external
            ),
            key=lambda cell: (-cell[0], cell[1], cell[2], cell[3]),
        )
        self.left = max(_LEAST_EVALUATIONS, _WORK // max(1, len(self._cells)))

    def __call__(self, replicas: Mapping[VariantKey, int]) -> float:
        self.left -= 1
        problem, worth = self._problem, self._worth
        busy: dict[ModelName, float] = {}
        value = worth.nothing
        for key, count in replicas.items():
            if count:
                busy[key.model] = busy.get(key.model, 0.0) + count * worth.slots[key]
                value -= worth.thrift[key] * count
                value -= worth.start[key] * max(0, count - self._within.variants[key].now)
        sides = (busy, dict(worth.external))
        admitted = dict(worth.external_rate)
        budget = self._within.budget
        cash = None if budget is None else max(0.0, budget - self._within.cost(replicas)) / SECONDS_PER_HOUR
        money = {policy: max(0.0, rate) for policy, rate in problem.budget_rate.items()}
        rates = [demand.rate for demand in problem.classes]
        for gain, k, name, side in self._cells:
            room = sides[side].get(name, 0.0)
            if not room or not rates[k]:
                continue
            demand = problem.classes[k]
            offer = demand.offers[name]
            rate = rates[k]
            if offer.service_time > 0:
                rate = min(rate, room / offer.service_time)
            if side == 1:
                rate = min(rate, admitted.get(name, rate))
            if offer.cost_usd > 0:
                if side == 1 and cash is not None:
                    rate = min(rate, cash / offer.cost_usd)
                rate = min(rate, money.get(demand.policy, float("inf")) / offer.cost_usd)
            if rate <= 0:
                continue
            rates[k] -= rate
            sides[side][name] = max(0.0, room - rate * offer.service_time)
            if side == 1:
                if name in admitted:
                    admitted[name] -= rate
                if cash is not None:
                    cash = max(0.0, cash - rate * offer.cost_usd)
            if demand.policy in money:
                money[demand.policy] = max(0.0, money[demand.policy] - rate * offer.cost_usd)
            value += rate * gain
        return value


def value(
    problem: AllocationProblem, within: Limits, worth: Worth, replicas: Mapping[VariantKey, int]
) -> float:
    """Return what `replicas` are worth at least."""
    return _Evaluator(problem, within, worth)(replicas)


def allocate(
    problem: AllocationProblem,
    within: Limits,
    worth: Worth,
    *,
    lower: Mapping[VariantKey, int],
    upper: Mapping[VariantKey, int],
) -> tuple[dict[VariantKey, int], float]:
    """Return replicas within `lower`, `upper` and all limits, and their value."""
    evaluate = _Evaluator(problem, within, worth)
    replicas = dict(lower)
    value = evaluate(replicas)
    keys = list(within.variants)
    # Gains mostly fall as others grow: the last known gain of each is an estimate, only the best is redone.
    waiting = [(-float("inf"), number) for number in range(len(keys))]
    while waiting and evaluate.left > 0:
        _, number = heapq.heappop(waiting)
        key = keys[number]
        more = replicas | {key: replicas[key] + 1}
        if more[key] > upper[key] or not within.fits(more):
            continue
        gained = evaluate(more) - value
        rate = gained / max(1, within.variants[key].placement.gpus)
        if gained <= _GAIN:
            continue
        if waiting and -waiting[0][0] > rate:
            heapq.heappush(waiting, (-rate, number))
            continue
        replicas, value = more, value + gained
        heapq.heappush(waiting, (-rate, number))
    improved = True
    while improved and evaluate.left > 0:
        improved = False
        for out in within.variants:
            for into in within.variants:
                swapped = _swap(within, replicas, out, into, lower, upper)
                if swapped is None or evaluate.left <= 0:
                    continue
                after = evaluate(swapped)
                if after > value + _GAIN:
                    replicas, value, improved = swapped, after, True
    return replicas, value


def _swap(
    within: Limits,
    replicas: Mapping[VariantKey, int],
    out: VariantKey,
    into: VariantKey,
    lower: Mapping[VariantKey, int],
    upper: Mapping[VariantKey, int],
) -> dict[VariantKey, int] | None:
    """Return `replicas` with one more of `into` and as few less of `out` as make room; None: not possible."""
    if out == into or replicas[into] >= upper[into]:
        return None
    for fewer in range(replicas[out] - 1, lower[out] - 1, -1):
        swapped = dict(replicas) | {out: fewer, into: replicas[into] + 1}
        if within.fits(swapped):
            return swapped
    return None
