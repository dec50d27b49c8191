"""The published batch method, PORT, and prices found on past traffic."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from modelfleet_lab.methods import BatchView
from modelfleet_lab.methods.calibration import (
    PastBatch,
    batch_split,
    best_constant,
    calibrated_price,
    congestion_priced,
    play,
    priced,
    slot_priced,
)
from modelfleet_lab.methods.certified import Certified, Paced, Reserve, reserve
from modelfleet_lab.methods.per_query import Priced
from modelfleet_lab.methods.port import Port, learned_weights
from modelfleet_lab.methods.published import PublishedBatch, bootstrap_quantile
from support.methods import past_traffic, random_view, view


def brute_force(asked: BatchView, quality: np.ndarray) -> float:
    """The best weighted quality, where leaving a request out loses its weight."""
    n, m = asked.size
    best = -np.inf
    for choice in itertools.product(range(-1, m), repeat=n):
        at = [i for i in range(n) if choice[i] >= 0]
        columns = [choice[i] for i in at]
        if not asked.eligible[at, columns].all():
            continue
        if (np.bincount(columns, minlength=m) > np.maximum(asked.free, 0)).any():
            continue
        if asked.cost[at, columns].sum() > asked.money:
            continue
        best = max(best, worth(asked, quality, np.array(choice)))
    return best


def worth(asked: BatchView, quality: np.ndarray, choice: np.ndarray) -> float:
    at = np.flatnonzero(choice >= 0)
    return float((asked.weight[at] * quality[at, choice[at]]).sum() - np.delete(asked.weight, at).sum())


@pytest.mark.parametrize("seed", range(12))
def test_the_published_program_equals_brute_force(seed: int) -> None:
    asked = replace(random_view(seed, n=5, m=3), money=float(1 + seed % 3))
    choice = PublishedBatch().choose(asked)
    assert worth(asked, asked.quality, choice) == pytest.approx(brute_force(asked, asked.quality), abs=1e-3)


@pytest.mark.parametrize("seed", range(4))
def test_the_robust_program_maximises_the_low_quantile(seed: int) -> None:
    asked = random_view(seed, n=5, m=3)
    assert asked.quality_low is not None
    choice = PublishedBatch(robust=True).choose(asked)
    best = brute_force(asked, asked.quality_low)
    assert worth(asked, asked.quality_low, choice) == pytest.approx(best, abs=1e-3)


def test_the_robust_program_asks_for_quantiles() -> None:
    with pytest.raises(ValueError, match="quality_low"):
        PublishedBatch(robust=True).choose(view([[0.5]], free=[1]))


def test_the_published_program_sees_the_whole_batch() -> None:
    asked = view([[0.5, 0.9], [0.1, 0.8]], free=[1, 1])
    assert PublishedBatch().choose(asked).tolist() == [0, 1]
    low = view([[0.5, 0.9], [0.1, 0.8]], free=[1, 1], quality_low=[[0.1, 0.9], [0.1, 0.2]])
    assert PublishedBatch(robust=True).choose(low).tolist() == [1, 0]


def test_bootstrap_quantiles_are_those_of_refitted_estimates_and_repeat_by_seed() -> None:
    outcomes = np.array([0.0, 0.0, 1.0, 1.0])

    def fit(drawn: np.ndarray) -> np.ndarray:
        return np.array([[drawn @ outcomes / drawn.sum()]])

    low = bootstrap_quantile(fit, 4, seed=3, replicates=400)
    # The mean of 4 draws of a fair coin: at most .25 with probability 5/16, 0 with 1/16 < 10 %.
    assert low.item() == 0.25
    assert bootstrap_quantile(fit, 4, seed=3, replicates=400).item() == low.item()


def test_learned_weights_minimise_the_dual_of_the_sample() -> None:
    # Two requests gain .4 and .2 by a model at 1 USD, budget for one: all weights in [.2, .4] are optimal.
    sample = view([[0.5, 0.9], [0.5, 0.7]], free=[2, 2], cost=[[0.0, 1.0], [0.0, 1.0]])
    weights = learned_weights([sample], np.array([10.0, 1.0]))
    assert weights[0] == pytest.approx(0.0, abs=0.02)
    assert 0.18 <= weights[1] <= 0.42


def test_port_comes_near_the_best_price_on_traffic_that_does_not_change() -> None:
    past, coming = past_traffic(1, batches=10), past_traffic(2, batches=40)
    budget = 0.4 * play(Priced(0.0), coming)[1]
    best = priced(past, budget / 4)
    shares = np.zeros(3)
    for batch in past:
        choice = best.choose(batch.view)
        shares += np.bincount(choice, weights=batch.view.cost[np.arange(choice.size), choice], minlength=3)
    budgets = budget * shares / shares.sum()
    weights = learned_weights([batch.view for batch in past], budgets / 4)
    informed = play(Port(requests=2000, budgets=budgets, seed=0, weights=weights), coming)
    assert informed[1] <= budget * 1.02
    hindsight = play(priced(coming, budget), coming)
    # Hard budgets for each model cost what one purse would not: the last requests find some spent.
    assert informed[0] >= 0.97 * hindsight[0]
    blind = play(Port(requests=2000, budgets=budgets, seed=0, weights=np.zeros(3)), coming)
    assert blind[0] < 0.96 * hindsight[0]
    # On its own it routes a tenth at random, to learn; what comes after is as good.
    alone = play(Port(requests=2000, budgets=budgets, seed=0, share=0.1), coming)
    assert alone[1] <= budget * 1.02
    assert informed[0] > alone[0] >= 0.98 * informed[0]


def test_port_gives_each_model_its_own_budget_and_then_the_next_best() -> None:
    asked = view([[0.5, 0.9]] * 4, free=[4, 4], cost=[[0.0, 1.0]] * 4)
    port = Port(requests=8, budgets=np.array([1.0, 3.0]), seed=0, weights=np.zeros(2))
    assert port.choose(asked).tolist() == [1, 1, 1, 0]
    assert port.choose(asked).tolist() == [0, 0, 0, 0]


def test_port_lets_the_models_accounts_together_pay_where_none_can_alone() -> None:
    asked = view([[0.5, 0.9]] * 2, free=[2, 2], cost=[[3.0, 4.0]] * 2)
    port = Port(requests=2, budgets=np.array([2.0, 2.0]), seed=0, weights=np.zeros(2))
    assert port.choose(asked).tolist() == [1, -1]


def test_port_repeats_by_seed() -> None:
    def choices(seed: int) -> list[list[int]]:
        port = Port(requests=100, budgets=np.full(3, 50.0), seed=seed, share=0.3)
        return [port.choose(batch.view).tolist() for batch in past_traffic(5, batches=2)]

    assert choices(1) == choices(1)
    assert choices(1) != choices(2)


def test_a_calibrated_price_spends_the_budget_and_is_zero_where_money_is_plenty() -> None:
    past = past_traffic(1)
    most = play(Priced(0.0), past)[1]
    assert calibrated_price(Priced, past, 2 * most) == 0.0
    assert play(priced(past, most / 2), past)[1] == pytest.approx(most / 2, rel=0.02)
    assert play(priced(past, most / 2), past)[1] <= most / 2


def test_prices_that_follow_congestion_are_at_least_as_good_on_the_past_as_one_price() -> None:
    past = past_traffic(1, slots=(20, 20, 20))
    budget = 0.95 * play(Priced(0.0), past)[1]
    plain = play(priced(past, budget), past)[0]
    assert play(congestion_priced(past, budget), past)[0] >= plain
    by_slots = slot_priced(past, budget)
    assert by_slots.slot_price is not None
    assert by_slots.slot_price[2] > 0.01
    assert play(by_slots, past)[0] > plain


def test_batch_split_is_tuned_to_its_parts_of_the_budget() -> None:
    past = past_traffic(1)
    budget = 0.4 * play(Priced(0.0), past)[1]
    tuned = batch_split(past, budget)
    money = budget / len(past)
    assert play(tuned, past, money=money)[0] >= play(replace(tuned, money_price=0.0), past, money=money)[0]


def test_the_best_constant_model_is_the_best_that_the_budget_pays_for() -> None:
    past = past_traffic(1)
    assert best_constant(past).column == 2
    cost = [sum(batch.cost[:, j].sum() for batch in past) for j in range(3)]
    assert best_constant(past, cost[1] * 1.001).column == 1
    assert best_constant(past, cost[0] / 2).column == 0


def test_an_outcome_counts_what_was_billed_and_nothing_for_requests_left_out() -> None:
    batch = PastBatch(
        view([[0.5, 0.5]] * 2, free=[2, 2], weight=[4.0, 1.0]),
        np.array([[0.0, 1.0], [1.0, 1.0]]),
        np.array([[1.0, 2.0], [4.0, 8.0]]),
    )
    assert batch.outcome(np.array([1, -1])) == (4.0, 2.0)


def test_our_assignment_sees_the_whole_batch_and_what_a_dollar_is_worth() -> None:
    asked = view([[0.5, 0.9], [0.1, 0.8]], free=[1, 1])
    assert Certified().choose(asked).tolist() == [0, 1]
    dear = view([[0.5, 0.9], [0.1, 0.8]], free=[2, 2], cost=[[0.0, 1.0], [0.0, 1.0]])
    assert Certified(0.5).choose(dear).tolist() == [0, 1]


def test_a_reserve_price_knows_what_higher_prices_would_spend() -> None:
    past = past_traffic(1)
    requests = sum(batch.view.size[0] for batch in past)
    free = play(Certified(), past)[1]
    known = reserve(past, 0.5 * free)
    assert known.rates[0] * requests <= 0.5 * free
    assert (np.diff(known.prices) > 0).all()
    assert (np.diff(known.rates) <= 0).all()
    assert known.price(2.0 * known.rates[0]) == known.prices[0]
    assert known.price(known.rates[2]) == pytest.approx(known.prices[2])
    assert known.price(0.0) == known.prices[-1]


def test_where_money_does_not_bind_there_is_no_reserve_price() -> None:
    assert reserve(past_traffic(1), 1e9).price(0.0) == 0.0


def test_what_is_left_is_made_to_last_for_the_requests_behind() -> None:
    known = Reserve(np.array([0.1, 1.0]), np.array([1.0, 0.2]), cheapest=0.1)
    asked = view([[0.5, 0.9]] * 4, free=[4, 4], cost=[[0.1, 1.1]] * 4)
    # A dollar each for eight requests: the dear model is worth its price.
    assert Paced(8, known).choose(replace(asked, money=8.0)).tolist() == [1, 1, 1, 1]
    # Thirty cents each: the price rises.
    assert Paced(8, known).choose(replace(asked, money=2.4)).tolist() == [0, 0, 0, 0]
    # Prices or not: what four more requests cost at the least is kept.
    careless = Reserve(np.array([0.0]), np.array([1.0]), cheapest=0.1)
    assert Paced(8, careless).choose(replace(asked, money=1.9)).tolist().count(1) == 1
    assert (Paced(8, careless).choose(replace(asked, money=0.4)) == -1).all()
