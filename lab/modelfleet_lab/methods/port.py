"""PORT: weights learned once from the first requests, then one pass over the models for each request.

In: `BatchView`s as they come. Out: a column for each request. Next: the batch experiments.
Source: Wu and Silwal, Efficient Training-Free Online Routing for High-Volume Multi-LLM Serving, NeurIPS 2025,
arXiv 2509.02718, Algorithm 1. Where we depart from it is said in `docs/methods.md`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modelfleet_lab.methods import BatchView, FloatArray, IntArray
from modelfleet_lab.methods.room import Room

_STEPS = 1500
_PACE = 0.3
"""First step, in weighted quality at a model's mean cost."""


def learned_weights(sample: Sequence[BatchView], budgets: FloatArray) -> FloatArray:
    """Return (m,) weights gamma >= 0, quality per USD, for `budgets` (m,) USD over the sample.

        argmin  sum_j gamma_j budget_j + sum_i max(0, max_j (w_i quality_ij - gamma_j cost_ij))

    the dual of routing the sample within each model's budget, by projected subgradient steps (AdaGrad), of
    which the second half is averaged.
    """
    able = np.concatenate([view.eligible for view in sample])
    value = np.concatenate([view.weight[:, None] * view.quality for view in sample])
    cost = np.where(able, np.concatenate([view.cost for view in sample]), 0.0)
    value = np.where(able, value, -np.inf)
    n, m = value.shape
    unit = np.maximum(cost.mean(axis=0), 1e-12)
    use, limit = cost / unit, budgets / unit
    weights = np.zeros(m)
    squares = np.full(m, 1e-12)
    total = np.zeros(m)
    rows = np.arange(n)
    for step in range(_STEPS):
        scores = value - weights * use
        best = scores.argmax(axis=1)
        asked = np.where(scores[rows, best] > 0, use[rows, best], 0.0)
        slope = limit - np.bincount(best, weights=asked, minlength=m)
        squares += slope**2
        weights = np.maximum(0.0, weights - _PACE * slope / np.sqrt(squares))
        if step >= _STEPS // 2:
            total += weights
    result: FloatArray = total / (_STEPS - _STEPS // 2) / unit
    return result


class Port:
    """Sample, learn, route: `w q_ij - gamma_j c_ij` under a budget of its own for each model.

    The first `share` of the `requests` expected is routed at random and learned from; with `weights` given
    (learned from past traffic) there is no such phase. A request whose model is full or has spent its budget
    goes to the next best that has not; where all have, to the best that their accounts together still pay.
    """

    def __init__(
        self,
        *,
        requests: int,
        budgets: FloatArray,
        seed: int,
        share: float = 0.025,
        weights: FloatArray | None = None,
    ) -> None:
        self.name = "PORT" if weights is None else "PORT, weights from past traffic"
        self.weights = weights
        self._share = share
        self._sample_size = max(1, int(np.ceil(share * requests)))
        self._budgets = budgets
        self._left = budgets.astype(np.float64)
        self._random = np.random.default_rng(seed)
        self._sample: list[BatchView] = []
        self._seen = 0

    def choose(self, view: BatchView) -> IntArray:
        n, m = view.size
        learning = min(n, self._sample_size - self._seen) if self.weights is None else 0
        if learning:
            self._sample.append(_first(view, learning))
            self._seen += learning
            if self._seen == self._sample_size:
                self.weights = learned_weights(self._sample, self._share * self._budgets)
                self._sample = []
        scores = view.weight[:, None] * view.quality
        if self.weights is not None:
            scores = scores - self.weights * view.cost
        scores[:learning] = self._random.random((learning, m))
        room = Room(view)
        choice = np.full(n, -1, dtype=np.int64)
        for i in range(n if m else 0):
            able = room.columns(i) & (view.cost[i] <= self._left.sum())
            funded = able & (view.cost[i] <= self._left)
            if not funded.any():
                funded = able
            mine = np.where(funded, scores[i], -np.inf)
            best = int(mine.argmax())
            if mine[best] > -np.inf:
                choice[i] = best
                room.take(i, best)
                self._left[best] -= view.cost[i, best]
            else:
                room.leave()
        return choice


def _first(view: BatchView, count: int) -> BatchView:
    return BatchView(
        weight=view.weight[:count],
        quality=view.quality[:count],
        cost=view.cost[:count],
        service_time=view.service_time[:count],
        eligible=view.eligible[:count],
        free=view.free,
        slots=view.slots,
        money=view.money,
        now=view.now,
    )
