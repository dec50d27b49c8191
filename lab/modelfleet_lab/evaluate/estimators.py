"""Our estimator as the evaluation trains it, on the past alone.

In: the `Part` of the past, and the queries to estimate. Out: `Known`, the queries with their features, and
estimates. Next: `costs` and `sweeps` make policies of them, and `plain` of rivals on the same features.
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

from modelfleet_lab.evaluate import costs
from modelfleet_lab.evaluate.protocol import Part
from modelfleet_lab.methods import BoolArray, FloatArray, IntArray
from modelfleet_lab.outcomes import Recorded

_ROWS = 1024
"""Queries in a batch of training."""


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
