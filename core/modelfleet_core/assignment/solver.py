"""Stage assign: the best model for each request of a batch, certified, within the time that is left.

In: an `AssignmentProblem`, a clock and the last batch's prices. Out: an `Assignment`. Next: forward.

Where few slots are all that binds, `slots` finds the best choice. Otherwise prices (`dual`), a choice by
prices (`primal`), small exchanges that use what is left (`search`), and where the gap is still not small and
there is time, the cells that could improve on it go through OR-tools (`program`). Whatever the time, no limit
is exceeded: quality is what gives way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from modelfleet_core.assignment import certificate, dual, primal, search, slots
from modelfleet_core.assignment.cells import Cells
from modelfleet_core.assignment.problem import AssignmentProblem, FloatArray, IntArray
from modelfleet_core.assignment.result import Assignment, Prices

_SMALL_GAP = 2e-4
"""Nothing is searched for less than this, as a share of the best conceivable quality."""
_SHARP = 1e-5
"""Nor are prices made better for less than this."""
_FEW = 256
"""Requests below which limits leave more of what is conceivable unused."""
_GOOD = 2.0
"""Multiples of it at which the search is not tried again."""
_ATTEMPTS = 5
_EASY = 3
"""Attempts after which each looks at more."""
_TURNS = 9
_LATE_ROUNDS = 4
"""Of filling what is left, where time is up: most of it is done by then."""
_ALIKE = 1e-5
"""Cells that differ by less are as good as each other."""
PROGRAM_SECONDS = 0.25
"""A program is not started with less time than this: loading and building it takes some of it.

The image of the sidecar, whose batches have less, is built without OR-tools."""
_PROGRAM_PART = 0.8
"""Of the time that is left; it may go on for a little after its limit."""
_CELLS_PER_SECOND = 10_000
"""Cells that a program can be given per second left."""


def assign(
    problem: AssignmentProblem, *, remaining: Callable[[], float], warm: Prices | None = None
) -> Assignment:
    """Assign the batch; `remaining()` returns the seconds left, `warm` are the last batch's prices.

    Raises nothing for late or infeasible: with no time left the answer is `FALLBACK`, made by the warm prices
    or by rough ones; a request without a place waits. Prices of other columns or rows are ignored.
    """
    start = remaining()
    answer = _assign(problem, remaining, warm, late=start <= 0)
    seconds = start - remaining()
    return replace(answer, seconds=max(0.0, seconds) if math.isfinite(seconds) else 0.0)


def _assign(
    problem: AssignmentProblem, remaining: Callable[[], float], warm: Prices | None, *, late: bool
) -> Assignment:
    n, m = problem.size
    free = Prices(slots=np.zeros(m), rows=np.zeros(len(problem.rows)))
    if n == 0 or m == 0:
        nothing = np.full(n, -1, dtype=np.int64)
        return certificate.certify(
            problem, nothing, free, best_bound=-float(problem.defer.sum()), fallback=False
        )
    cells = Cells(problem)
    # While nothing binds, everyone's favourite is the optimum and the bound at zero prices proves it.
    favourite = cells.value.argmax(axis=0)
    at_zero = primal.worth(cells, favourite)
    if (primal.excess(cells, favourite) <= 0).all():
        return _certified(problem, cells, favourite, free, at_zero)
    if slots.few(cells) and not late:
        choice, exact = slots.share_out(cells)
        if (primal.excess(cells, choice)[m:] <= 0).all():
            return _certified(problem, cells, choice, cells.prices(exact), min(_bound(cells, exact), at_zero))
    price = None
    if warm is not None and warm.slots.shape == (m,) and warm.rows.shape == (len(problem.rows),):
        price = cells.price(warm)
    if late:
        return _late(problem, cells, price, at_zero)
    scale = problem.scale()
    relaxed = dual.solve(
        cells, remaining=remaining, warm=price, enough=_SHARP * scale * min(max(n / _FEW, 0.1), 2.0)
    )
    bound = min(relaxed.bound, at_zero)
    if remaining() <= 0:
        return _late(problem, cells, relaxed.price, bound)
    choice = _choose(cells, relaxed, bound, scale, remaining)
    if certificate.over(problem, choice):
        choice = _choose(cells.tightened(), relaxed, bound, scale, remaining)
    answer = _certified(problem, cells, choice, cells.prices(relaxed.price), bound)
    if answer.gap > _SMALL_GAP and remaining() > PROGRAM_SECONDS:
        return _with_program(problem, cells, answer, remaining)
    return answer


def _bound(cells: Cells, price: FloatArray) -> float:
    """Return what no choice can exceed, by these prices."""
    return float((cells.value - cells.charge(price)).max(axis=0).sum() + price @ cells.limit)


def _certified(
    problem: AssignmentProblem,
    cells: Cells,
    choice: IntArray,
    prices: Prices,
    bound: float,
    *,
    fallback: bool = False,
) -> Assignment:
    kept = certificate.kept(problem, np.where(choice == cells.m, -1, choice))
    return certificate.certify(problem, kept, prices, best_bound=bound, fallback=fallback)


def _late(problem: AssignmentProblem, cells: Cells, known: FloatArray | None, bound: float) -> Assignment:
    """Return the choice by those of the known prices and rough ones that prove more; takes a few passes."""
    best, least = np.zeros_like(cells.value), np.inf
    proven, proof = bound, np.zeros(cells.limit.size)
    for price in (known, dual.rough(cells)):
        if price is None:
            continue
        reduced = np.where(cells.usable, cells.value - cells.charge(price), -np.inf)
        limited = float(reduced.max(axis=0).sum() + price @ cells.limit)
        if limited < least:
            best, least = reduced, limited
        if limited < proven:
            proven, proof = limited, price
    asked = primal.evict(cells, primal.ask(cells, best))
    choice = primal.fill(cells, asked, remaining=lambda: 1.0, rounds=_LATE_ROUNDS)
    return _certified(problem, cells, choice, cells.prices(proof), proven, fallback=True)


def _choose(
    cells: Cells, relaxed: dual.Relaxed, bound: float, scale: float, remaining: Callable[[], float]
) -> IntArray:
    """Return a choice within all limits, near the bound if time allows."""
    reduced = np.where(cells.usable, cells.value - cells.charge(relaxed.price), -np.inf)
    loss = reduced.max(axis=0) - reduced
    enough = _SMALL_GAP * scale * max(1.0, _FEW / cells.n)
    best = np.full(cells.n, cells.m, dtype=np.int64)
    short = np.inf
    for attempt in range(_ATTEMPTS):
        start = best
        if attempt % 2 == 0:
            start = primal.spread(cells, reduced, relaxed.share, _ALIKE * scale, (0.5 + 0.3 * attempt) % 1.0)
            fitting = start
            if (primal.excess(cells, start) > primal.tolerance(cells)).any():
                fitting = primal.evict(cells, start)
            fitting = primal.fill(cells, fitting, remaining=remaining)
            if bound - primal.worth(cells, fitting) < short:
                best, short = fitting, bound - primal.worth(cells, fitting)
        if short <= enough:
            break
        better = search.improve(
            cells,
            start,
            relaxed.price,
            loss,
            bound=bound,
            best=short,
            enough=enough,
            grain=0.1 * enough,
            turns=range(attempt * _TURNS, (attempt + 1) * _TURNS),
            effort=1 if attempt < _EASY else 2,
            remaining=remaining,
        )
        if better is not None:
            best, short = better, bound - primal.worth(cells, better)
        if short <= _GOOD * enough or remaining() <= 0:
            break
    return best


def _with_program(
    problem: AssignmentProblem, cells: Cells, known: Assignment, remaining: Callable[[], float]
) -> Assignment:
    """Search the cells that a better assignment could use; a cell's loss at the prices rules it out."""
    reduced = certificate.reduced(problem, known.prices)
    loss = np.maximum(reduced.max(axis=1), -problem.defer)[:, None] - reduced
    core = loss <= (certificate.bound(problem, known.prices) - known.objective) * (1 + 1e-9)
    if core.sum() > _CELLS_PER_SECOND * remaining():
        return known
    from modelfleet_core.assignment import program  # loaded only where it is worth its memory

    def left() -> float:
        """What is left for the search alone."""
        return _PROGRAM_PART * remaining()

    found = program.solve(problem, time_limit=left(), cells=core, hint=known.choice, remaining=left)
    if found is None:
        return known
    choice = np.where(found.choice < 0, cells.m, found.choice)
    choice = primal.fill(cells, primal.evict(cells, choice), remaining=remaining)
    # Better than what is known may lie only among these cells, up to the program's tolerance.
    bound = max(found.bound + 1e-6 * problem.scale(), known.objective)
    answer = _certified(problem, cells, choice, known.prices, min(bound, known.bound))
    if answer.objective >= known.objective:
        return answer
    return certificate.certify(
        problem, known.choice, known.prices, best_bound=min(bound, known.bound), fallback=False
    )
