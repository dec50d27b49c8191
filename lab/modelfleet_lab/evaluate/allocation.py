"""Allocation: the same requests and the same router, with replicas by different rules on the same GPUs.

In: a `Split`, numbers of GPUs. Out: `Allocations`. Next: the section `allocation` of the evaluation.

Every allocation is made on the past alone; then ours routes the test in batches on the slots that it gives,
at the same budget, with prices calibrated for those slots. What differs is the replicas.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from modelfleet_core.allocation.problem import AllocationProblem
from modelfleet_core.allocation.solver import allocate
from modelfleet_core.demand import DemandClass
from modelfleet_core.values import VariantKey

from modelfleet_lab.evaluate import gpus as fleets
from modelfleet_lab.evaluate.capacity import ORDERS, SHARE
from modelfleet_lab.evaluate.referee import Line, at_cost, lines
from modelfleet_lab.evaluate.rivals import OURS, named
from modelfleet_lab.evaluate.scene import BATCH, make_scene, random_orders
from modelfleet_lab.evaluate.told import Split
from modelfleet_lab.methods import allocations

GPUS = (16, 32, 64)
_QUERIES = 200
"""Queries of the past that the published program has a class for each of, or it takes minutes."""
_TIME = 60.0
"""Seconds that a program may take; it ends far earlier."""
_GAP = 1e-3

Replicas = dict[VariantKey, int]


@dataclass(frozen=True, slots=True)
class Allocated:
    """One rule on one number of GPUs."""

    line: Line
    replicas: dict[str, int]
    """Of each model that has any."""

    def json(self) -> dict[str, object]:
        return self.line.json() | {"replicas": self.replicas}


@dataclass(frozen=True, slots=True)
class Allocations:
    share: float
    sizes: dict[str, int]
    """GPUs that a replica of each model is assumed to take."""
    found: tuple[tuple[int, tuple[Allocated, ...]], ...]
    """GPUs, and each rule, ours first."""

    def json(self) -> dict[str, object]:
        """Return the section; the keys of `gpus` are `16`, `32`, ..."""
        return {
            "share": self.share,
            "batch": BATCH,
            "slots_per_replica": fleets.SLOTS,
            "gpus_per_replica": self.sizes,
            "gpus": {
                str(count): {"methods": {one.line.name: one.json() for one in found}}
                for count, found in self.found
            },
        }


def run(
    split: Split,
    *,
    seed: int,
    gpus: Sequence[int] = GPUS,
    share: float = SHARE,
    orders: int = ORDERS,
    progress: Callable[[str], None],
) -> Allocations:
    """Allocate each number of `gpus` by each rule, and play the test at `share` on what it gives."""
    order = random_orders(len(split.test.quality), orders, seed=seed)
    past = split.past
    single = make_scene(split, np.zeros(len(split.models), dtype=np.int64), order, seed=seed)
    budget_rate = share * single.past_single_cost / len(past.quality) * BATCH
    ours = fleets.classes(past, split.models, seed=seed)
    sample = np.random.default_rng(seed).permutation(len(past.quality))[:_QUERIES]
    each = allocations.one_class_per_query(
        past.told_quality[sample], past.told_cost[sample], split.models, policy=fleets.POLICY, batch=BATCH
    )
    rules: dict[str, tuple[Callable[[AllocationProblem], Replicas], tuple[DemandClass, ...]]] = {
        OURS: (_ours, ours),
        "greedy marginal gain": (allocations.greedy_marginal_gain, ours),
        "published": (allocations.published, each),
        "popularity": (allocations.popularity, ours),
        "equal": (allocations.equal, ours),
    }
    found = []
    for count in gpus:
        played, replicas = [], []
        for name, (rule, demand) in rules.items():
            progress(f"allocation, {count} GPUs: {name}")
            chosen = rule(fleets.problem(split, count, demand, budget_rate))
            scene = make_scene(split, fleets.slots_of(split, chosen), order, seed=seed)
            router = named(scene, (OURS,))[0]
            played.append((name, at_cost(scene, router, share)))
            replicas.append({str(key.model): number for key, number in chosen.items() if number})
        table = lines(single, played, seed=seed)
        found.append((count, tuple(map(Allocated, table, replicas))))
    return Allocations(
        share=share,
        sizes=dict(zip(split.models, fleets.sizes(past).tolist(), strict=True)),
        found=tuple(found),
    )


def _ours(problem: AllocationProblem) -> Replicas:
    plan = allocate(problem, time_limit=_TIME, gap=_GAP)
    return {key: variant.replicas for key, variant in plan.variants.items()}
