"""What a clairvoyant could serve at most: the linear program in OR-tools.

In: cells (request, model, bucket) with their limits. Out: the optimum of the program, or None. `bound` says
why it is a bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ortools.linear_solver import pywraplp

TIME_LIMIT = 120.0


@dataclass(frozen=True, slots=True)
class Cell:
    """Busy time of one request at one model in one bucket of time."""

    request: int
    model: int
    bucket: int
    most: float
    """Seconds of the bucket within which the request may run."""
    service: float
    """Seconds that the model needs for the whole request."""
    worth: float
    """Weighted quality of the whole answer."""
    cost: float
    """USD of the whole answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    bound: float
    by_request: dict[int, float]
    """Weighted quality that each request got of it."""


def solve(
    cells: Sequence[Cell], capacity: dict[tuple[int, int], float], budget: float | None
) -> Answer | None:
    """Return the most weighted quality; `capacity`: slot-seconds by (model, bucket). None: not solved."""
    solver = pywraplp.Solver.CreateSolver("GLOP")
    solver.SetTimeLimit(int(TIME_LIMIT * 1000))
    infinity = solver.infinity()
    objective = solver.Objective()
    objective.SetMaximization()
    once: dict[int, pywraplp.Constraint] = {}
    room = {key: solver.Constraint(-infinity, seconds) for key, seconds in capacity.items()}
    money = solver.Constraint(-infinity, budget) if budget is not None else None
    variables = []
    for cell in cells:
        busy = solver.NumVar(0.0, cell.most, "")
        variables.append(busy)
        row = once.get(cell.request)
        if row is None:
            row = once[cell.request] = solver.Constraint(-infinity, 1.0)
        row.SetCoefficient(busy, 1.0 / cell.service)
        room[cell.model, cell.bucket].SetCoefficient(busy, 1.0)
        objective.SetCoefficient(busy, cell.worth / cell.service)
        if money is not None:
            money.SetCoefficient(busy, cell.cost / cell.service)
    if solver.Solve() != pywraplp.Solver.OPTIMAL:
        return None
    by_request: dict[int, float] = {}
    for cell, busy in zip(cells, variables, strict=True):
        got = busy.solution_value() * cell.worth / cell.service
        by_request[cell.request] = by_request.get(cell.request, 0.0) + got
    return Answer(objective.Value(), by_request)
