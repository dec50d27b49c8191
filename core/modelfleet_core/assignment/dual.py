"""Stage assign, prices: multipliers of slots and rows that make the certificate's bound low.

In: the program in arrays and the last batch's prices. Out: prices, their bound, and the fractional choice
that goes with them. Next: `primal` chooses by them.

The linear relaxation by a primal-dual interior-point method (Mehrotra's predictor and corrector). Each
request's own equation and cells are eliminated by hand, so that a step is a few passes over the cells and
one system of the size of the limits. Any prices give a valid bound, so it can stop at any time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from modelfleet_core.assignment.cells import Cells
from modelfleet_core.assignment.problem import BoolArray, FloatArray

_STEPS = 60
_SHORT = 0.995
"""Part of the way to where a share, slack, loss or price would be zero."""
_COLD = 0.03
_WARM = 0.003
_SAMPLED = 0.01
"""Where the path is entered: products of a cell's share and loss, as a share of the spread of values."""
_APPROACH = 14
_HOT = 0.2
_COOLING = 0.8
_COOL = 0.02
_MANY = 800
"""More requests than this get their first prices from a sample of them."""
_SAMPLE = 400
_EVERY = 4
_ROUGH = 10.0
"""A sample's prices may be as much worse."""
_FREE = 1e-3


@dataclass(frozen=True, slots=True, eq=False)
class Relaxed:
    price: FloatArray
    """(m + r,) of slots and scaled rows."""
    bound: float
    share: FloatArray
    """(m + 1, n) of each request that the relaxation gives to each column."""
    steps: int


@dataclass(frozen=True, slots=True, eq=False)
class _Direction:
    """Where one step goes."""

    share: FloatArray
    loss: FloatArray
    over: FloatArray
    price: FloatArray
    slack: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class _System:
    """The linear equations of one step, with the requests' own ones eliminated."""

    cells: Cells
    weight: FloatArray
    """(m + 1, n) share / loss."""
    total: FloatArray
    """(n,) sum of the weights."""
    solution: FloatArray
    """(limits, limits) inverse of the matrix that is left."""
    missing: FloatArray
    """(limits,) what loads and slacks lack to the limits."""
    ratio: FloatArray
    """(limits,) slack / price."""

    def direction(self, share: FloatArray, slack: FloatArray) -> _Direction:
        """Solve for the changes `share` and `slack` that are wanted where losses and prices stay."""
        lacking = share.sum(axis=0) / self.total
        load = self.cells.load(share - self.weight * lacking)
        price = self.solution @ (load + slack - self.missing)
        loss = self.cells.charge(price)
        over = lacking - np.einsum("kn,kn->n", self.weight, loss) / self.total
        loss += over
        return _Direction(share - self.weight * loss, loss, over, price, slack - self.ratio * price)


def _longest(*ratios: float) -> float:
    """Return the step that keeps all x + step dx positive; `ratios` are the largest -dx / x."""
    most = max(ratios)
    return 1.0 if most <= _SHORT else _SHORT / most


def solve(cells: Cells, *, remaining: Callable[[], float], warm: FloatArray | None, enough: float) -> Relaxed:
    """Return prices whose bound is within `enough` of the best, or the best so far when time is up."""
    if warm is not None:
        return _follow(cells, warm, _WARM, remaining, enough)
    if cells.n > _MANY:
        part = cells.sample(max(_SAMPLE, cells.n // _EVERY))
        rough = enough * part.n / cells.n * _ROUGH
        sampled = solve(part, remaining=remaining, warm=None, enough=rough)
        return _follow(cells, sampled.price, _SAMPLED, remaining, enough)
    return _follow(cells, None, _COLD, remaining, enough)


def rough(cells: Cells) -> FloatArray:
    """Return first prices, in about a millisecond whatever the number of requests."""
    part = cells.sample(_SAMPLE) if cells.n > _SAMPLE else cells
    return _approach(part, _Plain(part), lambda: 1.0)


class _Plain:
    """What both ways to prices need of the cells: finite values, and limits that are not zero."""

    def __init__(self, cells: Cells) -> None:
        m = cells.m
        self.lowest = float(cells.value.min(where=cells.usable, initial=np.inf))
        self.spread = max(float(cells.value.max()) - self.lowest, 1e-12)
        # Cells that are not eligible never are the best, even at prices of zero.
        self.value: FloatArray = np.where(cells.usable, cells.value, self.lowest - self.spread)
        # A column that nobody may use has no price.
        real = np.append(cells.usable[:m].any(axis=1), np.ones(cells.limit.size - m, dtype=bool))
        self.real: BoolArray = real & (cells.limit > 0)
        self.limit: FloatArray = np.where(self.real, cells.limit, 1.0)


def _approach(cells: Cells, plain: _Plain, remaining: Callable[[], float]) -> FloatArray:
    """Return prices at which requests that choose by chance, the better the likelier, about fill the limits.

    Each price follows the logarithm of how full its limit is (for columns alone this is Sinkhorn's method).
    """
    price = np.zeros(plain.limit.size)
    heat = _HOT * plain.spread
    for _ in range(_APPROACH):
        if remaining() <= 0:
            break
        share = plain.value - cells.charge(price)
        share -= share.max(axis=0)
        share /= heat
        np.exp(share, out=share)
        share *= cells.usable
        share /= share.sum(axis=0)
        full = np.maximum(cells.load(share), 1e-9) / plain.limit
        price = np.maximum(price + heat * np.log(full) / cells.typical, 0.0)
        heat = max(heat * _COOLING, _COOL * plain.spread)
    return np.where(plain.real, price, 0.0)


def _follow(
    cells: Cells, start: FloatArray | None, entry: float, remaining: Callable[[], float], enough: float
) -> Relaxed:
    """Follow the path of centres from `start` to the best prices."""
    mask = cells.usable.astype(np.float64)
    pad = 1.0 - mask
    plain = _Plain(cells)
    spread, value, real, limit = plain.spread, plain.value, plain.real, plain.limit
    known = value * mask
    supply = np.where(real, cells.limit, 0.0)

    target = entry * spread
    price = _approach(cells, plain, remaining) if start is None else start
    # Positive prices and slacks to start from, near the middle between the two.
    price = np.maximum(price, target / limit)
    reduced = value - cells.charge(price)
    top = reduced.max(axis=0)
    share = mask / (top + target - reduced)
    share /= share.sum(axis=0)
    over = top + target
    slack = np.minimum(np.maximum(limit - cells.load(share), target / price), 2.0 * limit)

    best, lowest_bound = price, np.inf
    diagonal = np.arange(limit.size)
    products = float(mask.sum()) + limit.size
    taken = 0
    while True:
        reduced = value - cells.charge(price)
        top = reduced.max(axis=0)
        bound = float(top.sum()) + float(price @ supply)
        if bound < lowest_bound:
            best, lowest_bound = price, bound
        missing = limit - cells.load(share) - slack
        reached = float(np.vdot(share, known))
        worst = float(np.abs(missing) @ price)
        if bound - reached + worst <= enough or taken == _STEPS or remaining() <= 0:
            break
        taken += 1
        loss = np.maximum(over - reduced, 1e-15 * spread)
        inside = float(np.vdot(share, loss)) + float(slack @ price)
        inverse = mask / loss
        weight = share * inverse
        total = weight.sum(axis=0)
        matrix = cells.curvature(weight, total)
        matrix[diagonal, diagonal] += slack / price + 1e-13 * matrix[diagonal, diagonal]
        try:
            solution = np.asarray(np.linalg.inv(matrix), dtype=np.float64)
        except np.linalg.LinAlgError:
            break  # rounding has used up what precision there was: the best prices so far are the answer
        system = _System(cells, weight, total, solution, missing, slack / price)
        ahead = system.direction(-share, -slack)
        primal = _longest(1.0 + float((ahead.loss * inverse).max()), float((-ahead.slack / slack).max()))
        dual = _longest(-float((ahead.loss * inverse).min()), float((-ahead.price / price).max()))
        both = ahead.share * ahead.loss
        rest = inside + dual * float(np.vdot(share, ahead.loss)) + primal * float(np.vdot(ahead.share, loss))
        rest += primal * dual * float(both.sum()) - float(slack @ price)
        rest += float((slack + primal * ahead.slack) @ (price + dual * ahead.price))
        aim = inside / products * min(1.0, max(rest / inside, 1e-6)) ** 3
        both -= aim
        both *= inverse
        step = system.direction(-share - both, (aim - ahead.slack * ahead.price) / price - slack)
        primal = _longest(-float((step.share / (share + pad)).min()), float((-step.slack / slack).max()))
        dual = _longest(-float((step.loss * inverse).min()), float((-step.price / price).max()))
        share = share + primal * step.share
        slack = slack + primal * step.slack
        over = over + dual * step.over
        price = price + dual * step.price
    best = np.where(real, best, 0.0)
    # The path ends just inside: limits that are not used up have a little price that they should not have.
    freed = np.where((best < _FREE * spread) & (slack > _FREE * limit), 0.0, best)
    bound = float((value - cells.charge(freed)).max(axis=0).sum()) + float(freed @ supply)
    if bound < lowest_bound:
        best, lowest_bound = freed, bound
    return Relaxed(price=best, bound=lowest_bound, share=share, steps=taken)
