"""What is left of slots and money while a method places the requests of one batch, one after the other.

In: a `BatchView`. Out: which columns a request may still take. Next: the methods choose among them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from modelfleet_lab.methods import BatchView, BoolArray, FloatArray, IntArray

_ROUNDING = 1e-12
"""Share of the money by which sums of costs may differ from it."""


class Room:
    """Slots and money left.

    Money for the cheapest model of every request that is still to be placed is held back, so that no rival
    starves the end of a batch to please its beginning; where it does not last for that, it goes in order.
    """

    def __init__(self, view: BatchView) -> None:
        self._view = view
        self._able: BoolArray = (
            view.eligible & np.isfinite(view.quality) & np.isfinite(view.cost) & (view.cost >= 0)
        )
        self.free: IntArray = np.maximum(view.free, 0)
        self._cheapest: FloatArray = np.zeros(view.size[0])
        self.open(np.arange(view.size[0]), view.money)

    def open(self, members: IntArray, money: float) -> None:
        """Place `members` next, for at most `money` USD."""
        able = self._able[members] & (self.free > 0)
        cheapest = np.where(able, self._view.cost[members], np.inf).min(axis=1, initial=np.inf)
        self._cheapest[members] = np.where(np.isfinite(cheapest), cheapest, 0.0)
        self._held = float(self._cheapest[members].sum())
        self._money = money
        self._slack = _ROUNDING * money if np.isfinite(money) else 0.0

    def columns(self, i: int) -> BoolArray:
        """Return (m,) what request `i` may take."""
        own = float(self._cheapest[i])
        most = max(self._money - (self._held - own), min(self._money, own))
        result: BoolArray = self._able[i] & (self.free > 0) & (self._view.cost[i] <= most + self._slack)
        return result

    def take(self, i: int, j: int) -> None:
        """Place request `i` on column `j`."""
        self.free[j] -= 1
        self._money -= float(self._view.cost[i, j])
        self.leave(i)

    def leave(self, i: int) -> None:
        """Hold no money back for request `i` any more."""
        self._held -= float(self._cheapest[i])
        self._cheapest[i] = 0.0


def in_turn(view: BatchView, score: Callable[[int, Room], FloatArray]) -> IntArray:
    """Place requests in order of arrival, each on the column with its highest `score(i, room)` (m,)."""
    n, m = view.size
    room = Room(view)
    choice = np.full(n, -1, dtype=np.int64)
    for i in range(n if m else 0):
        scores = np.where(room.columns(i), score(i, room), -np.inf)
        best = int(scores.argmax())
        if scores[best] > -np.inf:
            choice[i] = best
            room.take(i, best)
        else:
            room.leave(i)
    return choice
