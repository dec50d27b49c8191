"""A model takes the place of another on a full pool without losing more requests than it must."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
from support.swaps import Swap, all_at_once, by_need, in_steps, play

SWAPS = [Swap(size=4, startup=20.0), Swap(size=8, startup=30.0, drain=20.0), Swap(size=16, startup=10.0)]


@pytest.mark.parametrize("swap", SWAPS)
@pytest.mark.parametrize("load", [0.3, 0.7])
def test_with_slots_to_spare_a_swap_loses_nothing(swap: Swap, load: float) -> None:
    it = replace(swap, load=load)
    assert play(it, by_need).lost <= 0.001
    assert play(it, all_at_once).lost > 0.01


@pytest.mark.parametrize("swap", SWAPS)
def test_with_many_slots_to_spare_a_swap_is_faster_than_in_equal_steps(swap: Swap) -> None:
    it = replace(swap, load=0.2)
    assert play(it, by_need).ended < play(it, in_steps).ended


@pytest.mark.parametrize("swap", SWAPS)
@pytest.mark.parametrize("gain", [1.5, 3.0])
def test_where_slots_lack_a_swap_to_more_loses_hardly_more_than_all_at_once(swap: Swap, gain: float) -> None:
    it = replace(swap, load=2.0, gain=gain, running=1)
    lost = play(it, by_need).shed
    assert lost <= 1.15 * play(it, all_at_once).shed
    assert lost < play(it, in_steps).shed


@pytest.mark.parametrize("swap", SWAPS)
@pytest.mark.parametrize("load", [0.3, 0.7, 0.95, 2.0])
def test_a_model_that_never_becomes_ready_takes_no_slot_that_requests_need(swap: Swap, load: float) -> None:
    played = play(replace(swap, load=load, truly=inf), by_need)
    assert played.ended == inf
    assert played.least >= min(0.75, load)


def test_a_model_that_starts_slower_than_declared_is_waited_for_and_comes() -> None:
    played = play(Swap(size=8, startup=10.0, truly=50.0, load=0.7), by_need)
    assert played.least >= 0.75
    assert played.ended < inf


def test_where_money_limits_a_swap_keeps_three_quarters_serving_too() -> None:
    played = play(Swap(size=8, hourly_budget=8.0, load=0.7), by_need)
    assert played.least >= 0.75
    assert played.ended < inf


def test_a_plan_that_wavers_ends_in_the_swap() -> None:
    played = play(Swap(size=8, drain=5.0, flap=8.0, load=0.7), by_need)
    assert played.ended < inf
    assert played.lost <= 0.001
