"""The comparison on recorded outcomes: its data, its split, its estimates and its accounts."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from modelfleet_lab.methods.__main__ import main
from modelfleet_lab.methods.comparison import Certified, Entry, Purse, compare, entries, make_scene
from modelfleet_lab.methods.per_query import Priced
from modelfleet_lab.methods.recorded import Recorded, is_past, read
from modelfleet_lab.methods.text_estimates import cross_fitted, estimate, features
from pyarrow import parquet
from support.methods import view

MODELS = ("small", "middle", "large", "other")


def recorded(seed: int, n: int = 700) -> Recorded:
    """Sums, that all can do, and proofs, that the larger models can: at rising cost."""
    random = np.random.default_rng(seed)
    hard = random.random(n) < 0.5
    prompts = tuple(
        f"{'Prove by induction that' if h else 'Add the numbers'} {random.integers(10**6)}" for h in hard
    )
    chance = np.where(hard[:, None], [0.2, 0.5, 0.9, 0.3], [0.9, 0.95, 0.95, 0.6])
    cost = np.where(hard, 2.0, 1.0)[:, None] * np.array([0.001, 0.004, 0.02, 0.002])
    return Recorded(
        prompts=prompts,
        tasks=tuple("proof" if h else "sum" for h in hard),
        models=MODELS,
        quality=(random.random((n, 4)) < chance).astype(np.float64),
        cost=cost * random.uniform(0.8, 1.2, (n, 4)),
    )


def write(folder: Path, data: Recorded, *, with_cost: bool = True) -> None:
    n, m = data.quality.shape
    ids = [f"q{i}" for i in range(n)]
    parquet.write_table(
        pa.table({"query_id": ids, "task": data.tasks, "prompt": data.prompts, "input_tokens": [100] * n}),
        folder / "queries.parquet",
    )
    outcomes = {
        "query_id": [ids[i] for i in range(n) for _ in range(m)],
        "model": [name for _ in range(n) for name in data.models],
        "quality": data.quality.ravel(),
    }
    if with_cost:
        outcomes["cost_usd"] = data.cost.ravel()
    parquet.write_table(pa.table(outcomes), folder / "outcomes.parquet")
    lines = ["model,usd_per_mtok_in,experimental_or_duplicate_endpoint"]
    lines += [f"{name},{j + 1},False" for j, name in enumerate(data.models)]
    (folder / "models.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")


def test_outcomes_are_read_as_written(tmp_path: Path) -> None:
    data = recorded(1, n=20)
    write(tmp_path, data)
    found = read(tmp_path)
    assert found.models == data.models
    assert found.prompts == data.prompts
    assert (found.quality == data.quality).all()
    assert (found.cost == data.cost).all()


def test_repeated_prompts_and_flagged_models_are_left_out(tmp_path: Path) -> None:
    data = recorded(1, n=20)
    write(tmp_path, replace(data, prompts=(data.prompts[1], *data.prompts[1:])))
    table = (tmp_path / "models.csv").read_text(encoding="utf-8")
    (tmp_path / "models.csv").write_text(table.replace("other,4,False", "other,4,True"), encoding="utf-8")
    found = read(tmp_path)
    assert len(found.prompts) == 19
    assert found.models == ("small", "middle", "large")


def test_without_recorded_cost_input_tokens_are_priced(tmp_path: Path) -> None:
    write(tmp_path, recorded(1, n=5), with_cost=False)
    assert read(tmp_path).cost[0] == pytest.approx([1e-4, 2e-4, 3e-4, 4e-4])


def test_a_missing_outcome_or_column_is_named(tmp_path: Path) -> None:
    write(tmp_path, recorded(1, n=5))
    table = parquet.read_table(tmp_path / "outcomes.parquet")
    parquet.write_table(table.slice(1), tmp_path / "outcomes.parquet")
    with pytest.raises(ValueError, match="no outcome of query q0 by small"):
        read(tmp_path)
    parquet.write_table(table.drop_columns(["quality"]), tmp_path / "outcomes.parquet")
    with pytest.raises(ValueError, match="column 'quality' is missing"):
        read(tmp_path)


def test_the_split_is_a_hash_of_seed_and_prompt() -> None:
    prompts = tuple(f"question {i}" for i in range(1000))
    past = is_past(prompts, 7)
    digest = int(hashlib.sha256(b"7|question 5").hexdigest()[:8], 16)
    assert past[5] == (digest / 2**32 < 0.6)
    assert 0.55 < past.mean() < 0.65
    assert (past != is_past(prompts, 8)).any()


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
