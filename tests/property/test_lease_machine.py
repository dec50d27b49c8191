"""The world of leases as a state machine, so that what breaks a promise shrinks to the steps that matter."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from support.lease_checks import BrokenPromiseError
from support.lease_mutants import MUTANTS
from support.lease_world import ACTIONS, LeaseWorld

pytestmark = pytest.mark.property
CHOICES = st.integers(0, 2**16)
COMMON = [name for name, (weight, _) in ACTIONS.items() if weight >= 3]
FAULTS = [name for name, (weight, _) in ACTIONS.items() if weight < 3]


class LeaseMachine(RuleBasedStateMachine):
    """Each rule is one thing that may happen; `choices` seed what it chooses, such as whom it happens to."""

    @initialize(choices=CHOICES, sidecars=st.integers(1, 3))
    def begin(self, choices: int, sidecars: int) -> None:
        self.world = LeaseWorld(choices, sidecars=sidecars)

    @rule(name=st.sampled_from(COMMON), choices=CHOICES)
    def happens(self, name: str, choices: int) -> None:
        self._do(name, choices)

    @rule(choices=CHOICES)
    def everyone_speaks(self, choices: int) -> None:
        """A round without loss, which random steps seldom make."""
        for name in ("a report", "a report arrives", "the leader's turn", "a grant arrives", "a request"):
            self._do(name, choices)

    @rule(name=st.sampled_from(FAULTS), choices=CHOICES)
    def goes_wrong(self, name: str, choices: int) -> None:
        self._do(name, choices)

    def _do(self, name: str, choices: int) -> None:
        self.world.random = random.Random(choices)
        self.world.do(name)


SETTINGS = settings(
    max_examples=60,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


def test_limits_hold_in_any_order_of_steps() -> None:
    run_state_machine_as_test(LeaseMachine, settings=SETTINGS)


def test_the_machine_sees_a_looser_rule() -> None:
    mutant = MUTANTS["money leaves before the ledger holds it"]
    bounded = settings(SETTINGS, max_examples=400, database=None, derandomize=True, print_blob=False)
    with mutant.applied(), pytest.raises((BrokenPromiseError, Flaky)):
        run_state_machine_as_test(LeaseMachine, settings=bounded)
