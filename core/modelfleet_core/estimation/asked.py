"""Stage assign, a trained estimator as one request at a time asks it: what does not change, made beforehand.

In: `Trained` for a fleet, the features of one text, its task where known. Out: a `Forecast`.
Next: `estimate`.

The formulas are those of `trained`, which trains and evaluates by many rows at once. Of a single row most of
the time would go into calls, not figures: so here sums over tasks are joined into one product.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from modelfleet_core.catalog import Fleet
from modelfleet_core.estimation.forecast import Forecast, ForecastError, Question
from modelfleet_core.estimation.trained import (
    LEAST_DISTANCE,
    LEAST_SHARE,
    LONGEST,
    MOST_DEVIATION,
    Trained,
)
from modelfleet_core.values import TaskName

FloatArray = npt.NDArray[np.float64]


class TrainedEstimator:
    """Estimates by what training found out, as `Trained.predict` does."""

    def __init__(self, trained: Trained) -> None:
        """`trained`: for the models of the fleet that is asked about, in its order."""
        self._trained = trained
        t, r, k = len(trained.tasks), len(trained.loadings), len(trained.likeness_weight)
        self._place = {task: row for row, task in enumerate(trained.tasks)}
        self._along = np.ascontiguousarray(trained.along)
        self._scores, self._strength = slice(0, t), slice(t, t + r)
        self._likeness, self._lengths = slice(t + r, t + r + k), slice(t + r + k, None)
        self._models = len(trained.models)
        within = trained.task_strength @ trained.loadings
        self._by_task = np.hstack((trained.task_quality, within, trained.task_samples))
        """(t, 3 m)"""
        self._task_doubt = 1.0 / (trained.task_samples + 1.0)
        self._towards = -2.0 * (trained.likeness_weight * trained.middles).T
        self._off_middle = np.square(trained.middles) @ trained.likeness_weight
        self._rest = float(trained.likeness_rest[0])
        self._share = float(trained.typical_share[0])
        self._weights: tuple[float, float, float] = tuple(trained.weights.tolist())
        self._of_mean = 1.0 / (trained.samples + 1.0)
        self._text_doubt = self._weights[1] ** 2 * r * self._of_mean
        self._curve = np.ascontiguousarray(trained.curve).ravel()
        self._steps = len(trained.curve) - 1
        self._column = np.arange(self._models)

    def forecast(self, question: Question, fleet: Fleet) -> Forecast:
        """Return what is expected; the question must have its features. Raises ForecastError."""
        if question.features is None:
            raise ForecastError("the text was not looked at")
        said = self._forecast(question.features, question.named_task)
        if not math.isfinite(sum(said.quality) + sum(said.variance or ()) + sum(said.samples or ())):
            raise ForecastError("it says what is not finite; train it anew")
        return said

    def _forecast(self, x: FloatArray, task: TaskName | None) -> Forecast:
        """Return what is expected of a text with features `x` (d,)."""
        trained, m, (a, b, c) = self._trained, self._models, self._weights
        z = x - trained.center
        z /= trained.scale
        np.maximum(z, -MOST_DEVIATION, out=z)
        np.minimum(z, MOST_DEVIATION, out=z)
        product = z @ self._along
        along = product[self._likeness]
        near = self._off_middle + along @ self._towards
        near += float((trained.likeness_weight * along) @ along)
        near += self._rest * max(0.0, float(z @ z) - float(along @ along))
        np.maximum(near, LEAST_DISTANCE, out=near)
        np.divide(trained.typical_distance, near, out=near)
        np.minimum(near, 1.0, out=near)
        near *= near
        text = product[self._strength] @ trained.loadings
        row = self._place.get(task) if task is not None else None
        mean = trained.mean
        if not self._place:
            gate, moved, like = float(near[0]), b * text, None
            of_task: FloatArray | float = 0.0
        else:
            posterior = self._posterior(product[self._scores], row)
            gate = float(posterior @ near) * min(1.0, float(posterior.max()) / self._share)
            sums = posterior @ self._by_task
            of_task, like = np.square(posterior) @ self._task_doubt, sums[2 * m :]
            moved = sums[:m] - mean
            moved = a * moved + b * text if row is None else moved + gate * c * (text - sums[m : 2 * m])
        quality = mean + moved
        np.maximum(quality, 0.0, out=quality)
        np.minimum(quality, 1.0, out=quality)
        if row is None:
            quality = mean + gate * (self._calibrated(quality) - mean)
        square = gate * gate
        variance = trained.noise * (self._of_mean + square * (a * a * of_task + self._text_doubt))
        variance += (1.0 - square) * trained.spread
        samples = trained.samples if like is None else trained.samples + gate * (like - trained.samples)
        tokens = np.exp(
            np.minimum(trained.token_mean + product[self._lengths] @ trained.token_loadings, LONGEST)
        )
        tokens *= trained.token_smearing
        return Forecast(
            quality=quality.tolist(),
            variance=variance.tolist(),
            samples=samples.tolist(),
            output_tokens=np.maximum(1.0, tokens, out=tokens).tolist(),
            confidence=gate,
        )

    def _posterior(self, products: FloatArray, row: int | None) -> FloatArray:
        if row is not None:
            named = np.zeros(len(products))
            named[row] = 1.0
            return named
        scores = self._trained.task_levels + products
        scores -= scores.max()
        np.exp(scores, out=scores)
        np.maximum(scores, LEAST_SHARE, out=scores)
        scores /= scores.sum()
        return scores

    def _calibrated(self, raw: FloatArray) -> FloatArray:
        """Return `trained.calibrated` of one row (m,) in [0, 1]."""
        place = raw * self._steps
        below = np.minimum(place.astype(np.int64), self._steps - 1)
        place -= below
        at = below * self._models + self._column
        low = self._curve.take(at)
        at += self._models
        place *= self._curve.take(at) - low
        place += low
        np.maximum(place, 0.0, out=place)
        return np.minimum(place, 1.0, out=place)
