"""Prices and flows against the linear program in OR-tools, and their continuity."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelfleet_core.division import dual, program
from modelfleet_core.division.solver import within_limits
from support.divisions import arrays

pytestmark = pytest.mark.property

sizes = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32 - 1),
        "classes": st.integers(1, 16),
        "models": st.integers(1, 12),
        "policies": st.integers(0, 3),
    }
)


@settings(max_examples=300, deadline=None)
@given(sizes)
def test_no_flow_breaks_a_limit_and_the_bound_is_above_the_optimum(size: dict[str, int]) -> None:
    problem = arrays(**size)
    found = dual.prices(problem)
    assert found.converged
    flows = within_limits(problem, problem.rate[:, None] * found.shares)
    assert (flows >= 0).all()
    assert (flows.sum(axis=1) <= problem.rate * (1 + 1e-9)).all()
    assert not flows[~problem.offered].any()
    assert ((flows * problem.seconds).sum(axis=0) <= problem.busy * (1 + 1e-9) + 1e-12).all()
    for p, money in enumerate(problem.money):
        mine = problem.budget == p
        assert (flows[mine] * problem.cost[mine]).sum() <= money * (1 + 1e-9) + 1e-12
    optimum = program.solve(problem, time_limit=10.0)
    assert optimum is not None
    slack = 1e-6 * (1 + abs(optimum.objective))
    shed = problem.rate - flows.sum(axis=1)
    assert (flows * problem.value).sum() - shed @ problem.penalty <= optimum.objective + slack
    assert dual.bound(problem, found) >= optimum.objective - slack


@settings(max_examples=300, deadline=None)
@given(sizes)
def test_smooth_prices_miss_the_least_bound_by_no_more_than_stated(size: dict[str, int]) -> None:
    problem = arrays(**size)
    smooth = dual.SmoothDual(problem)
    found, optimum = dual.prices(problem), program.solve(problem, time_limit=10.0)
    assert optimum is not None
    stated = smooth.tolerance(
        smooth.relative(found.slots, found.money), smooth.relative(optimum.slot_prices, optimum.money_prices)
    )
    missed = dual.bound(problem, found) - optimum.objective
    assert missed <= stated + 1e-6 * (1 + abs(optimum.objective))


@settings(max_examples=100, deadline=None)
@given(sizes, st.integers(0, 2**32 - 1))
def test_a_little_more_demand_moves_prices_a_little(size: dict[str, int], other: int) -> None:
    problem = arrays(**size)
    change = 1e-3 * np.random.default_rng(other).uniform(-1, 1, len(problem.rate))
    more = replace(problem, rate=problem.rate * (1 + change))
    before, after = dual.prices(problem), dual.prices(more)
    smooth = dual.SmoothDual(problem)
    live = problem.busy > 0
    paid = problem.money > 0
    moved = np.abs(smooth.relative(before.slots, before.money) - smooth.relative(after.slots, after.money))
    # By the strong convexity of F: the change of load, up to 1e-3 of all that may be asked, over the curve.
    asked = problem.rate @ np.where(smooth.open, problem.seconds, 0.0).max(axis=1, initial=0.0)
    spent = problem.rate @ np.where(smooth.open, problem.cost, 0.0).max(axis=1, initial=0.0)
    shift = 1e-3 * (asked * smooth.ref[: len(live)].sum() + spent * smooth.ref[len(live) :].sum())
    least = (2 * dual.RAMP * smooth.limit)[np.concatenate([live, paid]) & (smooth.limit > 0)]
    most = 2 * shift / least.min() + 0.02 if len(least) else 0.0
    assert (moved[np.concatenate([live, paid])] <= most).all()
