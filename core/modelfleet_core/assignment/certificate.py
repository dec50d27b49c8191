"""Stage assign, the proof: what an assignment is worth and what no assignment can exceed.

In: a problem with a choice or with prices, from the solver. Out: objective, bound, what binds.
Next: `result`.
"""

from __future__ import annotations

import math

import numpy as np

from modelfleet_core.assignment.problem import AssignmentProblem, BoolArray, FloatArray, IntArray
from modelfleet_core.assignment.result import Assignment, Prices, Termination

OPTIMAL_GAP = 1e-6


def bound(problem: AssignmentProblem, prices: Prices) -> float:
    """Return a value that no feasible assignment exceeds, whatever the prices (not negative).

    sum_i max(-defer_i, max_j (value_ij - mu_j - sum_r lambda_r use_rij))
      + sum_j mu_j free_j + sum_r lambda_r limit_r
    """
    reduced = problem.value - prices.slots
    total = float(prices.slots @ np.maximum(problem.free, 0))
    for row, price in zip(problem.rows, prices.rows, strict=True):
        if price > 0:
            reduced -= price * np.where(np.isfinite(problem.value), row.use, 0.0)
            total += price * max(row.limit, 0.0)
    return total + float(np.maximum(reduced.max(axis=1, initial=-np.inf), -problem.defer).sum())


def worth(problem: AssignmentProblem, choice: IntArray) -> FloatArray:
    """Return what each request adds to the objective, shape (n,)."""
    if problem.size[1] == 0:
        return -problem.defer
    taken = problem.value[np.arange(choice.size), np.maximum(choice, 0)]
    return np.where(choice >= 0, taken, -problem.defer)


def usage(problem: AssignmentProblem, choice: IntArray) -> tuple[IntArray, tuple[float, ...]]:
    """Return slots used per column, shape (m,), and exactly rounded use of each row."""
    at = np.flatnonzero(choice >= 0)
    slots = np.bincount(choice[at], minlength=problem.size[1]).astype(np.int64)
    return slots, tuple(math.fsum(row.use[at, choice[at]].tolist()) for row in problem.rows)


def fits(problem: AssignmentProblem, choice: IntArray) -> bool:
    """Return whether `choice` breaks no eligibility, no slot limit and no row."""
    slots, rows = usage(problem, choice)
    return bool(
        np.isfinite(worth(problem, choice)).all()
        and (slots <= np.maximum(problem.free, 0)).all()
        and all(used <= max(row.limit, 0.0) for used, row in zip(rows, problem.rows, strict=True))
    )


def _binding(problem: AssignmentProblem, choice: IntArray) -> tuple[str, ...]:
    """Name the limits that keep some request from a column worth more to it."""
    slots, rows = usage(problem, choice)
    wanted: BoolArray = problem.value > worth(problem, choice)[:, None]
    full = (slots >= problem.free) & wanted.any(axis=0)
    names = [f"slots:{problem.column(int(j))}" for j in np.flatnonzero(full)]
    at = np.arange(choice.size)
    for row, used in zip(problem.rows, rows, strict=True):
        mine = np.where(choice >= 0, row.use[at, np.maximum(choice, 0)], 0.0) if row.use.size else 0.0
        more = np.where(wanted, row.use, 0.0) - np.reshape(mine, (-1, 1))
        if (wanted & (more > max(row.limit, 0.0) - used)).any():
            names.append(row.name)
    return tuple(names)


def certify(
    problem: AssignmentProblem, choice: IntArray, prices: Prices, *, best_bound: float, fallback: bool
) -> Assignment:
    """Return the answer with its proof; `best_bound` is the lowest bound that any prices gave."""
    objective = float(worth(problem, choice).sum())
    # The sum of the bound and of the objective may differ by rounding where they are equal.
    top = max(best_bound, objective)
    gap = (top - objective) / problem.scale()
    termination = Termination.FALLBACK if fallback else Termination.FEASIBLE
    return Assignment(
        choice=choice,
        objective=objective,
        bound=top,
        gap=gap,
        prices=prices,
        binding=_binding(problem, choice),
        termination=Termination.OPTIMAL if gap <= OPTIMAL_GAP else termination,
    )
