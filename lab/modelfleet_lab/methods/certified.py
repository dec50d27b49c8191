"""The product's own assignment as one of the methods, so that all are asked through one interface.

In: a `BatchView`. Out: a column for each request. Next: the batch experiments of the evaluation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from modelfleet_core.assignment.problem import Row
from modelfleet_core.assignment.result import Prices
from modelfleet_core.assignment.solver import assign

from modelfleet_lab.methods import BatchView, FloatArray, IntArray
from modelfleet_lab.methods.calibration import PastBatch, calibrated_price, play, problem_of

_SECONDS = 0.2
"""Told to the solver as left, always: enough for prices and repair, too few for a program, and the same on
every machine."""
_MULTIPLES = np.array([1.0, 1.5, 2.0, 3.0, 5.0, 10.0])
"""Of the calibrated price: what the past would have cost at them is known."""


class Certified:
    """The core's solver with a reserve price: quality per USD that an answer must be worth, 0 for none."""

    def __init__(self, money_price: float = 0.0, *, name: str = "ours") -> None:
        self.name = name
        self._money_price = money_price
        self._warm: Prices | None = None

    def choose(self, view: BatchView) -> IntArray:
        rows = (Row("money", view.cost, view.money),) if np.isfinite(view.money) else ()
        problem = problem_of(view, rows=rows, money_price=self._money_price)
        answer = assign(problem, remaining=lambda: _SECONDS, warm=self._warm)
        self._warm = answer.prices
        return answer.choice

    def ask(self, money_price: float) -> None:
        """Ask this price from now on."""
        self._money_price = money_price


@dataclass(frozen=True, slots=True, eq=False)
class Reserve:
    """What a reserve price makes of past traffic."""

    prices: FloatArray
    """(k,) rising, from the calibrated one."""
    rates: FloatArray
    """(k,) USD per request that the past cost at each, not rising."""
    cheapest: float
    """USD per request of the cheapest model."""

    def price(self, rate: float) -> float:
        """Return the price at which requests like the past's cost `rate` USD; at least the calibrated one."""
        return float(np.interp(-rate, -self.rates, self.prices))


def reserve(past: Sequence[PastBatch], budget: float) -> Reserve:
    """Return the price that spends `budget` USD on `past`, and what higher ones would spend."""
    requests = sum(batch.view.size[0] for batch in past)
    lowest = calibrated_price(Certified, past, budget)
    prices = lowest * _MULTIPLES if lowest > 0 else np.zeros(1)
    spent = [play(Certified(price), past)[1] / requests for price in prices.tolist()]
    cost = np.sum([batch.cost.sum(axis=0) for batch in past], axis=0) / requests
    return Reserve(prices, np.minimum.accumulate(np.array(spent)), float(cost.min()))


class Paced:
    """The same, paced over `requests` requests to come: views give as money what is left in all.

    The calibrated price decides when to spend. What it leaves carries on; where more was spent than the
    requests so far should have cost, the price rises until what is left lasts. The row keeps what the
    requests behind cost at the least.
    """

    name = "ours"

    def __init__(self, requests: int, known: Reserve) -> None:
        self._behind = requests
        self._known = known
        self._solver = Certified()

    def choose(self, view: BatchView) -> IntArray:
        n = view.size[0]
        rate = view.money / max(1, self._behind)
        self._behind = max(0, self._behind - n)
        self._solver.ask(self._known.price(rate))
        return self._solver.choose(
            replace(view, money=max(0.0, view.money - self._behind * self._known.cheapest))
        )
