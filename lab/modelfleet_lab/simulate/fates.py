"""What became of every request of one run, and what was sampled on the way.

In: events of sidecars and servers. Out: arrays by request, and samples by second. Next: `measures`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
from modelfleet_core.values import VariantKey

from modelfleet_lab.simulate.workload import Workload

NOT = -1


@dataclass(frozen=True, slots=True)
class Sample:
    """One moment; slots are of all models."""

    at: float
    live: int
    held: int
    """As the leader counts them."""
    in_flight: int
    """As the servers do."""
    waiting: int
    reports: int
    grants: int
    """Since the start."""
    cpu: float
    """Seconds of the operator's core since the start."""
    prices: tuple[float, ...]
    """(m,) as published."""


@dataclass(slots=True, eq=False)
class Fates:
    """Each request ends once: answered, or failed for a reason."""

    load: Workload
    columns: dict[VariantKey, int]
    model: np.ndarray = field(init=False)
    """(n,) column of the model that served or cut it; -1: none."""
    started: np.ndarray = field(init=False)
    ended: np.ndarray = field(init=False)
    """(n,) seconds; not a number before."""
    whole: np.ndarray = field(init=False)
    """(n,) whether it was answered in time."""
    reasons: Counter[str] = field(default_factory=Counter)
    slots_moved: int = 0
    open: int = field(init=False)
    """Requests that have not ended."""
    repeated: int = 0
    """Requests that ended a second time."""
    samples: list[Sample] = field(default_factory=list)

    def __post_init__(self) -> None:
        n = len(self.load)
        self.model = np.full(n, NOT, dtype=np.int64)
        self.started = np.full(n, np.nan)
        self.ended = np.full(n, np.nan)
        self.whole = np.zeros(n, dtype=np.bool_)
        self.open = n

    def start(self, request: int, variant: VariantKey, now: float) -> None:
        self.model[request] = self.columns[variant]
        self.started[request] = now

    def answered(self, request: int, now: float) -> None:
        if self._end(request, now):
            self.whole[request] = True
            self.reasons["Answered"] += 1

    def failed(self, request: int, reason: str, now: float) -> None:
        if self._end(request, now):
            self.reasons[reason] += 1

    def moved(self, slots: int) -> None:
        self.slots_moved += slots

    def _end(self, request: int, now: float) -> bool:
        if not np.isnan(self.ended[request]):
            self.repeated += 1
            return False
        self.ended[request] = now
        self.open -= 1
        return True
