"""Finds the prices at which a method spends its budget best, on past batches whose outcomes are known.

In: `PastBatch`es and a budget. Out: methods with their prices set. Next: the
batch experiments. So each method plays at its best: whatever a user could tune on past traffic is tuned here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from modelfleet_core.assignment.problem import AssignmentProblem, Row
from modelfleet_core.assignment.solver import assign

from modelfleet_lab.methods import BatchView, FloatArray, IntArray, Method
from modelfleet_lab.methods.batch_split import BatchSplit
from modelfleet_lab.methods.per_query import Constant, Priced

DEAREST = 1e9
"""Quality per USD at which nothing but free models is chosen."""
_STEPS = 15
_RISES = (0.02, 0.05, 0.1, 0.2, 0.4)
_POWERS = (1.0, 2.0, 4.0)
_PRICES_ONLY = 0.2
"""Seconds that the solver is told are left, always: enough for prices, too few for a program."""


@dataclass(frozen=True, slots=True, eq=False)
class PastBatch:
    """What a method saw, or would have seen, and what came of it."""

    view: BatchView
    quality: FloatArray
    """(n, m) as it turned out."""
    cost: FloatArray
    """(n, m) USD as billed."""

    def outcome(self, choice: IntArray) -> tuple[float, float]:
        """Return weighted quality and USD of `choice`; a request without an answer has quality 0."""
        at = np.flatnonzero(choice >= 0)
        gained = self.view.weight[at] * self.quality[at, choice[at]]
        return float(gained.sum()), float(self.cost[at, choice[at]].sum())


def play(method: Method, past: Sequence[PastBatch], *, money: float = np.inf) -> tuple[float, float]:
    """Return weighted quality and USD of `method` over `past`, with `money` USD for each batch."""
    outcomes = [batch.outcome(method.choose(replace(batch.view, money=money))) for batch in past]
    return sum(quality for quality, _ in outcomes), sum(cost for _, cost in outcomes)


def calibrated_price(make: Callable[[float], Method], past: Sequence[PastBatch], budget: float) -> float:
    """Return the lowest price of money (by bisection) at which `past` costs at most `budget` USD in all."""

    def too_dear(price: float) -> bool:
        return play(make(price), past)[1] > budget

    if not too_dear(0.0):
        return 0.0
    low, high = 0.0, 1.0
    while too_dear(high) and high < DEAREST:
        low, high = high, high * 4
    for _ in range(_STEPS):
        middle = (low + high) / 2
        if too_dear(middle):
            low = middle
        else:
            high = middle
    return high


def best_constant(past: Sequence[PastBatch], budget: float = np.inf) -> Constant:
    """Return the model of the highest mean quality among those that could answer all within `budget` USD.

    Where none could, the cheapest.
    """
    quality = sum((batch.view.weight @ batch.quality for batch in past), start=0.0)
    cost = np.asarray(sum((batch.cost.sum(axis=0) for batch in past), start=0.0))
    affordable = cost <= budget
    return Constant(
        int(np.where(affordable, quality, -np.inf).argmax() if affordable.any() else cost.argmin())
    )


def priced(past: Sequence[PastBatch], budget: float) -> Priced:
    """Return one price for all queries, which spends `budget` USD on `past` with its slots."""
    return Priced(calibrated_price(Priced, past, budget))


def congestion_priced(past: Sequence[PastBatch], budget: float) -> Priced:
    """Return the price with prices of slots that rise with load: the rise that served `past` best."""

    def make(rise: float, power: float) -> Priced:
        def at(price: float) -> Priced:
            return Priced(price, rise=rise, power=power, name="congestion prices")

        return at(calibrated_price(at, past, budget))

    candidates = [make(0.0, 1.0), *(make(rise, power) for rise in _RISES for power in _POWERS)]
    return max(candidates, key=lambda method: play(method, past)[0])


def slot_priced(past: Sequence[PastBatch], budget: float) -> Priced:
    """Return the price with constant prices of slots: the mean duals of `past`, each batch at its optimum."""
    share = budget / max(1, sum(batch.view.size[0] for batch in past))
    duals, seconds = [], []
    for batch in past:
        view = batch.view
        money = Row("money", view.cost, share * view.size[0])
        duals.append(assign(problem_of(view, rows=(money,)), remaining=lambda: _PRICES_ONLY).slot_prices)
        seconds.append(view.service_time.mean(axis=0))
    prices = np.mean(duals, axis=0) / np.maximum(np.mean(seconds, axis=0), 1e-9)

    def at(price: float) -> Priced:
        return Priced(price, slot_price=prices, name="constant slot prices")

    return at(calibrated_price(at, past, budget))


def batch_split(past: Sequence[PastBatch], budget: float, batch: int = 8) -> BatchSplit:
    """Return BatchSplit with the price that served `past` best under its equal parts of `budget`."""
    at_leisure = calibrated_price(lambda price: BatchSplit(price, batch=batch), past, budget)
    prices = [0.0, *(at_leisure * factor for factor in (0.25, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5, 2.0))]
    money = budget / max(1, len(past))
    candidates = [BatchSplit(price, batch=batch) for price in prices]
    return max(candidates, key=lambda method: play(method, past, money=money)[0])


def problem_of(
    view: BatchView,
    *,
    rows: tuple[Row, ...],
    quality: FloatArray | None = None,
    money_price: float = 0.0,
) -> AssignmentProblem:
    """Return the view as the core's program; to leave a request out loses its weight, as quality 1 would."""
    return AssignmentProblem(
        weight=view.weight,
        quality=view.quality if quality is None else quality,
        cost=view.cost,
        service_time=view.service_time,
        eligible=view.eligible,
        free=view.free,
        slot_price=np.zeros(view.size[1]),
        money_price=money_price,
        defer=view.weight.astype(np.float64),
        rows=rows,
    )
