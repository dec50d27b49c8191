"""The measures of the literature, by hand and by their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from modelfleet_lab.evaluate.curves import curve
from modelfleet_lab.evaluate.published import (
    aiq,
    arena_score,
    best_arena_score,
    best_routing_accuracy,
    gap_recovered,
)
from modelfleet_lab.evaluate.sweeps import Played


def test_aiq_is_the_area_under_the_hull_by_its_width() -> None:
    # A triangle to (1, .5), a trapezium to (3, .9), and level from there to 4.
    found = aiq(curve(np.array([1.0, 3.0]), np.array([0.5, 0.9])), 4.0)
    assert found == pytest.approx((0.25 + 1.4 + 0.9) / 4, abs=1e-5)
    assert math.isnan(aiq(curve(np.array([1.0]), np.array([0.5])), 0.0))


def test_a_random_mix_of_weak_and_strong_recovers_half_the_gap() -> None:
    mix = curve(np.array([1.0, 3.0]), np.array([0.5, 0.9]))
    apgr, thresholds = gap_recovered(mix, (1.0, 0.5), (3.0, 0.9))
    assert apgr == pytest.approx(0.5)
    assert thresholds == pytest.approx({20: 0.2, 50: 0.5, 80: 0.8})


def test_a_router_that_is_perfect_at_half_the_way_recovers_more() -> None:
    better = curve(np.array([1.0, 2.0]), np.array([0.5, 0.9]))
    apgr, thresholds = gap_recovered(better, (1.0, 0.5), (3.0, 0.9))
    assert apgr == pytest.approx(0.75, abs=1e-5)
    assert thresholds[50] == pytest.approx(0.25)


def test_a_gap_that_is_not_closed_and_one_that_is_none() -> None:
    low = curve(np.array([1.0]), np.array([0.6]))
    assert math.isinf(gap_recovered(low, (1.0, 0.5), (3.0, 0.9))[1][80])
    assert math.isnan(gap_recovered(low, (1.0, 0.9), (3.0, 0.5))[0])


def test_the_arena_score_of_the_published_formula() -> None:
    # At one dollar per 1000 queries: C = log2(200) / log2(200 / .0044) = .49409.
    cost = math.log2(200) / math.log2(200 / 0.0044)
    assert arena_score(0.7, 0.001) == pytest.approx(1.1 * 0.7 * cost / (0.07 + cost))
    assert arena_score(0.7, 1e-9) == pytest.approx(1.1 * 0.7 / 1.07)
    assert arena_score(0.7, 5.0) == 0.0


def test_of_a_policy_the_best_setting_counts() -> None:
    policy = Played(np.array([[1.0, 0.0], [1.0, 1.0]]), np.array([[1e-4, 1e-4], [2e-4, 2e-4]]))
    assert best_arena_score(policy) == arena_score(1.0, 2e-4)
    assert best_routing_accuracy(policy, np.array([[1.0, 0.0], [1.0, 0.5]])) == 1.0
    assert best_routing_accuracy(policy, np.array([[1.0, 0.0], [0.0, 0.0]])) == 1.0
