"""Stage publish, in the leader: what of a sidecar's sums is new.

In: cumulative sums as they come. Out: what to add. Next: `merging`.

A sidecar's sums are known while it is heard; what was heard by an earlier leader is known by its counts
alone, two figures by model, since the sums of all sidecars are too large to be kept. Then the share of a sum
that is new is that of its count: every score counts once, and those that came since the counts were kept
count as the mean of all that the sidecar saw.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from modelfleet_core.estimation.embedding import EMBEDDING
from modelfleet_core.estimation.experience import (
    ExperienceCell,
    ExperienceKey,
    Figure,
    ModelEvidence,
    Scored,
)
from modelfleet_core.values import ModelName

FloatArray = npt.NDArray[np.float64]

MOMENTS = EMBEDDING * (EMBEDDING + 1) // 2
ROW = MOMENTS + EMBEDDING + len(Scored)
"""Moments, products and scored figures of a model, one after the other."""
_WEIGHT = MOMENTS + EMBEDDING + Scored.WEIGHT


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one model: what was counted."""

    weight: float = 0.0
    """Of scores."""
    events: float = 0.0
    """Answers and errors."""


NO_COUNTS = Counts()


@dataclass(slots=True)
class Told:
    """What one sidecar has told so far."""

    version: str
    """Of the base that its evidence corrects."""
    heard_at: float
    counts: dict[ModelName, Counts] = field(default_factory=dict)
    """Of models whose sums are not known, what was counted."""
    cells_known: bool = True
    """Cells that are not in `cells` have counted nothing."""
    evidence: dict[ModelName, FloatArray] = field(default_factory=dict)
    """(ROW,)"""
    cells: dict[ExperienceKey, FloatArray] = field(default_factory=dict)

    def rebase(self, version: str) -> None:
        """Evidence of another base starts from nothing."""
        if version != self.version:
            self.version = version
            self.evidence.clear()
            self.counts = {model: Counts(0.0, counts.events) for model, counts in self.counts.items()}

    def new_evidence(self, models: tuple[ModelEvidence, ...]) -> list[tuple[ModelName, FloatArray]]:
        """Return what to add to each model's sums, (ROW,) each."""
        found = []
        for entry in models:
            row = np.concatenate([entry.moments, entry.products, entry.scored])
            before = self.evidence.get(entry.model)
            if before is None:
                counted = self.counts.get(entry.model, NO_COUNTS).weight
                new = row * _share(counted, float(row[_WEIGHT]))
            else:
                counted, new = float(before[_WEIGHT]), row - before
            if row[_WEIGHT] > counted or (before is None and row[_WEIGHT] == counted):
                self.evidence[entry.model] = row
            if row[_WEIGHT] > counted:
                found.append((entry.model, new))
        return found

    def new_cells(self, cells: tuple[ExperienceCell, ...]) -> list[tuple[ExperienceKey, FloatArray]]:
        """Return what to add to each cell, (len(Figure),) each; the first report after `forget` tells all."""
        shares: dict[ModelName, float] = {}
        if not self.cells_known:
            events = _by_model({cell.key: cell.sums for cell in cells})
            shares = {m: _share(self.counts.get(m, NO_COUNTS).events, total) for m, total in events.items()}
        self.cells_known = True
        found = []
        for cell in cells:
            before = self.cells.get(cell.key)
            new = cell.sums * shares.get(cell.key.model, 1.0) if before is None else cell.sums - before
            # Every figure only grows: a report that says less than an earlier one is an old one.
            if before is None or (new >= -1e-9).all():
                self.cells[cell.key] = cell.sums
                found.append((cell.key, new))
        return found

    def counted(self) -> dict[ModelName, Counts]:
        """Return what was counted, by model."""
        weights = {model: counts.weight for model, counts in self.counts.items()}
        weights.update({model: float(row[_WEIGHT]) for model, row in self.evidence.items()})
        if self.cells_known:
            events = _by_model(self.cells)
        else:
            events = {model: counts.events for model, counts in self.counts.items()}
        return {
            model: Counts(weights.get(model, 0.0), events.get(model, 0.0))
            for model in dict.fromkeys((*weights, *events))
        }

    def forget(self) -> None:
        """Keep only the counts."""
        self.counts = self.counted()
        self.cells_known = False
        self.evidence.clear()
        self.cells.clear()


def _share(counted: float, total: float) -> float:
    return max(0.0, 1.0 - counted / total) if total > 0.0 else 0.0


def _by_model(cells: Mapping[ExperienceKey, FloatArray]) -> dict[ModelName, float]:
    events: dict[ModelName, float] = {}
    for key, sums in cells.items():
        events[key.model] = events.get(key.model, 0.0) + float(sums[Figure.REQUESTS] + sums[Figure.ERRORS])
    return events
