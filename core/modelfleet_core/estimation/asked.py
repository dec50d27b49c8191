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


_LEAST_OFF, _MOST_OFF = np.array(-MOST_DEVIATION), np.array(MOST_DEVIATION)
"""Arrays, since a scalar is made one in each call."""
_Model = tuple[float, float, float, float, float, list[float]]
"""Of one model `mean`, `samples`, `noise`, `spread`, `token_smearing` and the c points of its `curve`."""


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
        noise, spread, curve = trained.noise.tolist(), trained.spread.tolist(), trained.curve.T.tolist()
        smearing = trained.token_smearing.tolist()
        self._models: list[_Model] = list(
            zip(self._mean, self._samples, noise, spread, smearing, curve, strict=True)
        )
        self._rank = float(r)
        self._steps = len(trained.curve) - 1

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
        np.maximum(z, _LEAST_OFF, out=z)
        np.minimum(z, _MOST_OFF, out=z)
        product = self._along.dot(z)  # of so few figures this is called faster than `@`
        along = product[self._likeness]
        linear = self._linear.dot(product)
        linear += self._constant
        distances, text, lengths = self._parts(linear.tolist())
        off = float((self._likeness_weight * along).dot(along))
        off += self._rest * max(float(z.dot(z)) - float(along.dot(along)), 0.0)
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
            sums: list[float] = posterior.dot(self._by_task).tolist()
            of_task, like = np.square(posterior).dot(self._task_doubt).tolist(), sums[2 * m :]
            if row is None:
                moved = [a * (sums[j] - mean[j]) + b * text[j] for j in range(m)]
            else:
                moved = [sums[j] - mean[j] + gate * c * (text[j] - sums[m + j]) for j in range(m)]
        quality, variance, samples, tokens = [], [], [], []
        square, within, steps = gate * gate, b * b * self._rank, self._steps
        columns = zip(self._models, moved, of_task, like, lengths, strict=True)
        for (usual, answers, noise, spread, smearing, curve), more, doubt, here, length in columns:
            good = min(1.0, max(0.0, usual + more))
            if row is None:  # `trained.calibrated`, as far as the text is like those of training
                place = good * steps
                below = min(int(place), steps - 1)
                low = curve[below]
                sure = min(1.0, max(0.0, low + (place - below) * (curve[below + 1] - low)))
                good = usual + gate * (sure - usual)
            of_mean = 1.0 / (answers + 1.0)
            doubted = noise * (of_mean + square * (a * a * doubt + within * of_mean))
            quality.append(good)
            variance.append(doubted + (1.0 - square) * spread)
            samples.append(answers + gate * (here - answers))
            # What is not a number, as of a model whose answers nobody measured, stays so.
            tokens.append(max(math.exp(min(length, LONGEST)) * smearing, 1.0))
        return Forecast(quality, variance, samples, tokens, confidence=gate)

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


def _not_finite() -> ForecastError:
    return ForecastError("it says what is not finite; train it anew")
