"""Stage batch: how long requests wait for company before they are assigned together.

In: arrivals, changes of capacity, what the last batch met, and the time, from the sidecar.
Out: a `Step`: assign everything that waits now, or look again at `wake_at`. Next: assign.

While nothing binds, a window gains nothing, so it stays shut and every request goes at once.
It opens when a batch met a limit. An open window closes when it is full, when `max_wait` has passed
since the first arrival or change of capacity, or when the earliest deadline is at hand. A request that waits
alone, where the next one is not expected within `max_wait`, would gain nothing by it and goes at once too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

GAP_WEIGHT = 0.2
"""Of the newest gap between arrivals in their mean: bursts and lulls are known after about five requests."""


@dataclass(frozen=True, slots=True)
class Step:
    dispatch: bool
    """True: take all that waits, assign it, then call `Window.finish`."""
    wake_at: float | None
    """Call `Window.tick` at this time at the latest; None: not before something happens."""


class Window:
    """The adaptive window of one sidecar; times are seconds on one clock.

    One batch is out at a time: between a step that dispatches and `finish`, requests gather.
    `margin` is what assigning and forwarding need before a request's deadline.
    """

    def __init__(self, *, max_size: int, max_wait: float, margin: float) -> None:
        if max_size < 1 or max_wait < 0 or margin < 0:
            raise ValueError(
                f"a window of size {max_size}, wait {max_wait} s, margin {margin} s can not work"
            )
        self._max_size = max_size
        self._max_wait = max_wait
        self._margin = margin
        self._open = False
        self._busy = False
        self._fresh = 0
        self._deferred = 0
        self._since: float | None = None
        """When the first arrival or change of capacity came after the last batch."""
        self._alarm: float | None = None
        """When the earliest deadline of what waits is at hand."""
        self._came: float | None = None
        """When the newest request came."""
        self._gap = 0.0
        """Mean seconds between requests; until two have come, company is expected."""

    @property
    def open(self) -> bool:
        return self._open

    @property
    def gathers(self) -> bool:
        """Whether the next request is to wait for company."""
        return self._gathers(self.waiting + 1)

    @property
    def waiting(self) -> int:
        return self._fresh + self._deferred

    def arrive(self, now: float, deadline: float) -> Step:
        """A request came that must be answered by `deadline`."""
        self.saw(now)
        self._fresh += 1
        self._since = now if self._since is None else self._since
        self._hasten(deadline - self._margin)
        return self._step(now)

    def saw(self, now: float) -> None:
        """A request came, whether it waits or not."""
        if self._came is not None:
            self._gap += GAP_WEIGHT * (max(0.0, now - self._came) - self._gap)
        self._came = now

    def leave(self, now: float) -> Step:
        """A waiting request went away, cancelled by its caller."""
        if self._fresh:
            self._fresh -= 1
        elif self._deferred:
            self._deferred -= 1
        if not self.waiting:
            self._since = self._alarm = None
        return self._step(now)

    def capacity_changed(self, now: float) -> Step:
        """A slot or money came free, or a new grant: what was deferred may find a place."""
        if self._deferred and self._since is None:
            self._since = now
        return self._step(now)

    def tick(self, now: float) -> Step:
        """`wake_at` has come."""
        return self._step(now)

    def finish(self, now: float, *, binding: bool, deferred: Sequence[float]) -> Step:
        """The batch is assigned; `binding`: a limit had a price; `deferred`: deadlines of what came back.

        What comes back after its deadline is dispatched at once: answer it then, do not send it back again.
        """
        self._busy = False
        self._open = binding or bool(deferred)
        self._deferred += len(deferred)
        if deferred:
            # Once its alarm has rung, a request is looked at again only at its deadline: no spinning.
            early = now + self._margin
            self._hasten(min([due - self._margin if due > early else due for due in deferred]))
        return self._step(now)

    def _gathers(self, waiting: int) -> bool:
        return self._open and (waiting > 1 or self._gap <= self._max_wait)

    def _hasten(self, alarm: float) -> None:
        self._alarm = alarm if self._alarm is None else min(self._alarm, alarm)

    def _step(self, now: float) -> Step:
        if self._busy or not self.waiting:
            return Step(dispatch=False, wake_at=None)
        due = [self._alarm] if self._alarm is not None else []
        if self._since is not None:
            due.append(self._since + self._max_wait if self._gathers(self.waiting) else self._since)
        if self._fresh >= self._max_size or (due and min(due) <= now):
            self._busy = True
            self._fresh = self._deferred = 0
            self._since = self._alarm = None
            return Step(dispatch=True, wake_at=None)
        return Step(dispatch=False, wake_at=min(due) if due else None)
