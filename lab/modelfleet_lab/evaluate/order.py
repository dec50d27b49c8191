"""Orders that hurt: what a budget buys when requests come from easy to hard, or the dearest first.

In: a `Split`. Out: `Orders`, each method's quality against cost in each order. Next: the section `order` of
the evaluation.

Slots are plenty here, so that only money over time is in question. Methods are tuned on the past in random
order: none knows the order to come. Without limits of slots the published program is ours without reserve
price, so it is not played.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from modelfleet_lab.evaluate.frontier import Frontier, frontier
from modelfleet_lab.evaluate.referee import run as play
from modelfleet_lab.evaluate.rivals import (
    GREEDY,
    MIX,
    OURS,
    PORT,
    PORT_INFORMED,
    PRICED,
    SPLIT,
    UNRESERVED,
    named,
)
from modelfleet_lab.evaluate.scene import BATCH, Scene, make_scene, random_orders, without_limits
from modelfleet_lab.evaluate.told import Side, Split
from modelfleet_lab.methods import IntArray

RANDOM = "random"
EASY_TO_HARD = "easy-to-hard"
COST = "cost"
NAMES = (RANDOM, EASY_TO_HARD, COST)
BUDGETS = (0.05, 0.1, 0.15, 0.2, 0.225, 0.25, 0.275, 0.3, 0.325, 0.35, 0.375, 0.4, 0.45, 0.5, 0.6, 0.8)
"""Shares of the best single model's cost."""
_METHODS = (OURS, UNRESERVED, PRICED, PORT_INFORMED, PORT, SPLIT, GREEDY, MIX)


@dataclass(frozen=True, slots=True)
class Orders:
    found: dict[str, tuple[Frontier, ...]]
    """By order; ours first."""

    def json(self) -> dict[str, object]:
        """Return the section; the keys of `orders` are the orders' names."""
        return {
            "batch": BATCH,
            "orders": {
                name: {"methods": {one.name: one.json() for one in found}}
                for name, found in self.found.items()
            },
        }


def arrange(test: Side, name: str, *, seed: int) -> IntArray:
    """Return the order called `name` as a permutation of the test; raise ValueError for other names.

    `random`; `easy-to-hard`: rising predicted cost, its mean over models; `cost`: the dearest first, by the
    same. Queries that are as dear as each other come as in the data.
    """
    dear = test.told_cost.mean(axis=1)
    if name == RANDOM:
        return random_orders(len(dear), 1, seed=seed)[0]
    if name == EASY_TO_HARD:
        return np.argsort(dear, kind="stable")
    if name == COST:
        return np.argsort(-dear, kind="stable")
    raise ValueError(f"there is no order {name!r}; choose of {', '.join(NAMES)}")


def run(
    split: Split,
    *,
    seed: int,
    orders: Sequence[str] = NAMES,
    budgets: Sequence[float] = BUDGETS,
    progress: Callable[[str], None],
) -> Orders:
    """Play each method at each of `budgets` in each of `orders`."""

    def scene(name: str) -> Scene:
        arranged = arrange(split.test, name, seed=seed)
        return make_scene(split, without_limits(len(split.models)), (arranged,), seed=seed)

    scenes = {name: scene(name) for name in orders}
    # All scenes have the same past, so what is tuned for one is tuned for all.
    competing = named(next(iter(scenes.values())), _METHODS)
    found: dict[str, tuple[Frontier, ...]] = {}
    for name, stage in scenes.items():
        played = []
        for contender in competing:
            progress(f"order {name}: {contender.name}")
            runs = [play(stage, contender, budget) for budget in budgets]
            played.append(frontier(stage, contender.name, runs, seed=seed))
        found[name] = tuple(played)
    return Orders(found)
