"""Quality of each model from the text of a query alone, by an estimator that is quick to fit again.

In: recorded outcomes of the past, counted as often as a bootstrap drew them, and prompts. Out: estimates.
Next: the published robust mode is told how far they scatter. Plain, but of the product's kind: half the means
of the tasks that the text looks like, half a ridge regression of rank 2, on counts of hashed words.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np

from modelfleet_lab.methods import FloatArray

_WORDS = 384
_RIDGE = 10.0
_RANK = 2
_TASK_PRIOR = 10.0
"""Queries' worth of the overall mean that each task's mean is shrunk by."""


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


def estimate(
    known: FloatArray,
    tasks: Sequence[str],
    quality: FloatArray,
    asked: FloatArray,
    *,
    weight: FloatArray | None = None,
) -> FloatArray:
    """Return (k, m) estimates for `asked` (k, d) from outcomes (n, m) of `known` (n, d).

    The i-th query counts `weight[i]` times, once where None.
    """
    n, m = quality.shape
    w = np.ones(n) if weight is None else weight
    names = sorted(set(tasks))
    label = (np.array(tasks)[:, None] == np.array(names)).astype(np.float64)
    mean = w @ quality / w.sum()
    fitted, predicted = _ridge(known, np.hstack([quality, label]), asked, w)
    # Strength is shared across models: the fit keeps its two main directions.
    _, _, directions = np.linalg.svd(np.sqrt(w)[:, None] * (fitted[:, :m] - mean), full_matrices=False)
    shared = directions[:_RANK].T @ directions[:_RANK]
    by_text = mean + (predicted[:, :m] - mean) @ shared
    posterior = np.maximum(predicted[:, m:], 1e-6)
    posterior /= posterior.sum(axis=1, keepdims=True)
    seen = label.T @ w
    by_task = (label.T @ (w[:, None] * quality) + _TASK_PRIOR * mean) / (seen + _TASK_PRIOR)[:, None]
    result: FloatArray = np.clip(0.5 * (posterior @ by_task) + 0.5 * by_text, 0.0, 1.0)
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
