"""Scarce slots: the models that everybody wants are asked for more than they have.

In: a `Scene` without limits of slots, the tightness, the budget. Out: slots of each model. Next: a `Scene`
with them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modelfleet_lab.evaluate.scene import BATCH, Scene
from modelfleet_lab.methods import BoolArray, FloatArray, IntArray
from modelfleet_lab.methods.calibration import priced

FAVOURITES = 3


@dataclass(frozen=True, slots=True, eq=False)
class Demand:
    """What a batch of the past asks for where slots do not bind."""

    requests: FloatArray
    """(m,) requests of a full batch that one good price per query gives each model."""
    affordable: BoolArray
    """(m,) whether a request's equal part of the budget pays the model's mean cost."""

    @property
    def favourites(self) -> IntArray:
        """Columns of the models that are asked most."""
        return np.argsort(-self.requests, kind="stable")[:FAVOURITES]


def demand(loose: Scene, share: float) -> Demand:
    """Return what the past asks for within `share` of the best single model's cost."""
    budget = share * loose.past_single_cost
    router = priced(loose.past, budget)
    asked = sum(np.bincount(router.choose(b.view), minlength=len(loose.models)) for b in loose.past)
    queries = sum(b.view.size[0] for b in loose.past)
    cost = sum(b.cost.sum(axis=0) for b in loose.past)
    return Demand(np.asarray(asked) * (BATCH / queries), np.asarray(cost <= budget))


def scarce(wanted: Demand, tightness: float, *, fewest: bool = False) -> IntArray:
    """Return (m,) slots for a batch: a favourite's demand / `tightness`; the rest shared so that all fit.

    The others get equal slots, the fewest with which the models that a request's equal part of the budget
    pays hold a whole batch. So every request fits in slots and in money whatever the method, and none is
    forced onto models that the budget can not pay. Where the budget pays none, all models count. With
    `fewest`, all models always count: then nearly every slot has to be used, the dearest too.
    """
    chosen = wanted.favourites
    slots = np.zeros(wanted.requests.size, dtype=np.int64)
    slots[chosen] = np.maximum(1, np.floor(wanted.requests[chosen] / tightness)).astype(np.int64)
    others = np.setdiff1d(np.arange(slots.size), chosen)
    everything = fewest or not wanted.affordable[others].any()
    counted = np.ones(slots.size, dtype=bool) if everything else wanted.affordable
    missing = max(0, BATCH - int(slots[counted].sum()))
    slots[others] = -(-missing // max(1, int(counted[others].sum())))
    return slots
