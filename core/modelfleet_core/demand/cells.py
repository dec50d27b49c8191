"""Stage observe, the grid of demand: tier x task x tenths of mean quality x octaves of mean time.

In: what a request is. Out: the number of its cell. Next: `sketch` counts in it, `meter` merges by it.

The grid does not depend on data, so that the cells of different sidecars are the same and their sums add up.
Where there would be too many cells, new ones count in coarser cells that hold them; no request is lost.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from modelfleet_core.values import ModelName, TaskName, TierName

CellKey = tuple[TierName, TaskName]

_TENTHS = 10
_SHORTEST = 0.001
"""Seconds, below which times are alike."""
_LONGEST_TASK = 100
"""Letters of a task that a caller names."""
_TIERS = 32
"""Cells of whole tiers, where all others are taken."""


def cluster(
    task: TaskName, qualities: Sequence[float], seconds: Sequence[float], only: ModelName | None = None
) -> TaskName:
    """Return what a request counts as: its task, how well models would answer it, and in what time.

    Published prices come from the means of such clusters. Those of a whole task leave it indifferent between
    two models, and then not their slots but how its requests differ says how many go where. Nor do long and
    short answers have one mean: the short ones of a class gain more by a slot-second of a good model, and go
    there. `qualities` (in [0, 1]) and `seconds`: of all variants; counted are tenths and octaves of their
    means. Requests that may go to one model `only` count apart: no other can relieve it.
    """
    ease = min(_TENTHS - 1, max(0, int(_TENTHS * sum(qualities) / len(qualities))))
    length = math.floor(math.log2(max(_SHORTEST, sum(seconds) / len(seconds))))
    return TaskName(f"{f'={only}' if only is not None else task[:_LONGEST_TASK]}/{ease}/{length}")


def coarser(name: TaskName) -> TaskName:
    """Return the cluster that holds `name`: that of all octaves, then of all tenths, then of all tasks."""
    return TaskName(name.rpartition("/")[0])


class Cells:
    """Numbers the cells of one sketch from 0 in the order of their first request."""

    def __init__(self, most: int) -> None:
        """`most` cells tell tenths apart, and all but a quarter of them octaves; a quarter more hold tasks,
        and few more whole tiers."""
        self._most = most
        self._numbers: dict[CellKey, int] = {}
        self.keys: list[CellKey] = []

    def __len__(self) -> int:
        return len(self.keys)

    def number(self, key: CellKey) -> int:
        """Return the number of the finest cell that holds `key` and has one or may still get one."""
        tier, name = key
        while (found := self._numbers.get((tier, name))) is None and len(self.keys) >= self._room(tier, name):
            if name:
                name = coarser(name)
            else:
                tier = TierName("")
        if found is None:
            found = self._numbers[tier, name] = len(self.keys)
            self.keys.append((tier, name))
        return found

    def _room(self, tier: TierName, name: TaskName) -> int:
        """Return at how many cells there is room for no more of this kind."""
        if "/" in name:
            return self._most - (self._most // 4 if name.count("/") > 1 else 0)
        tasks = self._most + self._most // 4
        if name:
            return tasks
        return tasks + _TIERS if tier else tasks + _TIERS + 1
