"""A breaker opens on failures, lets one probe at a time through, and takes late news for what it is."""

from __future__ import annotations

import pytest
from modelfleet_core.breaker import WINDOW, Breakers, State
from modelfleet_core.policy import Breaker
from modelfleet_core.values import EndpointUrl, ModelName, VariantKey

V = VariantKey(ModelName("m"), "gpu")
A, B, C = (EndpointUrl(f"http://{name}") for name in "abc")


class Bench:
    """Breakers and attempts that are numbered by themselves."""

    def __init__(self, failures: int = 3, open_for: float = 10.0) -> None:
        self.breakers = Breakers(Breaker(failures=failures, open_for=open_for))
        self.count = 0

    def attempt(self, now: float, *, failed: bool, at: EndpointUrl = A, began: float | None = None) -> None:
        self.count += 1
        self.breakers.took(V, at, self.count, now if began is None else began)
        self.breakers.ended(V, at, self.count, now if began is None else began, now, failed=failed)

    def state(self, now: float, *endpoints: EndpointUrl) -> State:
        return self.breakers.state(V, endpoints or (A,), now)


def test_so_many_failures_open_it_and_not_one_fewer() -> None:
    it = Bench()
    it.attempt(0.0, failed=True)
    it.attempt(1.0, failed=True)
    assert it.state(1.0) is State.CLOSED
    it.attempt(2.0, failed=True)
    assert it.state(2.0) is State.OPEN
    assert it.breakers.room(V, A, 2.0) == 0
    assert it.breakers.probe_at(V, A) == 12.0


def test_half_of_the_last_attempts_open_it_though_others_worked() -> None:
    it = Bench()
    for second in range(5):
        it.attempt(float(second), failed=second % 2 == 0)
    assert it.state(5.0) is State.OPEN


def test_rare_failures_among_answers_and_old_ones_do_not_open_it() -> None:
    it = Bench()
    for second in range(60):
        it.attempt(float(second), failed=second % 4 == 0)
        assert it.state(float(second)) is State.CLOSED
    other = Bench()
    for k in range(5):
        other.attempt(k * (WINDOW / 2 + 1), failed=True)
        assert other.state(k * (WINDOW / 2 + 1)) is State.CLOSED


def test_one_probe_at_a_time_and_its_end_decides() -> None:
    it = Bench()
    for _ in range(3):
        it.attempt(0.0, failed=True)
    assert it.breakers.room(V, A, 9.9) == 0
    assert it.breakers.room(V, A, 10.0) == 1
    it.breakers.took(V, A, 77, 10.0)
    assert it.breakers.room(V, A, 10.0) == 0
    it.breakers.ended(V, A, 77, 10.0, 11.0, failed=True)
    assert it.state(11.0) is State.OPEN
    assert it.breakers.probe_at(V, A) == 21.0
    it.breakers.took(V, A, 78, 21.0)
    it.breakers.ended(V, A, 78, 21.0, 22.0, failed=False)
    assert it.state(22.0) is State.CLOSED


def test_a_probe_whose_caller_left_makes_room_for_another() -> None:
    it = Bench()
    for _ in range(3):
        it.attempt(0.0, failed=True)
    it.breakers.took(V, A, 77, 10.0)
    it.breakers.lost(lambda attempt: attempt == 77)
    assert it.breakers.room(V, A, 10.0) == 0
    it.breakers.lost(lambda _attempt: False)
    assert it.breakers.room(V, A, 10.0) == 1


@pytest.mark.parametrize("failed", [True, False])
def test_a_probe_that_says_nothing_lets_another_go_and_whichever_ends_first_decides(failed: bool) -> None:
    it = Bench()
    for _ in range(3):
        it.attempt(0.0, failed=True)
    it.breakers.took(V, A, 77, 10.0)
    assert it.breakers.room(V, A, 19.9) == 0
    assert it.breakers.room(V, A, 20.0) == 1
    it.breakers.took(V, A, 78, 20.0)
    assert it.breakers.room(V, A, 20.0) == 0
    it.breakers.ended(V, A, 77, 10.0, 21.0, failed=failed)
    assert it.state(21.0) is (State.OPEN if failed else State.CLOSED)
    it.breakers.ended(V, A, 78, 20.0, 22.0, failed=not failed)
    assert it.state(22.0) is (State.OPEN if failed else State.CLOSED), "it began before that"


@pytest.mark.parametrize("failed", [True, False])
def test_what_began_before_it_opened_neither_closes_nor_prolongs_it(failed: bool) -> None:
    it = Bench()
    for _ in range(3):
        it.attempt(1.0, failed=True)
    it.attempt(5.0, failed=failed, began=0.5)
    assert it.breakers.probe_at(V, A) == 11.0
    it.breakers.took(V, A, 77, 11.0)
    it.breakers.ended(V, A, 77, 11.0, 12.0, failed=False)
    for _ in range(5):
        it.attempt(12.5, failed=True, began=0.5)
    assert it.state(12.5) is State.CLOSED


def test_one_bad_endpoint_opens_its_own_breaker_and_shuts_no_variant() -> None:
    it = Bench()
    for second in range(3):
        it.attempt(float(second), failed=True, at=A)
        it.attempt(float(second), failed=False, at=B)
    assert it.breakers.room(V, A, 3.0) == 0
    assert it.breakers.room(V, B, 3.0) > 1
    assert it.state(3.0, A, B) is State.CLOSED
    assert it.state(3.0, A) is State.OPEN


def test_failures_everywhere_open_the_variant_before_each_endpoint_has_failed_so_often() -> None:
    it = Bench()
    for at in (A, B, C):
        it.attempt(0.0, failed=True, at=at)
    assert it.state(0.0, A, B, C) is State.OPEN
    assert it.breakers.room(V, B, 0.0) == 0
    assert it.breakers.half_open(V, 10.0)


def test_nothing_is_remembered_of_what_works_again_or_is_gone() -> None:
    it = Bench()
    it.attempt(0.0, failed=True)
    it.breakers.tidy((A,), 1.0)
    assert not it.breakers.calm
    it.breakers.tidy((A,), WINDOW + 1.0)
    assert it.breakers.calm
