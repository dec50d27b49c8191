"""Synchronous batches with fresh slots: the stage on which methods are compared.

In: a `Split`, orders of the test, slots. Out: a `Scene`. Next: `rivals` tunes methods on its past, `referee`
plays them over its test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modelfleet_lab.evaluate.told import Side, Split
from modelfleet_lab.methods import BatchView, FloatArray, IntArray
from modelfleet_lab.methods.calibration import PastBatch

BATCH = 100
_EQUAL = 1e-12
"""Difference of mean qualities that is rounding."""


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What one comparison is about; m models, q test queries."""

    models: tuple[str, ...]
    slots: IntArray
    """(m,) fresh for each full batch; a smaller last batch gets its part, rounded up."""
    past: tuple[PastBatch, ...]
    """In random order."""
    orders: tuple[tuple[PastBatch, ...], ...]
    """The test, once for each order, in batches; outcomes are known to the referee alone."""
    members: tuple[tuple[IntArray, ...], ...]
    """Which queries the batches of `orders` are."""
    single: int
    """Column of the best single model of the past, where slots and money do not matter; of equal ones the
    cheapest."""
    single_quality: FloatArray
    """(q,) of the best single model on the test, with slots for all."""
    single_costs: FloatArray
    """(q,) USD of the same; budgets are shares of their sum."""
    past_single_cost: float
    """The same for the past."""

    @property
    def single_cost(self) -> float:
        """USD that the best single model takes for the whole test."""
        return float(self.single_costs.sum())

    def share(self, cost: float) -> float:
        """Return `cost` USD as a share of the best single model's; raise ValueError where that is free."""
        if self.single_cost <= 0:
            name = self.models[self.single]
            raise ValueError(f"{name}, the best single model, costs nothing: no budget is a share of that")
        return cost / self.single_cost

    @property
    def queries(self) -> int:
        return len(self.single_quality)


def without_limits(models: int) -> IntArray:
    """Return (m,) slots that never bind."""
    return np.full(models, BATCH, dtype=np.int64)


def make_scene(split: Split, slots: IntArray, orders: Sequence[IntArray], *, seed: int) -> Scene:
    """Return the scene; each of `orders` is a permutation of the test's queries."""
    quality, cost = split.past.quality.mean(axis=0), split.past.cost.mean(axis=0)
    single = int(np.where(quality >= quality.max() - _EQUAL, cost, np.inf).argmin())
    shuffled = np.random.default_rng(seed).permutation(len(split.past.quality))
    laid_out = [_batches(split.test, slots, order) for order in orders]
    return Scene(
        models=split.models,
        slots=slots,
        past=_batches(split.past, slots, shuffled)[0],
        orders=tuple(batches for batches, _ in laid_out),
        members=tuple(members for _, members in laid_out),
        single=single,
        single_quality=split.test.quality[:, single],
        single_costs=split.test.cost[:, single],
        past_single_cost=float(split.past.cost[:, single].sum()),
    )


def random_orders(queries: int, count: int, *, seed: int) -> tuple[IntArray, ...]:
    """Return `count` random permutations."""
    random = np.random.default_rng(seed)
    return tuple(random.permutation(queries) for _ in range(count))


def _batches(
    side: Side, slots: IntArray, order: IntArray
) -> tuple[tuple[PastBatch, ...], tuple[IntArray, ...]]:
    members = tuple(order[k : k + BATCH] for k in range(0, len(order), BATCH))
    return tuple(_batch(side, slots, part) for part in members), members


def _batch(side: Side, slots: IntArray, part: IntArray) -> PastBatch:
    shape = (len(part), len(slots))
    fresh = -(-slots * len(part) // BATCH)
    view = BatchView(
        weight=np.ones(len(part)),
        quality=side.told_quality[part],
        cost=side.told_cost[part],
        service_time=np.ones(shape),
        eligible=np.ones(shape, dtype=bool),
        free=fresh,
        slots=fresh,
        money=np.inf,
        now=0.0,
        quality_low=None if side.told_low is None else side.told_low[part],
    )
    return PastBatch(view=view, quality=side.quality[part], cost=side.cost[part])
