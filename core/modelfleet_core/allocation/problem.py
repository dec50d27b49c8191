"""Stage allocate, its question: a fleet, its demand, what runs now and what the nodes offer.

In: the operator's snapshot (observe). Out: an `AllocationProblem`. Next: `solver.allocate`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from modelfleet_core.catalog import Fleet
from modelfleet_core.demand import DemandClass
from modelfleet_core.values import ObjectKey, PoolName, VariantKey


@dataclass(frozen=True, slots=True)
class AllocationProblem:
    """Replicas of every pool variant are free; formula: design of the programs, section 3."""

    fleet: Fleet
    classes: tuple[DemandClass, ...]
    current: Mapping[VariantKey, int]
    """Replicas asked of the workload now; absent: 0."""
    occupied: Mapping[VariantKey, int]
    """Pods that exist (ready, pending and terminating) and so hold GPUs; absent: as `current`."""
    stock: Mapping[PoolName, int]
    """GPUs that the nodes offer; an absent pool offers none."""
    budget_rate: Mapping[ObjectKey, float] = field(default_factory=dict)
    """USD per second that each policy may spend from now on; an absent policy has no budget."""
