"""The window loses no request, starves none, and is silent only when nothing waits."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from modelfleet_core.batching.window import Step, Window

pytestmark = pytest.mark.property

MAX_SIZE, MAX_WAIT, MARGIN = 5, 0.02, 0.005


class Shell(RuleBasedStateMachine):
    """What a sidecar does around a window, with a clock that only this test moves."""

    def __init__(self) -> None:
        super().__init__()
        self.window = Window(max_size=MAX_SIZE, max_wait=MAX_WAIT, margin=MARGIN)
        self.now = 0.0
        self.waiting: list[float] = []
        self.arrived_at: list[float] = []
        self.out: list[float] | None = None
        self.wake_at: float | None = None

    def follow(self, step: Step) -> None:
        if step.dispatch:
            assert self.out is None, "one batch is out at a time"
            assert self.waiting
            self.out, self.waiting, self.arrived_at = self.waiting, [], []
            self.wake_at = None
        else:
            self.wake_at = step.wake_at

    @rule(within=st.floats(0.0, 1.0))
    def arrive(self, within: float) -> None:
        self.waiting.append(self.now + within)
        self.arrived_at.append(self.now)
        self.follow(self.window.arrive(self.now, self.now + within))

    @precondition(lambda self: self.waiting)
    @rule()
    def leave(self) -> None:
        self.waiting.pop()
        if self.arrived_at:
            self.arrived_at.pop()
        self.follow(self.window.leave(self.now))

    @rule()
    def capacity(self) -> None:
        self.follow(self.window.capacity_changed(self.now))

    @rule(seconds=st.floats(0.0, 0.1))
    def sleep(self, seconds: float) -> None:
        """Time passes, but a sleeper wakes when it asked to be woken."""
        until = self.now + seconds
        if self.wake_at is not None and self.wake_at <= until:
            self.now = max(self.now, self.wake_at)
            self.follow(self.window.tick(self.now))
            assert self.out is not None or self.wake_at is None or self.wake_at > self.now
        else:
            self.now = until

    @precondition(lambda self: self.out is not None)
    @rule(binding=st.booleans(), keep=st.integers(0, 5))
    def finish(self, binding: bool, keep: int) -> None:
        assert self.out is not None
        deferred = [deadline for deadline in self.out[:keep] if deadline > self.now]
        self.out = None
        self.waiting = deferred + self.waiting
        self.follow(self.window.finish(self.now, binding=binding, deferred=deferred))

    @invariant()
    def none_is_lost(self) -> None:
        assert self.window.waiting == len(self.waiting)

    @invariant()
    def none_starves(self) -> None:
        """Unless a batch is out, whatever waits will be looked at by its deadline, and arrivals in time."""
        if self.out is not None or not self.waiting:
            return
        assert self.wake_at is not None
        assert self.wake_at <= min(self.waiting) + 1e-9 or self.wake_at <= self.now
        if self.arrived_at:
            assert self.wake_at <= self.now + MAX_WAIT + 1e-9


TestWindow = Shell.TestCase
TestWindow.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
