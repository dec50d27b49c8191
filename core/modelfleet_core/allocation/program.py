"""Stage allocate, the program in OR-tools: mixed-integer, or linear for duals.

In: an `AllocationProblem`, bounds of replicas, seconds. Out: replicas, bound, duals. Next: `solver`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ortools.linear_solver import pywraplp

from modelfleet_core.allocation.limits import Limits
from modelfleet_core.allocation.problem import AllocationProblem
from modelfleet_core.allocation.worth import Worth
from modelfleet_core.values import ModelName, PoolName, VariantKey

SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True)
class ProgramAnswer:
    replicas: dict[VariantKey, float]
    objective: float
    bound: float
    optimal: bool
    external_spend: float
    """USD per hour."""
    shed: float
    """Requests per second, of all classes."""
    model_prices: dict[ModelName, float]
    """Value per busy slot of the model's pool variants; empty for integer programs, as the next two."""
    pool_prices: dict[PoolName, float]
    budget_price: float
    seconds: float


def solve(
    problem: AllocationProblem,
    within: Limits,
    worth: Worth,
    *,
    lower: Mapping[VariantKey, int],
    upper: Mapping[VariantKey, int],
    integer: bool,
    time_limit: float,
) -> ProgramAnswer | None:
    """Solve within `time_limit` seconds; None: no answer in time, or none exists."""
    solver = pywraplp.Solver.CreateSolver("SCIP" if integer else "GLOP")
    solver.SetTimeLimit(max(1, int(time_limit * 1000)))
    infinity = solver.infinity()
    objective = solver.Objective()
    objective.SetMaximization()
    unit = worth.stake / 1000.0  # of the objective: solvers' tolerances are absolute
    gpus = {pool: solver.Constraint(-infinity, float(count)) for pool, count in within.gpus.items()}
    budget = solver.Constraint(-infinity, infinity if within.budget is None else within.budget)
    busy = {model.name: solver.Constraint(-infinity, 0.0) for model in problem.fleet.models}
    outside = {name: solver.Constraint(-infinity, slots) for name, slots in worth.external.items()}
    money = {
        policy: solver.Constraint(-infinity, max(0.0, rate)) for policy, rate in problem.budget_rate.items()
    }
    replicas = {}
    for key, v in within.variants.items():
        low, high = float(lower[key]), float(max(lower[key], upper[key]))
        count = solver.IntVar(low, high, "") if integer else solver.NumVar(low, high, "")
        replicas[key] = count
        objective.SetCoefficient(count, -worth.thrift[key] / unit)
        if v.placement.pool in gpus:
            gpus[v.placement.pool].SetCoefficient(count, float(v.placement.gpus))
        budget.SetCoefficient(count, v.hourly)
        busy[key.model].SetCoefficient(count, -worth.slots[key])
        started = solver.NumVar(0.0, infinity, "")
        objective.SetCoefficient(started, -worth.start[key] / unit)
        beyond = solver.Constraint(-float(v.now), infinity)  # started >= count - now
        beyond.SetCoefficient(started, 1.0)
        beyond.SetCoefficient(count, -1.0)
    sheds, spends = [], []
    for demand in problem.classes:
        arrivals = solver.Constraint(demand.rate, demand.rate)
        shed = solver.NumVar(0.0, infinity, "")
        sheds.append(shed)
        arrivals.SetCoefficient(shed, 1.0)
        objective.SetCoefficient(shed, -demand.shed_penalty / unit)
        for name, offer in demand.offers.items():
            for side in (busy, outside):
                if name not in side:
                    continue
                flow = solver.NumVar(0.0, infinity, "")
                arrivals.SetCoefficient(flow, 1.0)
                objective.SetCoefficient(flow, demand.weight * offer.quality / unit)
                side[name].SetCoefficient(flow, offer.service_time)
                if side is outside:
                    budget.SetCoefficient(flow, SECONDS_PER_HOUR * offer.cost_usd)
                    spends.append((flow, SECONDS_PER_HOUR * offer.cost_usd))
                if demand.policy in money:
                    money[demand.policy].SetCoefficient(flow, offer.cost_usd)
    status = solver.Solve()
    if status not in (pywraplp.Solver.OPTIMAL, pywraplp.Solver.FEASIBLE):
        return None
    optimal = status == pywraplp.Solver.OPTIMAL
    if not (integer or optimal):
        return None  # a linear program cut short has no duals, and its value is no bound

    def dual(row: pywraplp.Constraint) -> float:
        return 0.0 if integer else max(0.0, row.dual_value() * unit)

    return ProgramAnswer(
        replicas={key: count.solution_value() for key, count in replicas.items()},
        objective=objective.Value() * unit,
        bound=(objective.BestBound() if integer else objective.Value()) * unit,
        optimal=optimal,
        external_spend=sum(price * flow.solution_value() for flow, price in spends),
        shed=sum(shed.solution_value() for shed in sheds),
        model_prices={name: dual(row) for name, row in busy.items()},
        pool_prices={pool: dual(row) for pool, row in gpus.items()},
        budget_price=dual(budget),
        seconds=solver.wall_time() / 1000.0,
    )
