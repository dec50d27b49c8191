"""Plain estimators that ours must beat: the task's mean, nearest neighbours, ridge regression.

In: queries of the past with their outcomes, and the queries to estimate. Out: quality (n, m). Next:
`policies` routes by them as by ours: the same features, the same costs.

Their settings are tuned on held-out folds of the past, so that none loses for want of it: those of ridge by
how they route, those of neighbours by their squared error, which tells such coarse estimates apart more
surely (by how they route, noise chose settings that routed the test worse).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import product

import numpy as np
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from modelfleet_lab.evaluate.estimators import Known
from modelfleet_lab.evaluate.protocol import Part, best_single
from modelfleet_lab.evaluate.sweeps import priced
from modelfleet_lab.methods import BoolArray, FloatArray

Setting = tuple[bool, float | str]
"""Whether features are scaled to unit spread, and the strength of a ridge or the measure of distance."""
Fit = Callable[[FloatArray, FloatArray, FloatArray, Sequence[Setting]], Mapping[Setting, FloatArray]]
"""From features (n, d) and quality (n, m) of known queries and features (k, d): (k, m) by setting."""

STRENGTHS = tuple(10.0 ** (half / 2) for half in range(13))
_RIDGES: tuple[Setting, ...] = tuple(product((True, False), STRENGTHS))
_DISTANCES: tuple[Setting, ...] = tuple(product((True, False), ("cosine", "euclidean")))
_OVERALL = 1e-3
"""Part of the mean over all queries in that of the nearest: it only decides between equals."""
_PRICES = 60
_SHARES = tuple(k / 20 for k in range(1, 21))


def task_means(past: Part, asked: Part, values: FloatArray) -> FloatArray:
    """Return (n, m) the mean of `values` of the past over the task of each of `asked`, whose label is known.

    NaN values do not count; a task without past has the mean over all.
    """

    def mean(rows: BoolArray) -> FloatArray:
        count = (~np.isnan(values[rows])).sum(axis=0)
        total = np.nansum(values[rows], axis=0)
        average: FloatArray = np.where(count > 0, total / np.maximum(count, 1), np.nan)
        return average

    tasks = np.array(past.tasks)
    overall = mean(np.ones(past.size, dtype=bool))
    means = {task: mean(tasks == task) for task in set(past.tasks)}
    table = np.array([means.get(task, overall) for task in asked.tasks])
    return np.where(np.isnan(table), overall, table)


def ridge(past: Known, asked: Known, cost: FloatArray) -> FloatArray:
    """Return (n, m) by plain ridge regression; `cost` are expected USD of the past."""
    return _tuned(_ridge, _RIDGES, past, asked, lambda estimated: _worth(estimated, past.part, cost))


def nearest(past: Known, asked: Known, neighbours: int) -> FloatArray:
    """Return (n, m) the mean quality of the `neighbours` nearest queries of the past.

    Few neighbours are often equal for several models; then the model with the higher mean over all comes
    first.
    """

    def fit(
        x: FloatArray, quality: FloatArray, new: FloatArray, settings: Sequence[Setting]
    ) -> dict[Setting, FloatArray]:
        found = {}
        for scaled, measure in settings:
            known, wanted = _scaled(x, new) if scaled else (x, new)
            search = NearestNeighbors(n_neighbors=min(neighbours, len(x)), metric=measure).fit(known)
            near = quality[search.kneighbors(wanted, return_distance=False)].mean(axis=1)
            found[scaled, measure] = (1 - _OVERALL) * near + _OVERALL * quality.mean(axis=0)
        return found

    quality = past.part.quality
    return _tuned(fit, _DISTANCES, past, asked, lambda held: -float(((held - quality) ** 2).mean()))


def _ridge(
    x: FloatArray, quality: FloatArray, new: FloatArray, settings: Sequence[Setting]
) -> dict[Setting, FloatArray]:
    found: dict[Setting, FloatArray] = {}
    for scaled in sorted({scaled for scaled, _ in settings}):
        known, wanted = _scaled(x, new) if scaled else (x, new)
        middle, level = known.mean(axis=0), quality.mean(axis=0)
        known = known - middle
        # One decomposition serves all strengths.
        size, turn = np.linalg.eigh(known.T @ known)
        target = turn.T @ (known.T @ (quality - level))
        place = (wanted - middle) @ turn
        for strength in (float(strength) for one, strength in settings if one == scaled):
            slopes = target / (np.maximum(size, 0.0) + strength)[:, None]
            found[scaled, strength] = np.clip(level + place @ slopes, 0.0, 1.0)
    return found


def _scaled(x: FloatArray, new: FloatArray) -> tuple[FloatArray, FloatArray]:
    scaler = StandardScaler().fit(x)
    return scaler.transform(x), scaler.transform(new)


def _tuned(
    fit: Fit,
    settings: Sequence[Setting],
    past: Known,
    asked: Known,
    worth: Callable[[FloatArray], float],
) -> FloatArray:
    """Return the estimates of `asked` by the setting that is worth most on held-out folds of the past."""
    quality = past.part.quality
    held = {setting: np.tile(quality.mean(axis=0), (len(quality), 1)) for setting in settings}
    for fold in np.unique(past.fold).tolist():
        mine = past.fold == fold
        if not mine.all():
            for setting, found in fit(past.x[~mine], quality[~mine], past.x[mine], settings).items():
                held[setting][mine] = found
    best = max(settings, key=lambda setting: worth(held[setting]))
    return fit(past.x, quality, asked.x, (best,))[best]


def _worth(estimated: FloatArray, part: Part, cost: FloatArray) -> float:
    """Return the mean quality over shares of the best single model's cost."""
    policy = priced(estimated, cost, prices=_PRICES).played(part.quality, part.cost).curve
    dear = float(part.cost[:, best_single(part)].mean())
    return float(np.mean([policy.quality_at(share * dear) for share in _SHARES]))
