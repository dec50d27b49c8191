"""Stage forward, for leases: the slots of one endpoint that a sidecar may use, and how long each is unused.

`holding.py` keeps one for every leased endpoint, and for those that requests still use.
"""

from __future__ import annotations

import math

from modelfleet_core.values import VariantKey


class HeldSlots:
    """Slots are taken last in, first out, so that those at the bottom are unused for longest."""

    __slots__ = ("_unused", "floor", "in_flight", "slots", "variant")

    def __init__(self, variant: VariantKey) -> None:
        self.variant = variant
        self.slots = 0
        self.floor = 0
        """The part that does not end with the lease."""
        self.in_flight = 0
        self._unused: list[list[float]] = []
        """Unused slots as (since when, how many), the oldest first."""

    @property
    def unused(self) -> int:
        return max(0, self.slots - self.in_flight)

    @property
    def used(self) -> int:
        return self.in_flight

    def resize(self, slots: int, floor: int, now: float) -> None:
        before = self.unused
        self.slots = slots
        self.floor = min(floor, slots)
        change = self.unused - before
        if change > 0:
            self._push(now, change)
        else:
            self._drop(-change)

    def take(self) -> None:
        if self.in_flight < self.slots:
            last = self._unused[-1]
            last[1] -= 1
            if not last[1]:
                self._unused.pop()
        self.in_flight += 1

    def leave(self, now: float) -> None:
        self.in_flight -= 1
        if self.in_flight < self.slots:
            self._push(now, 1)

    def unused_since(self) -> float:
        """Return since when the slot that is unused for longest is; infinite: none is unused."""
        return self._unused[0][0] if self._unused else math.inf

    def unused_for(self, seconds: float, now: float) -> int:
        """Return how many slots are unused for `seconds` or longer."""
        return int(sum(count for since, count in self._unused if since + seconds <= now))

    def _push(self, now: float, count: int) -> None:
        if self._unused and self._unused[-1][0] >= now:
            self._unused[-1][1] += count
        else:
            self._unused.append([now, count])

    def _drop(self, count: float) -> None:
        while count > 0:
            oldest = self._unused[0]
            dropped = min(count, oldest[1])
            oldest[1] -= dropped
            count -= dropped
            if not oldest[1]:
                self._unused.pop(0)
