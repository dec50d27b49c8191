from __future__ import annotations

import numpy as np
import pytest
from modelfleet_core.assignment import single
from modelfleet_core.assignment.explain import Batch, Left, Verdict, explain_one
from modelfleet_core.assignment.problem import Row
from modelfleet_core.assignment.solver import assign
from support.assignments import mixed, problem


def test_each_rival_is_named_with_what_stopped_it():
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
    first = Batch(it, answer).explain(0)
    assert first.choice == 0
    assert first.verdict == (
        Verdict.CHOSEN,
        Verdict.LIMIT,
        Verdict.LIMIT,
        Verdict.WORTH_LESS,
        Verdict.NOT_ELIGIBLE,
    )
    assert first.stopped_by == ("", "slots:large", "money", "", "")
    assert first.batch_slot_paid.tolist() == answer.slot_prices.tolist()


def test_a_request_that_waits_learns_which_limit_kept_it():
    it = problem([[0.9], [0.8]], free=[1], columns=("only",))
    waits = Batch(it, assign(it, remaining=lambda: 1.0)).explain(1)
    assert waits.choice == -1
    assert waits.verdict == (Verdict.LIMIT,)
    assert waits.stopped_by == ("slots:only",)
    assert waits.waiting == -0.5


def test_a_column_without_any_slot_counts_as_full_and_not_as_excluded():
    it = problem([[0.9, 0.3]], free=[0, 1], columns=("gone", "there"))
    told = Batch(it, assign(it, remaining=lambda: 1.0)).explain(0)
    assert told.verdict == (Verdict.LIMIT, Verdict.CHOSEN)
    assert told.stopped_by == ("slots:gone", "")


@pytest.mark.parametrize("seed", range(6))
def test_what_is_paid_adds_up_and_the_winner_is_near_the_best_net_value(seed: int):
    _, it = mixed(seed, n=48, m=5, tenants=4)
    answer = assign(it, remaining=lambda: 0.1)
    batch = Batch(it, answer)
    shortfall = 0.0
    for i in range(48):
        told = batch.explain(i)
        paid = told.slot_paid + told.money_paid + told.batch_slot_paid + told.row_paid.sum(axis=0)
        assert told.net == pytest.approx(it.weight[i] * told.quality - paid)
        assert told.rows[-1].startswith("account:")
        assert len(told.rows) == len(it.rows) - 3
        able = [net for net, e, v in zip(told.net, it.eligible[i], it.value[i], strict=True) if e and v > -9]
        own = told.net[told.choice] if told.choice >= 0 else told.waiting
        shortfall += max([*able, told.waiting]) - own
    assert shortfall <= answer.bound - answer.objective + 1e-9


def test_a_request_alone_is_explained_by_what_the_lease_had_left():
    figures = {
        "quality": [0.9, 0.8, 0.5, 0.7],
        "cost": [0.5, 0.1, 0.0, 0.2],
        "service_time": [1.0, 1.0, 1.0, 1.0],
        "slot_price": [0.0, 0.0, 0.0, 0.0],
    }
    arrays = {name: np.array(values) for name, values in figures.items()}
    money = Left("money", arrays["cost"], left=0.3)
    choice = single.best(
        weight=1.0, money_price=0.1, allowed=[False, False, True, True], defer=0.0, **figures
    )
    told = explain_one(
        choice=choice,
        weight=1.0,
        money_price=0.1,
        eligible=np.array([True, True, True, True]),
        free=np.array([1, 0, 1, 1]),
        defer=0.0,
        rows=[money],
        columns=["a", "b", "c", "d"],
        **arrays,
    )
    assert told.verdict == (Verdict.LIMIT, Verdict.LIMIT, Verdict.WORTH_LESS, Verdict.CHOSEN)
    assert told.stopped_by == ("money", "slots:b", "", "")
    assert told.money_paid == pytest.approx([0.05, 0.01, 0.0, 0.02])


def test_the_best_column_alone_is_the_first_of_the_ranked_ones():
    random = np.random.default_rng(7)
    for _ in range(300):
        q, c, t, p = random.integers(0, 4, (4, 5)) / 4
        allowed = (random.random(5) < 0.7).tolist()
        defer = float(random.uniform(-0.5, 0.5))
        values = [
            single.value(weight=2.0, quality=a, cost=b, service_time=s, slot_price=price, money_price=0.5)
            for a, b, s, price in zip(q, c, t, p, strict=True)
        ]
        best = single.best(
            weight=2.0,
            quality=q.tolist(),
            cost=c.tolist(),
            service_time=t.tolist(),
            slot_price=p.tolist(),
            money_price=0.5,
            allowed=allowed,
            defer=defer,
        )
        assert best == next(iter(single.rank(values, allowed, defer=defer)), -1)
