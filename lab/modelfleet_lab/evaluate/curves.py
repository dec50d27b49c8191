"""Quality against cost: the upper concave hull of a policy's points, and what is read from it.

In: (cost, quality) points of one policy, or of every constant model. Out: `Curve`, K@t and R@f. Next:
`figures` and `intervals`.

Any mix of two settings, drawn at random for each query, is a policy too: its point lies on the line between
theirs. So a family of settings is as good as its concave hull. The origin belongs to every hull: to answer
nothing costs nothing and is worth nothing, and may be mixed with the cheapest setting.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modelfleet_lab.methods import FloatArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class Curve:
    """The best that mixes of a policy's settings reach: concave and rising, from the origin to its best.

    Beyond the last point it goes on level: money that is left need not be spent.
    """

    cost: FloatArray
    """(v,) rising; the first is 0."""
    quality: FloatArray
    """(v,) rising; the first is 0, or the quality of what costs nothing."""

    def quality_at(self, cost: float) -> float:
        """Return the quality for a mean cost of `cost`."""
        return float(np.interp(cost, self.cost, self.quality))

    def cost_of(self, quality: float) -> float:
        """Return the least mean cost of `quality`; infinite where it is not reached."""
        if quality > self.quality[-1] * (1 + 1e-12):
            return float("inf")
        return float(np.interp(quality, self.quality, self.cost))


def vertices(cost: FloatArray, quality: FloatArray) -> IntArray:
    """Return which of the points (k,) are corners of the hull with the origin, by rising cost.

    A point that another beats, or a mix of others, is none. Of equal points the first is.
    """
    chosen: list[int] = []
    top = 0.0
    for i in np.lexsort((-quality, cost)).tolist():
        if quality[i] <= top:
            continue
        top = float(quality[i])
        while chosen:
            a = chosen[-2] if len(chosen) > 1 else None
            before = (0.0, 0.0) if a is None else (float(cost[a]), float(quality[a]))
            b = chosen[-1]
            rise = (quality[b] - before[1]) * (cost[i] - before[0])
            if rise > (quality[i] - before[1]) * (cost[b] - before[0]):
                break
            chosen.pop()
        chosen.append(i)
    return np.array(chosen, dtype=np.int64)


def curve(cost: FloatArray, quality: FloatArray) -> Curve:
    """Return the hull of points (k,) and the origin."""
    corners = vertices(cost, quality)
    x, y = cost[corners], quality[corners]
    if not corners.size or x[0] > 0:
        x, y = np.concatenate(([0.0], x)), np.concatenate(([0.0], y))
    return Curve(cost=x, quality=y)


def cost_share(of: Curve, share: float, *, single_cost: float, single_quality: float) -> float:
    """Return K@`share`: the fraction of the best single model's cost for `share` of its quality.

    Infinite where the policy does not reach it; not a number where the best single model costs nothing.
    """
    if single_cost <= 0:
        return float("nan")
    return of.cost_of(share * single_quality) / single_cost


def relative_quality(of: Curve, fraction: float, *, single_cost: float, single_quality: float) -> float:
    """Return R@`fraction`: quality at that fraction of the best single model's cost, relative to its own.

    Not a number where the best single model never answers right.
    """
    if single_quality <= 0:
        return float("nan")
    return of.quality_at(fraction * single_cost) / single_quality
