"""Stage assign: the best model for each request of a batch, certified, within the time that is left.

In: an `AssignmentProblem`, a clock and the last batch's prices. Out: an `Assignment`. Next: forward.

Prices (`dual`), a choice by prices (`primal`), and where their gap is not small and there is time, the
cells that could still improve on it go through OR-tools (`program`). Whatever the time, no limit is
exceeded: quality is what gives way.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from modelfleet_core.assignment import certificate, dual, primal
from modelfleet_core.assignment.problem import AssignmentProblem, IntArray
from modelfleet_core.assignment.result import Assignment, Prices, Termination

_SMALL_GAP = 2e-4
"""A program is not started for less than this."""
_PROGRAM_SECONDS = 0.25
"""Nor with less time than this: loading and building it takes some of it."""
_CELLS_PER_SECOND = 50_000
"""Cells that a program can be given per second left."""


def assign(
    problem: AssignmentProblem, *, remaining: Callable[[], float], warm: Prices | None = None
) -> Assignment:
    """Assign the batch; `remaining()` returns the seconds left, `warm` are the last batch's prices.

    Raises nothing for late or infeasible: with no time left the answer is `FALLBACK`, made by the warm prices
    alone; a request without a place waits. Prices of a batch with other columns or rows are ignored.
    """
    n, m = problem.size
    free = Prices(slots=np.zeros(m), rows=np.zeros(len(problem.rows)))
    if n == 0 or m == 0:
        nothing = np.full(n, -1, dtype=np.int64)
        return certificate.certify(
            problem, nothing, free, best_bound=-float(problem.defer.sum()), fallback=False
        )
    # While nothing binds, everyone's favourite is the optimum and the bound at zero prices proves it.
    choice = primal.choose(problem, free, remaining=lambda: 0.0)
    at_zero = certificate.bound(problem, free)
    first = certificate.certify(problem, choice, free, best_bound=at_zero, fallback=False)
    if first.termination is Termination.OPTIMAL:
        return first
    late = remaining() <= 0
    prices, bound = dual.prices(problem, remaining=remaining, warm=warm)
    best = primal.choose(problem, prices, remaining=remaining)
    if certificate.worth(problem, best).sum() < first.objective:
        best = choice
    answer = certificate.certify(problem, best, prices, best_bound=min(bound, at_zero), fallback=late)
    if answer.gap > _SMALL_GAP and remaining() > _PROGRAM_SECONDS:
        return _with_program(problem, answer, remaining)
    return answer


def _with_program(
    problem: AssignmentProblem, known: Assignment, remaining: Callable[[], float]
) -> Assignment:
    """Search the cells that a better assignment could use; a cell's loss at the prices rules it out."""
    reduced = problem.value - known.prices.slots
    for row, price in zip(problem.rows, known.prices.rows, strict=True):
        if price > 0:
            reduced -= price * np.where(np.isfinite(problem.value), row.use, 0.0)
    loss = np.maximum(reduced.max(axis=1), -problem.defer)[:, None] - reduced
    cells = loss <= (certificate.bound(problem, known.prices) - known.objective) * (1 + 1e-9)
    seconds = 0.8 * remaining()
    if cells.sum() > _CELLS_PER_SECOND * seconds:
        return known
    from modelfleet_core.assignment import program  # loaded only where it is worth its memory

    found = program.solve(problem, time_limit=seconds, cells=cells, hint=known.choice)
    if found is None:
        return known
    choice: IntArray = primal.repair(problem, known.prices, found.choice, remaining=remaining)
    if certificate.worth(problem, choice).sum() < known.objective:
        choice = known.choice
    # Up to the program's tolerance; better than what is known may lie only among these cells.
    bound = max(found.bound + 1e-6 * problem.scale(), known.objective)
    return certificate.certify(
        problem, choice, known.prices, best_bound=min(bound, known.bound), fallback=False
    )
