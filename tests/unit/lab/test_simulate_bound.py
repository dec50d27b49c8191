"""The clairvoyant bound: no schedule is worth more, and it is reached where nothing competes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from modelfleet_lab.simulate.bound import clairvoyant
from support.simulations import best_schedule, small_load

FOREVER = 1e9


@pytest.mark.parametrize("seed", range(40))
def test_no_schedule_of_a_small_instance_is_worth_more_than_the_bound(seed: int) -> None:
    load = small_load(seed, n=5, m=2)
    bound = clairvoyant(load, [(0.0, FOREVER, 0, 1), (0.0, FOREVER, 1, 1)])
    assert best_schedule(load, [1, 1]) <= bound.quality + 1e-6


@pytest.mark.parametrize("seed", range(10))
def test_no_schedule_within_a_budget_is_worth_more_than_the_bound_within_it(seed: int) -> None:
    load = small_load(seed, n=5, m=2)
    budget = 0.4 * float(load.cost.min(axis=1).sum())
    bound = clairvoyant(load, [(0.0, FOREVER, 0, 1), (0.0, FOREVER, 1, 1)], budget)
    assert best_schedule(load, [1, 1], budget) <= bound.quality + 1e-6
    assert bound.quality < clairvoyant(load, [(0.0, FOREVER, 0, 1), (0.0, FOREVER, 1, 1)]).quality


def test_the_bound_is_the_best_quality_of_all_where_there_are_slots_for_all() -> None:
    load = small_load(3, n=12, m=3)
    load = replace(load, deadline=load.arrived + 10.0)
    bound = clairvoyant(load, [(0.0, FOREVER, j, 12) for j in range(3)])
    assert bound.quality == pytest.approx(float((load.weight * load.quality.max(axis=1)).sum()))
    assert bound.by_request == pytest.approx(load.weight * load.quality.max(axis=1))


def test_a_single_slot_in_time_for_one_of_two_equal_requests_serves_one() -> None:
    load = small_load(1, n=2, m=1)
    load = replace(
        load,
        arrived=np.zeros(2),
        deadline=np.full(2, 2.0),
        service=np.full((2, 1), 2.0),
        weight=np.ones(2),
        quality=np.full((2, 1), 0.7),
    )
    assert clairvoyant(load, [(0.0, FOREVER, 0, 1)]).quality == pytest.approx(0.7)


def test_slots_count_only_while_they_are_live() -> None:
    load = small_load(1, n=1, m=1)
    load = replace(
        load, arrived=np.zeros(1), deadline=np.full(1, 4.0), service=np.full((1, 1), 2.0), weight=np.ones(1)
    )
    whole = clairvoyant(load, [(0.0, FOREVER, 0, 1)]).quality
    assert clairvoyant(load, [(0.0, 1.0, 0, 1)]).quality == pytest.approx(whole / 2)
    assert clairvoyant(load, [(3.0, 3.5, 0, 1)]).quality == pytest.approx(whole / 4)
    assert clairvoyant(load, []).quality == 0.0


def test_a_model_that_can_not_answer_in_time_serves_nothing() -> None:
    load = small_load(1, n=1, m=1)
    load = replace(load, service=np.full((1, 1), 100.0))
    assert clairvoyant(load, [(0.0, FOREVER, 0, 1)]).quality == 0.0


def test_no_requests_are_worth_nothing() -> None:
    load = small_load(1, n=0, m=2)
    assert clairvoyant(load, [(0.0, FOREVER, 0, 1)]).quality == 0.0
