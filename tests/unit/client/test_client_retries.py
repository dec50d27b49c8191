"""What the client tries again, and how long it waits."""

from __future__ import annotations

import pytest
from modelfleet_client.errors import BadRequest, BudgetExhausted, ModelfleetError, Overloaded, Unreachable
from modelfleet_client.retrying import Retries

BUSY = Overloaded("busy", code="RESOURCE_EXHAUSTED", reason="NoFreeSlot", retry_after=1.0)
BROKEN = Unreachable("connection reset", code="UNAVAILABLE")


def test_what_the_sidecar_says_will_be_better_is_tried_again_after_its_pause() -> None:
    retries = Retries()
    assert retries.pause(BUSY, 1, None, 0.0, idempotent=False) == 1.0
    assert retries.pause(BUSY, 1, None, 0.5, idempotent=False) == 1.25


def test_attempts_are_bounded() -> None:
    assert Retries(attempts=2).pause(BUSY, 1, None, 0.0, idempotent=False) is not None
    assert Retries(attempts=2).pause(BUSY, 2, None, 0.0, idempotent=False) is None
    assert Retries(attempts=1).pause(BUSY, 1, None, 0.0, idempotent=True) is None


def test_the_callers_time_is_kept() -> None:
    assert Retries().pause(BUSY, 1, 1.1, 0.0, idempotent=False) == 1.0
    assert Retries().pause(BUSY, 1, 0.9, 0.0, idempotent=False) is None


def test_an_empty_budget_is_not_waited_for() -> None:
    empty = BudgetExhausted("empty", code="RESOURCE_EXHAUSTED", reason="BudgetExhausted", retry_after=3600.0)
    assert Retries().pause(empty, 1, None, 0.0, idempotent=False) is None


@pytest.mark.parametrize(
    "error",
    [
        BadRequest("no", code="INVALID_ARGUMENT", reason="InvalidField"),
        ModelfleetError("odd", code="INTERNAL", reason="InternalError", retry_after=1.0),
        Overloaded("told nothing", code="RESOURCE_EXHAUSTED", reason="NoFreeSlot"),
    ],
)
def test_what_another_attempt_would_not_mend_is_raised(error: ModelfleetError) -> None:
    assert Retries().pause(error, 1, None, 0.0, idempotent=True) is None


def test_a_broken_connection_is_tried_again_only_where_twice_is_once() -> None:
    assert Retries().pause(BROKEN, 1, None, 0.0, idempotent=False) is None
    pauses = [Retries().pause(BROKEN, attempt, None, 0.0, idempotent=True) for attempt in (1, 2)]
    assert pauses == [0.05, 0.1]
