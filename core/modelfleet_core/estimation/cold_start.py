"""Stage assign, what training found out, for the models that a fleet has now.

In: `Trained`, a `Fleet`. Out: `Trained` with the fleet's models in its order. Next: `forecast`.

A model that was never seen takes after those that it is like: models of its family, as their names tell, or
else those whose quality is nearest to what the manifest says of it. The manifest has the word on its level.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from modelfleet_core.catalog import Fleet, Model
from modelfleet_core.estimation.trained import Trained

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

_NEIGHBOURS = 3
_SEEN = 1.0
"""Outcomes from which on training has the word, not the manifest."""
_PRIOR_VARIANCE = 0.02
"""Of a manifest's word on a mean quality: a standard deviation of 0.14."""
_PART = re.compile(r"[a-z]+|\d+")


def for_fleet(trained: Trained, fleet: Fleet) -> Trained:
    """Return `trained` for the models of `fleet`, in its order."""
    place = {name: k for k, name in enumerate(trained.models) if trained.samples[k] >= _SEEN}
    mixing = np.zeros((len(trained.models), len(fleet.models)))
    new = np.zeros(len(fleet.models), dtype=np.bool_)
    for j, model in enumerate(fleet.models):
        if model.name in place:
            mixing[place[model.name], j] = 1.0
        else:
            new[j] = True
            near = _neighbours(trained, list(place.values()), model)
            mixing[near, j] = 1.0 / max(1, len(near))
    prior = np.array([model.quality.prior for model in fleet.models])
    mean = np.where(new, prior, trained.mean @ mixing)
    return replace(
        trained,
        models=tuple(model.name for model in fleet.models),
        mean=mean,
        samples=np.where(new, 0.0, trained.samples @ mixing),
        loadings=trained.loadings @ mixing,
        task_quality=_task_quality(trained, fleet, mixing, mean, new),
        task_samples=np.where(new, 0.0, trained.task_samples @ mixing),
        # A curve of others would move the level that the manifest gives.
        curve=np.where(new, np.linspace(0.0, 1.0, len(trained.curve))[:, np.newaxis], trained.curve @ mixing),
        noise=trained.noise @ mixing,
        spread=trained.spread @ mixing + np.where(new, _PRIOR_VARIANCE, 0.0),
        token_loadings=trained.token_loadings @ mixing,
        token_mean=_known_mixed(trained.token_mean, mixing),
        token_smearing=trained.token_smearing @ mixing,
    )


def _neighbours(trained: Trained, known: Sequence[int], model: Model) -> IntArray:
    """Return the places of the models that `model` is taken to be like."""
    if not known:
        return np.empty(0, np.int64)
    kin = [_kinship(model.name, trained.models[k]) for k in known]
    closest = max(kin)
    if closest > 0:
        return np.array([k for k, common in zip(known, kin, strict=True) if common == closest])
    off = np.abs(trained.mean[list(known)] - model.quality.prior)
    return np.array(known)[np.argsort(off, kind="stable")[:_NEIGHBOURS]]


def _kinship(one: str, other: str) -> int:
    """Return how many parts two names have in common at their start; the first must be a word."""
    a, b = (_PART.findall(name.rpartition("/")[2].lower()) for name in (one, other))
    common = 0
    while common < min(len(a), len(b)) and a[common] == b[common]:
        common += 1
    return common if a and a[0].isalpha() and len(a[0]) > 1 else 0


def _task_quality(
    trained: Trained, fleet: Fleet, mixing: FloatArray, mean: FloatArray, new: npt.NDArray[np.bool_]
) -> FloatArray:
    """Return (t, m): as trained; of a new model the manifest's word, or its level moved as its like's."""
    off = (trained.task_quality - trained.mean) @ mixing
    quality = np.clip(mean + off, 0.0, 1.0)
    for j in np.flatnonzero(new).tolist():
        said = fleet.models[j].quality.by_task
        for t, task in enumerate(trained.tasks):
            quality[t, j] = said.get(task, quality[t, j])
    return quality


def _known_mixed(values: FloatArray, mixing: FloatArray) -> FloatArray:
    """Return the means over those known of each column's `values` (m,), NaN where none is."""
    known = ~np.isnan(values)
    weight = known.astype(np.float64) @ mixing
    total = np.where(known, values, 0.0) @ mixing
    return np.where(weight > 0, total / np.maximum(weight, 1e-12), np.nan)
