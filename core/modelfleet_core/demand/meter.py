"""Stage observe, in the leader: the demand of all sidecars, merged.

In: `DemandReport`s as they come. Out: demand classes for allocation, and with each sidecar's share of them
for division. Next: `allocation.problem`, `division.problem`. The operator and the simulation run it alike:

    meter.hear(sidecar, report.demand, now)                # for each new report
    meter.classes(policies, known, now)                    # allocation: at most MOST_CLASSES per policy
    meter.shared(policies, known, now)                     # division: each sidecar's part of them too

Rates follow each sidecar's differences of arrivals, means the differences of sums over all sidecars: both
are linear, so that merging is addition. A report costs time for the cells in it, a reading some passes over
(sidecar, cell) pairs in numpy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from modelfleet_core.demand.cells import CellKey, Cells
from modelfleet_core.demand.classes import DemandClass, FloatArray, SharedDemand
from modelfleet_core.demand.columns import Columns
from modelfleet_core.demand.joining import CellFigures, joined, labelled
from modelfleet_core.demand.sketch import FIGURES, DemandReport
from modelfleet_core.policy import Policy
from modelfleet_core.values import ObjectKey, SidecarId

MEMORY = 15.0
"""Seconds over which a rate follows what is reported."""
MEANS_MEMORY = 60.0
"""Seconds over which the means of a cell follow its requests."""
SILENT = 60.0
"""Seconds without a report after which a sidecar's last rates are no longer held."""
SHORTEST = 0.2
"""Seconds from which arrivals tell a rate; those of a shorter while count in the next."""
REGROUP = 30.0
"""Seconds for which cells stay in their classes, so that prices do not move by regrouping."""
MOST_CLASSES = 64
"""Per policy. Joined to 16, the duals of four models missed those of single requests by up to 30 %, to 64
by 6 %."""
MAX_CELLS = 512
"""Per policy, over all its sidecars."""
_AT_ONCE = 32
"""Reports that are added in one pass, so that it stays within the processor's cache."""
_NO_CELL = -1
_NEW = -1
_NO_RATE = 1e-9

IntArray = npt.NDArray[np.int64]


@dataclass(slots=True)
class _Sidecar:
    number: int
    heard_at: float
    policy: ObjectKey | None = None
    rows: dict[CellKey, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, eq=False)
class _Grouping:
    """The classes of cells."""

    labels: IntArray
    """Of each cell, counted within its policy; _NEW: not given yet."""
    made_at: float


@dataclass(slots=True)
class _Panel:
    """The cells of one policy."""

    cells: Cells
    numbers: list[int] = field(default_factory=list)
    """Each cell's number over all policies."""


class DemandMeter:
    """Times are seconds of the caller's clock that never goes back."""

    def __init__(self) -> None:
        self._sidecars: dict[SidecarId, _Sidecar] = {}
        self._columns = Columns()
        self._panels: dict[ObjectKey, _Panel] = {}
        self._cells: list[tuple[ObjectKey, CellKey]] = []
        self._waiting: dict[int, tuple[IntArray, IntArray, FloatArray]] = {}
        """By sidecar, a report's rows, columns and sums that are not in `_sums` yet."""
        self._grouping: _Grouping | None = None
        self._faded_at = 0.0
        # By sidecar.
        self._heard_at = np.zeros(0)
        self._closed_at = np.zeros(0)
        self._weight = np.zeros(0)
        # By row, a sidecar's cell.
        self._owner = np.zeros(0, dtype=np.int64)
        self._cell = np.zeros(0, dtype=np.int64)
        self._total = np.zeros(0)
        self._arrived = np.zeros(0)
        self._rate = np.zeros(0)
        self._known = np.zeros((0, 0, FIGURES))
        self._rows = 0
        # By cell, over all sidecars.
        self._sums = np.zeros((0, 0, FIGURES))

    def hear(self, sidecar: SidecarId, demand: DemandReport, now: float) -> None:
        """Take over a report. The first one of a sidecar only says from where to count."""
        known = self._sidecars.get(sidecar)
        first = known is None
        if known is None:
            known = self._sidecars[sidecar] = self._enter(now)
        known.heard_at = self._heard_at[known.number] = max(now, known.heard_at)
        if not demand.cells:
            return
        columns = self._columns.of(demand.models)
        if len(self._columns) > self._known.shape[1]:
            self._known = _wider(self._known, 1, len(self._columns))
            self._sums = _wider(self._sums, 1, len(self._columns))
        rows = np.array([self._row(known, key) for key in demand.cells], dtype=np.int64)
        arrivals, sums = demand.arrivals, demand.sums
        newer = arrivals > self._total[rows]
        if not newer.all():
            rows, arrivals, sums = rows[newer], arrivals[newer], sums[newer]
        if first:
            self._known[rows[:, None], columns] = sums
        else:
            self._arrived[rows] += arrivals - self._total[rows]
            self._wait(known.number, rows, columns, sums)
        self._total[rows] = arrivals

    def classes(
        self, policies: Mapping[SidecarId, ObjectKey], known: Mapping[ObjectKey, Policy], now: float
    ) -> tuple[DemandClass, ...]:
        """Return the demand of the sidecars in `policies`, for allocation.

        A silent sidecar's rates are held for `SILENT` seconds: missing data scales nothing down at once.
        """
        return self.shared(policies, known, now).classes

    def shared(
        self, policies: Mapping[SidecarId, ObjectKey], known: Mapping[ObjectKey, Policy], now: float
    ) -> SharedDemand:
        """Return the same demand for division, and each sidecar's rate in each class."""
        self._forget(now)
        self._follow(policies)
        self._fade(now)
        self._fold()
        self._close()
        rows = slice(0, self._rows)
        owner, cell = self._owner[rows], self._cell[rows]
        counted = cell != _NO_CELL
        rates = np.where(counted, self._rate[rows] / np.maximum(self._weight, 1e-300)[owner], 0.0)
        by_cell = _sums_by(cell[counted], rates[counted], len(self._cells))
        grouping = self._grouped(known, by_cell, now)
        classes: list[DemandClass] = []
        class_of = np.full(len(self._cells) + 1, -1, dtype=np.int64)  # the last one: no cell
        for policy in sorted(self._panels):
            found = known.get(policy)
            numbers = np.array(self._panels[policy].numbers, dtype=np.int64)
            for label in np.unique(grouping.labels[numbers]) if found is not None else ():
                members = numbers[(grouping.labels[numbers] == label) & (by_cell[numbers] > _NO_RATE)]
                if found is not None and label >= 0 and len(members):
                    class_of[members] = len(classes)
                    classes.append(joined(found, self._about(members, by_cell)))
        places = class_of[cell]
        inside = places >= 0
        present = [(sidecar, state.number) for sidecar, state in self._sidecars.items() if state.policy]
        size = len(self._heard_at), len(classes)
        shared = _sums_by(owner[inside] * size[1] + places[inside], rates[inside], size[0] * size[1])
        return SharedDemand(
            classes=tuple(classes),
            sidecars=tuple(sidecar for sidecar, _ in present),
            rates=shared.reshape(size)[np.array([number for _, number in present], dtype=np.int64)],
        )

    # Reports.

    def _wait(self, sidecar: int, rows: IntArray, columns: IntArray, sums: FloatArray) -> None:
        """Keep sums for the next reading; of rows that wait already the newer ones count."""
        waiting = self._waiting.get(sidecar)
        if waiting is not None:
            older = np.isin(waiting[0], rows, invert=True)
            if waiting[1] is not columns:
                every = np.arange(self._known.shape[1])
                waiting = waiting[0], every, self._whole(*waiting)
                columns, sums = every, self._whole(rows, columns, sums)
            rows = np.concatenate([waiting[0][older], rows])
            sums = np.concatenate([waiting[2][older], sums])
        self._waiting[sidecar] = (rows, columns, sums)

    def _whole(self, rows: IntArray, columns: IntArray, sums: FloatArray) -> FloatArray:
        """Return sums of all models; those that a report does not know have not changed."""
        whole = self._known[rows]
        whole[:, columns] = sums
        return whole

    def _enter(self, now: float) -> _Sidecar:
        number = len(self._heard_at)
        self._heard_at = np.append(self._heard_at, now)
        self._closed_at = np.append(self._closed_at, now)
        self._weight = np.append(self._weight, 0.0)
        return _Sidecar(number, now)

    def _row(self, sidecar: _Sidecar, key: CellKey) -> int:
        row = sidecar.rows.get(key)
        if row is None:
            if self._rows == len(self._owner):
                self._grow()
            row = sidecar.rows[key] = self._rows
            self._rows += 1
            self._owner[row] = sidecar.number
            self._cell[row] = self._cell_of(sidecar.policy, key)
        return row

    def _cell_of(self, policy: ObjectKey | None, key: CellKey) -> int:
        if policy is None:
            return _NO_CELL
        panel = self._panels.get(policy)
        if panel is None:
            panel = self._panels[policy] = _Panel(Cells(MAX_CELLS))
        number = panel.cells.number(key)
        if number == len(panel.numbers):
            panel.numbers.append(len(self._cells))
            self._cells.append((policy, panel.cells.keys[number]))
            if len(self._cells) > len(self._sums):
                self._sums = _wider(self._sums, 0, max(64, 2 * len(self._sums)))
        return panel.numbers[number]

    def _grow(self) -> None:
        size = max(256, 2 * self._rows)
        self._owner = _wider(self._owner, 0, size)
        self._cell = _wider(self._cell, 0, size)
        self._total = _wider(self._total, 0, size)
        self._arrived = _wider(self._arrived, 0, size)
        self._rate = _wider(self._rate, 0, size)
        self._known = _wider(self._known, 0, size)

    def _fold(self) -> None:
        """Add what waits to the sums of the cells."""
        alike: dict[int, list[tuple[IntArray, IntArray, FloatArray]]] = {}
        for entry in self._waiting.values():
            alike.setdefault(id(entry[1]), []).append(entry)
        self._waiting.clear()
        for entries in alike.values():
            columns = entries[0][1]
            whole = len(columns) == self._known.shape[1] and bool((columns == np.arange(len(columns))).all())
            for start in range(0, len(entries), _AT_ONCE):
                some = entries[start : start + _AT_ONCE]
                rows = np.concatenate([entry[0] for entry in some])
                sums = np.concatenate([entry[2] for entry in some])
                at = rows if whole else (rows[:, None], columns)
                # A sidecar's sums only grow; one that says otherwise takes nothing away from others.
                more = sums - self._known[at]
                np.maximum(more, 0.0, out=more)
                self._known[at] = sums
                found, places = np.unique(self._cell[rows], return_inverse=True)
                member = (places == np.arange(len(found))[:, None]).astype(np.float64)
                merged = member @ more.reshape(len(rows), len(columns) * FIGURES)
                kept = found != _NO_CELL
                self._sums[found[kept, None], columns] += merged.reshape(len(found), len(columns), FIGURES)[
                    kept
                ]

    # Readings.

    def _forget(self, now: float) -> None:
        if not (now > self._heard_at + SILENT).any():
            return
        for sidecar in [s for s, state in self._sidecars.items() if now > state.heard_at + SILENT]:
            self._bind(self._sidecars.pop(sidecar), None)
        if len(self._heard_at) > 2 * len(self._sidecars):
            self._compact()

    def _follow(self, policies: Mapping[SidecarId, ObjectKey]) -> None:
        for sidecar, state in self._sidecars.items():
            policy = policies.get(sidecar)
            if policy is not state.policy and policy != state.policy:
                self._bind(state, policy)

    def _bind(self, sidecar: _Sidecar, policy: ObjectKey | None) -> None:
        sidecar.policy = policy
        for key, row in sidecar.rows.items():
            self._cell[row] = self._cell_of(policy, key)

    def _fade(self, now: float) -> None:
        if now > self._faded_at:
            self._sums *= math.exp((self._faded_at - now) / MEANS_MEMORY)
            self._faded_at = now

    def _close(self) -> None:
        """Take over what arrived since each sidecar's last interval, where it reported anew."""
        elapsed = self._heard_at - self._closed_at
        closing = elapsed >= SHORTEST
        if not closing.any():
            return
        self._closed_at = np.where(closing, self._heard_at, self._closed_at)
        fading = np.where(closing, np.exp(-elapsed / MEMORY), 1.0)
        share = np.where(closing, (1.0 - fading) / np.maximum(elapsed, SHORTEST), 0.0)
        self._weight = self._weight * fading + (1.0 - fading)
        rows = slice(0, self._rows)
        owner = self._owner[rows]
        self._rate[rows] = self._rate[rows] * fading[owner] + self._arrived[rows] * share[owner]
        self._arrived[rows] *= ~closing[owner]

    def _grouped(self, known: Mapping[ObjectKey, Policy], rates: FloatArray, now: float) -> _Grouping:
        """Return the classes of cells, made anew where cells came or it is old."""
        last = self._grouping
        fresh = last is not None and now < last.made_at + REGROUP and len(last.labels) == len(self._cells)
        if last is not None and fresh and not ((last.labels == _NEW) & (rates > _NO_RATE)).any():
            return last
        labels = np.full(len(self._cells), _NEW, dtype=np.int64)
        for policy, panel in self._panels.items():
            numbers = np.array(panel.numbers, dtype=np.int64)
            active = numbers[rates[numbers] > _NO_RATE]
            if (found := known.get(policy)) is not None and len(active):
                labels[active] = labelled(found, self._about(active, rates), MOST_CLASSES)
        self._grouping = _Grouping(labels, now)
        return self._grouping

    def _about(self, cells: IntArray, rates: FloatArray) -> CellFigures:
        return CellFigures(
            keys=tuple(self._cells[cell][1] for cell in cells),
            rate=rates[cells],
            sums=self._sums[cells],
            models=self._columns.models,
        )

    def _compact(self) -> None:
        """Leave out the rows of sidecars that are forgotten, and cells that nobody counts in."""
        self._fold()
        live = sorted(self._sidecars.values(), key=lambda state: state.number)
        numbers = np.array([state.number for state in live], dtype=np.int64)
        rows = np.array([row for state in live for row in state.rows.values()], dtype=np.int64)
        sums, cells = self._sums, self._cells
        self._panels, self._cells, self._grouping = {}, [], None
        at = 0
        for place, state in enumerate(live):
            state.number = place
            for key in state.rows:
                state.rows[key] = at
                at += 1
        self._heard_at, self._closed_at = self._heard_at[numbers], self._closed_at[numbers]
        self._weight = self._weight[numbers]
        before = self._cell[rows]
        self._total, self._arrived = self._total[rows], self._arrived[rows]
        self._rate, self._known = self._rate[rows], self._known[rows]
        self._owner = np.repeat(np.arange(len(live)), [len(state.rows) for state in live])
        self._cell = np.full(len(rows), _NO_CELL, dtype=np.int64)
        self._rows = len(rows)
        self._sums = np.zeros_like(sums)
        for cell in dict.fromkeys(before[before != _NO_CELL].tolist()):
            policy, key = cells[cell]
            self._sums[self._cell_of(policy, key)] = sums[cell]
        for state in live:
            self._bind(state, state.policy)


def _sums_by(places: IntArray, weights: FloatArray, size: int) -> FloatArray:
    return np.bincount(places, weights=weights, minlength=size).astype(np.float64)


def _wider(array: npt.NDArray[Any], axis: int, size: int) -> npt.NDArray[Any]:
    """Return `array` with zeros behind, `size` long along `axis`."""
    shape = list(array.shape)
    shape[axis] = size
    wider = np.zeros(shape, dtype=array.dtype)
    wider[tuple(slice(0, length) for length in array.shape)] = array
    return wider
