"""Stage forward and learn, means, slopes and directions from sums.

In: `Statistics`, and a fold to leave out. Out: `Trained` with weights, gate and calibration that are yet to
be found. Next: `training` finds them on rows that were left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modelfleet_core.estimation.features import FEATURES
from modelfleet_core.estimation.statistics import FOLDS, MOST_TASKS, Outcomes, Statistics
from modelfleet_core.estimation.trained import Trained
from modelfleet_core.values import TaskName

FloatArray = npt.NDArray[np.float64]

RIDGE = 2000.0
"""Rows' worth of belief that a feature of unit variance says nothing."""
POSTERIOR_RIDGE = 1000.0
"""The same where tasks are told apart."""
TASK_PRIOR = 10.0
"""Outcomes' worth of belief that a task is as hard as others."""
LEAST_PRIOR, MOST_PRIOR = 2.0, 1000.0
"""Bounds of the outcomes' worth of belief that models are alike, and alike in each task."""
RANK = 2
TOKEN_RANK = 3
LIKENESS = 32
AXES = 640
"""Main directions of the features that fits are made in; what is off them is noise."""
_LEAST_DEVIATION = 0.2
"""Of a feature: one that is rarer than this counts for less."""
ANY_DISTANCE = 1e9
"""Nothing is farther: no text is told to be unlike training until that is found out."""
CURVE = 33
"""Points of a calibration curve."""


@dataclass(frozen=True, slots=True, eq=False)
class Axes:
    """What all fits to the same statistics share."""

    scale: FloatArray
    """(d,)"""
    basis: FloatArray
    """(d, a) orthonormal."""


@dataclass(frozen=True, slots=True, eq=False)
class _Frame:
    """The features z = (x - center) / scale, whose scatter is about vectors diag(values) vectors'."""

    rows: float
    center: FloatArray
    scale: FloatArray
    values: FloatArray
    """(a,) rising"""
    vectors: FloatArray
    """(d, a)"""
    total: float
    """Trace of the scatter."""

    def solved(self, products: FloatArray, share: FloatArray | float, ridge: float) -> FloatArray:
        """Return slopes (d, c) from `products` (d, c), each of a `share` of the rows."""
        slopes: FloatArray = self.vectors @ (
            (self.vectors.T @ products) / (self.values[:, np.newaxis] * share + ridge)
        )
        return slopes


@dataclass(frozen=True, slots=True, eq=False)
class _Sums:
    """`Outcomes` over the folds that count, in scaled features."""

    count: FloatArray
    mean: FloatArray
    products: FloatArray
    """(d, m) sum of z (y - mean)."""
    noise: float
    """Variance of y around the mean of its model."""


def tasks_of(statistics: Statistics) -> tuple[TaskName, ...]:
    """Return the tasks that have estimates of their own: the most frequent ones, by name."""
    ranked = sorted(statistics.tasks, key=lambda name: (-statistics.tasks[name].rows.sum(), name))
    return tuple(sorted(ranked[:MOST_TASKS]))


def axes(statistics: Statistics) -> Axes:
    """Return the main directions of all rows' features. Outcomes play no part, so that no fold learns of
    another's from them."""
    _, scatter = _moments(statistics, range(FOLDS))
    rows = float(statistics.rows.sum())
    scale = np.maximum(np.sqrt(np.maximum(np.diag(scatter) / rows, 0.0)), _LEAST_DEVIATION)
    _, vectors = np.linalg.eigh(scatter / np.outer(scale, scale))
    # Fewer rows than axes vary in no more directions than they are.
    return Axes(scale, vectors[:, -min(AXES, max(LIKENESS, int(rows))) :])


def fitted(statistics: Statistics, along: Axes, without: int | None = None) -> Trained:
    """Return the fit to all folds, or to all but one."""
    folds = [fold for fold in range(FOLDS) if fold != without]
    frame = _frame(statistics, folds, along)
    quality = _sums(statistics.quality, folds, frame)
    tokens = _sums(statistics.log_tokens, folds, frame)
    directions, loadings = _of_rank(_slopes(quality, frame), quality.count, frame, RANK)
    token_directions, token_loadings = _of_rank(_slopes(tokens, frame), tokens.count, frame, TOKEN_RANK)
    names = tasks_of(statistics)
    t, m = len(names), len(statistics.models)
    rows = _of_tasks([statistics.tasks[name].rows for name in names], folds, (t,))
    count = _of_tasks([statistics.tasks[name].count for name in names], folds, (t, m))
    total = _of_tasks([statistics.tasks[name].total for name in names], folds, (t, m))
    x = _of_tasks([statistics.tasks[name].x for name in names], folds, (t, FEATURES))
    middle = np.where(
        rows[:, np.newaxis] > 0,
        (x / np.maximum(rows, 1.0)[:, np.newaxis] - frame.center) / frame.scale,
        0.0,
    )
    slopes = frame.solved(middle.T * frame.rows, 1.0, POSTERIOR_RIDGE)
    levels = np.log((rows + 0.5) / frame.rows) - 0.5 * np.einsum("td,dt->t", middle, slopes)
    top = slice(len(frame.values) - LIKENESS, None)
    likeness = frame.vectors[:, top]
    rest = (frame.total - float(frame.values[top].sum())) / (FEATURES - LIKENESS)
    return Trained(
        models=statistics.models,
        tasks=names,
        version="",
        kappa=0.0,
        center=frame.center,
        scale=frame.scale,
        mean=quality.mean,
        samples=quality.count,
        directions=directions,
        loadings=loadings,
        task_slopes=slopes,
        task_levels=levels,
        task_quality=_task_quality(count, total, quality),
        task_samples=count,
        task_strength=middle @ directions,
        likeness=likeness,
        likeness_weight=1.0 / (frame.values[top] + POSTERIOR_RIDGE),
        likeness_rest=np.array([1.0 / (rest + POSTERIOR_RIDGE)]),
        middles=middle @ likeness if t else np.zeros((1, LIKENESS)),
        typical_distance=np.full(max(1, t), ANY_DISTANCE),
        typical_share=np.array([1e-6]),
        weights=np.array([0.5, 0.5, 0.5]) if t else np.array([0.0, 1.0, 0.0]),
        curve=np.tile(np.linspace(0.0, 1.0, CURVE)[:, np.newaxis], (1, m)),
        noise=np.maximum(quality.mean * (1.0 - quality.mean), 1e-4),
        spread=np.zeros(m),
        token_directions=token_directions,
        token_loadings=token_loadings,
        token_mean=np.where(tokens.count > 0, tokens.mean, np.nan),
        token_smearing=np.ones(m),
    )


def _moments(statistics: Statistics, folds: Sequence[int]) -> tuple[FloatArray, FloatArray]:
    """Return mean (d,) and scatter (d, d) of the features."""
    chosen = list(folds)
    rows = float(statistics.rows[chosen].sum())
    center = statistics.x[chosen].sum(axis=0) / rows
    return center, statistics.xx[chosen].sum(axis=0) - rows * np.outer(center, center)


def _frame(statistics: Statistics, folds: Sequence[int], along: Axes) -> _Frame:
    center, scatter = _moments(statistics, folds)
    scaled = along.basis / along.scale[:, np.newaxis]
    values, vectors = np.linalg.eigh(scaled.T @ scatter @ scaled)
    return _Frame(
        rows=float(statistics.rows[folds].sum()),
        center=center,
        scale=along.scale,
        values=np.maximum(values, 0.0),
        vectors=along.basis @ vectors,
        total=float((np.diag(scatter) / np.square(along.scale)).sum()),
    )


def _sums(outcomes: Outcomes, folds: Sequence[int], frame: _Frame) -> _Sums:
    count, total = outcomes.count[folds].sum(axis=0), outcomes.total[folds].sum(axis=0)
    answers, known = float(count.sum()), float((count > 0).sum())
    overall = float(total.sum()) / max(1.0, answers)
    around = outcomes.square[folds].sum(axis=0) - total * total / np.maximum(count, 1.0)
    noise = max(0.0, float(around.sum())) / max(1.0, answers - known)
    prior = _prior(total - count * overall, count, noise, known - 1.0)
    mean = (total + prior * overall) / (count + prior)
    xy, x = outcomes.xy[folds].sum(axis=0), outcomes.x[folds].sum(axis=0)
    off = xy - x * mean - np.outer(frame.center, total - count * mean)
    return _Sums(count, mean, off / frame.scale[:, np.newaxis], noise)


def _prior(off: FloatArray, count: FloatArray, noise: float, free: float) -> float:
    """Return how many outcomes' worth of belief that all groups' means are alike the data bear out.

    `off`: the sum of `count` outcomes of each group, less what is expected of it; `free`: the number of
    groups less that of figures by which the expectation was fitted. Empirical Bayes by the method of moments:
    what groups differ by more than chance alone would bring is theirs. Where that is nothing, differences are
    noise, and the first thing that a router would pick.
    """
    seen = float((off * off / np.maximum(count, 1.0)).sum())
    beyond = (seen - noise * max(0.0, free)) / max(1.0, float(count.sum()))
    return min(MOST_PRIOR, max(LEAST_PRIOR, noise / max(beyond, 1e-9)))


def _slopes(sums: _Sums, frame: _Frame) -> FloatArray:
    """Return (d, m): a slope that all models share, from all of their outcomes, and each model's own.

    Where every model answered everything, this is the ridge regression of each; where each query was
    answered by one, what is common to the models still rests on all rows.
    """
    answers = max(1.0, float(sums.count.sum()) / frame.rows)
    common = frame.solved(sums.products.sum(axis=1, keepdims=True) / answers, 1.0, RIDGE)
    share = sums.count / frame.rows
    expected = frame.vectors @ ((frame.values + RIDGE)[:, np.newaxis] * (frame.vectors.T @ common)) * share
    return common + frame.solved(sums.products - expected, share, RIDGE)


def _task_quality(count: FloatArray, total: FloatArray, quality: _Sums) -> FloatArray:
    """Return (t, m) means by task: how hard the task is, and how far the model is off that."""
    off = total - count * quality.mean
    level = off.sum(axis=1, keepdims=True) / (count.sum(axis=1, keepdims=True) + TASK_PRIOR)
    own = off - count * level
    fitted = float((count.sum(axis=0) > 0).sum() + (count.sum(axis=1) > 0).sum()) - 1.0
    prior = _prior(own, count, quality.noise, float((count > 0).sum()) - fitted)
    result: FloatArray = np.clip(quality.mean + level + own / (count + prior), 0.0, 1.0)
    return result


def _of_rank(
    slopes: FloatArray, count: FloatArray, frame: _Frame, rank: int
) -> tuple[FloatArray, FloatArray]:
    """Return directions (d, r) and loadings (r, m) of the fit's main variation over the rows.

    Models count by their outcomes (reduced-rank regression, Izenman 1975, with the ridge fit in place of that
    of least squares).
    """
    weight = np.sqrt(count / max(1.0, float(count.max())))
    along = np.sqrt(frame.values)[:, np.newaxis] * (frame.vectors.T @ (slopes * weight))
    _, vectors = np.linalg.eigh(along.T @ along)
    kept = np.zeros((len(count), rank))
    found = vectors[:, ::-1][:, :rank]
    kept[:, : found.shape[1]] = found
    loadings = kept.T / np.maximum(weight, 1e-6)
    return (slopes * weight) @ kept, np.where(weight > 0, loadings, 0.0)


def _of_tasks(sums: list[FloatArray], folds: Sequence[int], shape: tuple[int, ...]) -> FloatArray:
    result = np.zeros(shape)
    for k, by_fold in enumerate(sums):
        result[k] = by_fold[folds].sum(axis=0)
    return result
