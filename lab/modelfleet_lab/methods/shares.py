"""Constant models mixed: each gets a fixed share of the requests, whatever they ask.

In: what models were worth and took on the past. Out: `Shares`, a method. Next: the batch experiments. What a
weighted load balancer does at its best; without limits of slots it is the random mix of constant models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modelfleet_lab.methods import BatchView, FloatArray, IntArray
from modelfleet_lab.methods.calibration import DEAREST, PastBatch
from modelfleet_lab.methods.room import Room, in_turn

_STEPS = 60


def best_shares(past: Sequence[PastBatch], budget: float) -> FloatArray:
    """Return (m,) shares of the requests that serve `past` best within its slots and `budget` USD in all.

    They sum to less than 1 where slots or money do not suffice for all. By one price of money: what is
    filled at a price a little too low is mixed with what is filled at one a little too high.
    """
    requests = sum(batch.view.size[0] for batch in past)
    quality = np.sum([batch.quality.sum(axis=0) for batch in past], axis=0) / requests
    cost = np.sum([batch.cost.sum(axis=0) for batch in past], axis=0) / requests
    most = np.sum([batch.view.slots for batch in past], axis=0) / requests

    def filled(price: float) -> FloatArray:
        worth = quality - price * cost
        order = np.argsort(-worth, kind="stable")
        room = np.where(worth[order] > 0, most[order], 0.0)
        before = np.cumsum(room) - room
        shares = np.zeros(len(most))
        shares[order] = np.clip(1.0 - before, 0.0, room)
        return shares

    money = budget / requests
    low, high = 0.0, 1.0
    if filled(low) @ cost <= money:
        return filled(low)
    while filled(high) @ cost > money and high < DEAREST:
        low, high = high, 4 * high
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if filled(middle) @ cost > money else (low, middle)
    dear, cheap = filled(low), filled(high)
    part = np.clip((money - cheap @ cost) / max(float((dear - cheap) @ cost), 1e-300), 0.0, 1.0)
    result: FloatArray = part * dear + (1 - part) * cheap
    return result


class Shares:
    """Each request to the model that is furthest behind its share and has a slot."""

    name = "constants mix"

    def __init__(self, shares: FloatArray) -> None:
        self._shares = shares
        self._owed = np.zeros(len(shares))

    def choose(self, view: BatchView) -> IntArray:
        def score(i: int, room: Room) -> FloatArray:
            self._owed += self._shares
            # Some request is always owed: what sums to less than 1 leaves out the rest.
            due = np.where(room.columns(i) & (self._shares > 0), self._owed, -np.inf)
            best = int(due.argmax())
            if due[best] <= 0:
                return np.full(len(due), -np.inf)
            self._owed[best] -= 1.0
            return due

        return in_turn(view, score)
