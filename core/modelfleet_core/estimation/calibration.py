"""Stage forward and learn, the curve from an estimate to the quality that comes of it.

In: estimates of rows that the fit was not shown, and their outcomes. Out: a rising curve for each model, and
kappa. Next: `training` puts them into `Trained`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

_EDGE = 0.02
"""Estimates nearer to 0 or 1 are taken as this near."""
_OWN_PRIOR = 1000.0
"""Precision of the belief that a model's curve is that of all models: some five outcomes weigh 1. Curves of
their own move the order of the models, and what is noise in that is picked first."""
_SHARED_PRIOR = 1.0
"""Precision of the belief that no calibration is needed."""
_ROUNDS = 12
_LEAST_SLOPE, _MOST_SLOPE = 0.05, 4.0
KAPPAS = (0.25, 0.5, 1.0, 2.0)
_SURE = 2.0
"""Standard errors by which pessimism must gain."""


def fitted_curve(raw: FloatArray, outcome: FloatArray, points: int) -> FloatArray:
    """Return the curve (points, m) for estimates `raw` (n, m) and `outcome` (n, m), NaN where not known.

    Platt's (1999) logistic curve on the log odds of the estimate, for each model, drawn to that of all models
    as far as its outcomes are few. Outcomes may be shares: the score is that of their expectation.
    """
    known = ~np.isnan(outcome)
    odds = _log_odds(raw)
    shared = _platt(odds[known], outcome[known], np.array([0.0, 1.0]), _SHARED_PRIOR)
    grid = _log_odds(np.linspace(0.0, 1.0, points))
    columns = [
        _platt(odds[known[:, j], j], outcome[known[:, j], j], shared, _OWN_PRIOR)
        for j in range(outcome.shape[1])
    ]
    return np.stack([_logistic(level + slope * grid) for level, slope in columns], axis=1)


def best_kappa(quality: FloatArray, deviation: FloatArray, outcome: FloatArray) -> float:
    """Return how many standard deviations of pessimism gain surely on held-out rows; 0 if none do.

    Each row goes to the model with the best `quality - kappa deviation` (n, m). Rows count where the outcomes
    of both choices, with and without pessimism, are known.
    """
    if not len(quality):
        return 0.0
    row = np.arange(len(quality))
    plain = outcome[row, quality.argmax(axis=1)]
    best, gain = 0.0, 0.0
    for kappa in KAPPAS:
        gains = outcome[row, (quality - kappa * deviation).argmax(axis=1)] - plain
        gains = gains[~np.isnan(gains)]
        if gains.size < 2:
            continue
        mean = float(gains.mean())
        if mean > gain and mean > _SURE * float(gains.std()) / np.sqrt(gains.size):
            best, gain = kappa, mean
    return best


def _platt(odds: FloatArray, outcome: FloatArray, prior: FloatArray, precision: float) -> FloatArray:
    """Return level and slope, by Newton's method on the penalised likelihood."""
    found = prior.copy()
    for _ in range(_ROUNDS):
        expected = _logistic(found[0] + found[1] * odds)
        weight = np.maximum(expected * (1.0 - expected), 1e-6)
        off = outcome - expected
        gradient = np.array([off.sum(), off @ odds]) - precision * (found - prior)
        cross = float(weight @ odds)
        hessian = np.array(
            [[weight.sum() + precision, cross], [cross, float(weight @ np.square(odds)) + precision]]
        )
        step = np.linalg.solve(hessian, gradient)
        found = found + np.clip(step, -1.0, 1.0)
        found[1] = min(_MOST_SLOPE, max(_LEAST_SLOPE, float(found[1])))
    return found


def _log_odds(raw: FloatArray) -> FloatArray:
    inner = np.clip(raw, _EDGE, 1.0 - _EDGE)
    result: FloatArray = np.log(inner / (1.0 - inner))
    return result


def _logistic(value: FloatArray) -> FloatArray:
    result: FloatArray = 1.0 / (1.0 + np.exp(-value))
    return result
