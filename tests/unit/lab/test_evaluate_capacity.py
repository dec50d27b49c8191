"""Batch experiments: slots, money, equal cost, and what comes out where the answer is known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from modelfleet_lab.evaluate import capacity
from modelfleet_lab.evaluate.referee import Contender, Purse, at_cost, lines, run
from modelfleet_lab.evaluate.rivals import GREEDY, OURS, PRICED, ROBUST, contenders, named
from modelfleet_lab.evaluate.scene import BATCH, Scene, make_scene, random_orders, without_limits
from modelfleet_lab.evaluate.slots import Demand, demand, scarce
from modelfleet_lab.evaluate.told import Side, Split
from modelfleet_lab.methods import BatchView, IntArray
from modelfleet_lab.methods.per_query import Constant, Priced
from modelfleet_lab.methods.shares import Shares, best_shares
from support.batch_scenes import MODELS, split
from support.methods import view


class Watched:
    """Remembers what it saw and answered."""

    name = "watched"

    def __init__(self) -> None:
        self.seen: list[tuple[BatchView, IntArray]] = []

    def choose(self, view: BatchView) -> IntArray:
        choice = Priced(10.0).choose(view)
        self.seen.append((view, choice))
        return choice


def scene(slots: list[int] | None = None, *, orders: int = 1, seed: int = 3) -> Scene:
    data = split(seed)
    fresh = without_limits(len(MODELS)) if slots is None else np.array(slots)
    return make_scene(data, fresh, random_orders(len(data.test.quality), orders, seed=seed), seed=seed)


def test_every_test_query_is_played_once_in_each_order() -> None:
    found = scene(orders=2)
    for members in found.members:
        assert sorted(np.concatenate(members).tolist()) == list(range(found.queries))
        assert {len(part) for part in members[:-1]} == {BATCH}


def test_a_smaller_last_batch_has_its_part_of_the_slots() -> None:
    found = scene([10, 20, 30, 60])
    last = found.orders[0][-1].view
    part = last.size[0] / BATCH
    assert 0 < part < 1
    assert last.slots.tolist() == [int(np.ceil(part * slots)) for slots in (10, 20, 30, 60)]


def test_favourites_have_their_demand_over_tightness_and_the_rest_fits_within_the_budget() -> None:
    wanted = Demand(np.array([60.0, 30.0, 10.0, 0.0, 0.0]), np.array([True, True, False, True, False]))
    assert scarce(wanted, 2.0).tolist() == [30, 15, 5, 55, 55]
    assert scarce(wanted, 2.0, fewest=True).tolist() == [30, 15, 5, 25, 25]
    none = replace(wanted, affordable=np.array([True, True, True, False, False]))
    assert scarce(none, 2.0).tolist() == [30, 15, 5, 25, 25]


def test_demand_is_what_one_price_asks_for_where_slots_do_not_bind() -> None:
    found = demand(scene(), 5.0)
    assert found.requests.sum() == pytest.approx(BATCH)
    assert found.affordable.all()
    assert not demand(scene(), 0.1).affordable[2]


def test_an_even_purse_is_never_more_than_what_is_left_of_equal_parts() -> None:
    found, watched = scene(), Watched()
    run(found, Contender("watched", Purse.EVEN, lambda share: lambda: watched), 0.5)
    paid, requests = 0.0, 0
    for (seen, choice), batch in zip(watched.seen, found.orders[0], strict=True):
        requests += len(choice)
        due = 0.5 * found.single_cost * requests / found.queries
        assert seen.money == pytest.approx(max(0.0, due - paid))
        at = np.flatnonzero(choice >= 0)
        paid += batch.cost[at, choice[at]].sum()


def test_no_contender_breaks_slots_or_is_told_outcomes() -> None:
    found = scene([5, 30, 10, 60])
    for contender in contenders(found):
        start = contender.tune(0.4)
        for batch in found.orders[0]:
            money = 0.4 * found.single_cost * batch.view.size[0] / found.queries
            limit = money if contender.purse is Purse.EVEN else np.inf
            choice = start().choose(replace(batch.view, money=limit))
            assert (np.bincount(choice[choice >= 0], minlength=4) <= batch.view.slots).all()
            at = np.flatnonzero(choice >= 0)
            assert batch.view.cost[at, choice[at]].sum() <= limit * (1 + 1e-9)


def test_methods_are_compared_at_the_cost_in_question() -> None:
    found = scene()
    for contender in named(found, (OURS, PRICED, GREEDY)):
        one = at_cost(found, contender, 0.4)
        assert one.cost.sum() / found.single_cost == pytest.approx(0.4, abs=0.005)


def test_a_best_single_model_that_is_free_is_refused() -> None:
    data = split(3)
    free = replace(data.test, cost=np.zeros_like(data.test.cost))
    order = random_orders(len(free.quality), 1, seed=0)
    found = make_scene(replace(data, test=free), without_limits(4), order, seed=0)
    with pytest.raises(ValueError, match="large, the best single model, costs nothing"):
        at_cost(found, named(found, (PRICED,))[0], 0.4)


def test_what_can_not_spend_so_much_is_shown_at_what_it_spends() -> None:
    found = scene()
    small = Contender("small", Purse.OWN, lambda share: lambda: Constant(0))
    one = at_cost(found, small, 0.9)
    assert one.cost.sum() / found.single_cost < 0.2
    assert lines(found, [("small", one)], seed=0)[0].cost == one.cost.sum() / found.single_cost


def test_with_the_outcome_known_beforehand_a_batch_gains_what_greedy_gives_away() -> None:
    """Half of the requests need the one good model, which has slots for a quarter; the others like it no
    more than any: greedy spends half of its slots on those."""
    n = 400
    random = np.random.default_rng(0)
    hard = random.permutation(n) < n // 2
    quality = np.where(hard[:, None], [1.0, 0.0], [1.0, 0.99])
    cost = np.ones((n, 2))
    side = Side(quality, cost, quality, cost)
    slots = np.array([25, 100])
    found = make_scene(Split(("good", "other"), side, side), slots, (np.arange(n),), seed=0)
    runs = [(one.name, run(found, one, 1.1)) for one in named(found, (OURS, GREEDY))]
    ours, greedy = lines(found, runs, seed=0)
    assert ours.quality == pytest.approx(0.25 + 0.5 * 0.99, abs=0.002)
    assert greedy.quality == pytest.approx(0.125 + 0.99 * 0.5, abs=0.03)
    assert greedy.behind_ci[0] < greedy.behind < greedy.behind_ci[1]
    assert greedy.behind == pytest.approx(100 * (ours.quality - greedy.quality))


def test_constant_models_are_mixed_as_money_and_slots_allow() -> None:
    found = scene([100, 100, 100, 100])
    cost = np.mean([b.cost.mean(axis=0) for b in found.past], axis=0)
    requests = sum(b.view.size[0] for b in found.past)
    shares = best_shares(found.past, requests * (0.5 * cost[1] + 0.5 * cost[2]))
    assert shares.sum() == pytest.approx(1.0)
    assert shares[[1, 2]] == pytest.approx([0.5, 0.5], abs=0.1)
    assert best_shares(found.past, np.inf).tolist() == [0.0, 0.0, 1.0, 0.0]
    few = best_shares(scene([10, 10, 10, 10]).past, np.inf)
    assert few == pytest.approx([0.1] * 4, abs=0.01)


def test_shares_are_kept_whatever_is_asked() -> None:
    asked = view([[0.0, 1.0, 0.0]] * 8, free=[8, 8, 8])
    assert np.bincount(Shares(np.array([0.5, 0.25, 0.0])).choose(asked) + 1, minlength=4).tolist() == [
        2,
        4,
        2,
        0,
    ]


def test_the_robust_mode_plays_only_where_it_is_told_quantiles() -> None:
    data = split(3)
    told = replace(data, test=replace(data.test, told_low=0.9 * data.test.told_quality))
    assert ROBUST not in {one.name for one in contenders(scene())}
    order = random_orders(len(data.test.quality), 1, seed=0)
    assert ROBUST in {one.name for one in contenders(make_scene(told, without_limits(4), order, seed=0))}


def test_the_section_holds_every_method_at_each_tightness_and_repeats_by_seed() -> None:
    data = split(5, n=300)
    heard: list[str] = []
    found = capacity.run(data, seed=1, tightness=(1.5,), share=0.4, orders=1, progress=heard.append)
    section = found.json()
    assert list(section["tightness"]) == ["1.5"]
    tight = section["tightness"]["1.5"]
    assert tight["methods"][OURS]["behind"] == 0.0
    assert tight["batch_minus_greedy"] == tight["methods"][GREEDY]["behind"]
    assert len(heard) == len(tight["methods"]) + len(section["fewest_slots"]["1.5"]["methods"])
    assert sum(section["fewest_slots"]["1.5"]["slots"].values()) >= BATCH
    again = capacity.run(data, seed=1, tightness=(1.5,), share=0.4, orders=1, progress=lambda text: None)
    assert again == found


def test_shapes_that_disagree_are_refused() -> None:
    good = split(1).past
    with pytest.raises(ValueError, match="told_cost has shape"):
        replace(good, told_cost=good.told_cost[:, :2])
    with pytest.raises(ValueError, match="4 models but 3 names"):
        Split(MODELS[:3], good, good)
