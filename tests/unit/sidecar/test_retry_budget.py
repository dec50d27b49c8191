"""Servers that all fail get a fifth more attempts than requests, not three times as many."""

from __future__ import annotations

import pytest
from modelfleet_core.policy import RetryOn
from modelfleet_sidecar.failures import Failure, Fault
from modelfleet_sidecar.retry import MOST, RetryBudget


def failure(on: RetryOn | None) -> Failure:
    return Failure(Fault.UNAVAILABLE, "UpstreamError", "it failed", retry_on=on)


@pytest.mark.parametrize("on", [RetryOn.SERVER_ERROR, RetryOn.RATE_LIMITED, RetryOn.TIMEOUT])
def test_a_fifth_of_the_requests_is_tried_again_beyond_a_constant(on: RetryOn) -> None:
    budget = RetryBudget(0.0)
    again = 0
    for _ in range(10_000):
        budget.asked(0.0)
        again += budget.take(failure(on), 0.0)
    assert 2000 - 1 <= again <= 2000 + MOST


def test_rare_requests_are_always_tried_again() -> None:
    budget = RetryBudget(0.0)
    for _ in range(int(MOST)):
        assert budget.take(failure(RetryOn.SERVER_ERROR), 0.0)
    for second in range(1, 100):
        budget.asked(float(second))
        assert budget.take(failure(RetryOn.SERVER_ERROR), float(second))


def test_idle_time_saves_up_no_more_than_the_constant() -> None:
    budget = RetryBudget(0.0)
    assert sum(budget.take(failure(RetryOn.TIMEOUT), 1e6) for _ in range(1000)) == MOST


def test_lost_connections_are_not_counted() -> None:
    budget = RetryBudget(0.0)
    assert all(budget.take(failure(RetryOn.CONNECT), 0.0) for _ in range(1000))
    assert budget.take(failure(RetryOn.SERVER_ERROR), 0.0)


def test_a_request_that_came_before_the_last_attempt_gains_no_second_twice() -> None:
    budget = RetryBudget(0.0)
    while budget.take(failure(RetryOn.SERVER_ERROR), 100.0):
        pass
    for _ in range(4):
        budget.asked(50.0)
    assert not budget.take(failure(RetryOn.SERVER_ERROR), 100.0)
