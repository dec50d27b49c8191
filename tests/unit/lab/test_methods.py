"""The methods of the field: each by a case worked out by hand, and all within the limits."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelfleet_lab.methods import BatchView, Method
from modelfleet_lab.methods.batch_split import BatchSplit
from modelfleet_lab.methods.per_query import Constant, Greedy, Priced, RoundRobin
from modelfleet_lab.methods.port import Port
from modelfleet_lab.methods.published import PublishedBatch
from support.methods import random_view, view


def test_greedy_takes_the_best_that_has_a_slot_and_waits_when_none_has() -> None:
    asked = view([[0.5, 0.9], [0.5, 0.8], [0.5, 0.7]], free=[1, 1])
    assert Greedy().choose(asked).tolist() == [1, 0, -1]


def test_greedy_keeps_the_price_of_the_cheapest_model_for_those_behind() -> None:
    asked = view([[0.5, 0.9], [0.5, 0.8]], free=[2, 2], cost=[[1.0, 5.0], [1.0, 5.0]], money=6.0)
    assert Greedy().choose(asked).tolist() == [1, 0]
    poor = view([[0.5, 0.9], [0.5, 0.8]], free=[2, 2], cost=[[1.0, 5.0], [1.0, 5.0]], money=1.5)
    assert Greedy().choose(poor).tolist() == [0, -1]


def test_greedy_prefers_the_cheaper_of_two_equally_good_models() -> None:
    assert Greedy().choose(view([[0.8, 0.8]], free=[1, 1], cost=[[2.0, 1.0]])).tolist() == [1]


def test_a_price_turns_to_the_cheaper_model_once_the_gain_is_not_worth_it() -> None:
    asked = view([[0.5, 0.9], [0.5, 0.6]], free=[2, 2], cost=[[0.0, 1.0], [0.0, 1.0]])
    assert Priced(0.0).choose(asked).tolist() == [1, 1]
    assert Priced(0.2).choose(asked).tolist() == [1, 0]
    assert Priced(0.5).choose(asked).tolist() == [0, 0]


def test_the_weight_of_a_request_counts_against_the_price() -> None:
    asked = view([[0.5, 0.9], [0.5, 0.9]], free=[2, 2], cost=[[0.0, 1.0]] * 2, weight=[1.0, 4.0])
    assert Priced(1.0).choose(asked).tolist() == [0, 1]


def test_prices_of_slots_count_by_the_seconds_that_a_request_holds_one() -> None:
    asked = view([[0.5, 0.9], [0.5, 0.9]], free=[2, 2], seconds=[[1.0, 1.0], [1.0, 5.0]])
    assert Priced(0.0, slot_price=np.array([0.0, 0.1])).choose(asked).tolist() == [1, 0]


def test_a_price_that_rises_with_load_keeps_slots_of_a_busy_model_for_larger_gains() -> None:
    asked = view([[0.5, 0.6], [0.5, 0.6], [0.5, 0.9]], free=[3, 2], slots=[6, 2])
    assert Priced(0.0).choose(asked).tolist() == [1, 1, 0]
    # Half of each model is busy for the second request: both cost .8 / 4, so its gain of .1 decides.
    assert Priced(0.0, rise=0.8).choose(asked).tolist() == [1, 1, 0]
    # Only the better one is half busy: .2 is more than the gain.
    idle = view([[0.5, 0.6], [0.5, 0.6], [0.5, 0.9]], free=[6, 2], slots=[6, 2])
    assert Priced(0.0, rise=0.8).choose(idle).tolist() == [1, 0, 1]


def test_round_robin_goes_on_where_the_last_batch_ended_and_passes_by_full_models() -> None:
    method = RoundRobin()
    assert method.choose(view([[0.5] * 3] * 2, free=[2, 2, 2])).tolist() == [0, 1]
    assert method.choose(view([[0.5] * 3] * 3, free=[2, 0, 2])).tolist() == [2, 0, 2]


def test_the_constant_model_waits_for_its_slots() -> None:
    assert Constant(1).choose(view([[0.9, 0.1]] * 3, free=[3, 2])).tolist() == [1, 1, -1]


def test_batch_split_gives_each_small_batch_its_part_of_the_money_and_the_best_cell_first() -> None:
    asked = view(
        [[0.5, 0.7], [0.5, 0.9], [0.5, 0.6], [0.5, 0.6]],
        free=[4, 4],
        cost=[[1.0, 5.0]] * 4,
        money=12.0,
    )
    # Two parts of 6 pay for one large model each; one part of 12 for the two best cells.
    assert BatchSplit(batch=2).choose(asked).tolist() == [0, 1, 1, 0]
    assert BatchSplit(batch=4).choose(asked).tolist() == [1, 1, 0, 0]


METHODS: dict[str, Callable[[], Method]] = {
    "constant": lambda: Constant(0),
    "round robin": RoundRobin,
    "greedy": Greedy,
    "price": lambda: Priced(0.3),
    "congestion": lambda: Priced(0.1, rise=0.4),
    "batch split": lambda: BatchSplit(0.1, batch=3),
    "published": PublishedBatch,
    "robust": lambda: PublishedBatch(robust=True),
}


def assert_within(asked: BatchView, choice: np.ndarray) -> None:
    n, m = asked.size
    assert choice.shape == (n,)
    placed = np.flatnonzero(choice >= 0)
    assert choice.max(initial=-1) < m
    assert choice.min(initial=-1) >= -1
    assert asked.eligible[placed, choice[placed]].all()
    assert (np.bincount(choice[placed], minlength=m) <= np.maximum(asked.free, 0)).all()
    assert math.fsum(asked.cost[placed, choice[placed]].tolist()) <= max(0.0, asked.money) * (1 + 1e-9)


@pytest.mark.property
@pytest.mark.parametrize("kind", METHODS)
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6))
def test_every_method_keeps_slots_money_and_eligibility(kind: str, seed: int) -> None:
    method = METHODS[kind]()
    for k in range(3):
        asked = random_view(seed + k)
        assert_within(asked, method.choose(asked))


@pytest.mark.property
@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10**6), m=st.integers(1, 5))
def test_port_keeps_slots_money_eligibility_and_its_budgets(seed: int, m: int) -> None:
    budgets = np.random.default_rng(seed).uniform(0.0, 6.0, m)
    method = Port(requests=20, budgets=budgets, seed=seed, share=0.2)
    spent = 0.0
    for k in range(3):
        asked = random_view(seed + k, m=m)
        choice = method.choose(asked)
        assert_within(asked, choice)
        at = np.flatnonzero(choice >= 0)
        spent += float(asked.cost[at, choice[at]].sum())
    assert spent <= budgets.sum() * (1 + 1e-9)
