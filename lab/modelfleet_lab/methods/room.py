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

    Money is held back for every request that is still to be placed: what the cheapest free slots would cost
    them, so that no rival starves the end of a batch to please its beginning. Where it does not last for
    that, it goes in order.
    """

    def __init__(self, view: BatchView) -> None:
        self._view = view
        self._able: BoolArray = (
            view.eligible & np.isfinite(view.quality) & np.isfinite(view.cost) & (view.cost >= 0)
        )
        self.free: IntArray = np.maximum(view.free, 0)
        # Of the models' mean costs: near enough for what is only set aside.
        counted = self._able.sum(axis=0)
        total = np.where(self._able, view.cost, 0.0).sum(axis=0)
        self._typical: FloatArray = total / np.maximum(counted, 1)
        self._order = np.argsort(np.where(counted > 0, self._typical, np.inf), kind="stable")
        self._order = self._order[counted[self._order] > 0]
        self.open(view.size[0], view.money)

    def open(self, requests: int, money: float) -> None:
        """Place `requests` requests next, for at most `money` USD."""
        self._left = requests
        self._money = max(0.0, money)
        self._slack = _ROUNDING * self._money if np.isfinite(money) else 0.0

    def columns(self, i: int) -> BoolArray:
        """Return (m,) what request `i` may take."""
        able: BoolArray = self._able[i] & (self.free > 0)
        if not np.isfinite(self._money) or not able.any():
            return able
        cost = self._view.cost[i]
        spare = self._money - self._held_for(self._left - 1)
        cheapest = float(cost[able].min())
        result: BoolArray = able & (cost <= max(spare, min(self._money, cheapest)) + self._slack)
        return result

    def _held_for(self, requests: int) -> float:
        """Return what the cheapest free slots cost that many requests, in USD."""
        free = self.free[self._order]
        before = np.cumsum(free) - free
        taken = np.clip(requests - before, 0, free)
        return float(taken @ self._typical[self._order])

    def take(self, i: int, j: int) -> None:
        """Place request `i` on column `j`."""
        self.free[j] -= 1
        self._money -= float(self._view.cost[i, j])
        self._left -= 1

    def leave(self) -> None:
        """Place one request less: it waits."""
        self._left -= 1


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
            room.leave()
    return choice
