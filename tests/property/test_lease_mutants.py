"""Looser rules than ours break a promise, and the world sees each of them; so every check can fail."""

from __future__ import annotations

import pytest
from support.lease_checks import BrokenPromiseError, Check
from support.lease_mutants import MUTANTS
from support.lease_replay import run

pytestmark = pytest.mark.property
STEPS = 400
WORLDS = 1000
END = {Check.LEAK, Check.LOST_SLOTS, Check.LOST_MONEY}
"""Checked only when a world comes to its end."""

WITNESSES = {
    Check.SLOTS: "held is the newest grant",
    Check.SERVERS: "a sidecar uses one slot more than it has",
    Check.MINUTE: "units come back at the end of a request",
    Check.LIMIT: "more is granted than the limit",
    Check.ACCOUNT: "shares are charged on settling only",
    Check.BOOKS: "a request of unknown cost was free",
    Check.CHARGE: "quotas are not charged",
    Check.WATERMARK: "older leaders' grants do not count",
    Check.REPEAT: "a request may be settled twice",
    Check.FORMER: "a former start forgets what it spent",
    Check.EPOCH: "a sidecar goes back to an older leader",
    Check.FENCE: "the ledger is written by merge patch",
    Check.LEAK: "a settled request keeps its slot",
    Check.LOST_SLOTS: "recalled slots are not heard to come back",
    Check.LOST_MONEY: "returned money is not heard of",
}
"""For each check a looser rule that it notices alone, without help from the others."""


def run_until_broken(name: str, only: Check | None, *, end: bool) -> BrokenPromiseError:
    with MUTANTS[name].applied():
        for seed in range(WORLDS):
            try:
                run(seed, STEPS, end=end, only=only)
            except BrokenPromiseError as broken:
                return broken
    raise AssertionError(f"no promise was broken in {WORLDS} worlds although {name}")


@pytest.mark.parametrize("name", MUTANTS)
def test_a_looser_rule_breaks_a_promise(name: str) -> None:
    breaks = MUTANTS[name].breaks
    broken = run_until_broken(name, None, end=not END.isdisjoint(breaks))
    assert broken.check in breaks, broken


@pytest.mark.parametrize("check", Check)
def test_every_check_can_fail(check: Check) -> None:
    assert run_until_broken(WITNESSES[check], check, end=check in END).check is check
