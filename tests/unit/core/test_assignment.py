from __future__ import annotations

import itertools
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from modelfleet_core.assignment import certificate, program
from modelfleet_core.assignment.problem import AssignmentProblem, Row
from modelfleet_core.assignment.result import Prices, Termination
from modelfleet_core.assignment.solver import assign
from support.assignments import mixed, problem, traffic


def plenty() -> float:
    return 60.0


def counted(steps: int) -> Callable[[], float]:
    """A clock that is up after it was asked `steps` times."""
    left = itertools.chain(range(steps, 0, -1), itertools.repeat(0))
    return lambda: float(next(left))


def test_while_nothing_binds_everyone_gets_the_favourite_proven_optimal():
    answer = assign(problem([[0.2, 0.9], [0.8, 0.1]], free=[2, 2]), remaining=plenty)
    assert answer.choice.tolist() == [1, 0]
    assert answer.termination is Termination.OPTIMAL
    assert answer.objective == answer.bound == pytest.approx(1.7)
    assert answer.binding == ()


def test_a_scarce_slot_goes_to_who_gains_most_and_gets_a_price():
    answer = assign(
        problem([[0.8, 0.9], [0.1, 0.9]], free=[2, 1], columns=("small", "large")), remaining=plenty
    )
    assert answer.choice.tolist() == [0, 1]
    assert answer.binding == ("slots:large",)
    assert answer.termination is Termination.OPTIMAL
    assert answer.slot_prices[1] + 1e-6 >= 0.1


def test_published_prices_keep_a_slot_for_later_requests():
    greedy = problem([[0.5, 0.6]], free=[1, 1])
    priced = AssignmentProblem(
        weight=greedy.weight,
        quality=greedy.quality,
        cost=greedy.cost,
        service_time=np.array([[1.0, 2.0]]),
        eligible=greedy.eligible,
        free=greedy.free,
        slot_price=np.array([0.0, 0.1]),
        money_price=0.0,
        defer=greedy.defer,
        rows=(),
    )
    assert assign(greedy, remaining=plenty).choice.tolist() == [1]
    assert assign(priced, remaining=plenty).choice.tolist() == [0]


def test_a_request_that_is_worth_less_than_waiting_waits():
    costly = problem([[0.9]], free=[1], cost=[[1.0]], money_price=2.0, defer=0.5)
    assert assign(costly, remaining=plenty).choice.tolist() == [-1]


def test_a_row_binds_and_has_a_price():
    use = np.array([[0.0, 1.0], [0.0, 1.0], [0.0, 1.0]])
    it = problem([[0.1, 0.9], [0.5, 0.9], [0.8, 0.9]], free=[3, 3], rows=(Row("expected-cost", use, 1.0),))
    answer = assign(it, remaining=plenty)
    assert answer.choice.tolist() == [1, 0, 0]
    assert answer.binding == ("expected-cost",)
    assert answer.prices.rows[0] > 0
    assert answer.gap <= 1e-6


@pytest.mark.parametrize(("n", "m"), [(0, 0), (0, 3), (3, 0)])
def test_an_empty_batch_or_fleet_has_an_answer(n: int, m: int):
    answer = assign(problem([[0.5] * m] * n, free=[1] * m), remaining=plenty)
    assert answer.choice.tolist() == [-1] * n
    assert answer.termination is Termination.OPTIMAL


def test_nothing_eligible_or_free_means_everything_waits():
    none = problem([[0.9, 0.8]], free=[1, 1], eligible=[[False, False]])
    full = problem([[0.9, 0.8]], free=[0, -3])
    for it in (none, full):
        answer = assign(it, remaining=plenty)
        assert answer.choice.tolist() == [-1]
        assert answer.gap == 0.0


def test_one_bad_request_harms_only_itself():
    it = problem([[float("nan"), float("inf")], [0.2, 0.9]], free=[2, 2])
    assert assign(it, remaining=plenty).choice.tolist() == [-1, 1]


def test_a_request_that_costs_far_too_much_takes_no_scarce_slot_from_others():
    cost = [[0.0], [0.0], [9e11]]
    costly = problem([[0.7], [0.8], [0.9]], free=[1], cost=cost, money_price=1.0, defer=0.05)
    answer = assign(costly, remaining=plenty)
    assert answer.choice.tolist() == [-1, 0, -1]
    assert answer.gap == pytest.approx(0.0, abs=1e-9)


def test_an_overspent_row_admits_only_what_uses_nothing():
    use = np.array([[0.0, 1.0], [0.0, 1.0]])
    it = problem([[0.1, 0.9]] * 2, free=[2, 2], rows=(Row("reserve", use, -5.0),))
    answer = assign(it, remaining=plenty)
    assert answer.choice.tolist() == [0, 0]
    assert certificate.fits(it, answer.choice)


def test_a_row_in_a_tiny_unit_has_a_finite_price():
    use = np.full((3, 1), 1e-300)
    row = Row("tiny", use, 1e-300)
    answer = assign(problem([[0.9], [0.8], [0.7]], free=[3], defer=1e10, rows=(row,)), remaining=lambda: 1.0)
    assert np.isfinite(answer.prices.rows).all()
    assert answer.bound >= answer.objective
    assert (answer.choice == 0).sum() == 1


def test_a_limit_that_is_not_a_number_is_refused():
    with pytest.raises(ValueError, match="not a number"):
        problem([[0.5]], free=[1], rows=(Row("money", np.ones((1, 1)), float("nan")),))


def test_shapes_that_disagree_are_refused_by_name():
    with pytest.raises(ValueError, match=r"row money has shape \(2, 1\)"):
        problem([[0.5]], free=[1], rows=(Row("money", np.ones((2, 1)), 1.0),))
    with pytest.raises(ValueError, match="2 names for 1 columns"):
        problem([[0.5]], free=[1], columns=("a", "b"))
    with pytest.raises(ValueError, match="defer"):
        problem([[0.5]], free=[1], defer=float("inf"))


def test_without_time_the_answer_is_a_fallback_within_every_limit():
    it = traffic(1, load=1.5, money=0.3)
    late = assign(it, remaining=lambda: 0.0)
    assert late.termination is Termination.FALLBACK
    assert certificate.fits(it, late.choice)
    assert late.objective <= assign(it, remaining=plenty).objective <= late.bound


@pytest.mark.parametrize("kind", range(6))
def test_a_little_time_gives_no_worse_an_answer_than_none(kind: int):
    _, batch = mixed(300 + kind, 1_000, 8)
    none = assign(batch, remaining=lambda: 0.0)
    for calls in (2, 3, 5, 8, 13, 21):
        ticks = itertools.count()
        little = assign(batch, remaining=lambda ticks=ticks, calls=calls: float(next(ticks) < calls))
        assert little.objective >= none.objective - 1e-3 * batch.scale()


def test_the_last_prices_make_a_late_answer_good():
    it = traffic(2, load=1.5, money=0.4)
    best = assign(it, remaining=plenty)
    late = assign(it, remaining=lambda: 0.0, warm=best.prices)
    assert late.gap < 0.01
    assert late.gap < assign(it, remaining=lambda: 0.0).gap


def test_prices_of_another_shape_are_ignored():
    it = traffic(3, n=40, m=4)
    strange = Prices(slots=np.ones(7), rows=np.ones(1))
    assert assign(it, remaining=plenty, warm=strange).objective == pytest.approx(
        assign(it, remaining=plenty).objective
    )


@pytest.mark.parametrize("steps", [1, 2, 3, 5, 8, 13, 21, 34])
def test_whenever_time_runs_out_the_answer_is_certified(steps: int):
    it = traffic(4, load=1.4, money=0.3, tied=steps % 2 == 0)
    answer = assign(it, remaining=counted(steps))
    assert certificate.fits(it, answer.choice)
    assert answer.bound >= assign(it, remaining=lambda: 0.2).objective - 1e-9


@pytest.mark.parametrize("tied", [False, True])
def test_a_batch_as_large_as_the_interface_allows_is_assigned_well(tied: bool):
    it = traffic(5, n=10_000, m=16, load=1.2, tied=tied)
    answer = assign(it, remaining=plenty)
    assert certificate.fits(it, answer.choice)
    assert answer.gap < 1e-4


def test_a_gap_that_is_not_small_is_closed_by_the_program_where_time_allows():
    it = next(
        candidate
        for candidate in (traffic(seed, n=24, m=4, money=0.4) for seed in itertools.count())
        if assign(candidate, remaining=lambda: 0.2).gap > 1e-3
    )
    quick, thorough = assign(it, remaining=lambda: 0.2), assign(it, remaining=plenty)
    assert thorough.gap < quick.gap
    assert thorough.objective >= quick.objective
    oracle = program.solve(it, time_limit=20.0)
    assert oracle is not None
    assert thorough.objective == pytest.approx(oracle.bound, abs=1e-4 * it.scale())


def test_the_program_needs_no_solver_that_the_sidecar_must_not_load():
    code = (
        "import sys, modelfleet_core.assignment.solver as s; "
        "assert not any(name.startswith('ortools') for name in sys.modules); "
        "import modelfleet_core.assignment.program; "
        "assert 'ortools.sat.python.cp_model' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("allowed", [0, 1, 4, 10, 25])
def test_work_stops_soon_after_the_deadline(allowed: int):
    asked = 0

    def remaining() -> float:
        nonlocal asked
        asked += 1
        return 0.1 if asked <= allowed else 0.0

    assign(traffic(6, load=1.5, money=0.3, tied=True), remaining=remaining)
    # Each stage looks at the clock once more before it gives up; none goes on.
    assert asked <= allowed + 8


def test_gaps_stay_small_over_many_kinds_of_traffic():
    kinds = [{"load": 1.3, "money": 0.4}, {"load": 0.6, "money": 0.25}, {"load": 4.0, "tied": True}]
    gaps = [
        assign(traffic(seed, **kind), remaining=lambda: 0.2).gap for kind in kinds for seed in (8, 28, 30, 48)
    ]
    assert max(gaps) < 2e-3
    assert float(np.median(gaps)) < 2e-4


def test_rows_about_some_requests_mean_what_full_rows_with_zeros_mean():
    for seed in range(6):
        _, sparse = mixed(seed, n=60, m=5, tenants=7)
        rows = []
        for row in sparse.rows:
            use = np.zeros(sparse.size)
            use[slice(None) if row.requests is None else row.requests] = row.use
            rows.append(Row(row.name, use, row.limit))
        dense = replace(sparse, rows=tuple(rows))
        some, all_ = assign(sparse, remaining=lambda: 0.1), assign(dense, remaining=lambda: 0.1)
        assert certificate.fits(dense, some.choice)
        assert certificate.fits(sparse, all_.choice)
        scale = sparse.scale()
        assert some.bound == pytest.approx(all_.bound, abs=1e-5 * scale)
        assert certificate.bound(dense, some.prices) == pytest.approx(certificate.bound(sparse, some.prices))


def test_rows_about_different_requests_share_a_matrix():
    it = mixed(0, tenants=50)[1]
    assert len(it.families) == len([row for row in it.rows if row.requests is None]) + 1


@pytest.mark.parametrize("who", [[0, 0], [2], [-1], [0.5]])
def test_a_row_about_requests_that_are_not_there_is_refused(who: list[float]):
    with pytest.raises(ValueError, match="row tenant"):
        problem([[0.5], [0.5]], free=[1], rows=(Row("tenant", np.ones((len(who), 1)), 1.0, np.array(who)),))


def test_a_limit_that_whole_numbers_reach_exactly_is_used_up():
    use = np.full((30, 1), 0.1)
    it = problem([[0.9]] * 30, free=[30], rows=(Row("tokens", use, 0.7),))
    answer = assign(it, remaining=plenty)
    assert certificate.fits(it, answer.choice)
    assert (answer.choice == 0).sum() in (6, 7)  # seven times 0.1 may be more than 0.7, by rounding


def test_seconds_are_those_of_the_clock_that_was_given():
    ticks = itertools.count()
    answer = assign(traffic(1, load=1.5), remaining=lambda: 10.0 - next(ticks))
    assert answer.seconds == next(ticks) - 1


def test_the_program_gets_no_more_time_than_is_left(monkeypatch: pytest.MonkeyPatch):
    given: list[float] = []
    left = [1.0]

    def slow(*_args: object, time_limit: float, **_kwargs: object) -> None:
        given.append(time_limit)
        left[0] -= time_limit

    monkeypatch.setattr(program, "solve", slow)
    for seed in range(20):
        left[0] = 1.0
        assign(traffic(seed, n=24, m=4, money=0.4), remaining=lambda: left[0])
        assert left[0] > 0.0
    assert given


def test_without_time_or_prices_the_greedy_choice_is_good():
    lost = []
    for seed in range(12):
        _, it = mixed(seed)
        late = assign(it, remaining=lambda: 0.0)
        assert certificate.fits(it, late.choice)
        lost.append((assign(it, remaining=lambda: 0.1).objective - late.objective) / it.scale())
    assert float(np.median(lost)) < 0.03
    assert max(lost) < 0.15


def test_certified_gaps_are_small_over_mixed_batches():
    gaps = [assign(mixed(seed)[1], remaining=lambda: 0.1).gap for seed in range(24)]
    assert max(gaps) < 1e-3
    assert float(np.median(gaps)) < 2e-4


def test_the_program_knows_rows_about_some_requests():
    for seed in range(4):
        _, it = mixed(seed, n=20, m=4, tenants=3)
        found = program.solve(it, time_limit=5.0)
        assert found is not None
        assert found.optimal
        answer = assign(it, remaining=lambda: 0.1)
        best = float(certificate.worth(it, found.choice).sum())
        tolerance = 2e-6 * it.scale()
        assert answer.objective <= best + tolerance <= answer.bound + 2 * tolerance


def test_the_program_does_not_start_once_building_it_took_the_time():
    _, it = mixed(0, n=20, m=4)
    assert program.solve(it, time_limit=5.0, remaining=lambda: 0.0) is None
