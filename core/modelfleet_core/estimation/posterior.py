"""Stage publish, what scores say of each model's error: a Bayesian ridge regression that models share.

In: sums of embeddings and residuals by model. Out: `Posterior`. Next: `learned`.

A score y of model j, whose base estimate is b, at embedding x (k,):

    y - b = x' theta_j + noise,  theta_j = common + own_j,
    noise ~ N(0, s2),  common ~ N(0, s2 / l0),  own_j ~ N(0, s2 / l1)

so that what one model's answers tell of a kind of request holds for others too, until their own answers tell
otherwise: else a model would look worse than others only since it was the one that met hard requests. How
much to believe is not set but weighed: l0 and l1 run over grids, each pair counts by its marginal likelihood
(MacKay 1992, Neural Computation 4, 415). Where one model alone was asked, scores can not tell a hard kind of
request from a bad model, and both halves of the grids stand: then the others are tried as soon as they look
better.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float64]

_COMMON = _OWN = (16.0, 64.0, 256.0, 1024.0)
"""Shrinkage in answers' worth, for an embedding of about unit length."""
_NOISE = 0.15
"""Variance of a score around its mean, as expected before any score."""
_NOISE_WEIGHT = 20.0
"""Scores' worth of that expectation."""


@dataclass(frozen=True, slots=True, eq=False)
class Posterior:
    """m models and, behind them, one that nothing is known of."""

    theta: FloatArray
    """(m + 1, k)"""
    covariance: FloatArray
    """(m + 1, k, k)"""


def posterior(moments: FloatArray, products: FloatArray, square: float, weight: float) -> Posterior:
    """Return what to believe after sums of w x x' (m, k, k), of w x r (m, k), of w r r and of w."""
    m, k = products.shape
    every: list[tuple[float, FloatArray, FloatArray]] = []
    for own in _OWN:
        inverse = np.linalg.inv(moments + own * np.eye(k))
        alone = np.einsum("mij,mj->mi", inverse, products)
        # What the models together say of the common part, each as far as its own part leaves it open.
        told = (own * np.eye(k) - own * own * inverse).sum(axis=0)
        spread = -np.linalg.slogdet(inverse)[1].sum() - m * k * math.log(own)
        for common in _COMMON:
            shared = np.linalg.inv(told + common * np.eye(k))
            center = shared @ (own * alone.sum(axis=0))
            theta = np.vstack([alone + own * inverse @ center, center])
            volume = spread - np.linalg.slogdet(shared)[1] - k * math.log(common)
            left = max(0.0, square - float((products * theta[:-1]).sum())) + _NOISE_WEIGHT * _NOISE
            count = weight + _NOISE_WEIGHT
            covariance = np.concatenate(
                [inverse + own * own * inverse @ shared @ inverse, (shared + np.eye(k) / own)[None]]
            )
            every.append((-0.5 * (count * math.log(left) + volume), theta, covariance * (left / count)))
    top = max(likely for likely, _, _ in every)
    shares = np.exp([likely - top for likely, _, _ in every])
    shares /= shares.sum()
    theta = np.einsum("g,gmk->mk", shares, np.array([mean for _, mean, _ in every]))
    covariance = np.zeros((m + 1, k, k))
    for share, (_, mean, variance) in zip(shares.tolist(), every, strict=True):
        off = mean - theta
        covariance += share * (variance + np.einsum("mi,mj->mij", off, off))
    return Posterior(theta, covariance)
