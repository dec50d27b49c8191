"""Stage allocate, the coefficients that program and fallback share.

In: an `AllocationProblem` and its limits. Out: `Worth`. Next: `program` and `greedy`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from modelfleet_core.allocation.limits import Limits
from modelfleet_core.allocation.problem import AllocationProblem
from modelfleet_core.catalog import ExternalPlacement
from modelfleet_core.division import capacity
from modelfleet_core.values import ModelName, VariantKey

_THRIFT = 1e-5
"""Share of all value at stake that using every GPU must bring in; keeps idle replicas from being held."""
_START = 1e-3
"""Share of all value at stake that starting everything, for an hour, would cost."""
_LEAST_STAKE = 1e-6
"""Lets thrift decide where there is no demand."""


@dataclass(frozen=True, slots=True)
class Worth:
    stake: float
    """Weighted quality per second between serving all demand by its best model and shedding it; over 0."""
    slots: Mapping[VariantKey, float]
    """Busy slots (of the model's fastest variant) that one replica carries."""
    external: Mapping[ModelName, float]
    """Busy slots of each model's external endpoints."""
    thrift: Mapping[VariantKey, float]
    """Value that one replica must at least bring."""
    start: Mapping[VariantKey, float]
    """Value lost by starting one replica: among equal plans, what runs already is kept."""


def worth(problem: AllocationProblem, within: Limits) -> Worth:
    """Return the coefficients; utilisation is taken between one replica and the most, since it is concave."""
    speeds = capacity.speeds(problem.fleet)
    stake = _LEAST_STAKE + sum(
        demand.rate
        * (
            demand.weight * max((offer.quality for offer in demand.offers.values()), default=0.0)
            + demand.shed_penalty
        )
        for demand in problem.classes
    )
    slots: dict[VariantKey, float] = {}
    thrift: dict[VariantKey, float] = {}
    start: dict[VariantKey, float] = {}
    external: dict[ModelName, float] = {}
    most = sum(pool.limit * (pool.hourly_cost + 1e-3) for pool in problem.fleet.pools)
    replicas = sum(v.placement.replicas.max for v in within.variants.values())
    for key, v in within.variants.items():
        typical = v.variant.concurrency * math.sqrt(max(1, v.placement.replicas.max))
        slots[key] = v.variant.concurrency * speeds[key] * capacity.utilisation(typical)
        thrift[key] = _THRIFT * stake * (v.hourly + 1e-3 * v.placement.gpus) / max(most, 1e-9)
        start[key] = _START * stake * min(1.0, v.placement.startup / 3600.0) / max(1, replicas)
    for variant in problem.fleet.variants():
        if isinstance(variant.placement, ExternalPlacement):
            busy = variant.concurrency * speeds[variant.key] * capacity.utilisation(variant.concurrency)
            external[variant.key.model] = external.get(variant.key.model, 0.0) + busy
    return Worth(stake=stake, slots=slots, external=external, thrift=thrift, start=start)
