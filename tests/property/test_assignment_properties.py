"""G6: an assignment breaks no row and no eligibility, and its bound is valid, whatever the time or input."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelfleet_core.assignment import certificate, program, slots
from modelfleet_core.assignment.problem import AssignmentProblem, Row
from modelfleet_core.assignment.result import Assignment, Prices
from modelfleet_core.assignment.solver import assign
from support.assignments import traffic

pytestmark = pytest.mark.property

# Values on a grid make ties; strange ones must only harm their own cell.
GRID = st.integers(0, 20).map(lambda k: k / 20)
STRANGE = GRID | st.sampled_from([math.nan, math.inf, -math.inf, 1e300, -1.0, 1e-300])


@st.composite
def problems(draw: st.DrawFn, *, cell: st.SearchStrategy[float] = GRID) -> AssignmentProblem:
    n, m, r = draw(st.integers(0, 7)), draw(st.integers(0, 4)), draw(st.integers(0, 3))

    def matrix(of: st.SearchStrategy[float]) -> np.ndarray:
        return np.array([[draw(of) for _ in range(m)] for _ in range(n)], dtype=float).reshape(n, m)

    def row(k: int) -> Row:
        use = matrix(cell)
        limit = draw(st.floats(-0.5, 4.0) | st.sampled_from([0.0, math.inf]))
        about = draw(st.none() | st.lists(st.integers(0, max(0, n - 1)), unique=True, max_size=n))
        if about is None:
            return Row(f"row-{k}", use, limit)
        return Row(f"row-{k}", use[about], limit, requests=np.array(about, dtype=np.int64))

    return AssignmentProblem(
        weight=np.array([draw(st.sampled_from([1.0, 1.0, 4.0])) for _ in range(n)]),
        quality=matrix(cell),
        cost=matrix(cell),
        service_time=matrix(cell),
        eligible=matrix(st.booleans().map(float)) > 0,
        free=np.array([draw(st.integers(-1, n)) for _ in range(m)], dtype=np.int64),
        slot_price=np.array([draw(GRID) for _ in range(m)]),
        money_price=draw(GRID),
        defer=np.array([draw(st.floats(-0.5, 2.0)) for _ in range(n)]),
        rows=tuple(row(k) for k in range(r)),
    )


def best_of_all(problem: AssignmentProblem) -> float:
    """The optimum by trying everything."""
    n, m = problem.size
    return max(
        float(certificate.worth(problem, choice).sum())
        for choice in (np.array(c, dtype=np.int64) for c in itertools.product(range(-1, m), repeat=n))
        if certificate.fits(problem, choice)
    )


def assert_sound(problem: AssignmentProblem, answer: Assignment) -> None:
    """Checked from the declaration, not with the solver's own means."""
    used = [0] * problem.size[1]
    for i, j in enumerate(answer.choice.tolist()):
        assert -1 <= j < problem.size[1]
        if j >= 0:
            assert problem.eligible[i, j]
            assert math.isfinite(problem.quality[i, j])
            used[j] += 1
    assert all(count <= max(0, free) for count, free in zip(used, problem.free.tolist(), strict=True))
    for row in problem.rows:
        about = range(problem.size[0]) if row.requests is None else row.requests.tolist()
        columns = [(k, int(answer.choice[i])) for k, i in enumerate(about)]
        taken = [row.use[k, j] for k, j in columns if j >= 0]
        assert math.fsum(taken) <= max(0.0, row.limit)
        assert sum(taken) <= max(0.0, row.limit) * (1 + 1e-12)
    assert answer.bound >= answer.objective
    assert answer.gap >= 0.0
    assert (answer.slot_prices >= 0).all()
    assert (answer.prices.rows >= 0).all()


@given(problems(cell=STRANGE), st.integers(0, 12))
@settings(max_examples=250, deadline=None)
def test_g6_no_limit_is_broken_whatever_the_input_and_whenever_time_ends(
    problem: AssignmentProblem, steps: int
):
    clock = itertools.chain([0.1] * steps, itertools.repeat(0.0))
    assert_sound(problem, assign(problem, remaining=lambda: next(clock)))


@given(problems(), st.sampled_from([slots.FEW, -1]))
@settings(max_examples=80, deadline=None)
def test_g6_the_bound_is_valid_and_the_answer_near_it(problem: AssignmentProblem, few: int):
    """Also where no slots count as few, so that prices decide."""
    if (problem.size[1] + 1) ** problem.size[0] > 5000:
        return
    best = best_of_all(problem)
    with patch.object(slots, "FEW", few):
        for seconds in (0.0, 0.2):
            answer = assign(problem, remaining=lambda seconds=seconds: seconds)
            assert_sound(problem, answer)
            assert answer.objective <= best + 1e-9 <= answer.bound + 1e-6 * problem.scale() + 2e-9
        thorough = assign(problem, remaining=lambda: 5.0)
    assert_sound(problem, thorough)
    assert thorough.objective >= best - 3e-4 * problem.scale() - 1e-9


@given(problems(cell=STRANGE))
@settings(max_examples=80, deadline=None)
def test_few_slots_that_alone_bind_are_shared_out_as_well_as_can_be(problem: AssignmentProblem):
    free = replace(problem, rows=())
    if (free.size[1] + 1) ** free.size[0] > 5000:
        return
    answer = assign(free, remaining=lambda: 0.2)
    assert_sound(free, answer)
    assert answer.objective == pytest.approx(best_of_all(free), abs=1e-9)
    assert answer.bound == pytest.approx(answer.objective, abs=1e-9)
    assert certificate.bound(free, answer.prices) == pytest.approx(answer.objective, abs=1e-9)


@given(st.integers(0, 10_000), st.integers(30, 120), st.integers(1, 12), st.integers(1, slots.FEW))
@settings(max_examples=20, deadline=None)
def test_few_slots_for_many_requests_need_no_search(seed: int, n: int, m: int, count: int):
    rng = np.random.default_rng(seed)
    free = np.bincount(rng.integers(0, m, count), minlength=m)
    problem = replace(traffic(seed, n=n, m=m, load=1.0, money=1.0, tied=seed % 2 == 0), free=free, rows=())
    answer = assign(problem, remaining=lambda: 0.2)
    assert_sound(problem, answer)
    assert answer.gap <= 1e-9


@given(
    st.integers(0, 10_000),
    st.integers(1, 60),
    st.integers(1, 8),
    st.floats(0.3, 3.0),
    st.floats(0.05, 1.2),
    st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_g6_bounds_hold_against_the_full_program_on_traffic(
    seed: int, n: int, m: int, load: float, money: float, tied: bool
):
    problem = traffic(seed, n=n, m=m, load=load, money=money, tied=tied)
    answer = assign(problem, remaining=lambda: 0.2)
    assert_sound(problem, answer)
    oracle = program.solve(problem, time_limit=2.0)
    assert oracle is not None
    found = float(certificate.worth(problem, oracle.choice).sum())
    tolerance = 2e-6 * problem.scale()
    assert answer.objective <= oracle.bound + tolerance
    assert answer.bound >= found - tolerance


@given(problems(), st.lists(GRID, min_size=7, max_size=7))
@settings(max_examples=60, deadline=None)
def test_g6_any_prices_give_a_bound(problem: AssignmentProblem, drawn: list[float]):
    m, r = problem.size[1], len(problem.rows)
    prices = Prices(slots=np.array(drawn[:m]), rows=np.array(drawn[m : m + r]))
    answer = assign(problem, remaining=lambda: 0.2)
    assert certificate.bound(problem, prices) >= answer.objective - 1e-9
