"""Policies that need a budget and an order: played over the test with slots for all, at several budgets.

In: the split as methods see it. Out: `Played` of each method. Next: `figures`, beside the sweeps.

The query gets what the method makes of it in its turn; the measures of a curve then apply as to any policy
with several settings. How methods do where slots are scarce is the question of `capacity`; congestion prices
are there alone, since without scarce slots they are the per-query price.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from modelfleet_lab.evaluate import referee, rivals
from modelfleet_lab.evaluate.scene import make_scene, random_orders, without_limits
from modelfleet_lab.evaluate.sweeps import Played, played
from modelfleet_lab.evaluate.told import Split

BUDGETS = (0.03, 0.06, 0.12, 0.25, 0.37, 0.5, 0.75, 1.0)
"""Shares of the best single model's cost."""
NAMES = {
    "batch": rivals.OURS,
    "published": rivals.PUBLISHED,
    "published_robust": rivals.ROBUST,
    "port": rivals.PORT,
    "port_informed": rivals.PORT_INFORMED,
    "batch_split": rivals.SPLIT,
    "greedy": rivals.GREEDY,
}
"""Names in the result, and as contenders."""


def play(split: Split, *, seed: int, tell: Callable[[str], None]) -> dict[str, Played]:
    """Return each method at all budgets, in one random order of the test."""
    orders = random_orders(len(split.test.quality), 1, seed=seed)
    scene = make_scene(split, without_limits(len(split.models)), orders, seed=seed)
    found = {}
    for name, contender in NAMES.items():
        for one in rivals.named(scene, (contender,)):
            runs = []
            for share in BUDGETS:
                tell(f"{name} with {share:.0%} of the cost of the best single model")
                runs.append(referee.run(scene, one, share))
            found[name] = played(
                np.array([run.quality for run in runs]), np.array([run.cost for run in runs])
            )
    return found
