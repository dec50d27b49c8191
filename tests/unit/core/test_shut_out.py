"""What breakers and Retry-After shut: requests that could only wait for it in vain are told so at once."""

from __future__ import annotations

from dataclasses import replace

import pytest
from modelfleet_core.batching import solving
from modelfleet_core.batching.candidate import Candidate
from modelfleet_core.batching.outcome import GivenUp, Outcome, Placed, Why
from modelfleet_core.batching.placing import SHUT_PATIENCE
from modelfleet_core.batching.queue import BUDGET_PATIENCE, Queue
from modelfleet_core.health import BREAKER_OPEN, RATE_LIMITED, Health
from modelfleet_core.leasing.accounts import BUDGET
from modelfleet_core.policy import Batching, Breaker
from modelfleet_core.values import ModelName, NanoUsd, TierName, VariantKey
from support.holdings import endpoint_of, granted

ONLY = VariantKey(ModelName("only"), "gpu")
AT = endpoint_of(ONLY)


def one(now: float = 0.0, *, charge: int = 0) -> Candidate:
    return Candidate(
        variants=(ONLY,),
        tier=TierName("gold"),
        weight=1.0,
        shed_penalty=0.5,
        arrived=now,
        deadline=now + 600.0,
        longest=600.0,
        quality=(0.5,),
        cost=(charge / 1e9,),
        service_time=(1.0,),
        reserve=(NanoUsd(charge),),
        excluded_by=("",),
        charges=({BUDGET: charge},) if charge else (),
    )


def queue_of(health: Health) -> Queue:
    return Queue(granted({ONLY: 4}, money=1.0), Batching(max_size=64, max_wait=0.0), health=health)


def due(queue: Queue, now: float) -> list[Outcome]:
    outcomes: list[Outcome] = []
    while (batch := queue.due(now)) is not None:
        outcomes += queue.commit(solving.solve(batch, lambda: 1.0), now)
    return outcomes


def opened(open_for: float) -> Health:
    """Return health whose breaker opened at 0."""
    health = Health()
    health.follow(Breaker(failures=1, open_for=open_for))
    health.failed(ONLY, AT, 1, 0.0, 0.0)
    return health


@pytest.mark.parametrize("charge", [0, 1000])
def test_a_request_that_would_wait_too_long_for_a_probe_is_refused_at_once(charge: int) -> None:
    queue = queue_of(opened(100.0))
    queue.arrive(1, one(charge=charge), 0.0)
    (outcome,) = due(queue, 0.0)
    assert isinstance(outcome, GivenUp)
    assert (outcome.why, outcome.short, outcome.until) == (Why.SHUT, BREAKER_OPEN, 100.0)


@pytest.mark.parametrize("charge", [0, 1000])
def test_a_request_waits_for_a_probe_that_is_due_soon_and_becomes_it(charge: int) -> None:
    queue = queue_of(opened(SHUT_PATIENCE / 2))
    queue.arrive(1, one(charge=charge), 0.0)
    now, outcomes = 0.0, due(queue, 0.0)
    while not outcomes:
        assert queue.wake_at is not None
        now = max(now, queue.wake_at)
        outcomes = due(queue, now)
    assert [type(outcome) for outcome in outcomes] == [Placed]
    assert now == pytest.approx(SHUT_PATIENCE / 2, abs=0.3)


def test_while_one_probes_for_long_the_others_do_not_wait_to_their_deadline() -> None:
    queue = queue_of(opened(5.0))
    assert queue.place(1, one(5.0), 5.0) is not None
    queue.arrive(2, one(5.0), 5.0)
    now, outcomes = 5.0, due(queue, 5.0)
    while not outcomes:
        assert queue.wake_at is not None
        now = max(now, queue.wake_at)
        outcomes = due(queue, now)
    assert [type(outcome) for outcome in outcomes] == [Placed], "the probe has not answered for as long as"
    assert now == pytest.approx(10.0, abs=0.3)


def test_who_is_told_to_come_back_later_by_a_server_is_told_so_at_once() -> None:
    health = Health()
    health.refused(AT, 0.0, 0.0, 1, 60.0)
    queue = queue_of(health)
    queue.arrive(1, one(), 0.0)
    (outcome,) = due(queue, 0.0)
    assert isinstance(outcome, GivenUp)
    assert (outcome.why, outcome.short, outcome.until) == (Why.SHUT, RATE_LIMITED, 60.0)


def test_who_may_be_lent_something_else_waits_until_others_have_done_with_it() -> None:
    other = VariantKey(ModelName("other"), "gpu")
    queue = queue_of(opened(100.0))
    two = replace(
        one(),
        variants=(ONLY, other),
        quality=(0.5, 0.4),
        cost=(0.0, 0.0),
        service_time=(1.0, 1.0),
        reserve=(NanoUsd(0), NanoUsd(0)),
        excluded_by=("", ""),
    )
    queue.arrive(1, two, 0.0)
    assert due(queue, 0.0) == []
    assert due(queue, SHUT_PATIENCE - 0.5) == [], "its slots may be in use elsewhere for as long as an answer"
    (outcome,) = due(queue, SHUT_PATIENCE)
    assert isinstance(outcome, GivenUp)
    assert outcome.why is Why.SHUT


def test_what_failed_there_itself_waits_a_moment_for_a_pod_in_its_place() -> None:
    queue = queue_of(opened(100.0))
    queue.arrive(1, replace(one(), avoided=frozenset({AT})), 0.0)
    assert due(queue, 0.0) == []
    assert due(queue, BUDGET_PATIENCE - 0.1) == []
    (outcome,) = due(queue, BUDGET_PATIENCE + 0.2)
    assert isinstance(outcome, GivenUp)
    assert outcome.why is Why.SHUT
