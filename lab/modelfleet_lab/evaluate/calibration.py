"""How good the estimates themselves are: do they rank, and do they mean what they say?

In: estimated quality and recorded quality (n, m). Out: AUC, Brier score, expected calibration error, and the
reliability plot's bins. Next: `figures`.

All take weights of the queries, one row per bootstrap sample, so that a thousand samples are one product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modelfleet_lab.methods import FloatArray

GOOD = 0.5
"""Quality from which an answer counts as right where a measure knows only right and wrong."""
BINS = 15


def auc(estimated: FloatArray, quality: FloatArray, weights: FloatArray) -> FloatArray:
    """Return (b,) the area under the ROC curve, its mean over models, for each row of `weights` (b, n).

    An answer is right from quality .5 on; equal estimates count half. A model whose answers are all right
    or all wrong has no curve and is left out of the mean; where no model has one, not a number.
    """
    total = np.zeros(len(weights))
    counted = np.zeros(len(weights))
    for j in range(estimated.shape[1]):
        area = _area(estimated[:, j], quality[:, j] >= GOOD, weights)
        known = np.isfinite(area)
        total += np.where(known, area, 0.0)
        counted += known
    return np.where(counted > 0, total / np.maximum(counted, 1), np.nan)


def _area(estimated: FloatArray, right: npt.NDArray[np.bool_], weights: FloatArray) -> FloatArray:
    order = np.argsort(estimated, kind="stable")
    values = estimated[order]
    ends = np.flatnonzero(np.concatenate((values[1:] != values[:-1], [True])))
    positive = _ties(weights[:, order] * right[order], ends)
    negative = _ties(weights[:, order] * ~right[order], ends)
    below = np.cumsum(negative, axis=1) - negative
    pairs = positive.sum(axis=1) * negative.sum(axis=1)
    won = (positive * (below + 0.5 * negative)).sum(axis=1)
    return np.where(pairs > 0, won / np.where(pairs > 0, pairs, 1.0), np.nan)


def _ties(values: FloatArray, ends: npt.NDArray[np.int64]) -> FloatArray:
    """Return sums (b, t) over runs of equal estimates, which end at `ends`."""
    starts = np.concatenate(([0], ends[:-1] + 1))
    sums: FloatArray = np.add.reduceat(values, starts, axis=1)
    return sums


def brier(estimated: FloatArray, quality: FloatArray, weights: FloatArray) -> FloatArray:
    """Return (b,) the mean square of estimate minus quality over all queries and models."""
    each = ((estimated - quality) ** 2).mean(axis=1)
    score: FloatArray = weights @ each / weights.sum(axis=1)
    return score


@dataclass(frozen=True, slots=True, eq=False)
class Reliability:
    """Bins of equal numbers of estimates, by rising estimate."""

    predicted: FloatArray
    """Mean estimate of each bin."""
    observed: FloatArray
    """Mean quality of each bin."""
    count: FloatArray


def bins_of(estimated: FloatArray, bins: int = BINS) -> npt.NDArray[np.int64]:
    """Return the bin of each cell (n, m): of as equal numbers as ties allow; equal estimates share one."""
    flat = estimated.ravel()
    edges = np.unique(np.quantile(flat, np.linspace(0, 1, bins + 1)[1:-1], method="higher"))
    return np.searchsorted(edges, flat, side="right").reshape(estimated.shape)


def reliability(estimated: FloatArray, quality: FloatArray) -> Reliability:
    """Return the bins over all queries and models together."""
    bins = bins_of(estimated).ravel()
    count = np.bincount(bins).astype(np.float64)
    used = count > 0
    predicted = np.bincount(bins, weights=estimated.ravel())[used] / count[used]
    observed = np.bincount(bins, weights=quality.ravel())[used] / count[used]
    return Reliability(predicted, observed, count[used])


def ece(estimated: FloatArray, quality: FloatArray, weights: FloatArray) -> FloatArray:
    """Return (b,) the expected calibration error over `BINS` bins of equal mass, all models together.

        sum_k |sum of (quality - estimate) in bin k| / cells

    Source: Naeini, Cooper and Hauskrecht, AAAI 2015, with bins of equal mass in place of equal width.
    """
    bins = bins_of(estimated)
    gap = quality - estimated
    total = np.zeros(len(weights))
    for k in np.unique(bins).tolist():
        total += np.abs(weights @ np.where(bins == k, gap, 0.0).sum(axis=1))
    share: FloatArray = total / (weights.sum(axis=1) * estimated.shape[1])
    return share
