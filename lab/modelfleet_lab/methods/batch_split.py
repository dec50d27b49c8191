"""BatchSplit: small batches, each with its equal part of the money, greedy by value within.

In: a `BatchView`. Out: a column for each request. Next: `simulate` and the comparison. `calibration` finds
the price.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modelfleet_lab.methods import BatchView, IntArray
from modelfleet_lab.methods.room import Room


@dataclass(frozen=True, slots=True)
class BatchSplit:
    """The best cell of each small batch first: weighted quality less `money_price` times cost."""

    money_price: float = 0.0
    """Weighted quality per USD."""
    batch: int = 8
    name: str = "BatchSplit"

    def choose(self, view: BatchView) -> IntArray:
        n, m = view.size
        choice = np.full(n, -1, dtype=np.int64)
        value = view.weight[:, None] * view.quality - self.money_price * view.cost
        room = Room(view)
        for first in range(0, n if m else 0, self.batch):
            members = np.arange(first, min(n, first + self.batch))
            room.open(members.size, view.money * members.size / n)
            cells = np.argsort(-value[members], axis=None, kind="stable")
            for i, j in zip(members[cells // m].tolist(), (cells % m).tolist(), strict=True):
                if choice[i] < 0 and room.columns(i)[j]:
                    choice[i] = j
                    room.take(i, j)
        return choice
