"""Virtual time: what happens next.

In: calls to make at given times. Out: the calls, in order of time, then of scheduling. Everything in a
simulation runs here, so nothing waits for real.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable


class Alarm:
    """One call to come; `cancel` makes it not happen."""

    __slots__ = ("at", "call")

    def __init__(self, at: float, call: Callable[[], None]) -> None:
        self.at = at
        self.call: Callable[[], None] | None = call

    def cancel(self) -> None:
        self.call = None


class Timeline:
    """The clock of a simulation, in seconds since its start."""

    def __init__(self) -> None:
        self.now = 0.0
        self._heap: list[tuple[float, int, Alarm]] = []
        self._scheduled = 0

    def at(self, time: float, call: Callable[[], None]) -> Alarm:
        """Call at `time`, or now if that is past."""
        alarm = Alarm(max(time, self.now), call)
        self._scheduled += 1
        heapq.heappush(self._heap, (alarm.at, self._scheduled, alarm))
        return alarm

    def after(self, seconds: float, call: Callable[[], None]) -> Alarm:
        return self.at(self.now + seconds, call)

    def run(self, until: float, going: Callable[[], bool] = lambda: True) -> None:
        """Make all calls up to `until`, while `going`."""
        while self._heap and self._heap[0][0] <= until and going():
            self.now, _, alarm = heapq.heappop(self._heap)
            call, alarm.call = alarm.call, None
            if call is not None:
                call()
