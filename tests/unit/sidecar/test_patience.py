"""Each bound of an attempt ends it when it is exceeded, and only then; a slow reader is no slow server."""

from __future__ import annotations

import pytest
from modelfleet_core.policy import Timeouts
from modelfleet_sidecar.patience import Bound, LateError, Patience, hung_after

TIMEOUTS = Timeouts(connect=1.0, first_token=10.0, between_tokens=5.0, min_tokens_per_second=2.0, total=100.0)


def bound(late: LateError | None) -> Bound | None:
    return None if late is None else late.bound


def test_a_stream_has_until_its_first_content() -> None:
    patience = Patience(TIMEOUTS, 50.0, stream=True)
    assert patience.due(50.0, 0.0) == 60.0
    assert patience.look(59.9, 9.9, 9.9, 0.0) is None
    assert bound(patience.look(60.0, 10.0, 10.0, 0.0)) is Bound.FIRST_TOKEN
    patience.spoke(9.0, 1.0)
    assert patience.look(60.0, 1.0, 10.0, 3.0) is None


def test_a_whole_answer_has_its_total_time_only() -> None:
    patience = Patience(TIMEOUTS, 50.0, stream=False)
    assert patience.due(50.0, 0.0) == 150.0
    assert patience.look(149.9, 99.9, 99.9, 0.0) is None
    assert bound(patience.look(150.0, 100.0, 100.0, 0.0)) is Bound.TOTAL


def test_silence_counts_while_the_server_is_waited_for() -> None:
    patience = Patience(TIMEOUTS, 0.0, stream=True)
    patience.spoke(0.0, 1.0)
    assert patience.due(20.0, 4.0) == 21.0
    assert patience.look(20.0, 4.9, 5.0, 50.0) is None
    assert bound(patience.look(20.0, 5.0, 5.0, 50.0)) is Bound.BETWEEN_TOKENS
    assert patience.look(90.0, 0.0, 5.0, 50.0) is None, "a minute in which the caller did not read"


def stream_at(rate: float, waiting: float = 1.0) -> Bound | None:
    """Look at a stream of so many tokens a second, a part of whose time is spent waiting for the server."""
    patience = Patience(TIMEOUTS, 0.0, stream=True)
    patience.spoke(0.0, 1.0)
    now = 0.0
    while now < 90.0:
        now = patience.due(now, 0.0)
        if (late := patience.look(now, 0.0, now * waiting, 1.0 + now * rate)) is not None:
            return late.bound
    return None


@pytest.mark.parametrize(("rate", "ended"), [(1.0, True), (1.9, True), (2.1, False), (30.0, False)])
def test_a_stream_that_is_alive_but_too_slow_is_ended(rate: float, ended: bool) -> None:
    assert stream_at(rate) is (Bound.PACE if ended else None)


def test_a_caller_that_reads_slowly_does_not_make_the_server_slow() -> None:
    assert stream_at(1.0, waiting=0.1) is None


def test_a_fast_beginning_does_not_hide_a_slow_end() -> None:
    patience = Patience(TIMEOUTS, 0.0, stream=True)
    patience.spoke(0.0, 1.0)
    now, tokens, ended = 0.0, 1.0, None
    while ended is None and now < 60.0:
        step = patience.due(now, 0.0) - now
        now += step
        tokens += step * (100.0 if now <= 20.0 else 1.0)
        ended = patience.look(now, 0.0, now, tokens)
    assert bound(ended) is Bound.PACE
    assert now <= 20.0 + 2 * 10.0 + 2.5


def test_without_a_pace_only_silence_and_the_total_end_a_stream() -> None:
    slack = Timeouts(min_tokens_per_second=0.0, between_tokens=5.0, total=100.0)
    patience = Patience(slack, 0.0, stream=True)
    patience.spoke(0.0, 1.0)
    assert all(patience.look(float(now), 1.0, float(now), 1.0) is None for now in range(1, 100))


@pytest.mark.parametrize(("waited", "blamed"), [(10.0, False), (90.0, True)])
def test_who_is_to_blame_for_a_total_that_is_over_is_who_was_waited_for(waited: float, blamed: bool) -> None:
    patience = Patience(TIMEOUTS, 0.0, stream=True)
    patience.spoke(1.0, 1.0)
    late = patience.look(100.0, 0.0, waited, 500.0)
    assert late is not None
    assert late.bound is Bound.TOTAL
    assert late.callers is not blamed


def test_a_server_has_hung_when_it_is_silent_for_far_longer_than_usual_and_than_a_prompt_may_take() -> None:
    assert hung_after(0.0, 0) == 3.0
    assert hung_after(0.2, 500) == pytest.approx(4.5)
    assert hung_after(20.0, 30_000) == pytest.approx(133.0)
