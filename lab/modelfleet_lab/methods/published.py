"""The published batch method: instances allocated beforehand, then one integer program per batch.

In: training queries or a `BatchView`. Out: replicas, or a column for each request. Next: `simulate` and the
batch experiments. Source: Markovic-Voronov et al., Robust Batch-Level Query Routing for Large Language Models
under Cost and Capacity Constraints, arXiv 2603.26796. No latency, no pacing, no look ahead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from modelfleet_core.assignment import program
from modelfleet_core.assignment.problem import Row

from modelfleet_lab.methods import BatchView, FloatArray, IntArray
from modelfleet_lab.methods.calibration import problem_of

_TOLERANCE = 2e-6
"""Share of the money left out of the program, whose own tolerance is 1e-6 of a row's limit."""


@dataclass(frozen=True, slots=True)
class PublishedBatch:
    """The batch's integer program over point estimates, or (`robust`) over 10 % quantiles of bootstraps.

    `choose` raises ValueError when it is robust and the view has no quantiles.
    """

    robust: bool = False
    time_limit: float = 10.0
    """Seconds; the program ends far earlier at batches of 100."""

    @property
    def name(self) -> str:
        return "published batch, robust" if self.robust else "published batch"

    def choose(self, view: BatchView) -> IntArray:
        if self.robust and view.quality_low is None:
            raise ValueError("the robust method needs quality_low; give the view quantiles of bootstraps")
        quality = view.quality_low if self.robust else None
        rows = (Row("money", view.cost, view.money * (1 - _TOLERANCE)),) if np.isfinite(view.money) else ()
        if 0 in view.size:
            return np.full(view.size[0], -1, dtype=np.int64)
        answer = program.solve(problem_of(view, rows=rows, quality=quality), time_limit=self.time_limit)
        wanted = np.full(view.size[0], -1, dtype=np.int64) if answer is None else answer.choice
        return _checked(view, wanted)


def _checked(view: BatchView, wanted: IntArray) -> IntArray:
    """Return `wanted` without requests for which, against the program's promise, there is no room."""
    choice = np.full(view.size[0], -1, dtype=np.int64)
    free, money = np.maximum(view.free, 0), view.money
    for i in np.flatnonzero(wanted >= 0).tolist():
        j = int(wanted[i])
        if free[j] > 0 and view.cost[i, j] <= money:
            choice[i] = j
            free[j] -= 1
            money -= view.cost[i, j]
    return choice


def bootstrap_quantile(
    fit: Callable[[FloatArray], FloatArray],
    samples: int,
    *,
    seed: int,
    replicates: int = 100,
    level: float = 0.1,
) -> FloatArray:
    """Return (n, m) the `level` quantile of the estimates that bootstraps of the training sample give.

    `fit` gets (samples,) how often each training query was drawn and returns (n, m) estimates.
    """
    random = np.random.default_rng(seed)
    even = np.full(samples, 1.0 / samples)
    estimates = [fit(random.multinomial(samples, even).astype(np.float64)) for _ in range(replicates)]
    result: FloatArray = np.quantile(np.stack(estimates), level, axis=0)
    return result
