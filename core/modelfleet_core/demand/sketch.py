"""Stage observe, in the sidecar: sums over the requests of each cell since the process started. No text.

In: one call per request, and which report each grant answers. Out: `DemandReport`, the cells that the leader
does not know yet. Next: the lease client sends it, the leader's `meter` merges it.

Sums only grow, and a report holds whole sums: lost, repeated and reordered reports change nothing, and what
the leader heard is left out of the next one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from modelfleet_core.demand.cells import CellKey, Cells
from modelfleet_core.demand.classes import FloatArray, ModelOffer
from modelfleet_core.values import ModelName, TaskName, TierName

MAX_CELLS = 256
FIGURES = 4
"""Per cell and model: requests that it could serve, and over those the sums of quality, USD and seconds."""


@dataclass(frozen=True, slots=True, eq=False)
class DemandReport:
    """Sums since the sidecar's start, of some cells; those absent have not changed."""

    models: tuple[ModelName, ...]
    cells: tuple[CellKey, ...]
    arrivals: FloatArray
    """(cells,): requests, each of its own weight."""
    sums: FloatArray
    """(cells, models, FIGURES)."""

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, DemandReport)
            and (self.models, self.cells) == (other.models, other.cells)
            and np.array_equal(self.arrivals, other.arrivals)
            and np.array_equal(self.sums, other.sums)
        )

    __hash__ = None  # type: ignore[assignment]


NO_DEMAND = DemandReport((), (), np.zeros(0), np.zeros((0, 0, FIGURES)))


@dataclass(slots=True)
class _Cell:
    arrivals: float
    sums: list[float]
    """FIGURES for each model, in the order of the sketch; models at the end may be absent."""
    changed: int


class Sketch:
    """Demand that one sidecar sees. Bounded: `most` cells and a few coarser ones."""

    def __init__(self, most: int = MAX_CELLS) -> None:
        self._numbers = Cells(most)
        self._cells: list[_Cell] = []
        self._places: dict[ModelName, int] = {}
        self._records = 0
        self._reported = 0
        self._heard = 0
        self._sent: deque[tuple[int, int]] = deque(maxlen=256)
        """Sequences of reports and what they held: changes up to that number of records."""

    def record(
        self,
        tier: TierName,
        cluster: TaskName,
        offers: Mapping[ModelName, ModelOffer],
        *,
        arrivals: float = 1.0,
    ) -> None:
        """Count a request and what each model that could serve it offers.

        `arrivals` other than 1: it says less of what is to come, as a caller's retry does, or a request of a
        large batch that comes once.
        """
        number = self._numbers.number((tier, cluster))
        if number == len(self._cells):
            self._cells.append(_Cell(0.0, [], 0))
        cell = self._cells[number]
        cell.arrivals += arrivals
        self._records += 1
        cell.changed = self._records
        sums = cell.sums
        for model, offer in offers.items():
            at = self._places.get(model)
            if at is None:
                at = self._places[model] = FIGURES * len(self._places)
            if at >= len(sums):
                sums.extend([0.0] * (at + FIGURES - len(sums)))
            sums[at] += arrivals
            sums[at + 1] += arrivals * offer.quality
            sums[at + 2] += arrivals * offer.cost_usd
            sums[at + 3] += arrivals * offer.service_time

    def changes(self) -> DemandReport:
        """Return the cells that changed since the newest report that the leader answered."""
        changed = [number for number, cell in enumerate(self._cells) if cell.changed > self._heard]
        self._reported = self._records
        models = tuple(self._places)
        flat = np.zeros((len(changed), FIGURES * len(models)))
        for row, number in enumerate(changed):
            sums = self._cells[number].sums
            flat[row, : len(sums)] = sums
        return DemandReport(
            models=models,
            cells=tuple(self._numbers.keys[number] for number in changed),
            arrivals=np.array([self._cells[number].arrivals for number in changed]),
            sums=flat.reshape(len(changed), len(models), FIGURES),
        )

    def sent(self, sequence: int) -> None:
        """The last `changes` went out with the report of this sequence."""
        self._sent.append((sequence, self._reported))

    def answered(self, sequence: int) -> None:
        """The leader answered this report, so it has heard all reports of this stream up to it."""
        while self._sent and self._sent[0][0] <= sequence:
            self._heard = self._sent.popleft()[1]

    def unheard(self) -> None:
        """A new stream begins, maybe to another leader: tell everything again."""
        self._sent.clear()
        self._heard = 0
