from __future__ import annotations

import numpy as np
import pytest
from modelfleet_core.assignment.explain import reasons
from modelfleet_core.assignment.problem import Row
from modelfleet_core.assignment.solver import assign
from support.assignments import mixed, problem


def test_each_rival_that_was_worth_more_is_named_with_what_stopped_it():
    use = np.array([[0.0, 0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0, 0.0]])
    it = problem(
        [[0.5, 0.9, 0.8, 0.2, 0.95], [0.1, 0.9, 0.1, 0.0, 0.0]],
        free=[2, 1, 2, 2, 2],
        eligible=[[True, True, True, True, False], [True] * 5],
        rows=(Row("money", use, 0.5),),
        columns=("small", "large", "dear", "weak", "banned"),
    )
    answer = assign(it, remaining=lambda: 1.0)
    assert answer.choice.tolist() == [0, 1]
    told = reasons(it, answer)
    assert told.stopped_by(0) == ("", "slots:large", "money", "", "")
    assert told.stopped_by(1) == ("",) * 5
    assert told.paid[0] == pytest.approx(answer.slot_prices + answer.prices.rows[0] * use[0])


def test_a_request_that_waits_learns_which_limit_kept_it():
    it = problem([[0.9], [0.8]], free=[1], columns=("only",))
    answer = assign(it, remaining=lambda: 1.0)
    assert answer.choice.tolist() == [0, -1]
    assert reasons(it, answer).stopped_by(1) == ("slots:only",)


def test_a_column_without_any_slot_counts_as_full_and_not_as_excluded():
    it = problem([[0.9, 0.3]], free=[0, 1], columns=("gone", "there"))
    assert reasons(it, assign(it, remaining=lambda: 1.0)).stopped_by(0) == ("slots:gone", "")


@pytest.mark.parametrize("seed", range(6))
def test_what_is_paid_adds_up_and_the_winner_is_near_the_best_net_value(seed: int):
    _, it = mixed(seed, n=48, m=5, tenants=4)
    answer = assign(it, remaining=lambda: 0.1)
    told = reasons(it, answer)
    shortfall = 0.0
    for i in range(48):
        paid = answer.slot_prices.copy()
        for row, price in zip(it.rows, answer.prices.rows, strict=True):
            about = np.arange(48) if row.requests is None else row.requests
            paid += price * row.use[about == i].sum(axis=0)
        assert told.paid[i] == pytest.approx(paid)
        net = np.where(np.isfinite(it.value[i]), it.value[i] - paid, -np.inf)
        own = net[answer.choice[i]] if answer.choice[i] >= 0 else -it.defer[i]
        shortfall += max([*net, -it.defer[i]]) - own
    assert shortfall <= answer.bound - answer.objective + 1e-9


@pytest.mark.parametrize("seed", range(6))
def test_a_limit_is_named_only_where_it_keeps_a_request_from_what_is_worth_more(seed: int):
    _, it = mixed(seed, n=48, m=5, tenants=4)
    answer = assign(it, remaining=lambda: 0.1)
    told = reasons(it, answer)
    worth = it.weight[:, None] * it.quality - it.slot_price * it.service_time - it.money_price * it.cost
    spare = it.free - np.bincount(answer.choice[answer.choice >= 0], minlength=5)
    for i in range(48):
        own = it.value[i, answer.choice[i]] if answer.choice[i] >= 0 else -it.defer[i]
        for j, limit in enumerate(told.stopped_by(i)):
            if limit:
                assert it.eligible[i, j]
                assert worth[i, j] > own
                assert (limit == f"slots:{j}") == (spare[j] <= 0)
