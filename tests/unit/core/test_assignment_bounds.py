"""Every bound and every choice against all choices that there are, on thousands of small batches."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from modelfleet_core.assignment import certificate
from modelfleet_core.assignment.problem import AssignmentProblem, Row
from modelfleet_core.assignment.result import Prices
from modelfleet_core.assignment.solver import assign

BLOCKS = 20
EACH = 200


def small(random: np.random.Generator) -> AssignmentProblem:
    """Up to 5 requests and 3 columns, with ties, whole numbers and rows about all or some requests."""
    n, m = int(random.integers(1, 6)), int(random.integers(1, 4))
    steps = int(random.choice([2, 4, 1000]))

    def figures(*shape: int) -> np.ndarray:
        return random.integers(0, steps + 1, shape) / steps

    rows = []
    for k in range(int(random.integers(0, 4))):
        who = np.flatnonzero(random.random(n) < 0.6) if random.random() < 0.5 else None
        use = figures(n if who is None else who.size, m) * (random.random(m) < 0.8)
        limit = float(random.choice([0.0, 0.5, 1.0, 2.0, random.uniform(0, 3)]))
        rows.append(Row(f"row-{k}", use, limit, requests=who))
    return AssignmentProblem(
        weight=random.choice([1.0, 4.0], n),
        quality=figures(n, m),
        cost=figures(n, m),
        service_time=figures(n, m),
        eligible=random.random((n, m)) < 0.85,
        free=random.integers(0, n + 1, m),
        slot_price=0.3 * figures(m),
        money_price=float(random.choice([0.0, 0.2])),
        defer=random.choice([0.0, 0.25, 1.0], n),
        rows=tuple(rows),
    )


def optimum(problem: AssignmentProblem) -> float:
    """Try everything, at once. Written from the declaration of the problem."""
    n, m = problem.size
    choices = np.array(list(itertools.product(range(-1, m), repeat=n)))
    at = np.arange(n)
    placed = choices >= 0
    values = np.where(placed, problem.value[at, np.maximum(choices, 0)], -problem.defer)
    fits = np.isfinite(values).all(axis=1)
    for j in range(m):
        fits &= (choices == j).sum(axis=1) <= problem.free[j]
    for row in problem.rows:
        use = np.zeros((n, m))
        use[at if row.requests is None else row.requests] = row.use
        fits &= np.where(placed, use[at, np.maximum(choices, 0)], 0.0).sum(axis=1) <= row.limit + 1e-12
    return float(values[fits].sum(axis=1).max())


@pytest.mark.parametrize("block", range(BLOCKS))
def test_no_choice_exceeds_the_bound_and_the_answer_is_near_the_best(block: int):
    random = np.random.default_rng(block)
    for number in range(EACH):
        problem = small(random)
        seconds = (0.1, 0.0)[number % 5 == 4]
        answer = assign(problem, remaining=lambda seconds=seconds: seconds)
        best = optimum(problem)
        where = f"block {block}, batch {number}"
        assert certificate.fits(problem, answer.choice), where
        assert answer.objective <= best + 1e-9, where
        assert best <= answer.bound + 1e-9, where
        assert answer.objective == pytest.approx(certificate.worth(problem, answer.choice).sum()), where
        prices = Prices(
            random.uniform(0, 1, problem.size[1]), random.uniform(0, 1, len(problem.rows)) * (number % 2)
        )
        assert best <= certificate.bound(problem, prices) + 1e-9, where
