"""Quality and cost of each model from the text of a query alone: what all compared methods are told.

In: recorded outcomes of the past, prompts. Out: estimates. Next: `comparison`. A plain stand-in for the
product's estimator: half the means of the tasks that the text looks like, half a ridge regression of rank 2,
on counts of hashed words.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from modelfleet_lab.methods import FloatArray

_WORDS = 384
_RIDGE = 10.0
_RANK = 2
_TASK_PRIOR = 10.0
"""Queries' worth of the overall mean that each task's mean is shrunk by."""
_LEAST_COST = 1e-9


def features(prompts: Sequence[str]) -> FloatArray:
    """Return (n, d) counts of hashed words and lengths."""
    rows = np.zeros((len(prompts), _WORDS + 4))
    for row, prompt in zip(rows, prompts, strict=True):
        for word in re.findall(r"[a-z]+|[0-9]|[^\sa-z0-9]", prompt.lower()):
            row[zlib.crc32(word.encode()) % _WORDS] += 1.0
        row[_WORDS:] = len(prompt), prompt.count("\n"), prompt.count("\\"), len(re.findall(r"\d", prompt))
    counts = np.log1p(rows)
    scaled: FloatArray = counts / np.maximum(counts.std(axis=0), 0.1)
    return scaled


@dataclass(frozen=True, slots=True, eq=False)
class Estimates:
    quality: FloatArray
    """(n, m) in [0, 1]."""
    cost: FloatArray
    """(n, m) USD."""


def estimate(
    known: FloatArray,
    tasks: Sequence[str],
    quality: FloatArray,
    cost: FloatArray,
    asked: FloatArray,
    *,
    weight: FloatArray | None = None,
) -> Estimates:
    """Return estimates for `asked` (k, d) from outcomes (n, m) of `known` (n, d), counted `weight` times."""
    n, m = quality.shape
    w = np.ones(n) if weight is None else weight
    names = sorted(set(tasks))
    label = (np.array(tasks)[:, None] == np.array(names)).astype(np.float64)
    mean = w @ quality / w.sum()
    logs = np.log(np.maximum(cost, _LEAST_COST))
    fitted, predicted = _ridge(known, np.hstack([quality, label, logs]), asked, w)
    t = len(names)
    # Strength is shared across models: the fit keeps its two main directions.
    _, _, directions = np.linalg.svd(np.sqrt(w)[:, None] * (fitted[:, :m] - mean), full_matrices=False)
    shared = directions[:_RANK].T @ directions[:_RANK]
    by_text = mean + (predicted[:, :m] - mean) @ shared
    posterior = np.maximum(predicted[:, m : m + t], 1e-6)
    posterior /= posterior.sum(axis=1, keepdims=True)
    seen = label.T @ w
    by_task = (label.T @ (w[:, None] * quality) + _TASK_PRIOR * mean) / (seen + _TASK_PRIOR)[:, None]
    smearing = (w @ cost) / np.maximum(w @ np.exp(fitted[:, m + t :]), _LEAST_COST)
    return Estimates(
        quality=np.clip(0.5 * (posterior @ by_task) + 0.5 * by_text, 0.0, 1.0),
        cost=np.exp(predicted[:, m + t :]) * smearing,
    )


def cross_fitted(
    known: FloatArray, tasks: Sequence[str], quality: FloatArray, cost: FloatArray, folds: int = 5
) -> Estimates:
    """Return estimates for `known` itself, each from outcomes of other queries."""
    part = np.arange(len(known)) % folds
    result = Estimates(np.empty_like(quality), np.empty_like(cost))
    for fold in range(folds):
        rest, mine = part != fold, part == fold
        names = [task for task, kept in zip(tasks, rest.tolist(), strict=True) if kept]
        found = estimate(known[rest], names, quality[rest], cost[rest], known[mine])
        result.quality[mine], result.cost[mine] = found.quality, found.cost
    return result


def _ridge(
    known: FloatArray, targets: FloatArray, asked: FloatArray, w: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return the fit of `targets` at `known` and its prediction at `asked`; the intercept is not shrunk."""
    total = w.sum()
    middle, level = w @ known / total, w @ targets / total
    x = known - middle
    gram = x.T @ (w[:, None] * x) + _RIDGE * np.sqrt(total) * np.eye(x.shape[1])
    slopes = np.linalg.solve(gram, x.T @ (w[:, None] * (targets - level)))
    return level + x @ slopes, level + (asked - middle) @ slopes
