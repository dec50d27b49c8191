"""Stage publish, the linear program in OR-tools.

In: a `DivisionProblem` and seconds. Out: flows and duals. Next: `solver`.
"""

from __future__ import annotations

from dataclasses import dataclass

from ortools.linear_solver import pywraplp

from modelfleet_core.division.problem import DivisionProblem
from modelfleet_core.values import ModelName, ObjectKey


@dataclass(frozen=True, slots=True)
class ProgramAnswer:
    flows: dict[tuple[int, ModelName], float]
    model_prices: dict[ModelName, float]
    """Weighted quality per second of a slot of the model's fastest variant."""
    money_prices: dict[ObjectKey, float]


def solve(
    problem: DivisionProblem, capacity: dict[ModelName, float], *, time_limit: float
) -> ProgramAnswer | None:
    """Solve within `time_limit` seconds; `capacity`: busy slots of fastest variants. None: not in time."""
    solver = pywraplp.Solver.CreateSolver("GLOP")
    solver.SetTimeLimit(max(1, int(time_limit * 1000)))
    infinity = solver.infinity()
    objective = solver.Objective()
    objective.SetMaximization()
    busy = {name: solver.Constraint(-infinity, slots) for name, slots in capacity.items()}
    money = {
        policy: solver.Constraint(-infinity, max(0.0, rate)) for policy, rate in problem.budget_rate.items()
    }
    flows = {}
    for k, demand in enumerate(problem.classes):
        arrivals = solver.Constraint(demand.rate, demand.rate)
        shed = solver.NumVar(0.0, infinity, "")
        arrivals.SetCoefficient(shed, 1.0)
        objective.SetCoefficient(shed, -demand.shed_penalty)
        for name, offer in demand.offers.items():
            if name not in busy:
                continue
            flow = solver.NumVar(0.0, infinity, "")
            flows[k, name] = flow
            arrivals.SetCoefficient(flow, 1.0)
            objective.SetCoefficient(flow, demand.weight * offer.quality)
            busy[name].SetCoefficient(flow, offer.service_time)
            if demand.policy in money:
                money[demand.policy].SetCoefficient(flow, offer.cost_usd)
    if solver.Solve() != pywraplp.Solver.OPTIMAL:
        return None
    return ProgramAnswer(
        flows={cell: max(0.0, flow.solution_value()) for cell, flow in flows.items()},
        model_prices={name: max(0.0, row.dual_value()) for name, row in busy.items()},
        money_prices={policy: max(0.0, row.dual_value()) for policy, row in money.items()},
    )
