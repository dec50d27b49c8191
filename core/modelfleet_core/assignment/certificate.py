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
    total = float(prices.slots @ np.maximum(problem.free, 0))
    paid = prices.rows > 0
    total += float(prices.rows[paid] @ problem.limit[paid])
    best = reduced(problem, prices).max(axis=1, initial=-np.inf)
    return total + float(np.maximum(best, -problem.defer).sum())


def reduced(problem: AssignmentProblem, prices: Prices) -> FloatArray:
    """Return what each cell is worth after it has paid for its slot and its use of the rows, (n, m)."""
    left = problem.value - prices.slots
    usable = np.isfinite(problem.value).T
    price = np.append(prices.rows, 0.0)
    for family in problem.families:
        if (price[family.rows] > 0).any():
            left -= (np.where(usable, family.use, 0.0) * price[family.owner]).T
    return left


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
    rows = [0.0] * len(problem.rows)
    for family in problem.families:
        use, owner = family.use[choice[at], at], family.owner[at]
        for row in family.rows.tolist():
            rows[row] = math.fsum((use if family.whole else use[owner == row]).tolist())
    return slots, tuple(rows)


def fits(problem: AssignmentProblem, choice: IntArray) -> bool:
    """Return whether `choice` breaks no eligibility, no slot limit and no row."""
    slots, rows = usage(problem, choice)
    return bool(
        np.isfinite(worth(problem, choice)).all()
        and (slots <= np.maximum(problem.free, 0)).all()
        and all(used <= max(row.limit, 0.0) for used, row in zip(rows, problem.rows, strict=True))
    )


def over(problem: AssignmentProblem, choice: IntArray) -> bool:
    """Return whether a row is broken, by sums that do not depend on their order; m: waits."""
    placed = np.where(choice == problem.size[1], -1, choice)
    return bool((np.array(usage(problem, placed)[1]) > problem.limit).any())


def kept(problem: AssignmentProblem, choice: IntArray) -> IntArray:
    """Return `choice` without what breaks a row, by sums that do not depend on their order.

    For choices made with rounded sums: there is rarely anything to leave out.
    """
    while True:
        above = np.array(usage(problem, choice)[1]) > problem.limit
        if not above.any():
            return choice
        share = np.zeros(choice.size)
        at = np.flatnonzero(choice >= 0)
        for family in problem.families:
            broken = np.append(above, False)[family.owner[at]]
            share[at] += np.where(broken, family.use[choice[at], at], 0.0)
        loss = np.where(share > 0, worth(problem, choice) + problem.defer, np.inf)
        choice = choice.copy()
        choice[int(loss.argmin())] = -1


def _binding(problem: AssignmentProblem, choice: IntArray) -> tuple[str, ...]:
    """Name the limits that keep some request from a column worth more to it."""
    slots, rows = usage(problem, choice)
    wanted: BoolArray = problem.value > worth(problem, choice)[:, None]
    full = (slots >= problem.free) & wanted.any(axis=0)
    names = [f"slots:{problem.column(int(j))}" for j in np.flatnonzero(full)]
    if not wanted.any():
        return ()
    at = np.arange(choice.size)
    left = np.append(problem.limit - np.array(rows), np.inf)
    bind = np.zeros(len(problem.rows) + 1, dtype=bool)
    for family in problem.families:
        mine = np.where(choice >= 0, family.use[np.maximum(choice, 0), at], 0.0)
        more = np.where(wanted.T, family.use, 0.0) - mine
        stopped = (wanted.T & (more > left[family.owner])).any(axis=0)
        bind[family.owner[stopped]] = True
    return (*names, *(row.name for row, binds in zip(problem.rows, bind.tolist(), strict=False) if binds))


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
