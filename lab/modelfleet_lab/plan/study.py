"""Plans a fleet from nothing, and again with one more GPU of each pool or one more dollar an hour.

In: the fleet, its policies' budgets and demand classes. Out: a `Study`. Next: `report`.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace

from modelfleet_core.allocation.problem import AllocationProblem
from modelfleet_core.allocation.result import Plan
from modelfleet_core.allocation.solver import allocate
from modelfleet_core.catalog import Fleet, Model, PoolPlacement
from modelfleet_core.demand import DemandClass
from modelfleet_core.values import ModelName, ObjectKey, PoolName

GAP = 1e-4
"""Small, so that the differences between plans are those of what they may use."""
_NOTHING = 1e-6


@dataclass(frozen=True, slots=True)
class Worth:
    """Of one more GPU, or USD per hour, in weighted quality per second."""

    price: float
    """The dual price: the first sliver of it, as part of a replica."""
    gain: float
    """The best plan with it less the best plan without."""
    step: int = 1
    """The fewest GPUs that gain anything, of one and the sizes of replicas; 1 where none of them does."""
    step_gain: float = 0.0
    """What these gain together."""


@dataclass(frozen=True, slots=True)
class Study:
    problem: AllocationProblem
    plan: Plan
    gpu: Mapping[PoolName, Worth]
    dollar: Worth | None
    """Per hour; None: the fleet has no hourly budget."""
    seconds: float
    """That the plan took, without those with one more."""

    @property
    def asked(self) -> float:
        """Requests per second."""
        return sum(demand.rate for demand in self.problem.classes)

    @property
    def answered(self) -> float:
        return sum(self.plan.flows.values())

    @property
    def shed_share(self) -> float:
        return max(0.0, 1.0 - self.answered / self.asked) if self.asked else 0.0

    @property
    def quality(self) -> float:
        """Quality per second, without weights."""
        offers = self.problem.classes
        return sum(rate * offers[k].offers[name].quality for (k, name), rate in self.plan.flows.items())

    @property
    def value(self) -> float:
        """Weighted quality per second less the penalty of what is shed."""
        return value_of(self.problem, self.plan)

    def requests(self, model: ModelName) -> float:
        """Return the requests per second that `model` answers."""
        return sum(rate for (_, name), rate in self.plan.flows.items() if name == model)

    def spent(self, policy: ObjectKey) -> float:
        """Return the USD per second that the requests of `policy` cost it."""
        classes = self.problem.classes
        return sum(
            rate * classes[k].offers[name].cost_usd
            for (k, name), rate in self.plan.flows.items()
            if classes[k].policy == policy
        )


def study(
    fleet: Fleet,
    classes: tuple[DemandClass, ...],
    budget_rate: Mapping[ObjectKey, float],
    *,
    time_limit: float,
) -> Study:
    """Plan `fleet` as if nothing ran and nodes offered every pool's limit; each plan takes `time_limit` s."""
    bought = _from_nothing(fleet)
    problem = AllocationProblem(
        fleet=bought,
        classes=classes,
        current={},
        occupied={},
        stock={pool.name: pool.limit for pool in bought.pools},
        budget_rate=budget_rate,
    )
    began = time.perf_counter()
    plan = allocate(problem, time_limit=time_limit, gap=GAP)
    seconds = time.perf_counter() - began

    def gain(other: AllocationProblem) -> float:
        # The plan without it is a plan with it too: what a program leaves to be found is no loss.
        more = allocate(other, time_limit=time_limit, gap=GAP)
        return max(0.0, value_of(other, more) - value_of(problem, plan))

    def gpu(name: PoolName) -> Worth:
        one = gain(_with_more(problem, name, 1))
        step, found = 1, one
        for size in _sizes(bought, name) if plan.pool_prices[name] > 0 else ():
            if found > _NOTHING:
                break
            step, found = size, gain(_with_more(problem, name, size))
        return Worth(plan.pool_prices[name], one, *((step, found) if found > _NOTHING else (1, one)))

    dollar = None
    if bought.hourly_budget is not None:
        richer = replace(problem, fleet=replace(bought, hourly_budget=bought.hourly_budget + 1.0))
        dollar = Worth(plan.budget_price, gain(richer))
    return Study(
        problem=problem,
        plan=plan,
        gpu={pool.name: gpu(pool.name) for pool in bought.pools},
        dollar=dollar,
        seconds=seconds,
    )


def value_of(problem: AllocationProblem, plan: Plan) -> float:
    """Return weighted quality per second of the plan's flows, less the penalty of what they shed."""
    value = 0.0
    left = [demand.rate for demand in problem.classes]
    for (k, name), rate in plan.flows.items():
        value += rate * problem.classes[k].weight * problem.classes[k].offers[name].quality
        left[k] -= rate
    penalties = (
        demand.shed_penalty * max(0.0, rate) for demand, rate in zip(problem.classes, left, strict=True)
    )
    return value - sum(penalties)


def _sizes(fleet: Fleet, name: PoolName) -> list[int]:
    """Return the GPUs of replicas on the pool, those of more than one."""
    placements = [variant.placement for variant in fleet.variants()]
    found = {p.gpus for p in placements if isinstance(p, PoolPlacement) and p.pool == name and p.gpus > 1}
    return sorted(found)


def _with_more(problem: AllocationProblem, name: PoolName, gpus: int) -> AllocationProblem:
    """Return the problem with more GPUs in a pool; the declared most replicas stay."""
    pools = tuple(
        replace(pool, limit=pool.limit + gpus) if pool.name == name else pool for pool in problem.fleet.pools
    )
    stock = dict(problem.stock) | {name: problem.stock[name] + gpus}
    return replace(problem, fleet=replace(problem.fleet, pools=pools), stock=stock)


def _from_nothing(fleet: Fleet) -> Fleet:
    """Return the fleet with starts that cost nothing: nothing runs that a move could disturb."""
    scaling = replace(fleet.scaling, minimum_gain=0.0)
    return replace(fleet, models=tuple(_at_once(model) for model in fleet.models), scaling=scaling)


def _at_once(model: Model) -> Model:
    return replace(
        model,
        variants=tuple(
            replace(variant, placement=replace(variant.placement, startup=0.0))
            if isinstance(variant.placement, PoolPlacement)
            else variant
            for variant in model.variants
        ),
    )
