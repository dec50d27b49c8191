"""Methods that look at one request at a time, in order of arrival.

In: a `BatchView`. Out: a column for each request. Next: `simulate` and the batch experiments.
`calibration` finds their prices on past traffic.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modelfleet_lab.methods import BatchView, FloatArray, IntArray
from modelfleet_lab.methods.room import Room, in_turn


@dataclass(frozen=True, slots=True)
class Constant:
    """Every request to one model; those without a slot wait."""

    column: int
    name: str = "best constant model"

    def choose(self, view: BatchView) -> IntArray:
        only = np.full(view.size[1], -np.inf)
        only[self.column] = 0.0
        return in_turn(view, lambda i, room: only)


class RoundRobin:
    """Each request to the next model in turn that can take it."""

    name = "round robin"

    def __init__(self) -> None:
        self._turn = 0

    def choose(self, view: BatchView) -> IntArray:
        n, m = view.size
        room = Room(view)
        choice = np.full(n, -1, dtype=np.int64)
        for i in range(n if m else 0):
            allowed = np.flatnonzero(room.columns(i))
            if allowed.size:
                j = int(allowed[((allowed - self._turn) % m).argmin()])
                choice[i] = j
                room.take(i, j)
                self._turn = (j + 1) % m
            else:
                room.leave()
        return choice


@dataclass(frozen=True, slots=True)
class Greedy:
    """The best predicted quality that still has a slot and fits the money; equal ones: the cheaper."""

    name: str = "greedy in arrival order"

    def choose(self, view: BatchView) -> IntArray:
        def score(i: int, room: Room) -> FloatArray:
            quality = np.where(room.columns(i), view.quality[i], -np.inf)
            return np.where(quality == quality.max(), -view.cost[i], -np.inf)

        return in_turn(view, score)


@dataclass(frozen=True, slots=True, eq=False)
class Priced:
    """The most weighted quality left after prices, among the models that have a slot.

        weight q_ij - money_price c_ij - slot_price_j s_ij - rise (busy_j / slots_j) ** power

    With `money_price` alone it is one price for all queries; `slot_price` (m,) are prices of slot-seconds,
    such as duals; `rise` > 0 makes the price of a slot follow the load at the moment.
    """

    money_price: float
    """Weighted quality per USD."""
    slot_price: FloatArray | None = None
    """(m,) weighted quality per slot-second; None: zero."""
    rise: float = 0.0
    """Weighted quality that the last slot of a model costs."""
    power: float = 2.0
    name: str = "per-query price"

    def choose(self, view: BatchView) -> IntArray:
        value = view.weight[:, None] * view.quality - self.money_price * view.cost
        if self.slot_price is not None:
            value = value - self.slot_price * view.service_time
        if self.rise <= 0:
            return in_turn(view, lambda i, room: value[i])
        slots = np.maximum(view.slots, 1)

        def score(i: int, room: Room) -> FloatArray:
            load = 1.0 - np.minimum(room.free / slots, 1.0)
            result: FloatArray = value[i] - self.rise * load**self.power
            return result

        return in_turn(view, score)
