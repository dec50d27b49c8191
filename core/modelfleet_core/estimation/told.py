"""Stage publish, in the leader: what of a sidecar's sums is new.

In: cumulative sums as they come. Out: what to add. Next: `merging`.

A sidecar's sums are known while it is heard; what was heard by an earlier leader, or long ago, is known by
its counts alone, two figures by model, since the sums of all sidecars are too large to be kept. Then the
share of a sum that is new is that of its count: every score counts once, and those that came since the counts
were kept count as the mean of all that the sidecar saw. A report may tell some cells only: the counts are
used up by whichever are told first.

Sums that no answers can have are passed over: what is taken over is never negative, and some scores at some
embeddings could have given it. A sidecar can lie about its scores, but not break the estimates of others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

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
MAX_MODELS = 64
"""Of which evidence is kept."""
MOST_CELLS = 1024
"""Of one sidecar; one that works as it should has fewer."""
_ROUNDING = 1e-9
"""Of sums, relative to what they came to."""
_LEAST_FIRST = 0.05
"""Square of an embedding's first figure, which is not 0 for any request, at least."""
_COLUMN, _ROW = np.triu_indices(EMBEDDING)
_LOWER = _ROW, _COLUMN
_DIAGONAL = np.diag_indices(EMBEDDING + 1)
_TRACE = np.flatnonzero(_COLUMN == _ROW)


@dataclass(frozen=True, slots=True)
class Counts:
    """Of one model: what was counted of sums that are not known."""

    weight: float = 0.0
    """Of scores."""
    events: float = 0.0
    """Answers and errors, of cells that are not known."""


NO_COUNTS = Counts()


@dataclass(slots=True)
class Told:
    """What one sidecar has told so far."""

    version: str
    """Of the base that its evidence corrects."""
    heard_at: float
    counts: dict[ModelName, Counts] = field(default_factory=dict)
    evidence: dict[ModelName, FloatArray] = field(default_factory=dict)
    """(ROW,)"""
    cells: dict[ExperienceKey, FloatArray] = field(default_factory=dict)

    def rebase(self, version: str) -> None:
        """Evidence of another base starts from nothing."""
        if version != self.version:
            self.version = version
            self.unlearn()

    def unlearn(self) -> None:
        """Evidence that was taken over counts no more; whoever tells it again is believed anew."""
        self.evidence.clear()
        self.counts = {model: Counts(0.0, counts.events) for model, counts in self.counts.items()}

    def new_evidence(self, models: Sequence[ModelEvidence]) -> list[tuple[ModelName, FloatArray]]:
        """Return what to add to each model's sums, (ROW,) each."""
        found = []
        for entry in models:
            row = np.concatenate([entry.moments, entry.products, entry.scored])
            before = self.evidence.get(entry.model)
            if before is None:
                if len(self.evidence) >= MAX_MODELS:
                    continue
                counted = self.counts.get(entry.model, NO_COUNTS).weight
                new = row * _share(counted, float(row[_WEIGHT]))
            else:
                counted, new = float(before[_WEIGHT]), row - before
            if row[_WEIGHT] > counted or (before is None and row[_WEIGHT] == counted):
                self.evidence[entry.model] = row
            if row[_WEIGHT] > counted and _possible(new, row):
                found.append((entry.model, new))
        return found

    def new_cells(self, cells: Sequence[ExperienceCell]) -> list[tuple[ExperienceKey, FloatArray]]:
        """Return what to add to each cell, (len(Figure),) each."""
        unknown = {cell.key: cell.sums for cell in cells if cell.key not in self.cells}
        shares: dict[ModelName, float] = {}
        for model, events in _by_model(unknown).items():
            counts = self.counts.get(model, NO_COUNTS)
            if counts.events > 0.0:
                shares[model] = _share(counts.events, events)
                self.counts[model] = replace(counts, events=max(0.0, counts.events - events))
        found = []
        for cell in cells:
            before = self.cells.get(cell.key)
            if before is None and len(self.cells) >= MOST_CELLS:
                continue
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
        events = {model: counts.events for model, counts in self.counts.items()}
        for model, known in _by_model(self.cells).items():
            events[model] = events.get(model, 0.0) + known
        return {
            model: Counts(weights.get(model, 0.0), events.get(model, 0.0))
            for model in dict.fromkeys((*weights, *events))
        }


def _possible(new: FloatArray, row: FloatArray) -> bool:
    """Return whether answers can have added `new` to what is now `row`.

    With every score w (x, r)(x, r)' is added, x (k,) and r the residual: so their sum is positive
    semidefinite; and means of what is within [0, 1], as x and its squares are, are so too.
    """
    weight, scored = float(new[_WEIGHT]), new[MOMENTS + EMBEDDING :]
    rounding = _ROUNDING * (1.0 + float(row[_WEIGHT]))
    squares = new[_TRACE]
    if min(scored.min(), squares.min()) < -rounding or max(scored.max(), squares.max()) > weight + rounding:
        return False
    if new[0] < _LEAST_FIRST * weight - rounding:
        return False
    sums = np.empty((EMBEDDING + 1, EMBEDDING + 1))
    sums[_LOWER] = new[:MOMENTS]  # the upper half is not looked at
    sums[EMBEDDING, :EMBEDDING] = new[MOMENTS : MOMENTS + EMBEDDING]
    sums[EMBEDDING, EMBEDDING] = scored[Scored.BASE_ERROR]
    sums[_DIAGONAL] += _ROUNDING * (1.0 + float(row[_TRACE].sum()))
    try:
        np.linalg.cholesky(sums)
    except np.linalg.LinAlgError:
        return False
    return True


def _share(counted: float, total: float) -> float:
    return max(0.0, 1.0 - counted / total) if total > 0.0 else 0.0


def _by_model(cells: Mapping[ExperienceKey, FloatArray]) -> dict[ModelName, float]:
    events: dict[ModelName, float] = {}
    for key, sums in cells.items():
        events[key.model] = events.get(key.model, 0.0) + float(sums[Figure.REQUESTS] + sums[Figure.ERRORS])
    return events
