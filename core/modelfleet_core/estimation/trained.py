"""Stage assign, quality and length of answers as learned from past outcomes.

In: features of a text, its task where known. Out: `Prediction` for every model. Next: `estimate`, `learning`.

Quality is half the mean of the tasks that the text looks like and half a ridge regression of low rank, pulled
back to the model's mean as far as the text is unlike those of training, then calibrated.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from modelfleet_core.catalog import Fleet
from modelfleet_core.values import ModelName, TaskName

FloatArray = npt.NDArray[np.float64]

_LEAST_SHARE = 1e-6
_UNKNOWN_VARIANCE = 0.05
"""Of a model's mean quality where only the manifest speaks."""


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """n queries, m models, t tasks."""

    quality: FloatArray
    """(n, m) in [0, 1]."""
    variance: FloatArray
    """(n, m) of the estimate, not of a single answer."""
    samples: FloatArray
    """(n, m) outcomes that the estimate rests on; 0: the manifest's word."""
    confidence: FloatArray
    """(n,) in [0, 1]: how much the text is like those of training."""
    output_tokens: FloatArray
    """(n, m) expected, NaN where none was ever seen."""
    tasks: FloatArray
    """(n, t) posterior; rows sum to 1 where there are tasks."""


@dataclass(frozen=True, slots=True, eq=False)
class Trained:
    """What training found out; d features, m models, t tasks, r directions of strength, k of likeness."""

    models: tuple[ModelName, ...]
    tasks: tuple[TaskName, ...]
    version: str
    """Of the content: what was learned on top of one version does not fit another."""
    kappa: float
    """How many standard deviations of pessimism pay; 0: none."""
    center: FloatArray
    """(d,) mean of the features."""
    mean: FloatArray
    """(m,) quality."""
    samples: FloatArray
    """(m,) outcomes."""
    directions: FloatArray
    """(d, r) of features in which strength differs."""
    loadings: FloatArray
    """(r, m) of models on them."""
    task_slopes: FloatArray
    """(d, t) of a linear discriminant."""
    task_levels: FloatArray
    """(t,)"""
    task_quality: FloatArray
    """(t, m) shrunk to `mean`."""
    task_samples: FloatArray
    """(t, m)"""
    likeness: FloatArray
    """(d, k): squares of projections sum to the leverage h."""
    typical_leverage: float
    """h50, the median of training."""
    noise: FloatArray
    """(m,) variance of an outcome around its estimate."""
    slope: FloatArray
    """(m,) of the calibration."""
    level: FloatArray
    """(m,) of the calibration."""
    token_directions: FloatArray
    """(d, s)"""
    token_loadings: FloatArray
    """(s, m)"""
    token_mean: FloatArray
    """(m,) of log(1 + tokens), NaN where never seen."""
    token_smearing: FloatArray
    """(m,) mean tokens over mean fitted tokens (Duan 1983)."""

    def predict(self, x: FloatArray, tasks: Sequence[TaskName | None] | None = None) -> Prediction:
        """Return the estimates for `x` (n, d); `tasks` (n,) where labels are known."""
        off = x - self.center
        n, m = len(x), len(self.models)
        posterior = self._posterior(off)
        known = np.zeros(n, dtype=np.bool_)
        if tasks is not None:
            place = {task: k for k, task in enumerate(self.tasks)}
            for row, task in enumerate(tasks):
                if task is not None and task in place:
                    posterior[row] = 0.0
                    posterior[row, place[task]] = 1.0
                    known[row] = True
        leverage = np.square(off @ self.likeness).sum(axis=1)
        gate = np.minimum(1.0, self.typical_leverage / np.maximum(leverage, 1e-12)) ** 2
        by_text = (off @ self.directions) @ self.loadings
        if self.tasks:
            by_task = posterior @ self.task_quality - self.mean
            moved = 0.5 * by_task + 0.5 * by_text
            moved[known] = by_task[known]
            evidence = posterior @ self.task_samples
        else:
            moved = by_text
            evidence = np.broadcast_to(self.samples, (n, m))
        raw = self.mean + gate[:, None] * moved
        quality = np.clip(self.level + self.slope * raw, 0.0, 1.0)
        samples = gate[:, None] * evidence + (1.0 - gate[:, None]) * self.samples
        tokens = np.exp(self.token_mean + (off @ self.token_directions) @ self.token_loadings)
        return Prediction(
            quality=quality,
            variance=self.noise * (leverage[:, None] / max(1.0, float(self.samples.max(initial=1.0)))),
            samples=samples,
            confidence=gate,
            output_tokens=np.maximum(1.0, tokens * self.token_smearing),
            tasks=posterior,
        )

    def for_fleet(self, fleet: Fleet) -> Trained:
        """Return this for the models of `fleet`, in its order; new ones get their neighbours' loadings."""
        place = {name: k for k, name in enumerate(self.models)}
        columns = np.array([place.get(model.name, -1) for model in fleet.models], dtype=np.int64)
        prior = np.array([model.quality.prior for model in fleet.models])
        new = columns < 0
        near = columns.copy()
        for k in np.flatnonzero(new).tolist():
            near[k] = int(np.argmin(np.abs(self.mean - prior[k])))
        mean = np.where(new, prior, self.mean[near])
        return replace(
            self,
            models=tuple(model.name for model in fleet.models),
            mean=mean,
            samples=np.where(new, 0.0, self.samples[near]),
            loadings=self.loadings[:, near],
            task_quality=np.clip(self.task_quality[:, near] - self.mean[near] + mean, 0.0, 1.0),
            task_samples=np.where(new, 0.0, self.task_samples[:, near]),
            noise=np.where(new, _UNKNOWN_VARIANCE, self.noise[near]),
            slope=np.where(new, 1.0, self.slope[near]),
            level=np.where(new, 0.0, self.level[near]),
            token_loadings=self.token_loadings[:, near],
            token_mean=self.token_mean[near],
            token_smearing=self.token_smearing[near],
        )

    def _posterior(self, off: FloatArray) -> FloatArray:
        scores = self.task_levels + off @ self.task_slopes
        if not self.tasks:
            return scores
        scores -= scores.max(axis=1, keepdims=True)
        shares = np.maximum(np.exp(scores), _LEAST_SHARE)
        result: FloatArray = shares / shares.sum(axis=1, keepdims=True)
        return result
