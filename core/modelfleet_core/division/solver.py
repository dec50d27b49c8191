"""Stage publish: prices of slots and money from live capacity and demand, and each sidecar's part.

In: a `DivisionProblem`. Out: a `Division`. Next: the lease book hands prices, targets and allowances to
sidecars. The operator and the simulation call it alike, once a second:

    division = divide(problem_of(fleet, shared, slots, budget_rate), warm=last_division)
    division.slot_prices, division.money_prices, division.targets
"""

from __future__ import annotations

import numpy as np

from modelfleet_core.demand.classes import FloatArray, SharedDemand
from modelfleet_core.division import capacity, dual
from modelfleet_core.division.arrays import Arrays, arrays_of
from modelfleet_core.division.problem import DivisionProblem
from modelfleet_core.division.result import Division, Targets, Termination

_NOTHING = 1e-9


def divide(problem: DivisionProblem, *, warm: Division | None = None) -> Division:
    """Return prices, flows and targets; `warm`: the fleet's last division, which saves steps.

    A variant's price is its model's times its speed, so that equal work costs the same on every variant.
    """
    arrays = arrays_of(problem)
    prices = dual.prices(arrays, warm.prices if warm is not None else None)
    flows = within_limits(arrays, arrays.rate[:, None] * prices.shares)
    shed = np.maximum(0.0, arrays.rate - flows.sum(axis=1))
    objective = float((flows * arrays.value).sum() - shed @ arrays.penalty)
    speeds = capacity.speeds(problem.fleet)
    by_model = dict(zip(arrays.models, prices.slots.tolist(), strict=True))
    return Division(
        slot_prices={v.key: by_model[v.key.model] * speeds[v.key] for v in problem.fleet.variants()},
        money_prices=dict(zip(arrays.policies, prices.money.tolist(), strict=True)),
        flows={
            (int(k), arrays.models[j]): float(flows[k, j]) for k, j in zip(*np.nonzero(flows), strict=True)
        },
        shed=tuple(shed.tolist()),
        objective=objective,
        bound=max(objective, dual.bound(arrays, prices)),
        termination=Termination.CONVERGED if prices.converged else Termination.LIMITED,
        prices=prices,
        targets=None if problem.shared is None else _targets(problem, arrays, flows, problem.shared),
    )


def within_limits(arrays: Arrays, flows: FloatArray) -> FloatArray:
    """Return the flows less what a ramp lets pass beyond a limit, and without tails."""
    flows = np.where(flows > _NOTHING * arrays.rate[:, None], flows, 0.0)
    load = (flows * arrays.seconds).sum(axis=0)
    flows = flows * np.minimum(1.0, arrays.busy / np.maximum(load, _NOTHING * arrays.busy + 1e-300))
    for p, money in enumerate(arrays.money):
        mine = arrays.budget == p
        spend = float((flows[mine] * arrays.cost[mine]).sum())
        if spend > money:
            flows[mine] *= np.where(arrays.cost[mine] > 0.0, money / spend, 1.0)
    return flows


def _targets(problem: DivisionProblem, arrays: Arrays, flows: FloatArray, shared: SharedDemand) -> Targets:
    """Share every class's flow among those who ask for it, and models' slots among their variants."""
    part = shared.rates / np.maximum(arrays.rate, 1e-300)
    variants = problem.fleet.variants()
    places = {name: j for j, name in enumerate(arrays.models)}
    column = np.array([places[variant.key.model] for variant in variants], dtype=np.int64)
    live = np.array([max(0, problem.slots.get(variant.key, 0)) for variant in variants], dtype=np.float64)
    fastest = arrays.busy[column]
    each = np.divide(live, fastest, out=np.zeros(len(live)), where=fastest > 0.0)
    busy = part @ (flows * arrays.seconds)
    mine = arrays.budget[:, None] == np.arange(len(arrays.policies))
    asks = shared.rates @ mine
    spend = part @ ((flows * arrays.cost).sum(axis=1)[:, None] * mine)
    spends = spend.sum(axis=0)
    basis = np.where(spends > 0.0, spend, asks)
    total = np.maximum(basis.sum(axis=0), 1e-300)
    return Targets(
        sidecars=shared.sidecars,
        variants=tuple(variant.key for variant in variants),
        slots=busy[:, column] * each,
        policies=arrays.policies,
        money=basis * (arrays.money / total),
        asks=asks,
    )
