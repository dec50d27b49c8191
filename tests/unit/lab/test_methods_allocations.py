"""Allocations of the field: by hand, by brute force, and within every limit."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from modelfleet_core.allocation.limits import limits, minimums
from modelfleet_core.allocation.problem import AllocationProblem
from modelfleet_core.demand import DemandClass
from modelfleet_core.values import ObjectKey, PoolName
from modelfleet_lab.methods.allocations import (
    Replicas,
    equal,
    greedy_marginal_gain,
    one_class_per_query,
    popularity,
    published,
)
from support.allocations import large_fleet
from support.fleets import demand, fleet, key, model, on_pool, pool

POLICY = ObjectKey("ml", "assistant")


def small(
    *,
    gpus: int = 8,
    sizes: tuple[int, int] = (1, 1),
    classes: tuple[DemandClass, ...] = (),
    minimum: int = 0,
    budget: float | None = None,
) -> AllocationProblem:
    """Two models on one pool, at 10 slots a replica."""
    built = fleet(
        model(on_pool("small", gpus=sizes[0], replicas=(minimum, 8)), quality=0.5),
        model(on_pool("large", gpus=sizes[1], replicas=(minimum, 8)), quality=0.8),
        pools=(pool(limit=gpus),),
        hourly_budget=budget,
    )
    return AllocationProblem(
        fleet=built,
        classes=classes,
        current={},
        occupied={},
        stock={PoolName("h100"): gpus},
    )


def test_equal_gives_every_model_the_same_gpus() -> None:
    assert equal(small()) == {key("small"): 4, key("large"): 4}
    assert equal(small(sizes=(1, 2))) == {key("small"): 4, key("large"): 2}


def test_equal_stays_within_the_hourly_budget() -> None:
    assert sum(equal(small(budget=9.1)).values()) == 3  # of 3 USD each


def test_popularity_follows_the_busy_slots_of_everyones_favourite() -> None:
    hard = demand(3.0, {"small": (0.2, 0.0, 1.0), "large": (0.8, 0.0, 1.0)})
    easy = demand(1.0, {"small": (0.9, 0.0, 1.0), "large": (0.8, 0.0, 1.0)})
    assert popularity(small(classes=(hard, easy))) == {key("small"): 2, key("large"): 6}
    assert popularity(small(classes=(hard,))) == {key("small"): 0, key("large"): 8}


def test_popularity_keeps_the_minimum_of_models_that_nobody_asks_for() -> None:
    hard = demand(3.0, {"small": (0.2, 0.0, 1.0), "large": (0.8, 0.0, 1.0)})
    assert popularity(small(classes=(hard,), minimum=1)) == {key("small"): 1, key("large"): 7}


def test_greedy_takes_what_gains_most_per_gpu_and_stops_where_nothing_gains() -> None:
    # One replica of 10 slots at 84 % serves 8.4 requests/s: the class of 8 needs no second one.
    few = demand(8.0, {"small": (0.5, 0.0, 1.0), "large": (0.8, 0.0, 1.0)}, shed_penalty=0.0)
    assert greedy_marginal_gain(small(classes=(few,))) == {key("small"): 0, key("large"): 1}
    # At four GPUs a replica the large model gains .2 a GPU where the small one gains .5.
    either = small(classes=(few,), sizes=(1, 4), gpus=4)
    assert greedy_marginal_gain(either) == {key("small"): 1, key("large"): 0}
    assert published(either) == {key("small"): 0, key("large"): 1}


@pytest.mark.parametrize("seed", range(4))
def test_the_published_allocation_equals_brute_force(seed: int) -> None:
    random = np.random.default_rng(seed)
    quality, cost = random.random((6, 2)), random.random((6, 2))
    classes = one_class_per_query(quality, cost, ("small", "large"), policy=POLICY, batch=60)
    problem = small(classes=classes, gpus=7, sizes=(1, 2))
    found = published(problem)

    def value(replicas: Replicas) -> float:
        # Ten requests of each query; whole groups of ten suit slots of ten, so flows are whole queries.
        best = -np.inf
        for choice in itertools.product((-1, 0, 1), repeat=6):
            used = np.bincount([c for c in choice if c >= 0], minlength=2)
            if used[0] <= replicas[key("small")] and used[1] <= replicas[key("large")]:
                best = max(best, sum(quality[i, c] if c >= 0 else -1.0 for i, c in enumerate(choice)))
        return float(best)

    within = limits(problem)
    everything = [
        {key("small"): a, key("large"): b}
        for a, b in itertools.product(range(8), range(4))
        if within.fits({key("small"): a, key("large"): b})
    ]
    assert value(found) == pytest.approx(max(value(replicas) for replicas in everything), abs=1e-6)


@pytest.mark.parametrize("kind", ["tight", "poor", "minimums", "policies"])
@pytest.mark.parametrize("rule", [equal, popularity, greedy_marginal_gain, published])
def test_every_allocation_keeps_pools_stock_budget_and_bounds(
    rule: Callable[[AllocationProblem], Replicas], kind: str
) -> None:
    problem = large_fleet(3, kind, models=6, pools=2, classes=8)
    within = limits(problem)
    replicas = rule(problem)
    assert within.fits(replicas)
    assert all(count >= minimums(within)[at] for at, count in replicas.items())
    assert all(count <= within.variants[at].placement.replicas.max for at, count in replicas.items())
    assert rule(problem) == replicas
