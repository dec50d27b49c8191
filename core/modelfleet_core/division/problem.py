"""Stage publish, its question: live capacity and demand, with replicas as they are.

In: ready endpoints and merged demand (operator). Out: a `DivisionProblem`. Next: `solver.divide`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelfleet_core.catalog import Fleet
from modelfleet_core.demand import DemandClass, SharedDemand
from modelfleet_core.values import ObjectKey, VariantKey


@dataclass(frozen=True, slots=True)
class DivisionProblem:
    """Formula: design of the programs, section 2."""

    fleet: Fleet
    classes: tuple[DemandClass, ...]
    slots: Mapping[VariantKey, int]
    """Live slots: ready endpoints times concurrency; absent: none."""
    budget_rate: Mapping[ObjectKey, float]
    """USD per second that each policy may spend from now on; an absent policy has no budget."""
    shared: SharedDemand | None = None
    """Who asks how much of `classes`, which are its own; None: prices only, no targets."""


def problem_of(
    fleet: Fleet,
    shared: SharedDemand,
    slots: Mapping[VariantKey, int],
    budget_rate: Mapping[ObjectKey, float],
) -> DivisionProblem:
    """Return the question of one fleet; `shared` is the demand of its policies alone."""
    return DivisionProblem(fleet, shared.classes, slots, budget_rate, shared)
