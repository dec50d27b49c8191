"""Stage assign, its answer: a model for each request, with proof of how good it is.

In: `solver.assign`. Out: `Assignment` to the sidecar (forward, explain) and `Prices` to the next batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from modelfleet_core.assignment.problem import FloatArray, IntArray


class Termination(Enum):
    OPTIMAL = "Optimal"
    """No better assignment exists, up to a gap of 1e-6."""
    FEASIBLE = "Feasible"
    """Good to within `gap`."""
    FALLBACK = "Fallback"
    """Time was up before good prices were found: chosen by rough ones, still within every limit."""


@dataclass(frozen=True, slots=True, eq=False)
class Prices:
    """Multipliers of the slots (per column) and of the rows, not negative, in weighted quality per unit."""

    slots: FloatArray
    rows: FloatArray


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """An assignment that breaks no limit, and a bound that no assignment exceeds."""

    choice: IntArray
    """(n,) column of each request; -1: deferred."""
    objective: float
    bound: float
    gap: float
    """(bound - objective) / best conceivable quality."""
    prices: Prices
    """Give them to the next batch as `warm`."""
    binding: tuple[str, ...]
    """Rows by name and columns as `slots:NAME` that keep some request from a column worth more to it."""
    termination: Termination
    seconds: float = 0.0
    """Taken, by the clock that was given."""

    @property
    def slot_prices(self) -> FloatArray:
        """(m,) weighted quality that one more slot would add."""
        return self.prices.slots
