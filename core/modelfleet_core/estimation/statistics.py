"""Stage forward and learn, what training knows of past outcomes: sums of fixed size, however many the rows.

In: batches of features and outcomes. Out: `Statistics`, which add: those of a split are those of the whole.
Next: `training`. Every sum is kept by fold, so that a fit can leave a fold out: the whole less that fold.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from modelfleet_core.estimation.features import FEATURES
from modelfleet_core.estimation.sample import Sample
from modelfleet_core.values import ModelName, TaskName

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

FOLDS = 5
MOST_TASKS = 64
"""Tasks with fewer rows than these have no estimate of their own."""
_MOST_NAMES = 4 * MOST_TASKS
"""Tasks that are counted; those first seen later are as if they had no name."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Some of the past: n queries, m models in the order that training was told."""

    x: FloatArray
    """(n, FEATURES)"""
    task: tuple[TaskName | None, ...]
    """(n,) labels where known."""
    quality: FloatArray
    """(n, m) in [0, 1], NaN where not known."""
    output_tokens: FloatArray
    """(n, m), NaN where not known."""
    fold: IntArray
    """(n,) 0 to `FOLDS` - 1: `fold_of` the text, so that equal texts are in one fold."""


def fold_of(text: str) -> int:
    """Return the fold of `text`: the same on every machine."""
    return zlib.crc32(text.encode("utf-8", "surrogatepass")) % FOLDS


def checked(batch: Batch, models: int) -> Batch:
    """Return `batch`; raise ValueError that names what is wrong with it."""
    n = len(batch.x)
    shapes = (
        ("x", batch.x.shape, (n, FEATURES)),
        ("quality", batch.quality.shape, (n, models)),
        ("output_tokens", batch.output_tokens.shape, (n, models)),
        ("fold", batch.fold.shape, (n,)),
        ("task", (len(batch.task),), (n,)),
    )
    for name, shape, wanted in shapes:
        if shape != wanted:
            raise ValueError(f"batch.{name} has shape {shape}; give one of shape {wanted}")
    if not np.isfinite(batch.x).all():
        raise ValueError("batch.x holds a value that is not finite; make it with `feature_matrix`")
    if n and (batch.fold.min() < 0 or batch.fold.max() >= FOLDS):
        raise ValueError(f"batch.fold holds a value outside 0 to {FOLDS - 1}; make it with `fold_of`")
    known = batch.quality[~np.isnan(batch.quality)]
    if known.size and (known.min() < 0.0 or known.max() > 1.0):
        raise ValueError("batch.quality holds a value outside [0, 1]; scale the scores")
    tokens = batch.output_tokens[~np.isnan(batch.output_tokens)]
    if tokens.size and (tokens.min() < 0.0 or not np.isfinite(tokens).all()):
        raise ValueError("batch.output_tokens holds a value that is not a number of tokens")
    return batch


@dataclass(slots=True, eq=False)
class Outcomes:
    """Sums of one figure y of m models over the queries where it is known, by fold."""

    count: FloatArray
    """(folds, m)"""
    total: FloatArray
    """(folds, m) sum of y."""
    square: FloatArray
    """(folds, m) sum of y y."""
    x: FloatArray
    """(folds, FEATURES, m) sum of x."""
    xy: FloatArray
    """(folds, FEATURES, m) sum of x y."""

    @classmethod
    def none(cls, models: int) -> Outcomes:
        small, large = (FOLDS, models), (FOLDS, FEATURES, models)
        return cls(np.zeros(small), np.zeros(small), np.zeros(small), np.zeros(large), np.zeros(large))

    def add(self, fold: int, x: FloatArray, y: FloatArray) -> None:
        known = ~np.isnan(y)
        weight, value = known.astype(np.float64), np.where(known, y, 0.0)
        self.count[fold] += weight.sum(axis=0)
        self.total[fold] += value.sum(axis=0)
        self.square[fold] += (value * value).sum(axis=0)
        self.x[fold] += x.T @ weight
        self.xy[fold] += x.T @ value

    def over(self, folds: npt.NDArray[np.bool_]) -> Outcomes:
        """Return the sums over `folds` (folds, 1) alone."""
        each = folds[:, :, np.newaxis]
        return Outcomes(
            self.count * folds, self.total * folds, self.square * folds, self.x * each, self.xy * each
        )

    def __add__(self, other: Outcomes) -> Outcomes:
        return Outcomes(
            self.count + other.count,
            self.total + other.total,
            self.square + other.square,
            self.x + other.x,
            self.xy + other.xy,
        )


@dataclass(slots=True, eq=False)
class TaskSums:
    """Sums over the queries of one task, by fold."""

    rows: FloatArray
    """(folds,)"""
    x: FloatArray
    """(folds, FEATURES)"""
    count: FloatArray
    """(folds, m) known qualities."""
    total: FloatArray
    """(folds, m) their sum."""

    @classmethod
    def none(cls, models: int) -> TaskSums:
        return cls(
            np.zeros(FOLDS), np.zeros((FOLDS, FEATURES)), np.zeros((FOLDS, models)), np.zeros((FOLDS, models))
        )

    def __add__(self, other: TaskSums) -> TaskSums:
        return TaskSums(
            self.rows + other.rows, self.x + other.x, self.count + other.count, self.total + other.total
        )


@dataclass(slots=True, eq=False)
class Statistics:
    """All that the fit needs to know of the rows it was shown."""

    models: tuple[ModelName, ...]
    rows: FloatArray
    """(folds,)"""
    x: FloatArray
    """(folds, FEATURES) sum of x."""
    xx: FloatArray
    """(folds, FEATURES, FEATURES) sum of x x'."""
    quality: Outcomes
    log_tokens: Outcomes
    """Of log(1 + output tokens)."""
    tokens: FloatArray
    """(folds, m) sum of output tokens."""
    sample: Sample
    tasks: dict[TaskName, TaskSums] = field(default_factory=dict)

    @classmethod
    def none(cls, models: Sequence[ModelName]) -> Statistics:
        m = len(models)
        return cls(
            models=tuple(models),
            rows=np.zeros(FOLDS),
            x=np.zeros((FOLDS, FEATURES)),
            xx=np.zeros((FOLDS, FEATURES, FEATURES)),
            quality=Outcomes.none(m),
            log_tokens=Outcomes.none(m),
            tokens=np.zeros((FOLDS, m)),
            sample=Sample.none(FEATURES, m),
        )

    def add(self, batch: Batch) -> None:
        """Count `batch`; raise ValueError if it is not one."""
        checked(batch, len(self.models))
        self.sample += Sample.of(batch.x, batch.quality, batch.output_tokens, batch.fold, batch.task)
        for fold in np.unique(batch.fold).tolist():
            mine = np.flatnonzero(batch.fold == fold)
            x, quality, tokens = batch.x[mine], batch.quality[mine], batch.output_tokens[mine]
            self.rows[fold] += len(mine)
            self.x[fold] += x.sum(axis=0)
            self.xx[fold] += x.T @ x
            self.quality.add(fold, x, quality)
            self.log_tokens.add(fold, x, np.log1p(tokens))
            self.tokens[fold] += np.nan_to_num(tokens).sum(axis=0)
            self._add_tasks(fold, [batch.task[k] for k in mine.tolist()], x, quality)

    def _add_tasks(
        self, fold: int, labels: list[TaskName | None], x: FloatArray, quality: FloatArray
    ) -> None:
        known = ~np.isnan(quality)
        value = np.where(known, quality, 0.0)
        for task in dict.fromkeys(labels):
            if task is None or (task not in self.tasks and len(self.tasks) >= _MOST_NAMES):
                continue
            sums = self.tasks.setdefault(task, TaskSums.none(len(self.models)))
            mine = [k for k, label in enumerate(labels) if label == task]
            sums.rows[fold] += len(mine)
            sums.x[fold] += x[mine].sum(axis=0)
            sums.count[fold] += known[mine].sum(axis=0)
            sums.total[fold] += value[mine].sum(axis=0)

    def without(self, fold: int) -> Statistics:
        """Return the sums over all other folds."""
        rest = np.arange(FOLDS)[:, np.newaxis] != fold
        rest_of = rest[:, :, np.newaxis]
        return Statistics(
            models=self.models,
            rows=self.rows * rest[:, 0],
            x=self.x * rest,
            xx=self.xx * rest_of,
            quality=self.quality.over(rest),
            log_tokens=self.log_tokens.over(rest),
            tokens=self.tokens * rest,
            sample=self.sample.at(np.flatnonzero(self.sample.fold != fold)),
            tasks={
                name: TaskSums(sums.rows * rest[:, 0], sums.x * rest, sums.count * rest, sums.total * rest)
                for name, sums in self.tasks.items()
            },
        )

    def __add__(self, other: Statistics) -> Statistics:
        """Return the sums over both; raise ValueError if they are not of the same models."""
        if self.models != other.models:
            raise ValueError("statistics of different models do not add; count both for the same models")
        nothing = TaskSums.none(len(self.models))
        return Statistics(
            models=self.models,
            rows=self.rows + other.rows,
            x=self.x + other.x,
            xx=self.xx + other.xx,
            quality=self.quality + other.quality,
            log_tokens=self.log_tokens + other.log_tokens,
            tokens=self.tokens + other.tokens,
            sample=self.sample + other.sample,
            tasks={
                name: self.tasks.get(name, nothing) + other.tasks.get(name, nothing)
                for name in sorted({*self.tasks, *other.tasks})
            },
        )
