"""Stage assign, the full program in OR-tools: oracle of the tests, and the last few parts in ten thousand.

In: a problem, cells that may be used, seconds. Out: a choice and a bound.
Next: `solver` checks and certifies.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from ortools.linear_solver import pywraplp

from modelfleet_core.assignment.problem import AssignmentProblem, BoolArray, IntArray


@dataclass(frozen=True, slots=True, eq=False)
class ProgramAnswer:
    choice: IntArray
    """(n,) column or -1. Rows are kept up to the program's tolerance of 1e-6 of their limit."""
    bound: float
    """No choice among the allowed cells has a higher objective, up to the same tolerance."""
    optimal: bool


def solve(
    problem: AssignmentProblem,
    *,
    time_limit: float,
    cells: BoolArray | None = None,
    hint: IntArray | None = None,
) -> ProgramAnswer | None:
    """Solve within `time_limit` seconds over `cells` (n, m; None: all), from `hint`; None: no answer."""
    n = problem.size[0]
    usable = np.isfinite(problem.value) if cells is None else np.isfinite(problem.value) & cells
    solver = pywraplp.Solver.CreateSolver("SCIP")
    solver.SetTimeLimit(max(1, int(time_limit * 1000)))
    infinity = solver.infinity()
    once = [solver.Constraint(-infinity, 1.0) for _ in range(n)]
    slots = [solver.Constraint(-infinity, float(max(0, free))) for free in problem.free.tolist()]
    scales = [row.limit if 0 < row.limit < np.inf else 1.0 for row in problem.rows]
    limits = [max(row.limit, 0.0) / scale for row, scale in zip(problem.rows, scales, strict=True)]
    rows = [solver.Constraint(-infinity, min(limit, infinity)) for limit in limits]
    objective = solver.Objective()
    where = np.argwhere(usable).tolist()
    variables = []
    for i, j in where:
        x = solver.BoolVar("")
        variables.append(x)
        objective.SetCoefficient(x, float(problem.value[i, j] + problem.defer[i]))
        once[i].SetCoefficient(x, 1.0)
        slots[j].SetCoefficient(x, 1.0)
        for constraint, row, scale in zip(rows, problem.rows, scales, strict=True):
            constraint.SetCoefficient(x, float(row.use[i, j]) / scale)
    objective.SetMaximization()
    if hint is not None:
        solver.SetHint(variables, [float(hint[i] == j) for i, j in where])
    status = solver.Solve()
    if status not in (pywraplp.Solver.OPTIMAL, pywraplp.Solver.FEASIBLE):
        return None
    choice = np.full(n, -1, dtype=np.int64)
    for (i, j), x in zip(where, variables, strict=True):
        if x.solution_value() > 0.5:
            choice[i] = j
    return ProgramAnswer(
        choice=choice,
        bound=float(objective.BestBound()) - float(problem.defer.sum()),
        optimal=status == pywraplp.Solver.OPTIMAL,
    )
