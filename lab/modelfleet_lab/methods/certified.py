"""The product's own assignment as one of the methods, so that all are asked through one interface.

In: a `BatchView`. Out: a column for each request. Next: the batch experiments of the evaluation.
"""

from __future__ import annotations

import numpy as np
from modelfleet_core.assignment.problem import Row
from modelfleet_core.assignment.result import Prices
from modelfleet_core.assignment.solver import assign

from modelfleet_lab.methods import BatchView, IntArray
from modelfleet_lab.methods.calibration import problem_of

_SECONDS = 0.2
"""Told to the solver as left, always: enough for prices and repair, too few for a program, and the same on
every machine."""


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
