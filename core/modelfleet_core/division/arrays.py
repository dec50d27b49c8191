"""Stage publish, the question in numbers: one row per demand class, one column per model.

In: a `DivisionProblem`. Out: `Arrays`. Next: `dual` prices them, `program` solves the same in OR-tools.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modelfleet_core.demand.classes import FloatArray
from modelfleet_core.division import capacity
from modelfleet_core.division.problem import DivisionProblem
from modelfleet_core.values import ModelName, ObjectKey

NO_BUDGET = -1

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Arrays:
    """K classes, M models, P policies with a budget rate."""

    models: tuple[ModelName, ...]
    policies: tuple[ObjectKey, ...]
    rate: FloatArray
    """(K,) requests/s."""
    penalty: FloatArray
    """(K,) lost per request that is shed."""
    weight: FloatArray
    """(K,)."""
    value: FloatArray
    """(K, M) weight times quality; 0 where nothing is offered, as the next two."""
    seconds: FloatArray
    cost: FloatArray
    """USD."""
    offered: BoolArray
    """(K, M)."""
    budget: IntArray
    """(K,) place in `policies`; NO_BUDGET: spend is not limited."""
    busy: FloatArray
    """(M,) what may be busy: live slots of all variants, as the slots of the fastest that they are worth."""
    money: FloatArray
    """(P,) USD/s."""


def arrays_of(problem: DivisionProblem) -> Arrays:
    models = tuple(model.name for model in problem.fleet.models)
    policies = tuple(problem.budget_rate)
    places = {name: j for j, name in enumerate(models)}
    paying = {policy: p for p, policy in enumerate(policies)}
    rows, columns, figures = [], [], []
    for k, demand in enumerate(problem.classes):
        for name, offer in demand.offers.items():
            j = places.get(name)
            if j is not None:
                rows.append(k)
                columns.append(j)
                figures.append((demand.weight * offer.quality, offer.service_time, offer.cost_usd))
    size = len(problem.classes), len(models)
    cells = np.zeros((3, *size))
    offered = np.zeros(size, dtype=np.bool_)
    if figures:
        cells[:, rows, columns] = np.array(figures).T
        offered[rows, columns] = True
    speeds = capacity.speeds(problem.fleet)
    busy = np.zeros(size[1])
    for j, model in enumerate(problem.fleet.models):
        for variant in model.variants:
            busy[j] += speeds[variant.key] * max(0, problem.slots.get(variant.key, 0))
    return Arrays(
        models=models,
        policies=policies,
        rate=np.array([demand.rate for demand in problem.classes]),
        penalty=np.array([demand.shed_penalty for demand in problem.classes]),
        weight=np.array([demand.weight for demand in problem.classes]),
        value=cells[0],
        seconds=np.maximum(0.0, cells[1]),
        cost=np.maximum(0.0, cells[2]),
        offered=offered,
        budget=np.array([paying.get(d.policy, NO_BUDGET) for d in problem.classes], dtype=np.int64),
        busy=busy,
        money=np.maximum(0.0, np.array([problem.budget_rate[policy] for policy in policies], dtype=float)),
    )
