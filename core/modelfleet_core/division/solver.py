"""Stage publish: prices of slots and money from live capacity and demand.

In: a `DivisionProblem`. Out: a `Division`. Next: the capacity service hands the prices to sidecars.
"""

from __future__ import annotations

from modelfleet_core.division import capacity, program
from modelfleet_core.division.problem import DivisionProblem
from modelfleet_core.division.result import Division, Termination
from modelfleet_core.values import ModelName

_NOTHING = 1e-9


def divide(problem: DivisionProblem, *, time_limit: float) -> Division:
    """Return prices and flows within about `time_limit` seconds.

    A variant's price is its model's times its speed, so that equal work costs the same on every variant.
    """
    speeds = capacity.speeds(problem.fleet)
    busy = {}
    for model in problem.fleet.models:
        slots = {variant.key: max(0, problem.slots.get(variant.key, 0)) for variant in model.variants}
        share = capacity.utilisation(sum(slots.values()))
        busy[model.name] = share * sum(speeds[key] * count for key, count in slots.items())
    answer = program.solve(problem, busy, time_limit=time_limit)
    flows = _greedy(problem, busy) if answer is None else answer.flows
    served = [0.0] * len(problem.classes)
    objective = 0.0
    for (k, name), rate in flows.items():
        served[k] += rate
        objective += rate * problem.classes[k].weight * problem.classes[k].offers[name].quality
    shed = tuple(max(0.0, c.rate - done) for c, done in zip(problem.classes, served, strict=True))
    objective -= sum(c.shed_penalty * rate for c, rate in zip(problem.classes, shed, strict=True))
    prices = answer.model_prices if answer is not None else {}
    return Division(
        slot_prices={v.key: prices.get(v.key.model, 0.0) * speeds[v.key] for v in problem.fleet.variants()},
        money_prices=(answer.money_prices if answer is not None else dict.fromkeys(problem.budget_rate, 0.0)),
        flows={cell: rate for cell, rate in flows.items() if rate > _NOTHING},
        shed=shed,
        termination=Termination.FALLBACK if answer is None else Termination.OPTIMAL,
        objective=objective,
    )


def _greedy(problem: DivisionProblem, busy: dict[ModelName, float]) -> dict[tuple[int, ModelName], float]:
    """Serve what is worth most per request first, each class by its best models that have room."""
    left = dict(busy)
    money = {policy: max(0.0, rate) for policy, rate in problem.budget_rate.items()}
    rates = [demand.rate for demand in problem.classes]
    cells = sorted(
        (
            (demand.weight * offer.quality + demand.shed_penalty, k, name)
            for k, demand in enumerate(problem.classes)
            for name, offer in demand.offers.items()
            if name in left
        ),
        key=lambda cell: (-cell[0], cell[1], cell[2]),
    )
    flows = {}
    for _, k, name in cells:
        demand = problem.classes[k]
        offer = demand.offers[name]
        rate = rates[k]
        if offer.service_time > 0:
            rate = min(rate, left[name] / offer.service_time)
        if demand.policy in money and offer.cost_usd > 0:
            rate = min(rate, money[demand.policy] / offer.cost_usd)
        flows[k, name] = rate
        rates[k] -= rate
        left[name] = max(0.0, left[name] - rate * offer.service_time)
        if demand.policy in money:
            money[demand.policy] = max(0.0, money[demand.policy] - rate * offer.cost_usd)
    return flows
