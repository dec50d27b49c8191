"""Stage allocate, the coefficients that program and fallback share.

In: an `AllocationProblem` and its limits. Out: `Worth`. Next: `relaxation` settles it, then `program` and
`greedy` use it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import inf

from modelfleet_core.allocation.limits import Limits
from modelfleet_core.allocation.problem import AllocationProblem
from modelfleet_core.catalog import ExternalPlacement
from modelfleet_core.division import capacity
from modelfleet_core.values import ModelName, PoolName, VariantKey

_THRIFT = 1e-5
"""Share of all value at stake that using every GPU must bring in; keeps idle replicas from being held."""
_START = 1e-3
"""Share of all value at stake that starting everything, for an hour, costs at least."""
_HOLDS = 3600.0
"""Seconds over which the value that is lost while a replica starts is spread: how long a move pays back."""
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
    external_rate: Mapping[ModelName, float]
    """Requests per second that a model's external endpoints admit; absent: no limit."""
    thrift: Mapping[VariantKey, float]
    """Value that one replica must at least bring."""
    start: Mapping[VariantKey, float]
    """Value lost by starting one replica: among equal plans, what runs already is kept."""
    nothing: float
    """Weighted quality per second of a plan that sheds all demand."""

    def carrying(
        self, problem: AllocationProblem, within: Limits, replicas: Mapping[VariantKey, float]
    ) -> Worth:
        """Return the coefficients for groups as large as `replicas` make them.

        Random arrivals need spare slots, fewer in larger groups: `utilisation_j = 1 - beta / sqrt(slots_j)`,
        where slots_j are all slots of the model on pools, or of its smallest replica where it has fewer.
        """
        speeds = capacity.speeds(problem.fleet)
        groups: dict[ModelName, float] = {}
        smallest: dict[ModelName, int] = {}
        for key, v in within.variants.items():
            groups[key.model] = groups.get(key.model, 0.0) + v.variant.concurrency * replicas.get(key, 0.0)
            smallest[key.model] = min(smallest.get(key.model, v.variant.concurrency), v.variant.concurrency)
        share = {name: capacity.utilisation(max(groups[name], smallest[name])) for name in groups}
        slots = {
            key: v.variant.concurrency * speeds[key] * share[key.model] for key, v in within.variants.items()
        }
        return replace(self, slots=slots)

    def moving(self, within: Limits, pool_prices: Mapping[PoolName, float], budget_price: float) -> Worth:
        """Return the coefficients with starts at the price of the GPUs and the money that they hold idle.

        `switching_v` of the program: start-up seconds times the value per second lost, spread over an hour.
        """
        start = {}
        for key, v in within.variants.items():
            lost = pool_prices.get(v.placement.pool, 0.0) * v.placement.gpus + budget_price * v.hourly
            start[key] = max(self.start[key], min(1.0, v.placement.startup / _HOLDS) * lost)
        return replace(self, start=start)


def worth(problem: AllocationProblem, within: Limits) -> Worth:
    """Return the coefficients for groups of the most replicas, with starts at their least price."""
    stake = _LEAST_STAKE + sum(
        demand.rate
        * (
            demand.weight * max((offer.quality for offer in demand.offers.values()), default=0.0)
            + demand.shed_penalty
        )
        for demand in problem.classes
    )
    thrift: dict[VariantKey, float] = {}
    start: dict[VariantKey, float] = {}
    external: dict[ModelName, float] = {}
    admitted: dict[ModelName, float] = {}
    most = sum(pool.limit * (pool.hourly_cost + 1e-3) for pool in problem.fleet.pools)
    replicas = {key: v.placement.replicas.max for key, v in within.variants.items()}
    for key, v in within.variants.items():
        thrift[key] = _THRIFT * stake * (v.hourly + 1e-3 * v.placement.gpus) / max(most, 1e-9)
        share = min(1.0, v.placement.startup / _HOLDS) / max(1, sum(replicas.values()))
        start[key] = _START * stake * share
    speeds = capacity.speeds(problem.fleet)
    for variant in problem.fleet.variants():
        if isinstance(variant.placement, ExternalPlacement):
            busy = variant.concurrency * speeds[variant.key] * capacity.utilisation(variant.concurrency)
            external[variant.key.model] = external.get(variant.key.model, 0.0) + busy
            minute = variant.placement.requests_per_minute
            rate = inf if minute is None else minute / 60.0
            admitted[variant.key.model] = admitted.get(variant.key.model, 0.0) + rate
    least = Worth(
        stake=stake,
        slots={},
        external=external,
        external_rate={name: rate for name, rate in admitted.items() if rate < inf},
        thrift=thrift,
        start=start,
        nothing=-sum(demand.rate * demand.shed_penalty for demand in problem.classes),
    )
    return least.carrying(problem, within, replicas)
