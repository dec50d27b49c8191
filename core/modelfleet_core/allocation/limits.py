"""Stage allocate, what every plan must respect: GPUs of pools and nodes, and the hourly budget.

In: an `AllocationProblem`. Out: `Limits`. Next: the programs and `stabilise`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelfleet_core.allocation.problem import AllocationProblem
from modelfleet_core.catalog import PoolPlacement, Variant
from modelfleet_core.values import PoolName, VariantKey

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class PoolVariant:
    """A variant whose replicas are to be chosen."""

    variant: Variant
    placement: PoolPlacement
    hourly: float
    """USD per replica and hour."""
    now: int
    lingering: int
    """Pods that exist beyond those asked for: they terminate, and hold GPUs until they are gone."""

    @property
    def key(self) -> VariantKey:
        return self.variant.key


@dataclass(frozen=True, slots=True)
class Limits:
    variants: Mapping[VariantKey, PoolVariant]
    gpus: Mapping[PoolName, int]
    """What may be used of each pool: its limit, or what the nodes offer if that is less."""
    budget: float | None
    """USD per hour."""

    def used(self, replicas: Mapping[VariantKey, int]) -> dict[PoolName, int]:
        """Return the GPUs of `replicas` by pool; an absent variant has none."""
        total = dict.fromkeys(self.gpus, 0)
        for key, count in replicas.items():
            placement = self.variants[key].placement
            total[placement.pool] = total.get(placement.pool, 0) + count * placement.gpus
        return total

    def cost(self, replicas: Mapping[VariantKey, int]) -> float:
        """Return USD per hour of `replicas`."""
        return sum(count * self.variants[key].hourly for key, count in replicas.items())

    def over(self, replicas: Mapping[VariantKey, int]) -> frozenset[PoolName]:
        """Return the pools on which `replicas` do not fit."""
        return frozenset(pool for pool, used in self.used(replicas).items() if used > self.gpus.get(pool, 0))

    def affordable(self, replicas: Mapping[VariantKey, int], external: float = 0.0) -> bool:
        """Return whether `replicas` plus `external` USD per hour stay within the budget, up to rounding."""
        return self.budget is None or self.cost(replicas) + external <= self.budget * (1 + _ROUNDING)

    def fits(self, replicas: Mapping[VariantKey, int], external: float = 0.0) -> bool:
        return not self.over(replicas) and self.affordable(replicas, external)


def limits(problem: AllocationProblem) -> Limits:
    """Return the limits and the variants that they bind."""
    price = {pool.name: pool.hourly_cost for pool in problem.fleet.pools}
    variants = {}
    for variant in problem.fleet.variants():
        placement = variant.placement
        if isinstance(placement, PoolPlacement):
            now = max(0, problem.current.get(variant.key, 0))
            variants[variant.key] = PoolVariant(
                variant=variant,
                placement=placement,
                hourly=placement.gpus * price.get(placement.pool, 0.0),
                now=now,
                lingering=max(0, problem.occupied.get(variant.key, now) - now),
            )
    gpus = {
        pool.name: max(0, min(pool.limit, problem.stock.get(pool.name, 0))) for pool in problem.fleet.pools
    }
    return Limits(variants=variants, gpus=gpus, budget=problem.fleet.hourly_budget)


def minimums(within: Limits) -> dict[VariantKey, int]:
    """Return the declared minimum replicas, or as much of them as fits, shared out one at a time."""
    kept = dict.fromkeys(within.variants, 0)
    growing = list(within.variants)
    while growing:
        for key in tuple(growing):
            more = kept | {key: kept[key] + 1}
            if kept[key] < within.variants[key].placement.replicas.min and within.fits(more):
                kept = more
            else:
                growing.remove(key)
    return kept


def maximums(within: Limits) -> dict[VariantKey, int]:
    """Return the declared maximum replicas, or as many as the pool has GPUs for if that is less."""
    return {
        key: min(v.placement.replicas.max, within.gpus.get(v.placement.pool, 0) // max(1, v.placement.gpus))
        for key, v in within.variants.items()
    }
