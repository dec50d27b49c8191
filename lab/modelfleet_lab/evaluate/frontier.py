"""What a method that is told a budget makes of many budgets: quality against cost, on the stage of batches.

In: a `Scene`, a method's `Run`s at several budgets. Out: `Frontier`. Next: `order`. The curve is the hull
over the budgets, as it is over prices elsewhere, for every method alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modelfleet_lab.evaluate.curves import Curve, cost_share, relative_quality
from modelfleet_lab.evaluate.figures import Figure
from modelfleet_lab.evaluate.intervals import interval, read_curves, resampled
from modelfleet_lab.evaluate.referee import RESAMPLES, Run
from modelfleet_lab.evaluate.scene import Scene
from modelfleet_lab.evaluate.sweeps import played
from modelfleet_lab.methods import FloatArray

SHARES = (95, 98, 100)
"""Percent of the best single model's quality whose cost is told: k95, k98, k100."""
FRACTIONS = (25, 37, 50)
"""Percent of the best single model's cost at which quality is told: r25, ..."""


@dataclass(frozen=True, slots=True)
class Frontier:
    name: str
    points: tuple[tuple[float, float], ...]
    """Cost and quality at each budget, as shares of the best single model's."""
    figures: dict[str, Figure]

    def json(self) -> dict[str, object]:
        result: dict[str, object] = {"points": [list(point) for point in self.points]}
        for name, figure in self.figures.items():
            result |= figure.json(name)
        return result


def frontier(scene: Scene, name: str, runs: Sequence[Run], *, seed: int) -> Frontier:
    """Return what is read from the hull of `runs`; intervals by bootstrap over the test's queries."""
    quality = np.stack([one.quality for one in runs])
    cost = np.stack([one.cost for one in runs])
    corners = played(quality, cost)
    costs, qualities = resampled(
        np.vstack((corners.cost, scene.single_costs)),
        np.vstack((corners.quality, scene.single_quality)),
        scene.queries,
        RESAMPLES,
        seed,
    )
    drawn = read_curves(
        costs[:, :-1], qualities[:, :-1], lambda b, of: _read(of, costs[b, -1], qualities[b, -1])
    )
    best, dear = float(scene.single_quality.mean()), scene.single_cost / scene.queries
    values = _read(corners.curve, dear, best)
    names = [f"k{t}" for t in SHARES] + [f"r{f}" for f in FRACTIONS]
    return Frontier(
        name=name,
        points=tuple(
            (scene.share(float(c.sum())), float(q.mean()) / best) for q, c in zip(quality, cost, strict=True)
        ),
        figures={one: Figure(float(values[i]), interval(drawn[:, i])) for i, one in enumerate(names)},
    )


def _read(of: Curve, single_cost: float, single_quality: float) -> FloatArray:
    shares = [cost_share(of, t / 100, single_cost=single_cost, single_quality=single_quality) for t in SHARES]
    fractions = [
        relative_quality(of, f / 100, single_cost=single_cost, single_quality=single_quality)
        for f in FRACTIONS
    ]
    return np.array(shares + fractions)
