"""Stage assign, the full program in OR-tools: oracle of the tests, and the last few parts in ten thousand.

In: a problem, cells that may be used, seconds. Out: a choice and a bound.
Next: `solver` checks and certifies.
"""

from __future__ import annotations

from collections.abc import Callable
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
    remaining: Callable[[], float] | None = None,
) -> ProgramAnswer | None:
    """Solve within `time_limit` seconds over `cells` (n, m; None: all), from `hint`; None: no answer.

    `remaining()` returns the seconds left, so that those of building the model count too.
    """
    n = problem.size[0]
    usable = np.isfinite(problem.value) if cells is None else np.isfinite(problem.value) & cells
    solver = pywraplp.Solver.CreateSolver("SCIP")
    infinity = solver.infinity()
    once = [solver.Constraint(-infinity, 1.0) for _ in range(n)]
    slots = [solver.Constraint(-infinity, float(max(0, free))) for free in problem.free.tolist()]
    scales = np.where((problem.limit > 0) & (problem.limit < np.inf), problem.limit, 1.0)
    rows = [solver.Constraint(-infinity, min(float(limit), infinity)) for limit in problem.limit / scales]
    objective = solver.Objective()
    where = np.argwhere(usable).tolist()
    variables = []
    for i, j in where:
        x = solver.BoolVar("")
        variables.append(x)
        objective.SetCoefficient(x, float(problem.value[i, j] + problem.defer[i]))
        once[i].SetCoefficient(x, 1.0)
        slots[j].SetCoefficient(x, 1.0)
        for family in problem.families:
            if (row := int(family.owner[i])) < len(rows):
                rows[row].SetCoefficient(x, float(family.use[j, i] / scales[row]))
    objective.SetMaximization()
    if hint is not None:
        solver.SetHint(variables, [float(hint[i] == j) for i, j in where])
    if remaining is not None:
        time_limit = min(time_limit, remaining())
        if time_limit <= 0:
            return None
    solver.SetTimeLimit(max(1, int(time_limit * 1000)))
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
