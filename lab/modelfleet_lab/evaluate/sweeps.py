"""Policies that choose per query by a price of money: all that one set of estimates can do.

In: estimates of quality and cost for each query and model. Out: `Sweep`, the model that each query gets at
each price. Next: `curves` through the recorded outcomes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modelfleet_lab.methods import FloatArray

Choices = npt.NDArray[np.int16]
"""Columns of models; -1: no answer."""
PRICES = 600
_DECADES = 6.0
"""Prices on either side of the one at which the middle spread of cost is worth all quality."""
_CELLS = 4_000_000
"""Scores held in memory at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Sweep:
    """One policy at k settings, over n queries."""

    choice: Choices
    """(k, n)"""

    def points(self, quality: FloatArray, cost: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return mean cost (k,) and mean quality (k,) by outcomes (n, m); no answer: neither."""
        each_quality, each_cost = self.outcomes(quality, cost)
        return each_cost.mean(axis=1), each_quality.mean(axis=1)

    def outcomes(self, quality: FloatArray, cost: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Return quality (k, n) and cost (k, n) that each query got."""
        rows = np.arange(self.choice.shape[1])
        answered = self.choice >= 0
        column = np.maximum(self.choice, 0)
        return np.where(answered, quality[rows, column], 0.0), np.where(answered, cost[rows, column], 0.0)

    def at(self, settings: npt.NDArray[np.int64]) -> Sweep:
        """Return the policy at some of its settings."""
        return Sweep(self.choice[settings])


def constants(queries: int, models: int) -> Sweep:
    """Return every model for all queries; the hull of their points are their random mixes."""
    return Sweep(np.repeat(np.arange(models, dtype=np.int16)[:, None], queries, axis=1))


def priced(quality: FloatArray, cost: FloatArray) -> Sweep:
    """Return `argmax_j quality_ij - price cost_ij` for every query at `PRICES` prices, from high to low.

    The prices are geometric around those at which the estimates change their mind, from one at which only
    cost counts to one at which it only decides between equals. Settings that change nothing are left out.
    """
    n, m = quality.shape
    # Of equal scores the first column is taken: cheaper models stand first.
    order = np.argsort(cost.mean(axis=0), kind="stable")
    quality, cost = quality[:, order], cost[:, order]
    spread = np.ptp(cost, axis=1)
    typical = float(np.median(spread[spread > 0])) if (spread > 0).any() else 1.0
    prices = np.logspace(_DECADES, -_DECADES, PRICES) / typical
    found = np.empty((PRICES, n), dtype=np.int16)
    step = max(1, _CELLS // max(1, n * m))
    for first in range(0, PRICES, step):
        part = prices[first : first + step]
        scores = quality - part[:, None, None] * cost
        found[first : first + step] = order[scores.argmax(axis=2)]
    changed = np.concatenate(([True], (found[1:] != found[:-1]).any(axis=1)))
    return Sweep(found[changed])


def best_of(quality: FloatArray, cost: FloatArray) -> npt.NDArray[np.int64]:
    """Return (n,) the model of the highest quality for each query, of equal ones the cheapest."""
    best = quality >= quality.max(axis=1, keepdims=True) - 1e-12
    column: npt.NDArray[np.int64] = np.where(best, cost, np.inf).argmin(axis=1)
    return column
