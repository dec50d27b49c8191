"""Stage allocate, why: a reason and a sentence for each variant's replicas.

In: the chosen replicas and the duals with them fixed. Out: `VariantPlan`s. Next: status and scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelfleet_core.allocation.limits import Limits, PoolVariant
from modelfleet_core.allocation.problem import AllocationProblem
from modelfleet_core.allocation.program import SECONDS_PER_HOUR
from modelfleet_core.allocation.result import Reason, VariantPlan
from modelfleet_core.allocation.worth import Worth
from modelfleet_core.values import ModelName, ObjectKey, VariantKey


@dataclass(frozen=True, slots=True)
class Choice:
    """Replicas on their way from declared minimum to the plan."""

    minimum: Mapping[VariantKey, int]
    """As much of the declared minimum as fits."""
    wished: Mapping[VariantKey, int]
    """By the program alone."""
    target: Mapping[VariantKey, int]
    """After leaving out starts that gain too little."""
    model_prices: Mapping[ModelName, float]
    """Value of one more busy slot, with `target` fixed."""
    external_spend: float
    """USD per hour."""


def explain(
    problem: AllocationProblem, within: Limits, worth: Worth, choice: Choice
) -> dict[VariantKey, VariantPlan]:
    """Return the plan of every variant."""
    wanted = {
        name for demand in problem.classes if demand.rate > 0 for name in demand.offers
    }  # models that some demand may use
    used = within.used(choice.target)
    plans = {}
    for key, v in within.variants.items():
        reason, why = _reason(
            problem, within, worth, choice, v, key.model in wanted, used.get(v.placement.pool, 0)
        )
        replicas = choice.target[key]
        plans[key] = VariantPlan(replicas=replicas, reason=reason, message=f"{_count(replicas)}: {why}")
    return plans


def _waits(within: Limits, choice: Choice, key: VariantKey) -> bool:
    """Return whether one more replica does not fit beside the pods that exist."""
    held = {other: v.now + v.lingering for other, v in within.variants.items()}
    more = held | {key: held[key] + 1}
    return within.variants[key].placement.pool in within.over(more) or not within.affordable(
        more, choice.external_spend
    )


def _short_of_money(problem: AllocationProblem, model: ModelName) -> str:
    """Return which budgets do not pay for the requests that could use the model; empty: one does."""
    wants: dict[ObjectKey, float] = {}
    for demand in problem.classes:
        if demand.rate > 0 and model in demand.offers:
            wants[demand.policy] = wants.get(demand.policy, 0.0) + demand.rate * demand.offers[model].cost_usd
    short = {
        policy: problem.budget_rate[policy]
        for policy, cost in wants.items()
        if policy in problem.budget_rate and problem.budget_rate[policy] < cost
    }
    if not short or len(short) < len(wants):
        return ""
    told = ", ".join(
        f"RoutingPolicy {policy.name} has {SECONDS_PER_HOUR * rate:.4g} USD per hour left, its requests "
        f"would cost {SECONDS_PER_HOUR * wants[policy]:.4g} here"
        for policy, rate in sorted(short.items())
    )
    return f"one more would gain nothing, for lack of money: {told}; raise spec.budget.limit there for more"


def _count(replicas: int) -> str:
    return f"{replicas} replica" if replicas == 1 else f"{replicas} replicas"


def _reason(
    problem: AllocationProblem,
    within: Limits,
    worth: Worth,
    choice: Choice,
    v: PoolVariant,
    wanted: bool,
    used: int,
) -> tuple[Reason, str]:
    key, place = v.key, v.placement
    target, limit = choice.target[key], within.gpus.get(place.pool, 0)
    if choice.minimum[key] < place.replicas.min:
        return Reason.MINIMUM_DOES_NOT_FIT, (
            f"the declared minimum of {place.replicas.min} does not fit pool {place.pool} "
            f"({limit} GPUs, {place.gpus} per replica) or the hourly budget"
        )
    if target > v.now and _waits(within, choice, key):
        return Reason.WAITING_FOR_GPUS, (
            f"{target - v.now} of them start as pods that stop free GPUs in pool {place.pool} and money of "
            "the hourly budget"
        )
    if choice.wished[key] != target:
        return (
            Reason.NOT_WORTH_MOVING,
            f"{choice.wished[key]} would be better, but by less than the move costs",
        )
    gain = choice.model_prices.get(key.model, 0.0) * worth.slots[key] - worth.thrift[key]
    if gain <= 0:
        if not wanted:
            return Reason.NO_DEMAND, "no request asks for this model"
        if short := _short_of_money(problem, key.model):
            return Reason.POLICY_BUDGET_BINDS, short
        if target > 0 and target == place.replicas.min:
            return Reason.AT_MIN, "the declared minimum; demand needs no more"
        return Reason.DEMAND_MET, "one more would gain nothing"
    more = f"one more would gain {gain:.3g} quality per second"
    if target >= place.replicas.max:
        return Reason.AT_MAX, f"{more}, but {place.replicas.max} is the declared maximum"
    if used + place.gpus > limit:
        pool = next(pool for pool in problem.fleet.pools if pool.name == place.pool)
        if problem.stock.get(place.pool, 0) <= 0:
            labels = "".join(f"{name}={value} " for name, value in sorted(pool.node_selector.items()))
            nodes = f"nodes labelled {labels}" if labels else "nodes "
            return Reason.STOCK_BINDS, (
                f"{more}, but pool {place.pool} has no GPUs: look whether {nodes}offer {pool.resource}, "
                "are not cordoned, and are not used up by other fleets"
            )
        full = f"but {used} of {limit} GPUs in pool {place.pool} are taken and a replica needs {place.gpus}"
        if problem.stock.get(place.pool, 0) < pool.limit:
            return Reason.STOCK_BINDS, f"{more}, {full}; nodes offer fewer than the limit of {pool.limit}"
        return Reason.POOL_BINDS, f"{more}, {full}"
    one_more = dict(choice.target) | {key: target + 1}
    if not within.affordable(one_more, choice.external_spend):
        return Reason.BUDGET_BINDS, f"{more}, but {v.hourly:.2f} USD per hour do not fit the hourly budget"
    return Reason.DEMAND_MET, "one more would not gain as much as it costs"
