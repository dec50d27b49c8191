"""The comparison on recorded outcomes: its data, its split, its estimates and its accounts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from modelfleet_lab.methods.__main__ import main
from modelfleet_lab.methods.comparison import Certified, Entry, Purse, compare, entries, make_scene
from modelfleet_lab.methods.per_query import Priced
from modelfleet_lab.methods.text_estimates import cross_fitted, estimate, features
from support.methods import view
from support.recorded_folder import recorded


def test_estimates_tell_kinds_of_text_apart_and_costs_are_right_on_average() -> None:
    data = recorded(2)
    words = features(data.prompts)
    half = slice(0, 350), slice(350, 700)
    found = estimate(
        words[half[0]], data.tasks[half[0]], data.quality[half[0]], data.cost[half[0]], words[half[1]]
    )
    proofs = np.array(data.tasks[half[1]]) == "proof"
    assert found.quality[proofs, 0].mean() < 0.35
    assert found.quality[~proofs, 0].mean() > 0.75
    assert found.cost.sum(axis=0) == pytest.approx(data.cost[half[1]].sum(axis=0), rel=0.1)


def test_a_query_counted_twice_weighs_as_two() -> None:
    data = recorded(3, n=60)
    words = features(data.prompts)
    twice = np.array([*range(60), 0, 0])
    weight = np.ones(60)
    weight[0] = 3.0
    tasks = [data.tasks[i] for i in twice]
    repeated = estimate(words[twice], tasks, data.quality[twice], data.cost[twice], words)
    weighted = estimate(words, data.tasks, data.quality, data.cost, words, weight=weight)
    assert weighted.quality == pytest.approx(repeated.quality, abs=1e-9)
    assert weighted.cost == pytest.approx(repeated.cost)


def test_cross_fitted_estimates_do_not_know_the_querys_own_outcome() -> None:
    data = recorded(4, n=50)
    words = features(data.prompts)
    before = cross_fitted(words, data.tasks, data.quality, data.cost)
    changed = data.quality.copy()
    changed[0] = 1.0 - changed[0]
    after = cross_fitted(words, data.tasks, changed, data.cost)
    assert (after.quality[0] == before.quality[0]).all()
    assert (after.quality[1] != before.quality[1]).any()


def test_our_assignment_sees_the_whole_batch_and_what_a_dollar_is_worth() -> None:
    asked = view([[0.5, 0.9], [0.1, 0.8]], free=[1, 1])
    assert Certified().choose(asked).tolist() == [0, 1]
    dear = view([[0.5, 0.9], [0.1, 0.8]], free=[2, 2], cost=[[0.0, 1.0], [0.0, 1.0]])
    assert Certified(0.5).choose(dear).tolist() == [0, 1]


def test_the_favourites_are_asked_as_much_more_than_their_slots_as_tightness_says() -> None:
    data = recorded(5, n=420)
    loose, tight = (
        make_scene(data, seed=0, tightness=t, share=0.25, orders=1, spare=1.0, bootstraps=1)
        for t in (1.0, 2.0)
    )
    favourites = np.argsort(-loose.slots)[:2]
    assert tight.slots[favourites] == pytest.approx(loose.slots[favourites] / 2, abs=1)
    assert 100 <= tight.slots.sum() < 104


def test_all_methods_are_compared_at_the_same_cost() -> None:
    data = recorded(5, n=420)
    scene = make_scene(data, seed=0, tightness=0.5, share=0.25, orders=1, spare=1.0, bootstraps=3)
    assert scene.slots.sum() >= 100
    lines = compare(scene, entries(scene), seed=0, done=lambda: None)
    found = {line.name: line for line in lines}
    assert len(found) == 13
    assert found["ours"].behind == 0.0
    for name in ("ours", "per-query price", "congestion prices", "published batch"):
        assert found[name].cost == pytest.approx(1.0, abs=0.03)
    assert found["ours"].quality > found["round robin"].quality
    assert all(line.interval[0] <= line.behind <= line.interval[1] for line in lines)


def test_a_comparison_repeats_by_seed() -> None:
    scene = make_scene(
        recorded(6, n=420), seed=1, tightness=3.0, share=0.25, orders=1, spare=1.0, bootstraps=2
    )
    price = Entry(Purse.OWN, lambda budget: lambda: Priced(20.0))
    assert compare(scene, [price], seed=0, done=lambda: None) == compare(
        scene, [price], seed=0, done=lambda: None
    )


def test_the_command_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path)]) == 2
    assert "queries.parquet is missing" in capsys.readouterr().err
