"""Stage forward and learn, from past outcomes to an estimator.

In: `Statistics`, or batches to count. Out: `Trained`. Next: `artifact`, then the sidecars.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from modelfleet_core.estimation.features import FEATURES
from modelfleet_core.estimation.statistics import MOST_TASKS, Batch, Outcomes, Statistics, fold_of
from modelfleet_core.estimation.trained import Trained
from modelfleet_core.values import ModelName

__all__ = ["Batch", "Statistics", "fold_of", "train", "trained_from"]

FloatArray = npt.NDArray[np.float64]

_RIDGE = 30.0
"""Strength of the prior on slopes, in rows, for features of unit variance."""
_RANK = 2
_TASK_PRIOR = 10.0
"""Outcomes' worth of the model's mean in each of its tasks' means."""
_LIKENESS = 32


def train(models: Sequence[ModelName], batches: Callable[[], Iterable[Batch]]) -> Trained:
    """Return what the batches teach of `models`; raise ValueError if they teach nothing.

    `batches()` is called once for every pass over the data. Memory does not grow with the rows.
    """
    statistics = Statistics.none(models)
    for batch in batches():
        statistics.add(batch)
    return trained_from(statistics)


def trained_from(statistics: Statistics) -> Trained:
    """Return the fit to all folds."""
    rows = statistics.rows.sum()
    count = statistics.quality.count.sum(axis=0)
    if rows < 2 or count.sum() < 2:
        raise ValueError("there are fewer than two outcomes to learn from; record some first")
    center = statistics.x.sum(axis=0) / rows
    scatter = statistics.xx.sum(axis=0) - rows * np.outer(center, center)
    scale = np.sqrt(np.maximum(np.diag(scatter) / rows, 1e-2))
    values, vectors = np.linalg.eigh(scatter / np.outer(scale, scale))
    values = np.maximum(values, 0.0)
    basis = vectors / scale[:, None]
    mean, slopes = _ridge(statistics.quality, basis, values, rows)
    directions, loadings = _of_rank(slopes, scatter, np.sqrt(count), _RANK)
    tokens_mean, token_slopes = _ridge(statistics.log_tokens, basis, values, rows)
    token_directions, token_loadings = _of_rank(
        token_slopes, scatter, np.sqrt(statistics.log_tokens.count.sum(axis=0)), _RANK + 1
    )
    names = sorted(statistics.tasks, key=lambda name: (-statistics.tasks[name].rows.sum(), name))[:MOST_TASKS]
    t = len(names)
    task_rows = np.array([statistics.tasks[name].rows.sum() for name in names])
    task_x = np.array([statistics.tasks[name].x.sum(axis=0) for name in names]).reshape(t, FEATURES)
    task_count = np.array([statistics.tasks[name].count.sum(axis=0) for name in names]).reshape(t, -1)
    task_total = np.array([statistics.tasks[name].total.sum(axis=0) for name in names]).reshape(t, -1)
    off = task_x / np.maximum(task_rows, 1.0)[:, None] - center
    whitened = basis @ ((basis.T @ off.T) / (values + _RIDGE)[:, None]) * rows
    levels = np.log(np.maximum(task_rows, 1.0) / rows) - 0.5 * np.einsum("td,dt->t", off, whitened)
    top = np.argsort(values)[::-1][:_LIKENESS]
    likeness = basis[:, top] / np.sqrt(values[top] + _RIDGE)
    leverage = float(np.einsum("dk,de,ek->", likeness, scatter, likeness)) / rows
    seen_tokens = statistics.log_tokens.count.sum(axis=0)
    with np.errstate(invalid="ignore"):
        smearing = np.where(
            seen_tokens > 0,
            statistics.tokens.sum(axis=0) / (np.maximum(seen_tokens, 1.0) * np.exp(tokens_mean)),
            1.0,
        )
    found = Trained(
        models=statistics.models,
        tasks=tuple(names),
        version="",
        kappa=0.0,
        center=center,
        mean=mean,
        samples=count,
        directions=directions,
        loadings=loadings,
        task_slopes=whitened,
        task_levels=levels,
        task_quality=(task_total + _TASK_PRIOR * mean) / (task_count + _TASK_PRIOR),
        task_samples=task_count,
        likeness=likeness,
        typical_leverage=leverage,
        noise=np.maximum(mean * (1.0 - mean), 1e-3),
        slope=np.ones(len(mean)),
        level=np.zeros(len(mean)),
        token_directions=token_directions,
        token_loadings=token_loadings,
        token_mean=np.where(seen_tokens > 0, tokens_mean, np.nan),
        token_smearing=smearing,
    )
    return versioned(found)


def versioned(trained: Trained) -> Trained:
    """Return `trained` with the version that its content has."""
    digest = hashlib.sha256("\n".join((*trained.models, "", *trained.tasks)).encode())
    for array in (trained.mean, trained.directions, trained.loadings, trained.task_quality, trained.level):
        digest.update(array.astype(np.float32).tobytes())
    return replace(trained, version=digest.hexdigest()[:16])


def _ridge(
    outcomes: Outcomes, basis: FloatArray, values: FloatArray, rows: float
) -> tuple[FloatArray, FloatArray]:
    """Return means (m,) and slopes (d, m); a model that answered few rows has its share of their scatter."""
    count = outcomes.count.sum(axis=0)
    some = np.maximum(count, 1.0)
    overall = outcomes.total.sum() / max(1.0, float(count.sum()))
    mean = np.where(count > 0, outcomes.total.sum(axis=0) / some, overall)
    products = outcomes.xy.sum(axis=0) - outcomes.x.sum(axis=0) * mean
    return mean, basis @ ((basis.T @ products) / (values[:, None] * (count / rows) + _RIDGE))


def _of_rank(
    slopes: FloatArray, scatter: FloatArray, weight: FloatArray, rank: int
) -> tuple[FloatArray, FloatArray]:
    """Return directions (d, r) and loadings (r, m) of the fit's main variation over the rows."""
    fitted = (slopes * weight).T @ scatter @ (slopes * weight)
    _, vectors = np.linalg.eigh(fitted)
    kept = vectors[:, ::-1][:, :rank]
    loadings = kept.T / np.maximum(weight, 1.0)
    return (slopes * weight) @ kept, np.where(weight > 0, loadings, 0.0)
