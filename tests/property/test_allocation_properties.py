"""G5: GPUs in use, pending and terminating <= pool limit and nodes' stock; never over the hourly budget."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelfleet_core.allocation import greedy
from modelfleet_core.allocation.limits import limits, maximums, minimums
from modelfleet_core.allocation.problem import AllocationProblem
from modelfleet_core.allocation.program import Program
from modelfleet_core.allocation.relaxation import relax
from modelfleet_core.allocation.result import Plan, Termination
from modelfleet_core.allocation.solver import allocate
from modelfleet_core.allocation.stabilise import Stabiliser
from modelfleet_core.allocation.worth import Worth, worth
from modelfleet_core.catalog import ExternalPlacement
from modelfleet_core.values import PoolName, VariantKey
from support.allocations import served, value_of
from support.fleets import demand, external, fleet, key, model, on_pool, pool

pytestmark = pytest.mark.property

POOLS = ("h100", "l40s")
RATES = st.just(0.0) | st.floats(1e-4, 50.0)
"""Requests per second; the operator takes fewer than 1e-4 for none."""


@st.composite
def problems(draw: st.DrawFn, *, most: int = 6) -> AllocationProblem:
    """Up to three models on two pools and one elsewhere, in any state of change."""
    names = ("a", "b", "c")[: draw(st.integers(1, 3))]
    models, current, occupied = [], {}, {}
    for name in names:
        low = draw(st.integers(0, 2))
        models.append(
            model(
                on_pool(
                    name,
                    pool=draw(st.sampled_from(POOLS)),
                    gpus=draw(st.sampled_from([1, 2, 3, 4])),
                    concurrency=draw(st.integers(1, 20)),
                    replicas=(low, low + draw(st.integers(0, most))),
                )
            )
        )
        current[key(name)] = draw(st.integers(0, 5))
        occupied[key(name)] = current[key(name)] + draw(st.integers(-1, 3))
    if draw(st.booleans()):
        models.append(model(external("api", concurrency=draw(st.integers(1, 50)))))
    quality, price = st.floats(0.0, 1.0), st.floats(0.0, 0.01)
    classes = []
    for _ in range(draw(st.integers(0, 3))):
        offers = {
            m.name: (draw(quality), draw(price), draw(st.floats(0.05, 5.0)))
            for m in models
            if draw(st.booleans())
        }
        classes.append(demand(draw(RATES), offers, weight=draw(st.sampled_from([1.0, 4.0]))))
    return AllocationProblem(
        fleet=fleet(
            *models,
            pools=tuple(
                pool(name, limit=draw(st.integers(0, 16)), hourly_cost=draw(st.sampled_from([0.0, 1.1, 2.9])))
                for name in POOLS
            ),
            hourly_budget=draw(st.none() | st.floats(0.0, 60.0)),
        ),
        classes=tuple(classes),
        current=current,
        occupied=occupied,
        stock={PoolName(name): draw(st.integers(0, 16)) for name in POOLS},
    )


def assert_within(problem: AllocationProblem, plan: Plan) -> None:
    asked = {k: v.replicas for k, v in plan.variants.items()}
    within = limits(problem)
    gpus = dict.fromkeys(POOLS, 0)
    cost = 0.0
    prices = {p.name: p.hourly_cost for p in problem.fleet.pools}
    for k, replicas in asked.items():
        v = within.variants[k]
        gpus[v.placement.pool] += replicas * v.placement.gpus
        cost += replicas * v.placement.gpus * prices[v.placement.pool]
        assert 0 <= replicas <= max(v.placement.replicas.max, problem.current.get(k, 0))
    for p in problem.fleet.pools:
        assert gpus[p.name] <= min(p.limit, problem.stock[p.name])
        assert plan.gpus[p.name] == gpus[p.name]
    if problem.fleet.hourly_budget is not None:
        elsewhere = external_spend(problem, plan)
        assert cost + elsewhere <= plan.hourly_cost + 1e-6
        assert plan.hourly_cost <= problem.fleet.hourly_budget * (1 + 1e-9)


def external_spend(problem: AllocationProblem, plan: Plan) -> float:
    """Return the USD per hour that the plan's flows spend elsewhere; no model here is in both places."""
    elsewhere = {v.key.model for v in problem.fleet.variants() if isinstance(v.placement, ExternalPlacement)}
    return 3600.0 * sum(
        rate * problem.classes[k].offers[name].cost_usd
        for (k, name), rate in plan.flows.items()
        if name in elsewhere
    )


@given(problems(), st.sampled_from([0.0, 2.0]))
@settings(max_examples=120, deadline=None)
def test_g5_a_plan_never_exceeds_pool_stock_or_budget(problem: AllocationProblem, time_limit: float):
    plan = allocate(problem, time_limit=time_limit)
    assert_within(problem, plan)
    assert plan.bound >= plan.objective - 1e-9
    if plan.termination is not Termination.INFEASIBLE:
        least = {k: v.placement.replicas.min for k, v in limits(problem).variants.items()}
        assert all(v.replicas >= least[k] for k, v in plan.variants.items())


@given(problems(), st.lists(st.integers(0, 400), min_size=1, max_size=4), st.sampled_from([0.0, 60.0]))
@settings(max_examples=40, deadline=None)
def test_g5_a_stabilised_plan_never_exceeds_them_either(
    problem: AllocationProblem, gaps: list[int], up_window: float
):
    stabiliser = Stabiliser(window=300.0, up_window=up_window)
    now = 0.0
    for gap in gaps:
        now += gap
        stabiliser, plan = stabiliser.settle(allocate(problem, time_limit=2.0), problem, now)
        assert_within(problem, plan)


@st.composite
def moods(draw: st.DrawFn) -> list[tuple[float, dict[str, float]]]:
    """Seconds between plans, and requests per second for each model from then on."""
    rates = st.sampled_from([0.0, 0.0, 3.0, 8.0, 30.0])
    mood = st.tuples(st.sampled_from([5.0, 15.0, 40.0]), st.fixed_dictionaries(dict.fromkeys("abc", rates)))
    return draw(st.lists(mood, min_size=3, max_size=25))


@given(moods(), st.integers(2, 6), st.sampled_from([0.0, 60.0]))
@settings(max_examples=30, deadline=None)
def test_no_variant_turns_down_twice_within_a_window(
    moods: list[tuple[float, dict[str, float]]], gpus: int, window: float
) -> None:
    """However demand alternates; without a window the replicas follow it at once."""
    it = fleet(*(model(on_pool(n, gpus=1 + (n == "c"))) for n in "abc"), pools=(pool(limit=gpus),))
    stabiliser, now = Stabiliser(window), 0.0
    current = {key(n): 0 for n in "abc"}
    grew: dict[VariantKey, bool] = dict.fromkeys(current, False)
    turned: dict[VariantKey, float] = {}
    for gap, rates in moods:
        now += gap
        problem = AllocationProblem(
            fleet=it,
            classes=tuple(demand(rate, {n: (0.8, 0.0, 1.0)}) for n, rate in rates.items() if rate),
            current=current,
            occupied=current,
            stock={PoolName("h100"): 100},
        )
        stabiliser, plan = stabiliser.settle(allocate(problem, time_limit=2.0), problem, now)
        assert plan.gpus[PoolName("h100")] <= gpus
        for k, variant in plan.variants.items():
            if variant.replicas < current[k]:
                if grew[k]:
                    assert now - turned.get(k, -float("inf")) >= window
                    turned[k] = now
                grew[k] = False
            grew[k] |= variant.replicas > current[k]
        current = {k: variant.replicas for k, variant in plan.variants.items()}


def coefficients(problem: AllocationProblem) -> Worth:
    """Return what the solver counts replicas with: utilisation and starts as the relaxation settles them."""
    within = limits(problem)
    first = worth(problem, within)
    return relax(
        problem,
        within,
        first,
        Program(problem, within, first, integer=False),
        lower=minimums(within),
        upper=maximums(within),
        time_limit=5.0,
    ).worth


def relaxed_bound(problem: AllocationProblem, counted: Worth) -> float:
    """Return what the linear relaxation says that no plan is worth more than, at these coefficients."""
    within = limits(problem)
    program = Program(problem, within, counted, integer=False)
    program.bound(minimums(within), maximums(within))
    answer = program.solve(time_limit=5.0)
    assert answer is not None
    return answer.bound


def all_plans(problem: AllocationProblem) -> Iterator[dict[VariantKey, int]]:
    """Return every plan from the declared minimum to the maximum that fits GPUs and money."""
    within = limits(problem)
    lower, upper = minimums(within), maximums(within)
    ranges = [range(lower[k], max(lower[k], upper[k]) + 1) for k in within.variants]
    for counts in itertools.product(*ranges):
        replicas = dict(zip(within.variants, counts, strict=True))
        if within.fits(replicas):
            yield replicas


@given(problems(most=2))
@settings(max_examples=150, deadline=None)
def test_no_plan_is_worth_more_than_the_bound_and_the_plan_is_as_good_as_the_best(
    problem: AllocationProblem,
):
    """Against all plans, each valued by a linear program written apart from the solver's."""
    plan = allocate(problem, time_limit=5.0)
    within, counted = limits(problem), coefficients(problem)
    tolerance = 1e-6 * counted.stake

    def own(replicas: dict[VariantKey, int]) -> float:
        """What the plan is worth at the utilisation of its own groups."""
        return value_of(problem, counted.carrying(problem, within, replicas), replicas)

    plans = tuple(all_plans(problem))
    assert plan.bound >= max(own(replicas) for replicas in plans) - tolerance
    chosen = {k: v.replicas for k, v in plan.variants.items()}
    assert plan.objective == pytest.approx(own(chosen), abs=1e-4 * counted.stake)
    # The search counts each model's slots at one utilisation. Starts that gain less than half a percent of
    # what the fleet can bring are left out on purpose.
    best = max(value_of(problem, counted, replicas) for replicas in plans)
    found = value_of(problem, counted, chosen)
    assert found >= best - 0.005 * (plan.bound - counted.nothing) - 0.004 * abs(best) - tolerance
    assert best - found <= plan.search_gap * abs(best) / (1 - min(0.99, plan.search_gap)) + tolerance


@given(problems())
@settings(max_examples=60, deadline=None)
def test_the_fallback_keeps_all_limits_and_knows_what_its_plan_is_worth(problem: AllocationProblem):
    within, counted = limits(problem), coefficients(problem)
    lower = minimums(within)
    replicas, value = greedy.allocate(problem, within, counted, lower=lower, upper=maximums(within))
    assert within.fits(replicas)
    assert all(replicas[k] >= lower[k] for k in replicas)
    assert value <= value_of(problem, counted, replicas) + 1e-6 * counted.stake


@given(problems())
@settings(max_examples=60, deadline=None)
def test_starts_are_worth_their_moves(problem: AllocationProblem):
    """A plan that starts replicas gains more than the least, or answers more than what runs already."""
    plan = allocate(problem, time_limit=5.0)
    within, counted = limits(problem), coefficients(problem)
    now = {k: min(v.now, maximums(within)[k]) for k, v in within.variants.items()}
    lower = minimums(within)
    still = {k: max(lower[k], count) for k, count in now.items()}
    if all(v.replicas <= still[k] for k, v in plan.variants.items()) or not within.fits(still):
        return
    chosen = {k: v.replicas for k, v in plan.variants.items()}
    gained = value_of(problem, counted, chosen) - value_of(problem, counted, still)
    least = 0.005 * (relaxed_bound(problem, counted) - counted.nothing)
    answered = served(problem, counted, chosen)
    assert gained >= least - 1e-6 * counted.stake or answered > served(problem, counted, still)
