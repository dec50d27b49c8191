"""Stage assign, a trained estimator as one request at a time asks it: what does not change, made beforehand.

In: `Trained` for a fleet, the features of one text, its task where known. Out: a `Forecast`.
Next: `estimate`.

The formulas are those of `trained`, which trains and evaluates by many rows at once. Of a single row most of
the time would go into calls, not figures: so here products are joined into few, and what is left for each of
some tasks and models is plain arithmetic.
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
        t, r, k = len(trained.tasks), len(trained.loadings), len(trained.likeness_weight)
        m, q = len(trained.models), len(trained.middles)
        self._place = {task: row for row, task in enumerate(trained.tasks)}
        self._center, self._scale = trained.center, 1.0 / trained.scale
        self._along = np.ascontiguousarray(trained.along.T)
        """By rows, as it is read the fastest."""
        self._tasks, self._middles, self._text = t, q, q + m
        self._likeness = slice(t + r, t + r + k)
        linear = np.zeros((q + 2 * m, len(self._along)))
        linear[:q, self._likeness] = -2.0 * trained.likeness_weight * trained.middles
        linear[q : q + m, t : t + r] = trained.loadings.T
        linear[q + m :, t + r + k :] = trained.token_loadings.T
        self._linear = linear
        """(max(1, t) + 2 m, t + r + k + s) what distances, text and lengths take of the products."""
        off_middle = np.square(trained.middles) @ trained.likeness_weight
        self._constant = np.concatenate((off_middle, np.zeros(m), trained.token_mean))
        self._likeness_weight = trained.likeness_weight
        self._rest = float(trained.likeness_rest[0])
        self._levels: list[float] = trained.task_levels.tolist()
        self._typical: list[float] = trained.typical_distance.tolist()
        self._share = float(trained.typical_share[0])
        within = trained.task_strength @ trained.loadings
        self._by_task = np.hstack((trained.task_quality, within, trained.task_samples))
        """(t, 3 m)"""
        self._task_doubt = 1.0 / (trained.task_samples + 1.0)
        self._weights: tuple[float, float, float] = tuple(trained.weights.tolist())
        self._mean: list[float] = trained.mean.tolist()
        self._samples: list[float] = trained.samples.tolist()
        self._noise: list[float] = trained.noise.tolist()
        self._spread: list[float] = trained.spread.tolist()
        self._rank = float(r)
        self._curve: list[list[float]] = trained.curve.T.tolist()
        """m of c points."""
        self._steps = len(trained.curve) - 1
        self._smearing: list[float] = trained.token_smearing.tolist()

    def forecast(self, question: Question, fleet: Fleet) -> Forecast:
        """Return what is expected; the question must have its features. Raises ForecastError."""
        if question.features is None:
            raise ForecastError("the text was not looked at")
        said = self._forecast(question.features, question.named_task)
        if not math.isfinite(sum(said.quality) + sum(said.variance or ()) + sum(said.samples or ())):
            raise _not_finite()
        return said

    def _forecast(self, x: FloatArray, task: TaskName | None) -> Forecast:
        """Return what is expected of a text with features `x` (d,)."""
        z = x - self._center
        z *= self._scale
        np.maximum(z, -MOST_DEVIATION, out=z)
        np.minimum(z, MOST_DEVIATION, out=z)
        product = self._along @ z
        along = product[self._likeness]
        linear = self._linear @ product
        linear += self._constant
        distances, text, lengths = self._parts(linear.tolist())
        off = float((self._likeness_weight * along) @ along)
        off += self._rest * max(float(z @ z) - float(along @ along), 0.0)
        if not math.isfinite(off + sum(distances) + sum(text)):
            raise _not_finite()
        near = [
            min(1.0, typical / max(LEAST_DISTANCE, distance + off)) ** 2
            for typical, distance in zip(self._typical, distances, strict=True)
        ]
        a, b, c = self._weights
        mean = self._mean
        m, row = len(mean), self._place.get(task) if task is not None else None
        of_task, like = [0.0] * m, self._samples
        if not self._place:
            gate, moved = near[0], [b * own for own in text]
        else:
            shares = self._posterior(product[: self._tasks].tolist(), row)
            gate = sum([share * close for share, close in zip(shares, near, strict=True)])
            gate *= min(1.0, max(shares) / self._share)
            posterior = np.array(shares)
            sums: list[float] = (posterior @ self._by_task).tolist()
            of_task, like = (np.square(posterior) @ self._task_doubt).tolist(), sums[2 * m :]
            if row is None:
                moved = [a * (sums[j] - mean[j]) + b * text[j] for j in range(m)]
            else:
                moved = [sums[j] - mean[j] + gate * c * (text[j] - sums[m + j]) for j in range(m)]
        quality = [min(1.0, max(0.0, usual + more)) for usual, more in zip(mean, moved, strict=True)]
        if row is None:
            quality = [
                usual + gate * (self._calibrated(j, raw) - usual)
                for j, (usual, raw) in enumerate(zip(mean, quality, strict=True))
            ]
        square = gate * gate
        return Forecast(
            quality=quality,
            variance=[self._variance(j, square, of_task[j]) for j in range(m)],
            samples=[usual + gate * (here - usual) for usual, here in zip(self._samples, like, strict=True)],
            # What is not a number, as of a model whose answers nobody measured, stays so.
            output_tokens=[
                max(math.exp(min(length, LONGEST)) * smearing, 1.0)
                for length, smearing in zip(lengths, self._smearing, strict=True)
            ],
            confidence=gate,
        )

    def _parts(self, linear: list[float]) -> tuple[list[float], list[float], list[float]]:
        return linear[: self._middles], linear[self._middles : self._text], linear[self._text :]

    def _posterior(self, products: list[float], row: int | None) -> list[float]:
        if row is not None:
            named = [0.0] * len(products)
            named[row] = 1.0
            return named
        scores = [level + product for level, product in zip(self._levels, products, strict=True)]
        most = max(scores)
        shares = [max(LEAST_SHARE, math.exp(score - most)) for score in scores]
        total = sum(shares)
        return [share / total for share in shares]

    def _variance(self, j: int, square: float, of_task: float) -> float:
        """Return `Trained.variance` of one model; `square` of the gate."""
        a, b, _ = self._weights
        of_mean = 1.0 / (self._samples[j] + 1.0)
        moved = a * a * of_task + b * b * self._rank * of_mean
        return self._noise[j] * (of_mean + square * moved) + (1.0 - square) * self._spread[j]

    def _calibrated(self, j: int, raw: float) -> float:
        """Return `trained.calibrated` of one model's quality in [0, 1]."""
        curve, place = self._curve[j], raw * self._steps
        below = min(int(place), self._steps - 1)
        low = curve[below]
        return min(1.0, max(0.0, low + (place - below) * (curve[below + 1] - low)))


def _not_finite() -> ForecastError:
    return ForecastError("it says what is not finite; train it anew")
