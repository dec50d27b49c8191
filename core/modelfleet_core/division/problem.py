"""Stage publish, its question: live capacity and demand, with replicas as they are.

In: ready endpoints and smoothed demand (operator). Out: a `DivisionProblem`. Next: `solver.divide`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelfleet_core.catalog import Fleet
from modelfleet_core.demand import DemandClass
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
