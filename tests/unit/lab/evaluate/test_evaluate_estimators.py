"""That estimates of the past do not know the query itself, and what doubt takes off them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from modelfleet_core.estimation.trained import Prediction
from modelfleet_lab.evaluate import estimators
from modelfleet_lab.evaluate.estimators import Known
from modelfleet_lab.evaluate.protocol import part_of
from modelfleet_lab.methods import BoolArray
from support.recorded_folder import recorded


def past(n: int = 60) -> Known:
    data = recorded(7, n=n)
    return estimators.known(data, part_of(data, np.ones(n, dtype=bool)))


def told(quality: np.ndarray, variance: float = 0.0) -> Prediction:
    n = len(quality)
    none = np.zeros_like(quality)
    return Prediction(quality, np.full_like(quality, variance), none, np.ones(n), none, np.empty((n, 0)))


def test_estimates_of_the_past_are_by_fits_without_the_querys_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = past()

    def fit(models: object, known: Known, members: BoolArray) -> object:
        share = known.part.quality[members].mean(axis=0)
        return SimpleNamespace(predict=lambda x: told(np.tile(share, (len(x), 1))))

    monkeypatch.setattr(estimators, "fit", fit)
    found = estimators.across_folds(["any"], seen).quality
    for k in (0, 7, 31):
        others = seen.fold != seen.fold[k]
        assert found[k] == pytest.approx(seen.part.quality[others].mean(axis=0))


def test_doubt_lowers_estimates_by_standard_deviations_and_not_below_nothing() -> None:
    unsure = told(np.array([[0.9, 0.1]]), variance=0.04)
    assert estimators.pessimistic(unsure, 2.0) == pytest.approx(np.array([[0.5, 0.0]]))
    assert (estimators.pessimistic(unsure, 0.0) == unsure.quality).all()
