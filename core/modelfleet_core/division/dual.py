"""Stage publish, prices that do not jump: the dual of the division program, made smooth in two ways.

In: `Arrays` and the last prices. Out: `Prices`. Next: `flows` makes flows of them.

The dual of the program (maths: `D(mu, lambda)`) is

    D = sum_k rate_k max(-penalty_k, max_j v_kj - mu_j t_kj - lambda_p c_kj) + mu . busy + lambda . money

and its minimum jumps when load passes capacity. Minimised instead is, in units x = price / ref,

    F = sum_k rate_k s_k log(exp(-penalty_k / s_k) + sum_j exp((v_kj - mu_j t_kj - lambda_p c_kj) / s_k))
        + sum_r ref_r limit_r ((1 - d) x_r + d x_r^2)

1. The price of a row is a ramp: from 0 at (1 - d) limit to its `ref` at (1 + d) limit, and on, with `RAMP` as
   d. The limit of slots is all of them: prices that keep some free for chance leave them idle, since what
   finds none free may wait or take another model. `ref`: what all demand would lose
   per slot-second, or USD, without the row, on average. F is strongly convex: its minimum is unique and
   moves by at most (change of a row's load) / (2 d limit) x ref.
2. Requests of a class differ: with `s = SPREAD x weight` flows share among models that are worth about the
   same, as estimates within a class do.

Error: at any optimal prices x* of the program, 0 <= D(found) - D(x*) <=
    sum_k rate_k s_k log(1 + models of k) + d sum_r ref_r limit_r (x*_r (x*_r - 1) - x_r (x_r - 1))
since smoothing adds between 0 and the first sum, and the ramps add d ref limit x (x - 1) (`tolerance`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modelfleet_core.demand.classes import FloatArray
from modelfleet_core.division.arrays import NO_BUDGET, Arrays, BoolArray

SPREAD = 0.005
"""Of quality, within a class."""
RAMP = 0.05
"""Of a limit, to both sides of it."""
_COOLING = (64.0, 16.0, 4.0)
_TRIES = 400
_EXACT = 1e-7
"""Of what is at stake: the largest loss by which prices may miss the minimum."""
_ROUGH = 1e4
"""So many times that, on the way."""
_DESCENT = 1e-4
_NOTHING = 1e-300


@dataclass(frozen=True, slots=True, eq=False)
class Prices:
    """Smooth ones."""

    slots: FloatArray
    """(M,) weighted quality per second of a slot of the model's fastest variant."""
    money: FloatArray
    """(P,) weighted quality per USD."""
    shares: FloatArray
    """(K, M) of each class's requests; the rest is shed."""
    converged: bool


@dataclass(frozen=True, slots=True, eq=False)
class _Point:
    x: FloatArray
    value: float
    gradient: FloatArray
    share: FloatArray


class SmoothDual:
    """F in units of `ref`; rows are the models' slots and then the policies' money."""

    def __init__(self, arrays: Arrays) -> None:
        self.arrays = arrays
        rate, penalty = arrays.rate, np.maximum(0.0, arrays.penalty)
        self.policy = (arrays.budget[:, None] == np.arange(len(arrays.money))).astype(np.float64)
        paying = arrays.budget != NO_BUDGET
        broke = np.append(arrays.money <= 0.0, False)[arrays.budget]  # NO_BUDGET is the last place
        self.open: BoolArray = (
            arrays.offered
            & ((arrays.busy > 0.0) | (arrays.seconds <= 0.0))
            & ~(broke[:, None] & (arrays.cost > 0.0))
        )
        gain = np.where(self.open, np.maximum(0.0, arrays.value + penalty[:, None]), 0.0)
        asked = rate @ np.where(self.open, arrays.seconds, 0.0)
        slot_ref = np.where(asked > 0.0, (rate @ gain) / np.maximum(asked, _NOTHING), 0.0)
        dear = np.where(self.open & paying[:, None], arrays.cost, 0.0).max(axis=1, initial=0.0)
        spent = (rate * dear) @ self.policy
        earned = (rate * gain.max(axis=1, initial=0.0)) @ self.policy
        money_ref = np.where(spent > 0.0, earned / np.maximum(spent, _NOTHING), 0.0)
        self.ref = np.concatenate([slot_ref, money_ref])
        self.limit = self.ref * np.concatenate([arrays.busy, arrays.money])
        self.time = arrays.seconds * slot_ref
        self.spend = arrays.cost * (self.policy @ money_ref)[:, None]
        self.least = SPREAD * np.maximum(arrays.weight, 1e-9)
        self.stake = float(rate @ gain.max(axis=1, initial=0.0))

    def relative(self, slots: FloatArray, money: FloatArray) -> FloatArray:
        """Return prices in units of `ref`; 0 where nothing asks for a row."""
        prices = np.concatenate([slots, money])
        relative: FloatArray = np.divide(prices, self.ref, out=np.zeros(len(prices)), where=self.ref > 0.0)
        return relative

    def reduced(self, x: FloatArray) -> FloatArray:
        """Return values less prices; -inf where a request can not go."""
        m = len(self.arrays.models)
        priced = self.arrays.value - self.time * x[:m] - self.spend * (self.policy @ x[m:])[:, None]
        return np.where(self.open, priced, -np.inf)

    def at(self, x: FloatArray, heat: float) -> _Point:
        reduced = self.reduced(x)
        spread = heat * self.least
        top = np.maximum(reduced.max(axis=1, initial=-np.inf), -self.arrays.penalty)
        share = np.exp((reduced - top[:, None]) / spread[:, None])
        total = share.sum(axis=1) + np.exp((-self.arrays.penalty - top) / spread)
        share /= total[:, None]
        flow = self.arrays.rate[:, None] * share
        load = np.concatenate([(flow * self.time).sum(axis=0), (flow * self.spend).sum(axis=1) @ self.policy])
        ramped = self.limit * RAMP * x
        return _Point(
            x=x,
            value=float(self.arrays.rate @ (top + spread * np.log(total)))
            + float(((1.0 - RAMP) * self.limit + ramped) @ x),
            gradient=(1.0 - RAMP) * self.limit + 2.0 * ramped - load,
            share=share,
        )

    def hessian(self, point: _Point, heat: float) -> FloatArray:
        m = len(self.arrays.models)
        steep = self.arrays.rate / (heat * self.least)
        timed = point.share * self.time
        spent = point.share * self.spend
        mean = spent.sum(axis=1)
        flow = steep[:, None] * timed
        cross = (flow * self.spend - flow * mean[:, None]).T @ self.policy
        hessian = np.diag(2.0 * RAMP * self.limit)
        hessian[:m, :m] += np.diag((flow * self.time).sum(axis=0)) - flow.T @ timed
        hessian[:m, m:] += cross
        hessian[m:, :m] += cross.T
        money = steep * ((spent * self.spend).sum(axis=1) - mean * mean)
        hessian[m:, m:] += np.diag(money @ self.policy)
        return hessian

    def tolerance(self, found: FloatArray, best: FloatArray) -> float:
        """Return the error's bound; `best`: optimal prices of the program, both in units of `ref`."""
        choices = 1.0 + self.open.sum(axis=1)
        smoothing = float(self.arrays.rate @ (self.least * np.log(choices)))
        return smoothing + RAMP * float(self.limit @ (best * (best - 1.0) - found * (found - 1.0)))


def prices(arrays: Arrays, warm: Prices | None = None) -> Prices:
    """Return the prices of least F, from `warm` ones if they are of the same models and policies."""
    dual = SmoothDual(arrays)
    m = len(arrays.models)
    x = np.zeros(len(dual.ref))
    heats: tuple[float, ...] = (*_COOLING, 1.0)
    if warm is not None and (len(warm.slots), len(warm.money)) == (m, len(arrays.money)):
        x = dual.relative(warm.slots, warm.money)
        heats = (1.0,)
    point, converged = dual.at(x, heats[0]), False
    for heat in heats:
        enough = _EXACT * max(dual.stake, _NOTHING) * (1.0 if heat == 1.0 else _ROUGH)
        point, converged = _minimise(dual, dual.at(point.x, heat), heat, enough)
    found = point.x * dual.ref
    first = _first_prices(dual, point)
    return Prices(
        slots=np.where(arrays.busy > 0.0, found[:m], first[:m]),
        money=np.where(arrays.money > 0.0, found[m:], first[m:]),
        shares=point.share,
        converged=converged,
    )


def _minimise(dual: SmoothDual, point: _Point, heat: float, enough: float) -> tuple[_Point, bool]:
    """Take projected Newton steps until none promises more than `enough`.

    A step that does not descend is cut where the slopes at its ends say that the minimum between them is.
    """
    tries = 0
    while tries < _TRIES:
        moving = ((point.x > 0.0) | (point.gradient < 0.0)) & (dual.limit > 0.0)
        if not moving.any():
            return point, True
        direction = _direction(point, dual.hessian(point, heat), moving, enough)
        step = 1.0
        while tries < _TRIES:
            tries += 1
            trial = dual.at(np.maximum(0.0, point.x - step * direction), heat)
            gain = float(point.gradient @ (point.x - trial.x))
            if step == 1.0 and gain <= enough:
                return point, True
            if trial.value <= point.value - _DESCENT * gain:
                point = trial
                break
            slope = float(trial.gradient @ (point.x - trial.x))
            step *= min(0.5, max(0.1, gain / (gain - slope))) if slope < 0.0 else 0.1
    return point, False


def _direction(point: _Point, hessian: FloatArray, moving: BoolArray, enough: float) -> FloatArray:
    """Return Newton's step, prices that it would make negative at 0; each price's own step if that gains
    little: held at 0, some may keep the others from moving."""
    x, gradient = point.x, point.gradient
    direction = np.zeros(len(x))
    free = moving.copy()
    while free.any():
        held = moving & ~free
        rest = gradient[free] - hessian[np.ix_(free, held)] @ direction[held]
        direction[free] = np.linalg.solve(hessian[np.ix_(free, free)], rest)
        below = free & (direction > x)
        if not below.any():
            break
        direction[below] = x[below]
        free &= ~below
    if float(gradient @ direction) <= enough:
        own = np.zeros(len(x))
        own[moving] = np.minimum(x[moving], gradient[moving] / np.diag(hessian)[moving])
        return own
    return direction


def _first_prices(dual: SmoothDual, point: _Point) -> FloatArray:
    """Return what the first slot of a model without any, or the first dollar of a spent budget, is worth."""
    arrays = dual.arrays
    m = len(arrays.models)
    best = np.maximum(dual.reduced(point.x).max(axis=1, initial=-np.inf), -arrays.penalty)
    offered = arrays.offered & (arrays.rate > 0.0)[:, None]
    priced = arrays.value - dual.spend * (dual.policy @ point.x[m:])[:, None]
    more = np.where(offered, np.maximum(0.0, priced - best[:, None]), 0.0)
    slots = np.where(arrays.seconds > 0.0, more / np.maximum(arrays.seconds, _NOTHING), 0.0)
    running = offered & (arrays.busy > 0.0)
    priced = arrays.value - dual.time * point.x[:m]
    more = np.where(running, np.maximum(0.0, priced - best[:, None]), 0.0)
    money = np.where(arrays.cost > 0.0, more / np.maximum(arrays.cost, _NOTHING), 0.0).max(
        axis=1, initial=0.0
    )
    return np.concatenate(
        [slots.max(axis=0, initial=0.0), (money[:, None] * dual.policy).max(axis=0, initial=0.0)]
    )


def bound(arrays: Arrays, prices: Prices) -> float:
    """Return the program's dual at these prices: no flows within the limits are worth more."""
    policy = (arrays.budget[:, None] == np.arange(len(arrays.money))).astype(np.float64)
    priced = arrays.value - arrays.seconds * prices.slots - arrays.cost * (policy @ prices.money)[:, None]
    best = np.where(arrays.offered, priced, -np.inf).max(axis=1, initial=-np.inf)
    worth = np.maximum(best, -arrays.penalty)
    return float(arrays.rate @ worth + prices.slots @ arrays.busy + prices.money @ arrays.money)
