"""Stage assign, prices: multipliers of slots and rows that make the certificate's bound low.

In: a problem and the last batch's prices. Out: `Prices` with their bound. Next: `primal` chooses by them.

The bound is a piecewise linear convex function of m + r prices. Its maxima are smoothed
(`T log sum exp(. / T)`), which gives a Hessian of size (m + r)^2 from one pass over the cells, and
minimised by projected Newton steps while the temperature T falls. Every point that is visited gives a
valid bound, so it can stop at any time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from modelfleet_core.assignment.problem import AssignmentProblem, FloatArray
from modelfleet_core.assignment.result import Prices

_COOLING = 0.3
_COLD_START = 0.1
_WARM_START = 0.01
_COLDEST = 1e-6
_CLOSE = 5e-6
"""Smoothing adds to the bound at most what `value - bound` is; below this share of the scale it is done."""
_STEPS = 12
_FLAT = 1e-9
_DAMPINGS = (1e-7, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)


@dataclass(frozen=True, slots=True, eq=False)
class _Smoothed:
    """The smoothed dual at one point."""

    bound: float
    """Of the unsmoothed dual."""
    value: float
    share: FloatArray
    """(n, m) softmax over columns and waiting; waiting's own share is left out."""
    gradient: FloatArray


class _Dual:
    """The dual in scaled units: rows are divided by their largest use, so all prices are like values."""

    def __init__(self, problem: AssignmentProblem) -> None:
        usable = np.isfinite(problem.value)
        self.value = problem.value
        self.defer = problem.defer
        uses, limits, scales = [], [], []
        for row in problem.rows:
            use = np.where(usable, row.use, 0.0)
            scale = float(use.max(initial=0.0)) or 1.0
            # A row that even the hungriest choice can not fill has no price; an infinite limit neither.
            most = float(use.max(axis=1, initial=0.0).sum())
            uses.append(use / scale)
            limits.append(min(max(row.limit, 0.0), most) / scale)
            scales.append(scale)
        n, m = problem.size
        self.use = np.array(uses).reshape(len(uses), n, m)
        self.scales = np.array(scales)
        self.columns = m
        self.limit = np.concatenate([np.clip(problem.free, 0, n).astype(np.float64), np.array(limits)])

    def reduced(self, prices: FloatArray) -> FloatArray:
        reduced = self.value - prices[: self.columns]
        for use, price in zip(self.use, prices[self.columns :], strict=True):
            if price > 0:
                reduced -= price * use
        return reduced

    def at(self, prices: FloatArray, temperature: float) -> _Smoothed:
        reduced = self.reduced(prices)
        top = np.maximum(reduced.max(axis=1), -self.defer)
        share = np.exp((reduced - top[:, None]) / temperature)
        total = share.sum(axis=1) + np.exp((-self.defer - top) / temperature)
        share /= total[:, None]
        base = float(top.sum() + prices @ self.limit)
        rows = np.einsum("rij,ij->r", self.use, share) if len(self.use) else np.zeros(0)
        return _Smoothed(
            bound=base,
            value=base + temperature * float(np.log(total).sum()),
            share=share,
            gradient=self.limit - np.concatenate([share.sum(axis=0), rows]),
        )

    def hessian(self, share: FloatArray, temperature: float) -> FloatArray:
        m, r = self.columns, len(self.use)
        hessian = np.empty((m + r, m + r))
        hessian[:m, :m] = np.diag(share.sum(axis=0)) - share.T @ share
        weighted = self.use * share
        mean = weighted.sum(axis=2)
        cross = weighted.sum(axis=1) - mean @ share
        hessian[m:, :m] = cross
        hessian[:m, m:] = cross.T
        flat = (r, share.size)
        hessian[m:, m:] = weighted.reshape(flat) @ self.use.reshape(flat).T - mean @ mean.T
        return hessian / temperature


def _descend(
    dual: _Dual, prices: FloatArray, here: _Smoothed, temperature: float
) -> tuple[FloatArray, _Smoothed] | None:
    """Return a better point and its value; None: there is none.

    Takes Newton steps among the prices that may move (a zero price only upwards), with more and more of a
    plain gradient step in them until one descends (Levenberg-Marquardt): far from the optimum the smoothed
    dual is nearly linear in some prices, and Newton's step much too long.
    """
    moving = (prices > 0) | (here.gradient < 0)
    if not moving.any():
        return None
    hessian = dual.hessian(here.share, temperature)[np.ix_(moving, moving)]
    # At damping 1 no price moves by more than ten temperatures, even where the dual is linear.
    steepest = float(np.abs(here.gradient[moving]).max())
    if steepest <= _FLAT:
        return None
    scale = float(np.trace(hessian)) + steepest / (10.0 * temperature)
    for damping in _DAMPINGS:
        damped = hessian + damping * scale * np.eye(len(hessian))
        try:
            move = np.linalg.solve(damped, here.gradient[moving])
        except np.linalg.LinAlgError:
            continue  # singular up to rounding: more damping helps
        trial = prices.copy()
        trial[moving] = np.maximum(0.0, prices[moving] - move)
        there = dual.at(trial, temperature)
        if there.value < here.value:
            return trial, there
    return None


def prices(
    problem: AssignmentProblem, *, remaining: Callable[[], float], warm: Prices | None
) -> tuple[Prices, float]:
    """Return prices and their bound; `warm` prices of another shape are ignored.

    Stops early when `remaining()` (seconds) runs out, with the best prices so far.
    """
    dual = _Dual(problem)
    finite = problem.value[np.isfinite(problem.value)]
    spread = float(np.ptp(np.concatenate([finite, -problem.defer]))) if problem.size[0] else 0.0
    point = np.zeros(dual.limit.size)
    start = _COLD_START
    if warm is not None and warm.slots.shape == (dual.columns,) and warm.rows.shape == dual.scales.shape:
        point = np.concatenate([warm.slots, warm.rows * dual.scales])
        start = _WARM_START
    temperature = max(start * spread, 1e-12)
    here = dual.at(point, temperature)
    best, best_bound = point, here.bound
    enough = _CLOSE * problem.scale()
    while temperature >= _COLDEST * spread > 0 and here.value - here.bound > enough and remaining() > 0:
        here = dual.at(point, temperature)
        for _ in range(_STEPS):
            better = _descend(dual, point, here, temperature)
            if better is None:
                break
            gain = here.value - better[1].value
            point, here = better
            if here.bound < best_bound:
                best, best_bound = point, here.bound
            if gain < 0.02 * (here.value - here.bound) or remaining() <= 0:
                break
        temperature *= _COOLING
    m = dual.columns
    return Prices(slots=best[:m], rows=best[m:] / dual.scales), best_bound
