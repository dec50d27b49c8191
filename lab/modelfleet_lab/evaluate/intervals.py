"""How sure a figure is: paired bootstrap over the test queries.

In: what each test query got at the corners of a policy's hull. Out: 95 % intervals of whatever is read from
the curve. Next: `figures`.

Every policy, and the best single model that it is measured by, sees the same resampled queries. The prices
at the corners are those of the whole test: they are not chosen anew in each sample, which would favour
policies with many settings. Among them, the hull is drawn anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from modelfleet_lab.evaluate.curves import Curve, curve
from modelfleet_lab.methods import FloatArray

LEVEL = 0.95
_CHUNK = 4_000_000
"""Weights held in memory at a time."""


def draws(queries: int, resamples: int, seed: int) -> Iterator[FloatArray]:
    """Yield (b, n) how often each query is drawn, `resamples` rows in all; the same for the same seed."""
    random = np.random.default_rng(seed)
    even = np.full(queries, 1.0 / queries)
    step = max(1, _CHUNK // queries)
    for first in range(0, resamples, step):
        size = min(step, resamples - first)
        yield random.multinomial(queries, even, size=size).astype(np.float64)


def resampled(
    each_cost: FloatArray, each_quality: FloatArray, queries: int, resamples: int, seed: int
) -> tuple[FloatArray, FloatArray]:
    """Return mean cost (b, v) and quality (b, v) of every resample, from (v, n) of every query."""
    costs, qualities = [], []
    for weights in draws(queries, resamples, seed):
        costs.append(weights @ each_cost.T / queries)
        qualities.append(weights @ each_quality.T / queries)
    return np.concatenate(costs), np.concatenate(qualities)


def read_curves(
    cost: FloatArray, quality: FloatArray, read: Callable[[int, Curve], FloatArray]
) -> FloatArray:
    """Return (b, f) what `read` finds on the curve of each resample (b, v); it gets the resample's number."""
    return np.array([read(b, curve(cost[b], quality[b])) for b in range(len(cost))])


def interval(values: FloatArray) -> tuple[float, float] | None:
    """Return the 95 % percentile interval of (b,) values; None where it has no finite end.

    Values that are not numbers are left out; infinite ones are at the upper end, so that a figure that too
    many resamples do not reach has none.
    """
    known = values[~np.isnan(values)]
    if not known.size:
        return None
    tail = (1 - LEVEL) / 2
    # "lower" and "higher" never interpolate, so an infinite value does not spoil its neighbours.
    low = float(np.quantile(known, tail, method="lower"))
    high = float(np.quantile(known, 1 - tail, method="higher"))
    return (low, high) if np.isfinite(low) and np.isfinite(high) else None
