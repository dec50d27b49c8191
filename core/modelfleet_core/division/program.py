"""Stage publish, the linear program in OR-tools: what tests and benchmarks hold the solver against.

In: `Arrays`. Out: the optimum and its duals, which jump from vertex to vertex; `dual` has prices that do not.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ortools.linear_solver import pywraplp

from modelfleet_core.demand.classes import FloatArray
from modelfleet_core.division.arrays import NO_BUDGET, Arrays


@dataclass(frozen=True, slots=True, eq=False)
class ProgramAnswer:
    objective: float
    flows: FloatArray
    """(K, M) requests/s."""
    slot_prices: FloatArray
    """(M,) weighted quality per second of a slot of the model's fastest variant."""
    money_prices: FloatArray
    """(P,) weighted quality per USD."""


def solve(arrays: Arrays, *, time_limit: float) -> ProgramAnswer | None:
    """Solve within `time_limit` seconds; None: not in time."""
    solver = pywraplp.Solver.CreateSolver("GLOP")
    solver.SetTimeLimit(max(1, int(time_limit * 1000)))
    infinity = solver.infinity()
    objective = solver.Objective()
    objective.SetMaximization()
    busy = [solver.Constraint(-infinity, float(slots)) for slots in arrays.busy]
    money = [solver.Constraint(-infinity, float(rate)) for rate in arrays.money]
    cells = []
    for k in range(len(arrays.rate)):
        arrivals = solver.Constraint(float(arrays.rate[k]), float(arrays.rate[k]))
        shed = solver.NumVar(0.0, infinity, "")
        arrivals.SetCoefficient(shed, 1.0)
        objective.SetCoefficient(shed, -float(arrays.penalty[k]))
        for j in np.flatnonzero(arrays.offered[k]):
            flow = solver.NumVar(0.0, infinity, "")
            cells.append((k, j, flow))
            arrivals.SetCoefficient(flow, 1.0)
            objective.SetCoefficient(flow, float(arrays.value[k, j]))
            busy[j].SetCoefficient(flow, float(arrays.seconds[k, j]))
            if arrays.budget[k] != NO_BUDGET:
                money[arrays.budget[k]].SetCoefficient(flow, float(arrays.cost[k, j]))
    if solver.Solve() != pywraplp.Solver.OPTIMAL:
        return None
    flows = np.zeros(arrays.value.shape)
    for k, j, flow in cells:
        flows[k, j] = max(0.0, flow.solution_value())
    return ProgramAnswer(
        objective=objective.Value(),
        flows=flows,
        slot_prices=np.array([max(0.0, row.dual_value()) for row in busy]),
        money_prices=np.array([max(0.0, row.dual_value()) for row in money]),
    )
