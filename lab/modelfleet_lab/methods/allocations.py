"""Allocations of the field: replicas by rules instead of the product's program, and by the published program.

In: an `AllocationProblem` of the core. Out: replicas of all pool variants, within pools, nodes' stock and the
hourly budget. Next: the plan command and the evaluation compare them with `allocation.solver`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from modelfleet_core.allocation.limits import Limits, PoolVariant, limits, maximums, minimums
from modelfleet_core.allocation.problem import AllocationProblem
from modelfleet_core.allocation.program import Program
from modelfleet_core.allocation.worth import worth
from modelfleet_core.catalog import ExternalPlacement
from modelfleet_core.demand import DemandClass, ModelOffer
from modelfleet_core.division import capacity
from modelfleet_core.values import ModelName, ObjectKey, TaskName, TierName, VariantKey

from modelfleet_lab.methods import FloatArray

Replicas = dict[VariantKey, int]
_GAIN = 1e-9


def equal(problem: AllocationProblem) -> Replicas:
    """Return equal GPUs for every variant: the one with the fewest gets the next replica."""

    def fewest(key: VariantKey, v: PoolVariant, replicas: Mapping[VariantKey, int]) -> float:
        return -float(replicas[key] * v.placement.gpus)

    return _fill(problem, fewest)


def popularity(problem: AllocationProblem) -> Replicas:
    """Return slots in proportion to the busy slots that each model would have as everyone's favourite.

    Each class asks for the model on pools of the highest quality; the model with most busy slots per slot
    gets the next replica (D'Hondt), of its variant with most slots per GPU. Models that nobody asks for keep
    their minimum.
    """
    within = limits(problem)
    pooled = {key.model for key in within.variants}
    busy: dict[ModelName, float] = dict.fromkeys(pooled, 0.0)
    for demand in problem.classes:
        offers = {name: offer for name, offer in demand.offers.items() if name in pooled}
        if offers:
            best = max(offers, key=lambda name: offers[name].quality)
            busy[best] += demand.rate * offers[best].service_time
    slots = _slots(problem, within)

    def wanted(key: VariantKey, v: PoolVariant, replicas: Mapping[VariantKey, int]) -> float:
        have = sum(slots[other] * count for other, count in replicas.items() if other.model == key.model)
        # Smaller than any difference between models: it only decides between variants of one.
        tie = 1e-9 * slots[key] / max(1, v.placement.gpus)
        return busy[key.model] / (have + slots[key]) * (1.0 + tie) if busy[key.model] > 0 else 0.0

    return _fill(problem, wanted, least=_GAIN)


def greedy_marginal_gain(problem: AllocationProblem, *, time_limit: float = 10.0) -> Replicas:
    """Return replicas by what one more adds per GPU, each step by the linear program of flows.

    Stops where nothing gains. Raises TimeoutError where a step's program takes longer than `time_limit`.
    """
    within = limits(problem)
    flows = Program(problem, within, worth(problem, within), integer=False)

    known: dict[tuple[int, ...], float] = {}

    def value(replicas: Mapping[VariantKey, int]) -> float:
        counts = tuple(replicas.values())
        if counts not in known:
            known[counts] = solved(replicas)
        return known[counts]

    def solved(replicas: Mapping[VariantKey, int]) -> float:
        flows.bound(replicas, replicas)
        answer = flows.solve(time_limit=time_limit)
        if answer is None:
            raise TimeoutError(f"the flows of greedy allocation took over {time_limit} s; raise time_limit")
        return answer.objective

    def gain(key: VariantKey, v: PoolVariant, replicas: Mapping[VariantKey, int]) -> float:
        more = dict(replicas) | {key: replicas[key] + 1}
        return (value(more) - value(replicas)) / max(1, v.placement.gpus)

    return _fill(problem, gain, least=_GAIN)


def published(problem: AllocationProblem, *, time_limit: float = 60.0) -> Replicas:
    """Return the published offline allocation: its program, with classes as given.

    `concurrency_j I_j` slots without spare ones, no price of holding or starting replicas. Raises
    TimeoutError where the program finds nothing within `time_limit` seconds.
    """
    within = limits(problem)
    known = worth(problem, within)
    nothing = dict.fromkeys(within.variants, 0.0)
    speeds = capacity.speeds(problem.fleet)
    external: dict[ModelName, float] = {}
    for variant in problem.fleet.variants():
        if isinstance(variant.placement, ExternalPlacement):
            slots = variant.concurrency * speeds[variant.key]
            external[variant.key.model] = external.get(variant.key.model, 0.0) + slots
    plain = replace(known, slots=_slots(problem, within), external=external, thrift=nothing, start=nothing)
    program = Program(problem, within, plain, integer=True)
    lower = minimums(within)
    program.bound(lower, maximums(within))
    answer = program.solve(time_limit=time_limit)
    if answer is None:
        raise TimeoutError(f"the published allocation found no plan in {time_limit} s; raise time_limit")
    replicas = {key: round(count) for key, count in answer.replicas.items()}
    if not within.fits(replicas):  # by the program's tolerance
        replicas = {key: max(lower[key], int(count)) for key, count in answer.replicas.items()}
    return replicas


def one_class_per_query(
    quality: FloatArray, cost: FloatArray, models: Sequence[str], *, policy: ObjectKey, batch: int = 100
) -> tuple[DemandClass, ...]:
    """Return the published method's demand: every training query (n, m) alike, `batch` of them a second.

    A query holds a slot for one second, so that slots are those of one batch; without a model it loses 1.
    """
    n = len(quality)
    return tuple(
        DemandClass(
            policy=policy,
            tier=TierName("default"),
            task=TaskName(f"query-{i}"),
            weight=1.0,
            shed_penalty=1.0,
            rate=batch / n,
            offers={
                ModelName(name): ModelOffer(float(quality[i, j]), float(cost[i, j]), 1.0)
                for j, name in enumerate(models)
            },
        )
        for i in range(n)
    )


def _slots(problem: AllocationProblem, within: Limits) -> dict[VariantKey, float]:
    """Return the slots of one replica, in slots of its model's fastest variant."""
    speeds = capacity.speeds(problem.fleet)
    return {key: v.variant.concurrency * speeds[key] for key, v in within.variants.items()}


def _fill(
    problem: AllocationProblem,
    rank: Callable[[VariantKey, PoolVariant, Mapping[VariantKey, int]], float],
    *,
    least: float = float("-inf"),
) -> Replicas:
    """Return the declared minimums and then, one at a time, the replica of the highest rank that fits."""
    within = limits(problem)
    replicas, most = minimums(within), maximums(within)
    while True:
        ranks = {
            key: rank(key, v, replicas)
            for key, v in within.variants.items()
            if replicas[key] < most[key] and within.fits(replicas | {key: replicas[key] + 1})
        }
        best = max(ranks, key=lambda key: ranks[key], default=None)
        if best is None or ranks[best] <= least:
            return replicas
        replicas[best] += 1
