"""Stage allocate, its answer: replicas with a reason for every number.

In: `solver.allocate`. Out: `Plan` to scale (operator) and status. Infeasible or late are values of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from modelfleet_core.values import ModelName, PoolName, VariantKey


class Termination(Enum):
    OPTIMAL = "Optimal"
    """The search reached the gap that was asked for."""
    FEASIBLE = "Feasible"
    """Time was up with a good plan in hand; `search_gap` says how good."""
    FALLBACK = "Fallback"
    """The program gave no plan in time: greedy by marginal value per GPU, with swaps."""
    INFEASIBLE = "Infeasible"
    """The declared minimum replicas do not fit pool, stock or budget; the plan keeps as much as fits."""


class Reason(Enum):
    """What keeps a variant from having one more replica, or made it what it is."""

    DEMAND_MET = "DemandMet"
    NO_DEMAND = "NoDemand"
    AT_MIN = "AtMin"
    AT_MAX = "AtMax"
    POOL_BINDS = "PoolBinds"
    STOCK_BINDS = "StockBinds"
    BUDGET_BINDS = "BudgetBinds"
    POLICY_BUDGET_BINDS = "PolicyBudgetBinds"
    """The policies whose requests could use the model can not pay for them."""
    NOT_WORTH_MOVING = "NotWorthMoving"
    HELD_BY_STABILISATION = "HeldByStabilisation"
    WAITING_FOR_GPUS = "WaitingForGpus"
    """Pods that exist hold the GPUs or the money that more replicas need, until they have stopped."""
    MINIMUM_DOES_NOT_FIT = "MinimumDoesNotFit"


@dataclass(frozen=True, slots=True)
class VariantPlan:
    replicas: int
    reason: Reason
    message: str
    """One sentence for a human."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Replicas of every pool variant, never over a pool's limit, the nodes' stock or the hourly budget."""

    variants: Mapping[VariantKey, VariantPlan]
    objective: float
    """Weighted quality per second, with slots used as far as groups of this plan's sizes allow."""
    bound: float
    """No plan has a higher objective, whatever the sizes of its groups."""
    gap: float
    """(bound - objective) / |bound|: 0.003 is 0.3 %. Some percent where small groups keep many slots spare,
    since the bound lets every group be as well used as the largest."""
    search_gap: float
    """By what share, at most, the search misses the best plan where each model's slots count at one
    utilisation, that of the group which the relaxation found."""
    termination: Termination
    message: str
    """What is wrong and what to do; empty when all is well."""
    hourly_cost: float
    """USD per hour: GPUs of this plan plus forecast spend at external endpoints."""
    gpus: Mapping[PoolName, int]
    """GPUs of this plan by pool."""
    pool_prices: Mapping[PoolName, float]
    """Weighted quality per second that one more GPU, as part of a replica, is worth: relaxation's duals."""
    budget_price: float
    """Weighted quality per second that one more USD per hour is worth: dual of the relaxation."""
    flows: Mapping[tuple[int, ModelName], float]
    """Requests per second of each class (by its number) to each model; empty where no program had time."""
