"""A fleet of recorded models on one pool of GPUs, and its demand: what allocations are asked about.

In: a `Split`, a number of GPUs, a budget. Out: an `AllocationProblem` of the core. Next: `allocation`.

What GPUs a model takes is not recorded and is assumed: replicas have the same slots, and the dearer a model
is, the more GPUs a replica takes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from modelfleet_core.allocation.problem import AllocationProblem
from modelfleet_core.catalog import (
    Fleet,
    Latency,
    Model,
    Pool,
    PoolPlacement,
    Pricing,
    Quality,
    Replicas,
    ScaleTarget,
    Scaling,
    ServicePort,
    Variant,
)
from modelfleet_core.demand import DemandClass, ModelOffer
from modelfleet_core.demand.grouping import grouped
from modelfleet_core.values import ModelName, ObjectKey, PoolName, TaskName, TierName, VariantKey

from modelfleet_lab.evaluate.scene import BATCH
from modelfleet_lab.evaluate.told import Side, Split
from modelfleet_lab.methods import FloatArray, IntArray

SLOTS = 10
"""Of a replica, whatever the model."""
SIZES = (1, 2, 4, 8)
"""GPUs of a replica: of the cheapest quarter of the models, of the next, and so on."""
CLASSES = 64
SAMPLE = 400
"""Queries of the past that the product's classes are made of."""
POLICY = ObjectKey("evaluation", "recorded")
_POOL = PoolName("gpus")
_VARIANT = "gpu"


def sizes(past: Side) -> IntArray:
    """Return (m,) GPUs of a replica of each model, by its mean cost on the past."""
    rank = past.cost.mean(axis=0).argsort(kind="stable").argsort(kind="stable")
    quarter = rank * len(SIZES) // len(rank)
    result: IntArray = np.array(SIZES, dtype=np.int64)[quarter]
    return result


def problem(split: Split, gpus: int, classes: Sequence[DemandClass], budget_rate: float) -> AllocationProblem:
    """Return the question: nothing runs, `gpus` GPUs, `budget_rate` USD per second for requests."""
    own = zip(split.models, sizes(split.past).tolist(), split.past.quality.mean(axis=0).tolist(), strict=True)
    fleet = Fleet(
        key=ObjectKey("evaluation", "fleet"),
        pools=(Pool(_POOL, "nvidia.com/gpu", {}, gpus, 0.0),),
        models=tuple(_model(name, size, quality, gpus) for name, size, quality in own),
        hourly_budget=None,
        scaling=Scaling(interval=15.0, scale_down_stabilization=0.0, solve_timeout=5.0, minimum_gain=0.0),
    )
    return AllocationProblem(
        fleet=fleet,
        classes=tuple(classes),
        current={},
        occupied={},
        stock={_POOL: gpus},
        budget_rate={POLICY: budget_rate},
    )


def slots_of(split: Split, replicas: dict[VariantKey, int]) -> IntArray:
    """Return (m,) slots for a batch."""
    return np.array([SLOTS * replicas.get(_key(name), 0) for name in split.models], dtype=np.int64)


def classes(past: Side, models: Sequence[str], *, seed: int) -> tuple[DemandClass, ...]:
    """Return the demand as the product groups it: classes of a sample of the past, a batch a second.

    A request holds a slot for a second, so that slots are those of one batch.
    """
    random = np.random.default_rng(seed)
    chosen = random.permutation(len(past.quality))[:SAMPLE]
    quality, cost = past.told_quality[chosen], past.told_cost[chosen]
    n = len(chosen)
    rate = np.full(n, BATCH / n)
    penalty = np.ones(n)
    label = grouped(rate, value=quality, penalty=penalty, cost=cost, seconds=np.ones_like(cost), most=CLASSES)
    return tuple(
        _class(f"class-{k}", float(rate[label == k].sum()), quality[label == k], cost[label == k], models)
        for k in np.unique(label).tolist()
    )


def _class(
    name: str, rate: float, quality: FloatArray, cost: FloatArray, models: Sequence[str]
) -> DemandClass:
    means = zip(models, quality.mean(axis=0).tolist(), cost.mean(axis=0).tolist(), strict=True)
    return DemandClass(
        policy=POLICY,
        tier=TierName("default"),
        task=TaskName(name),
        weight=1.0,
        shed_penalty=1.0,
        rate=rate,
        offers={ModelName(model): ModelOffer(q, c, 1.0) for model, q, c in means},
    )


def _key(name: str) -> VariantKey:
    return VariantKey(ModelName(name), _VARIANT)


def _model(name: str, size: int, quality: float, gpus: int) -> Model:
    placement = PoolPlacement(
        pool=_POOL,
        gpus=size,
        target=ScaleTarget("Deployment", name),
        service=ServicePort(name, "http", "http"),
        replicas=Replicas(0, gpus // size),
        startup=0.0,
    )
    return Model(
        name=ModelName(name),
        served_name=name,
        quality=Quality(quality, {}),
        context_tokens=None,
        pricing=Pricing(0, 0),
        variants=(Variant(_key(name), placement, SLOTS, Latency(1.0, 0.0)),),
    )
