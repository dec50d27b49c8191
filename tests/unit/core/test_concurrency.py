"""A limit falls when a server refuses or slows down, not by noise, and grows back while it binds."""

from __future__ import annotations

import numpy as np
import pytest
from modelfleet_core.concurrency import Concurrency

SLOTS = 32


def serve(
    limit: Concurrency, start: float, seconds: list[float], *, tokens: int = 100, in_flight: int | None = None
) -> float:
    """Answer one request after the other, at the limit; returns when the last one ended."""
    now = start
    for one in seconds:
        limit.answered(now, now + one, tokens, in_flight or limit.limit(SLOTS), SLOTS)
        now += one
    return now


def test_without_trouble_all_leased_slots_are_used() -> None:
    limit = Concurrency()
    serve(limit, 0.0, [1.0] * 200)
    assert not limit.bound
    assert limit.limit(SLOTS) == SLOTS


def test_a_429_halves_what_is_in_flight_once_for_all_that_were_sent_before() -> None:
    limit = Concurrency()
    for k in range(20):
        limit.refused(0.0, 1.0 + k / 100, 20, None)
    assert limit.limit(SLOTS) == 10
    limit.refused(2.0, 3.0, 10, None)
    assert limit.limit(SLOTS) == 5


def test_it_never_falls_below_one_or_rises_above_the_slots() -> None:
    limit = Concurrency()
    now = 0.0
    for _ in range(20):
        now += 1.0
        limit.refused(now, now, 1, None)
    assert limit.limit(SLOTS) == 1
    assert limit.limit(0) == 1
    serve(limit, now, [0.1] * 2000)
    assert limit.limit(SLOTS) == SLOTS
    assert limit.limit(4) == 4


def test_it_grows_by_about_one_for_each_round_of_answers_and_only_while_it_binds() -> None:
    limit = Concurrency()
    limit.refused(0.0, 0.0, 16, None)
    serve(limit, 1.0, [1.0] * 8)
    assert limit.limit(SLOTS) == 8
    serve(limit, 20.0, [1.0] * 2)
    assert limit.limit(SLOTS) == 9
    serve(limit, 30.0, [1.0] * 500, in_flight=3)
    assert limit.limit(SLOTS) == 9


def test_retry_after_is_a_time_before_which_nothing_goes_there() -> None:
    limit = Concurrency()
    limit.refused(0.0, 5.0, 4, 7.0)
    limit.refused(0.0, 6.0, 4, 1.0)
    assert limit.backs_off_until == 12.0


def test_answers_that_take_many_times_as_long_lower_it_within_a_few_dozen() -> None:
    limit = Concurrency()
    now = serve(limit, 0.0, [1.0] * 50)
    serve(limit, now, [8.0] * 20)
    assert limit.limit(SLOTS) < SLOTS


def test_a_server_that_stays_slower_gets_its_slots_back() -> None:
    limit = Concurrency()
    now = serve(limit, 0.0, [1.0] * 50)
    serve(limit, now, [8.0] * 4000)
    assert limit.limit(SLOTS) == SLOTS


@pytest.mark.parametrize("seed", range(8))
def test_noise_of_half_the_time_lowers_nothing(seed: int) -> None:
    random = np.random.default_rng(seed)
    limit = Concurrency()
    serve(limit, 0.0, list(np.exp(random.normal(0.0, 0.5, 3000))))
    assert limit.limit(SLOTS) == SLOTS


def test_long_answers_after_short_ones_are_no_slowdown() -> None:
    limit = Concurrency()
    now = serve(limit, 0.0, [0.5] * 50, tokens=20)
    serve(limit, now, [20.0] * 50, tokens=1000)
    assert not limit.bound


def test_milliseconds_are_noise_whatever_the_factor() -> None:
    limit = Concurrency()
    now = serve(limit, 0.0, [0.002] * 50)
    serve(limit, now, [0.04] * 50)
    assert not limit.bound
