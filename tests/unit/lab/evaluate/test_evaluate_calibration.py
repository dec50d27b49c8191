"""Measures of estimates: against scikit-learn and against cases worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from modelfleet_lab.evaluate.calibration import BINS, auc, brier, ece, reliability
from sklearn.metrics import roc_auc_score


def once(n: int) -> np.ndarray:
    return np.ones((1, n))


def test_auc_is_the_mean_over_models_of_the_area_under_the_curve() -> None:
    random = np.random.default_rng(0)
    quality = (random.random((80, 3)) < 0.6).astype(float)
    # Rounded, so that there are ties.
    estimated = np.round(0.4 * quality + 0.6 * random.random((80, 3)), 1)
    weights = random.integers(0, 3, (2, 80)).astype(float)
    for found, weight in zip(auc(estimated, quality, weights), weights, strict=True):
        wanted = [roc_auc_score(quality[:, j], estimated[:, j], sample_weight=weight) for j in range(3)]
        assert found == pytest.approx(np.mean(wanted))


def test_a_model_that_is_always_right_has_no_curve_and_does_not_count() -> None:
    quality = np.array([[1.0, 0.0], [1.0, 1.0]])
    estimated = np.array([[0.1, 0.2], [0.9, 0.8]])
    assert auc(estimated, quality, once(2)).tolist() == [1.0]
    assert np.isnan(auc(estimated[:, :1], quality[:, :1], once(2))).all()


def test_graded_quality_is_right_from_one_half_on() -> None:
    quality = np.array([[0.5], [0.49], [0.8]])
    assert auc(np.array([[0.6], [0.5], [0.4]]), quality, once(3)).tolist() == [0.5]


def test_equal_estimates_count_half() -> None:
    assert auc(np.full((4, 1), 0.7), np.array([[1.0], [0.0], [1.0], [0.0]]), once(4)).tolist() == [0.5]


def test_brier_is_the_mean_square_and_weighs_queries() -> None:
    estimated, quality = np.array([[0.5, 1.0], [0.0, 0.5]]), np.array([[1.0, 1.0], [0.0, 1.0]])
    assert brier(estimated, quality, once(2)).tolist() == [0.125]
    assert brier(estimated, quality, np.array([[3.0, 1.0]]))[0] == pytest.approx(0.125)
    assert brier(estimated, quality, np.array([[2.0, 0.0]]))[0] == pytest.approx(0.125)


def test_calibration_error_by_hand() -> None:
    # Two different estimates, so two bins: at .2 half are right, at .8 all: (2 x .3 + 2 x .2) / 4.
    estimated, quality = np.array([[0.2], [0.2], [0.8], [0.8]]), np.array([[1.0], [0.0], [1.0], [1.0]])
    assert ece(estimated, quality, once(4))[0] == pytest.approx(0.25)


def test_estimates_that_mean_what_they_say_have_little_error_and_others_much() -> None:
    random = np.random.default_rng(1)
    chance = random.random((4000, 3))
    quality = (random.random((4000, 3)) < chance).astype(float)
    assert ece(chance, quality, once(4000))[0] < 0.02
    assert ece(np.clip(chance + 0.2, 0, 1), quality, once(4000))[0] > 0.12


def test_reliability_has_bins_of_equal_mass_that_add_up() -> None:
    random = np.random.default_rng(2)
    estimated = random.random((500, 3)) ** 3
    quality = (random.random((500, 3)) < estimated).astype(float)
    found = reliability(estimated, quality)
    assert len(found.count) == BINS
    assert found.count.max() - found.count.min() <= 1
    assert found.count @ found.observed == pytest.approx(quality.sum())
    assert (np.diff(found.predicted) > 0).all()
    gap = (found.count * np.abs(found.observed - found.predicted)).sum() / found.count.sum()
    assert ece(estimated, quality, once(500))[0] == pytest.approx(gap)


def test_one_estimate_for_all_is_one_bin() -> None:
    found = reliability(np.full((10, 2), 0.4), np.zeros((10, 2)))
    assert found.count.tolist() == [20.0]
    assert found.observed.tolist() == [0.0]
