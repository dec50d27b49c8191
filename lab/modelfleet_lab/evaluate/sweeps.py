"""Policies that choose per query by a price of money: all that one set of estimates can do.

In: estimates of quality and cost for each query and model. Out: `Sweep`, the model that each query gets at
each price, and `Played`, what the recorded outcomes make of it. Next: `figures`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modelfleet_lab.evaluate.curves import Curve, curve, vertices
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

    def played(self, quality: FloatArray, cost: FloatArray) -> Played:
        """Return what outcomes (n, m) make of it, at the settings that are corners of its hull."""
        rows = np.arange(self.choice.shape[1])
        answered = self.choice >= 0
        column = np.maximum(self.choice, 0)
        each_quality = np.where(answered, quality[rows, column], 0.0)
        each_cost = np.where(answered, cost[rows, column], 0.0)
        return played(each_quality, each_cost)


@dataclass(frozen=True, slots=True, eq=False)
class Played:
    """What n queries got at the v settings of a policy that are corners of its hull, by rising cost."""

    quality: FloatArray
    """(v, n)"""
    cost: FloatArray
    """(v, n) USD."""

    @property
    def curve(self) -> Curve:
        return curve(self.cost.mean(axis=1), self.quality.mean(axis=1))


def played(quality: FloatArray, cost: FloatArray) -> Played:
    """Return the corners among settings (k, n)."""
    corners = vertices(cost.mean(axis=1), quality.mean(axis=1))
    return Played(quality[corners], cost[corners])


def constants(queries: int, models: int) -> Sweep:
    """Return every model for all queries; the hull of their points are their random mixes."""
    return Sweep(np.repeat(np.arange(models, dtype=np.int16)[:, None], queries, axis=1))


def priced(quality: FloatArray, cost: FloatArray, *, prices: int = PRICES) -> Sweep:
    """Return `argmax_j quality_ij - price cost_ij` for every query at `prices` prices, from high to low.

    The prices are geometric around those at which the estimates change their mind, from one at which only
    cost counts to one at which it only decides between equals. Settings that change nothing are left out.
    """
    n, m = quality.shape
    # Of equal scores the first column is taken: cheaper models stand first.
    order = np.argsort(cost.mean(axis=0), kind="stable")
    quality, cost = quality[:, order], cost[:, order]
    spread = np.ptp(cost, axis=1)
    typical = float(np.median(spread[spread > 0])) if (spread > 0).any() else 1.0
    tried = np.logspace(_DECADES, -_DECADES, prices) / typical
    found = np.empty((prices, n), dtype=np.int16)
    step = max(1, _CELLS // max(1, n * m))
    for first in range(0, prices, step):
        part = tried[first : first + step]
        scores = quality - part[:, None, None] * cost
        found[first : first + step] = order[scores.argmax(axis=2)]
    changed = np.concatenate(([True], (found[1:] != found[:-1]).any(axis=1)))
    return Sweep(found[changed])
