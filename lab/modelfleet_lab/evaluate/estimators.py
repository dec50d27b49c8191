"""Estimators that are told the past: ours, and those that it must beat.

In: the `Part` of the past, and the queries to estimate. Out: `Told`: quality for each query and model, and
what an answer would cost. Next: `sweeps` makes policies of them.

All are told the same texts by the same features, and all but the task's mean the same costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from modelfleet_core.estimation.features import feature_matrix
from modelfleet_core.estimation.statistics import FOLDS
from modelfleet_core.estimation.trained import Prediction, Trained
from modelfleet_core.estimation.training import Batch, fold_of, train
from modelfleet_core.values import ModelName, TaskName
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler

from modelfleet_lab.evaluate import costs
from modelfleet_lab.evaluate.protocol import Part
from modelfleet_lab.methods import BoolArray, FloatArray, IntArray
from modelfleet_lab.outcomes import Recorded

_ROWS = 1024
"""Queries in a batch of training."""
_RIDGES = (1.0, 10.0, 100.0, 1000.0, 10000.0)
"""Strengths that plain ridge may choose from."""


@dataclass(frozen=True, slots=True, eq=False)
class Told:
    """Estimates for n queries and m models."""

    quality: FloatArray
    """(n, m) in [0, 1]."""
    cost: FloatArray
    """(n, m) USD."""


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """Queries as estimators see them."""

    part: Part
    x: FloatArray
    """(n, d) features of the prompts."""
    fold: IntArray
    """(n,) by the hash of the prompt."""
    tokens: FloatArray
    """(n, m) output tokens as far as recorded."""

    @property
    def labels(self) -> tuple[TaskName | None, ...]:
        return tuple(TaskName(task) if task else None for task in self.part.tasks)


def known(data: Recorded, part: Part) -> Known:
    """Return the queries with their features."""
    return Known(
        part=part,
        x=feature_matrix(part.prompts),
        fold=np.array([fold_of(prompt) for prompt in part.prompts], dtype=np.int64),
        tokens=costs.tokens_known(data, part),
    )


def fit(models: Sequence[str], past: Known, members: BoolArray | None = None) -> Trained:
    """Return our estimator, trained on the `members` (n,) of the past; all where None."""
    chosen = np.arange(past.part.size) if members is None else np.flatnonzero(members)
    labels = past.labels

    def batches() -> list[Batch]:
        parts = [chosen[k : k + _ROWS] for k in range(0, len(chosen), _ROWS)]
        return [
            Batch(
                x=past.x[part],
                task=tuple(labels[i] for i in part),
                quality=past.part.quality[part],
                output_tokens=past.tokens[part],
                fold=past.fold[part],
            )
            for part in parts
        ]

    return train([ModelName(name) for name in models], batches)


def across_folds(models: Sequence[str], past: Known) -> Prediction:
    """Return estimates of the past itself, each by an estimator that was not told the query's fold."""
    found: list[tuple[IntArray, Prediction]] = []
    for fold in range(FOLDS):
        mine = np.flatnonzero(past.fold == fold)
        if mine.size:
            found.append((mine, fit(models, past, past.fold != fold).predict(past.x[mine])))
    order = np.concatenate([mine for mine, _ in found])
    back = np.argsort(order)

    def joined(name: str) -> FloatArray:
        result: FloatArray = np.concatenate([getattr(one, name) for _, one in found])[back]
        return result

    # Each fold has its own posterior of tasks; nobody asks for it.
    names = ("quality", "variance", "samples", "confidence", "output_tokens")
    return Prediction(tasks=np.empty((past.part.size, 0)), **{name: joined(name) for name in names})


def pessimistic(told: Prediction, kappa: float) -> FloatArray:
    """Return (n, m) quality less `kappa` standard deviations."""
    lowered: FloatArray = np.clip(told.quality - kappa * np.sqrt(told.variance), 0.0, 1.0)
    return lowered


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


def ridge(past: Known, asked: Known) -> FloatArray:
    """Return (n, m) plain ridge regression on the same features, its strength chosen on held-out folds."""
    scaler = StandardScaler().fit(past.x)
    x, quality = scaler.transform(past.x), past.part.quality
    held = past.fold == 0

    def error(strength: float) -> float:
        model = Ridge(alpha=strength).fit(x[~held], quality[~held])
        return float(((model.predict(x[held]) - quality[held]) ** 2).mean())

    strength = min(_RIDGES, key=error) if held.any() and not held.all() else _RIDGES[-1]
    found = Ridge(alpha=strength).fit(x, quality).predict(scaler.transform(asked.x))
    clipped: FloatArray = np.clip(found.reshape(asked.part.size, -1), 0.0, 1.0)
    return clipped


def nearest(past: Known, asked: Known, neighbours: int) -> FloatArray:
    """Return (n, m) the mean quality of the `neighbours` most similar queries of the past (cosine)."""
    scaler = StandardScaler().fit(past.x)
    search = NearestNeighbors(n_neighbors=min(neighbours, past.part.size), metric="cosine")
    places = search.fit(scaler.transform(past.x)).kneighbors(scaler.transform(asked.x), return_distance=False)
    found: FloatArray = past.part.quality[places].mean(axis=1)
    return found
