"""Hull, K@t and R@f, against cases worked out by hand and against their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelfleet_lab.evaluate.curves import cost_share, curve, relative_quality, vertices

COST = np.array([1.0, 4.0, 2.0, 8.0, 5.0])
QUALITY = np.array([0.4, 0.6, 0.45, 0.8, 0.5])


def test_the_hull_keeps_what_no_mix_beats() -> None:
    # (2, .45) lies below the line from (1, .4) to (4, .6); (5, .5) costs more than (4, .6).
    assert vertices(COST, QUALITY).tolist() == [0, 1, 3]


def test_the_hull_starts_where_nothing_is_answered() -> None:
    found = curve(COST, QUALITY)
    assert found.cost.tolist() == [0.0, 1.0, 4.0, 8.0]
    assert found.quality.tolist() == [0.0, 0.4, 0.6, 0.8]
    assert found.quality_at(0.5) == pytest.approx(0.2)


def test_a_cheap_model_that_is_worse_per_dollar_than_mixing_with_nothing_is_no_corner() -> None:
    assert vertices(np.array([1.0, 2.0]), np.array([0.1, 0.8])).tolist() == [1]


def test_quality_that_costs_nothing_begins_the_hull() -> None:
    found = curve(np.array([0.0, 1.0]), np.array([0.5, 0.9]))
    assert found.cost.tolist() == [0.0, 1.0]
    assert found.quality.tolist() == [0.5, 0.9]
    assert found.cost_of(0.5) == 0.0


def test_money_beyond_the_best_setting_buys_nothing() -> None:
    assert curve(COST, QUALITY).quality_at(100.0) == 0.8


def test_what_a_policy_never_reaches_costs_infinitely_much() -> None:
    assert math.isinf(curve(COST, QUALITY).cost_of(0.81))


def test_a_policy_without_any_right_answer_is_worth_nothing() -> None:
    found = curve(np.array([1.0, 2.0]), np.array([0.0, 0.0]))
    assert found.quality_at(5.0) == 0.0
    assert math.isinf(found.cost_of(0.1))


def test_cost_share_and_relative_quality_are_read_from_the_hull() -> None:
    # The best single model: (8, .8). Its half quality, .4, is had at 1; .7 half way from 4 to 8.
    found = curve(COST, QUALITY)
    best = {"single_cost": 8.0, "single_quality": 0.8}
    assert cost_share(found, 0.5, **best) == pytest.approx(1 / 8)
    assert cost_share(found, 0.7 / 0.8, **best) == pytest.approx(6 / 8)
    assert cost_share(found, 1.0, **best) == pytest.approx(1.0)
    assert relative_quality(found, 0.5, **best) == pytest.approx(0.75)
    assert relative_quality(found, 1.0, **best) == pytest.approx(1.0)


def test_shares_of_nothing_are_no_number() -> None:
    found = curve(COST, QUALITY)
    assert math.isnan(cost_share(found, 0.9, single_cost=0.0, single_quality=0.8))
    assert math.isnan(relative_quality(found, 0.5, single_cost=8.0, single_quality=0.0))


@pytest.mark.property
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), size=st.integers(1, 30))
def test_no_mix_of_two_settings_lies_above_the_hull(seed: int, size: int) -> None:
    random = np.random.default_rng(seed)
    cost, quality = random.uniform(0, 1, size), random.choice([0.0, 0.25, 0.5, 0.75, 1.0], size)
    found = curve(cost, quality)
    a, b, part = random.integers(0, size, 200), random.integers(0, size, 200), random.random(200)
    mixed_cost = part * cost[a] + (1 - part) * cost[b]
    mixed = part * quality[a] + (1 - part) * quality[b]
    assert (np.interp(mixed_cost, found.cost, found.quality) >= mixed - 1e-9).all()
    slopes = np.diff(found.quality) / np.diff(found.cost)
    assert (np.diff(slopes) < 0).all()
    assert (slopes > 0).all()
