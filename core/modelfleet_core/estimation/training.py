"""Stage forward and learn, from past outcomes to an estimator.

In: `Statistics`, or batches to count. Out: `Trained`. Next: `artifact`, then the sidecars.

Sums give the fit, and one more for each fold that is left out; a sample of rows, each estimated by the fit
without its fold, tells what the parts are worth, from where on a text is unlike training, and the
calibration.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields, replace

import numpy as np
import numpy.typing as npt

from modelfleet_core.estimation import calibration, fitting
from modelfleet_core.estimation.sample import Sample
from modelfleet_core.estimation.statistics import FOLDS, Batch, Statistics, fold_of
from modelfleet_core.estimation.trained import LONGEST, Parts, Trained
from modelfleet_core.values import ModelName

__all__ = ["Batch", "Statistics", "fold_of", "train", "trained_from"]

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_LIKE_SHARE = 0.7
"""Of a task's held-out texts, those that count as like it without reserve."""
_LIKE_DISTANCE = 0.25
"""Texts this near always do: where all of a task are alike, a new number in one is not strange."""
_LEAST_ROWS = 20
"""Rows that a task's own distance rests on at least; fewer: all tasks' rows."""
_DRAWN = 0.25
"""How far the parts' weights are drawn to one half each."""


def train(models: Sequence[ModelName], batches: Callable[[], Iterable[Batch]]) -> Trained:
    """Return what the batches teach of `models`; raise ValueError if they teach nothing.

    `batches()` is gone through once. Memory does not grow with the rows.
    """
    statistics = Statistics.none(models)
    for batch in batches():
        statistics.add(batch)
    return trained_from(statistics)


def trained_from(statistics: Statistics) -> Trained:
    """Return what the sums teach; raise ValueError if that is nothing."""
    if statistics.rows.sum() < 2 or statistics.quality.count.sum() < 2:
        raise ValueError("there are fewer than two outcomes to learn from; record some first")
    along = fitting.axes(statistics)
    found = fitting.fitted(statistics, along)
    held = _HeldOut.of(statistics, along)
    if held is not None:
        found = held.tuned(found)
    return versioned(found)


class _HeldOut:
    """Rows of the sample with the parts of their estimates, by fits that did not see their fold."""

    def __init__(self, rows: Sample, unnamed: Parts, named: Parts) -> None:
        self._task = rows.task
        self._quality = rows.quality.astype(np.float64)
        self._tokens = rows.output_tokens.astype(np.float64)
        self._unnamed, self._named = unnamed, named

    @classmethod
    def of(cls, statistics: Statistics, along: fitting.Axes) -> _HeldOut | None:
        """Return the rows; None where too few folds have any."""
        sample, total = statistics.sample, statistics.rows.sum()
        found: list[tuple[IntArray, Parts, Parts]] = []
        for fold in range(FOLDS):
            mine = np.flatnonzero(sample.fold == fold)
            if not mine.size or total - statistics.rows[fold] < 2:
                continue
            rest = fitting.fitted(statistics, along, without=fold)
            z = rest.scaled(sample.x[mine].astype(np.float64))
            labels = [sample.task[k] for k in mine.tolist()]
            found.append((mine, rest.parts(z), rest.parts(z, labels)))
        if not found:
            return None
        order = np.concatenate([mine for mine, _, _ in found])
        return cls(
            sample.at(order),
            _joined([parts for _, parts, _ in found]),
            _joined([parts for _, _, parts in found]),
        )

    def tuned(self, trained: Trained) -> Trained:
        """Return `trained` with weights, gate, calibration and the rest that held-out rows tell."""
        found = replace(trained, weights=self._weights(trained))
        found = replace(found, typical_distance=self._typical_distance(found))
        if found.tasks:
            share = np.median(self._unnamed.posterior.max(axis=1))
            found = replace(found, typical_share=np.array([share]))
        gate = found.gate(self._unnamed)
        raw = found.combined(self._unnamed)
        found = replace(found, curve=calibration.fitted_curve(raw, self._quality, fitting.CURVE))
        quality = found.quality(self._unnamed, gate)
        known = ~np.isnan(self._quality)
        count = known.sum(axis=0)
        error = np.where(known, np.square(np.nan_to_num(self._quality) - quality), 0.0).sum(axis=0)
        found = replace(
            found,
            noise=(error + trained.noise) / (count + 1.0),
            spread=quality.var(axis=0),
            token_smearing=self._smearing(),
        )
        deviation = np.sqrt(found.variance(self._unnamed, gate))
        return replace(found, kappa=calibration.best_kappa(quality, deviation, self._quality))

    def _weights(self, trained: Trained) -> FloatArray:
        """Return by how much each part is believed: least squares, drawn to one half.

        One half is what many data sets bear out; least squares alone follows the noise of one.
        """
        known = ~np.isnan(self._quality)
        off = (self._quality - trained.mean)[known]
        text = self._unnamed.text[known]
        labelled = known & self._named.named[:, np.newaxis]
        inside = (self._quality - trained.mean - self._named.task)[labelled]
        within = self._named.within[labelled]
        c = float(within @ inside) / (float(within @ within) + 1e-9)
        if not trained.tasks:
            b = float(text @ off) / (float(text @ text) + 1e-9)
            return np.array([0.0, np.clip(b, 0.0, 1.0), 0.0])
        task = self._unnamed.task[known]
        a, b = _least_squares(task, text, off)
        both = (1.0 - _DRAWN) * np.array([a, b]) + _DRAWN * 0.5
        both /= max(1.0, float(both.sum()))
        return np.array([both[0], both[1], np.clip(c, 0.0, 1.0)])

    def _typical_distance(self, trained: Trained) -> FloatArray:
        """Return the distance within which most held-out texts of each task are."""
        place = {task: k for k, task in enumerate(trained.tasks)}
        looks = self._unnamed.posterior.argmax(axis=1) if place else np.zeros(len(self._task), np.int64)
        of = np.array(
            [
                place.get(t, int(k)) if t is not None else int(k)
                for t, k in zip(self._task, looks, strict=True)
            ]
        )
        own = self._unnamed.distance[np.arange(len(of)), of]
        result = np.full(max(1, len(place)), np.quantile(own, _LIKE_SHARE))
        for k in range(len(result)):
            mine = own[of == k]
            if len(mine) >= _LEAST_ROWS:
                result[k] = np.quantile(mine, _LIKE_SHARE)
        floored: FloatArray = np.maximum(result, _LIKE_DISTANCE)
        return floored

    def _smearing(self) -> FloatArray:
        told = self._unnamed.log_tokens
        known = ~np.isnan(self._tokens) & ~np.isnan(told)
        fitted = np.where(known, np.exp(np.minimum(told, LONGEST)), 0.0).sum(axis=0)
        seen = np.where(known, self._tokens, 0.0).sum(axis=0)
        result: FloatArray = np.where(fitted > 0, seen / np.maximum(fitted, 1e-9), 1.0)
        return result


def versioned(trained: Trained) -> Trained:
    """Return `trained` with the version that its content has, to 32 bits."""
    digest = hashlib.sha256()
    for field in fields(trained):
        if not field.init:
            continue
        value = getattr(trained, field.name)
        if isinstance(value, np.ndarray):
            digest.update(value.astype("<f4").tobytes())
        elif field.name != "version":
            digest.update(repr(value).encode())
    return replace(trained, version=digest.hexdigest()[:16])


def _joined(parts: Sequence[Parts]) -> Parts:
    return Parts(*(np.concatenate([getattr(one, f.name) for one in parts]) for f in fields(Parts)))


def _least_squares(one: FloatArray, other: FloatArray, target: FloatArray) -> tuple[float, float]:
    """Return weights of at least 0 and at most 1."""
    products = np.array([[one @ one, one @ other], [one @ other, other @ other]]) + 1e-9 * np.eye(2)
    a, b = np.linalg.solve(products, np.array([one @ target, other @ target])).tolist()
    if a < 0.0:
        a, b = 0.0, float(other @ target) / float(products[1, 1])
    elif b < 0.0:
        a, b = float(one @ target) / float(products[0, 0]), 0.0
    return min(1.0, max(0.0, a)), min(1.0, max(0.0, b))
