"""Policies by price, and intervals of what is read from them."""

from __future__ import annotations

import numpy as np
import pytest
from modelfleet_lab.evaluate.intervals import draws, interval, read_curves, resampled
from modelfleet_lab.evaluate.sweeps import constants, priced

QUALITY = np.array([[0.5, 0.9], [0.5, 0.6]])
COST = np.array([[1.0, 2.0], [1.0, 2.0]])


def test_a_falling_price_upgrades_the_largest_gain_first() -> None:
    assert priced(QUALITY, COST).choice.tolist() == [[0, 0], [1, 0], [1, 1]]


def test_of_equal_estimates_the_cheaper_model_is_asked() -> None:
    assert priced(np.full((3, 2), 0.7), np.array([[5.0, 1.0]] * 3)).choice.tolist() == [[1, 1, 1]]


def test_the_scale_of_cost_does_not_matter() -> None:
    random = np.random.default_rng(0)
    quality, cost = random.random((40, 5)), random.random((40, 5))
    tiny = priced(quality, cost * 1e-9)
    assert (priced(quality, cost).choice == tiny.choice).all()


def test_models_that_cost_nothing_are_compared_by_quality_alone() -> None:
    assert priced(QUALITY, np.zeros((2, 2))).choice.tolist() == [[1, 1]]


def test_outcomes_are_charged_not_estimates() -> None:
    quality, cost = np.array([[0.0, 1.0], [1.0, 0.0]]), np.array([[10.0, 30.0], [20.0, 40.0]])
    policy = priced(QUALITY, COST).played(quality, cost)
    # (0, 0): .5 at 15; (1, 0): 1 at 25; (1, 1): .5 at 35. The first is no better than mixing with nothing.
    assert policy.cost.tolist() == [[30.0, 20.0]]
    assert policy.quality.tolist() == [[1.0, 1.0]]


def test_constant_models_answer_everything() -> None:
    assert constants(3, 2).choice.tolist() == [[0, 0, 0], [1, 1, 1]]


def test_resamples_are_the_same_for_the_same_seed_and_draw_as_many_queries_as_there_are() -> None:
    first, again, other = (np.concatenate(list(draws(7, 50, seed))) for seed in (3, 3, 4))
    assert (first == again).all()
    assert (first != other).any()
    assert (first.sum(axis=1) == 7).all()


def test_means_of_resamples_are_those_of_their_queries() -> None:
    cost, quality = np.array([[1.0, 3.0]]), np.array([[0.0, 1.0]])
    costs, qualities = resampled(cost, quality, 2, 40, seed=0)
    weights = np.concatenate(list(draws(2, 40, 0)))
    assert costs[:, 0] == pytest.approx(weights @ cost[0] / 2)
    assert qualities[:, 0] == pytest.approx(weights[:, 1] / 2)


def test_every_resample_has_its_own_hull() -> None:
    cost = np.array([[1.0, 2.0], [1.0, 2.0]])
    quality = np.array([[0.5, 0.6], [0.1, 0.9]])
    found = read_curves(cost, quality, lambda b, of: np.array([of.quality_at(1.0), float(b)]))
    assert found.tolist() == [[0.5, 0.0], [0.45, 1.0]]


def test_an_interval_holds_the_middle_of_the_resamples() -> None:
    assert interval(np.arange(1001.0)) == (25.0, 975.0)


def test_what_too_many_resamples_do_not_reach_has_no_interval() -> None:
    values = np.arange(100.0)
    values[:10] = np.inf
    assert interval(values) is None
    values[:10] = np.nan
    assert interval(values) == (12.0, 97.0)
    assert interval(np.full(5, np.nan)) is None


def test_an_interval_covers_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(5)
    covered = 0
    for k in range(200):
        quality = (random.random((1, 150)) < 0.7).astype(float)
        _, means = resampled(np.ones((1, 150)), quality, 150, 200, seed=k)
        low, high = interval(means[:, 0]) or (1.0, 0.0)
        covered += low <= 0.7 <= high
    assert 180 <= covered <= 199
