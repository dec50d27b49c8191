"""Stage assign, quality and length of answers as learned from past outcomes.

In: features of a text, its task where known. Out: `Prediction` for every model. Next: `forecast`.

    quality = mean + gate (curve(mean + a task + b text) - mean),    text alone
    quality = mean + task + gate c within,                           where the task is named

`task`: by how much the means of the tasks that the text looks like are off the model's mean; `text`: the same
by a ridge regression of low rank; `within`: by how much `text` is off its mean over the task; a, b, c:
`weights`, as held-out data bear them out; gate: how far the text is like those of training, 1 or less; curve:
the calibration.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from modelfleet_core.catalog import Fleet
from modelfleet_core.values import ModelName, TaskName

FloatArray = npt.NDArray[np.float64]

LEAST_SHARE = 1e-6
LEAST_DISTANCE = 1e-9
MOST_DEVIATION = 8.0
"""Standard deviations that a feature may be off."""
LONGEST = 20.0
"""Logarithm of the most tokens that are ever expected."""


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
class Parts:
    """What an estimate is put together from: n queries, m models, t tasks."""

    posterior: FloatArray
    """(n, t)"""
    named: npt.NDArray[np.bool_]
    """(n,) the task is known and one of ours."""
    task: FloatArray
    """(n, m) off the mean."""
    text: FloatArray
    """(n, m)"""
    within: FloatArray
    """(n, m) of `text`, off its mean over the tasks that the text looks like."""
    distance: FloatArray
    """(n, max(1, t)) squared, to the middle of each task."""
    log_tokens: FloatArray
    """(n, m) NaN where never seen."""


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
    scale: FloatArray
    """(d,) their standard deviation."""
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
    task_strength: FloatArray
    """(t, r) mean of each task's texts along `directions`."""
    likeness: FloatArray
    """(d, k) main directions of the features."""
    likeness_weight: FloatArray
    """(k,) of a squared distance along each."""
    likeness_rest: FloatArray
    """(1,) weight of the squared distance off all of them."""
    middles: FloatArray
    """(max(1, t), k) of the tasks along them; of all where there is no task."""
    typical_distance: FloatArray
    """(max(1, t),) up to which a text is as those of the task."""
    typical_share: FloatArray
    """(1,) of a text's likeliest task."""
    weights: FloatArray
    """(3,) of task, text and within."""
    curve: FloatArray
    """(c, m) calibrated quality at c points of the estimate, evenly from 0 to 1; rising."""
    noise: FloatArray
    """(m,) variance of an outcome around its estimate."""
    spread: FloatArray
    """(m,) variance of estimates around the model's mean."""
    token_directions: FloatArray
    """(d, s)"""
    token_loadings: FloatArray
    """(s, m)"""
    token_mean: FloatArray
    """(m,) of log(1 + tokens), NaN where never seen."""
    token_smearing: FloatArray
    """(m,) mean tokens over mean fitted tokens (Duan 1983)."""
    along: FloatArray = field(init=False, repr=False)
    """(d, t + r + k + s) all that features are multiplied by: one product is faster than four."""

    def __post_init__(self) -> None:
        each = (self.task_slopes, self.directions, self.likeness, self.token_directions)
        object.__setattr__(self, "along", np.hstack(each))

    def predict(self, x: FloatArray, tasks: Sequence[TaskName | None] | None = None) -> Prediction:
        """Return the estimates for `x` (n, d); `tasks` (n,) where labels are known."""
        parts = self.parts(self.scaled(x), tasks)
        gate = self.gate(parts)
        tokens = np.minimum(parts.log_tokens, LONGEST)
        return Prediction(
            quality=self.quality(parts, gate),
            variance=self.variance(parts, gate),
            samples=self._samples(parts, gate),
            confidence=gate,
            output_tokens=np.maximum(1.0, np.exp(tokens) * self.token_smearing),
            tasks=parts.posterior,
        )

    def scaled(self, x: FloatArray) -> FloatArray:
        """Return features (n, d) as deviations from training's mean, each of them bounded."""
        off = (x - self.center) / self.scale
        z: FloatArray = np.minimum(np.maximum(off, -MOST_DEVIATION), MOST_DEVIATION)
        return z

    def parts(self, z: FloatArray, tasks: Sequence[TaskName | None] | None = None) -> Parts:
        """Return the parts for scaled features `z` (n, d)."""
        t, r, k = len(self.tasks), len(self.loadings), len(self.likeness_weight)
        product = z @ self.along
        scores, strength = product[:, :t], product[:, t : t + r]
        along, lengths = product[:, t + r : t + r + k], product[:, t + r + k :]
        posterior, named = self._posterior(scores), np.zeros(len(z), dtype=np.bool_)
        if tasks is not None:
            place = {task: k for k, task in enumerate(self.tasks)}
            for row, task in enumerate(tasks):
                if task is not None and task in place:
                    posterior[row] = 0.0
                    posterior[row, place[task]] = 1.0
                    named[row] = True
        off = np.maximum((z * z).sum(axis=1) - (along * along).sum(axis=1), 0.0)
        weighted = along * self.likeness_weight
        distance = (
            (weighted * along).sum(axis=1)[:, np.newaxis]
            - 2.0 * weighted @ self.middles.T
            + np.square(self.middles) @ self.likeness_weight
            + off[:, np.newaxis] * self.likeness_rest
        )
        return Parts(
            posterior=posterior,
            named=named,
            task=posterior @ self.task_quality - self.mean if t else np.zeros((len(z), len(self.models))),
            text=strength @ self.loadings,
            within=(strength - posterior @ self.task_strength) @ self.loadings,
            distance=np.maximum(distance, LEAST_DISTANCE),
            log_tokens=self.token_mean + lengths @ self.token_loadings,
        )

    def gate(self, parts: Parts) -> FloatArray:
        """Return (n,) the share of what the text says that is believed: 1 if it is like those of training."""
        near = np.square(np.minimum(1.0, self.typical_distance / parts.distance))
        if not self.tasks:
            return near[:, 0]
        # A text between tasks is of a task never seen more often than one that is plainly of one.
        plain = np.minimum(1.0, parts.posterior.max(axis=1) / self.typical_share)
        share: FloatArray = (parts.posterior * near).sum(axis=1) * plain
        return share

    def combined(self, parts: Parts) -> FloatArray:
        """Return (n, m) quality by the text alone before gate and calibration, in [0, 1]."""
        moved = self.weights[0] * parts.task + self.weights[1] * parts.text
        raw: FloatArray = np.minimum(np.maximum(self.mean + moved, 0.0), 1.0)
        return raw

    def quality(self, parts: Parts, gate: FloatArray) -> FloatArray:
        """Return (n, m) quality in [0, 1].

        Calibration comes before the gate, so that a text that is like none has the models' means, in their
        order. Of a named task the mean is known however unlike the text is, and needs no calibration.
        """
        share = gate[:, np.newaxis]
        result: FloatArray = self.mean + share * (calibrated(self.curve, self.combined(parts)) - self.mean)
        if parts.named.any():
            named = parts.named
            moved = parts.task[named] + share[named] * self.weights[2] * parts.within[named]
            result[named] = np.minimum(np.maximum(self.mean + moved, 0.0), 1.0)
        return result

    def variance(self, parts: Parts, gate: FloatArray) -> FloatArray:
        """Return the variance of means and slopes of that many outcomes, and that of what the gate hides."""
        a, b = self.weights[0], self.weights[1]
        of_mean = 1.0 / (self.samples + 1.0)
        share = np.square(parts.posterior)
        of_task = share @ (1.0 / (self.task_samples + 1.0)) if self.tasks else 0.0
        rank = len(self.loadings)
        near = np.square(gate)[:, np.newaxis]
        moved = near * (a * a * of_task + b * b * rank * of_mean)
        variance: FloatArray = self.noise * (of_mean + moved) + (1.0 - near) * self.spread
        return variance

    def for_fleet(self, fleet: Fleet) -> Trained:
        """Return this for the models of `fleet`, in its order; see `cold_start` for those never seen."""
        from modelfleet_core.estimation.cold_start import for_fleet

        return for_fleet(self, fleet)

    def _posterior(self, products: FloatArray) -> FloatArray:
        scores = self.task_levels + products
        if not self.tasks:
            return scores
        shares = np.maximum(np.exp(scores - scores.max(axis=1, keepdims=True)), LEAST_SHARE)
        result: FloatArray = shares / shares.sum(axis=1, keepdims=True)
        return result

    def _samples(self, parts: Parts, gate: FloatArray) -> FloatArray:
        if not self.tasks:
            return np.tile(self.samples, (len(gate), 1))
        like = parts.posterior @ self.task_samples
        return self.samples + gate[:, np.newaxis] * (like - self.samples)


def calibrated(curve: FloatArray, raw: FloatArray) -> FloatArray:
    """Return `raw` (n, m) in [0, 1] on the `curve` (c, m), linear between its points."""
    steps = len(curve) - 1
    place = raw * steps
    below = np.minimum(place.astype(np.int64), steps - 1)
    column = np.arange(curve.shape[1])
    low = curve[below, column]
    result: FloatArray = low + (place - below) * (curve[below + 1, column] - low)
    return np.minimum(np.maximum(result, 0.0), 1.0)
