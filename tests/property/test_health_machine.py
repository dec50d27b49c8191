"""Breakers and limits of concurrency, under any order of attempts, ends, losses and time."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from modelfleet_core.breaker import State
from modelfleet_core.concurrency import Concurrency
from modelfleet_core.health import BREAKER_OPEN, RATE_LIMITED, Health
from modelfleet_core.leasing.held_slots import HeldSlots
from modelfleet_core.policy import Breaker
from modelfleet_core.values import EndpointUrl, ModelName, VariantKey

SLOTS = 4
BOUNDS = Breaker(failures=3, open_for=10.0)
VARIANTS = [VariantKey(ModelName(name), "gpu") for name in ("one", "two")]
PLACES = {
    EndpointUrl("http://a"): VARIANTS[0],
    EndpointUrl("http://b"): VARIANTS[1],
    EndpointUrl("http://c"): VARIANTS[1],
}
WAITS = st.sampled_from([0.0, 0.1, 1.0, 5.0, 10.0, 61.0])


class HealthMachine(RuleBasedStateMachine):
    """Requests go only where health lets them; each ends in one of five ways, or is lost without a word."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 100.0
        self.count = 0
        self.health = Health()
        self.health.follow(BOUNDS)
        self.under_way: dict[int, tuple[EndpointUrl, float]] = {}
        self.leased = {}
        for endpoint, variant in PLACES.items():
            held = HeldSlots(variant)
            held.resize(SLOTS, 0, 0.0)
            self.leased[endpoint] = held
        self.failures: dict[EndpointUrl, int] = dict.fromkeys(PLACES, 0)
        self.quiet = dict.fromkeys(PLACES, 0.0)
        """Until when an endpoint asked for quiet."""

    def usable(self, endpoint: EndpointUrl) -> int:
        held = self.leased[endpoint]
        free = SLOTS - held.in_flight
        return self.health.usable(PLACES[endpoint], endpoint, free, held.in_flight, self.now)

    @rule(seconds=WAITS)
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(endpoint=st.sampled_from(list(PLACES)))
    def send(self, endpoint: EndpointUrl) -> None:
        if self.usable(endpoint) > 0:
            probing = self.health.states(self.leased, self.now)[PLACES[endpoint]][0] is State.HALF_OPEN
            self.count += 1
            self.health.took(PLACES[endpoint], endpoint, self.count, self.now)
            self.under_way[self.count] = (endpoint, self.now)
            self.leased[endpoint].in_flight += 1
            assert not probing or self.usable(endpoint) == 0, "one probe at a time"

    def end(self, data: st.DataObject) -> tuple[int, EndpointUrl, float]:
        attempt = data.draw(st.sampled_from(sorted(self.under_way)))
        endpoint, began = self.under_way.pop(attempt)
        return attempt, endpoint, began

    def leave(self, endpoint: EndpointUrl) -> None:
        self.leased[endpoint].in_flight -= 1

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), tokens=st.integers(0, 4000))
    def answer(self, data: st.DataObject, tokens: int) -> None:
        attempt, endpoint, began = self.end(data)
        self.health.works(PLACES[endpoint], endpoint, attempt, began, self.now)
        in_flight = self.leased[endpoint].in_flight
        self.health.answered(endpoint, began, self.now, tokens, in_flight, SLOTS)
        self.leave(endpoint)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def fail(self, data: st.DataObject) -> None:
        attempt, endpoint, began = self.end(data)
        self.health.failed(PLACES[endpoint], endpoint, attempt, began, self.now)
        self.failures[endpoint] += 1
        self.leave(endpoint)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), back_off=st.one_of(st.none(), WAITS))
    def refuse(self, data: st.DataObject, back_off: float | None) -> None:
        attempt, endpoint, began = self.end(data)
        self.health.works(PLACES[endpoint], endpoint, attempt, began, self.now)
        self.health.refused(endpoint, began, self.now, self.leased[endpoint].in_flight, back_off)
        self.quiet[endpoint] = max(self.quiet[endpoint], self.now + (back_off or 0.0))
        self.leave(endpoint)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data())
    def vanish(self, data: st.DataObject) -> None:
        _, endpoint, _ = self.end(data)
        self.leave(endpoint)

    @rule()
    def tidy(self) -> None:
        self.health.tidy(self.leased, self.under_way.__contains__, self.now)

    @invariant()
    def use_stays_within_the_lease(self) -> None:
        for endpoint in PLACES:
            assert 0 <= self.usable(endpoint) <= SLOTS - self.leased[endpoint].in_flight

    @invariant()
    def nothing_goes_where_quiet_was_asked_for(self) -> None:
        for endpoint, until in self.quiet.items():
            assert self.now >= until or self.usable(endpoint) == 0

    @invariant()
    def what_is_shut_takes_nothing_and_says_when_it_will(self) -> None:
        shut = self.health.shut(self.leased, self.now)
        for variant in VARIANTS:
            usable = sum(self.usable(endpoint) for endpoint, of in PLACES.items() if of == variant)
            if variant in shut:
                assert usable == 0
                assert shut[variant].why in (BREAKER_OPEN, RATE_LIMITED)
                assert shut[variant].until > self.now
                assert shut[variant].until <= max(self.now + BOUNDS.open_for, *self.quiet.values())

    @invariant()
    def few_failures_open_nothing(self) -> None:
        states = self.health.states(self.leased, self.now)
        for variant, (state, usable) in states.items():
            theirs = [endpoint for endpoint, of in PLACES.items() if of == variant]
            if sum(self.failures[endpoint] for endpoint in theirs) < BOUNDS.failures:
                assert state is State.CLOSED
            assert len(theirs) <= usable <= SLOTS * len(theirs), "a limit is never below one each"

    @invariant()
    def everything_works_again_once_probes_do(self) -> None:
        """From any state a patient sidecar comes back to all slots, whatever was lost before."""
        if self.count % 7 or self.under_way:
            return
        for endpoint, variant in PLACES.items():
            later = max(self.now, *self.quiet.values()) + BOUNDS.open_for
            self.health.tidy(self.leased, self.under_way.__contains__, self.now)
            held = self.leased[endpoint]
            assert self.health.usable(variant, endpoint, SLOTS - held.in_flight, held.in_flight, later) >= 1


@pytest.mark.parametrize("bound", [1, 2, 7, 32])
def test_a_limit_stays_between_one_and_the_slots(bound: int) -> None:
    limit = Concurrency()
    now = 0.0
    for step in range(400):
        now += 1.0
        if step % 5 == 0:
            limit.refused(now - 1.0, now, step % (bound + 1), None)
        else:
            limit.answered(now - 1.0, now, step % 50, bound, bound)
        assert 1 <= limit.limit(bound) <= bound


TestHealth = HealthMachine.TestCase
TestHealth.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
