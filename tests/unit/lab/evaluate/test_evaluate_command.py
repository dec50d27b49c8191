"""`modelfleet evaluate` from files to figures: data whose right answer is known, and data that is wrong."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from modelfleet_lab.__main__ import main
from modelfleet_lab.evaluate import estimators, order, plain, rivals, robust, streams, tables
from modelfleet_lab.evaluate.figures import measure, versus
from modelfleet_lab.evaluate.protocol import split
from modelfleet_lab.evaluate.sweeps import constants, priced
from modelfleet_lab.outcomes import Recorded
from pyarrow import parquet
from support.recorded_folder import recorded, write_folder

CHEAP, DEAR = 1.0, 10.0


def clear_cut(n: int = 160) -> Recorded:
    """Return sums, which both models do, and proofs, which only the model does that costs ten times more."""
    data = recorded(3, n=n)
    hard = np.array(data.tasks) == "proof"
    return replace(
        data,
        models=("cheap", "dear"),
        quality=np.where(hard[:, None], [0.0, 1.0], [1.0, 1.0]),
        cost=np.tile([CHEAP, DEAR], (n, 1)),
        output_tokens=np.full((n, 2), 10.0),
        input_tokens=np.zeros(n),
        price_in=np.array([1e-6, 1e-6]),
        price_out=np.array([CHEAP / 10, DEAR / 10]),
    )


def evaluate(folder: Path, *more: str, out: Path) -> dict[str, Any]:
    assert main(["evaluate", "--data", str(folder), "--resamples", "40", "--json", str(out), *more]) == 0
    document: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return document


def less_work(patch: pytest.MonkeyPatch) -> None:
    """Fit once, not for each fold, and try few settings and budgets: the rest would only take time here."""
    patch.setattr(
        estimators,
        "across_folds",
        lambda models, past: estimators.fit(models, past).predict(past.x),
    )
    patch.setattr(plain, "_RIDGES", plain._RIDGES[:1])
    patch.setattr(plain, "_DISTANCES", plain._DISTANCES[:1])
    patch.setattr(robust, "REPLICATES", 4)
    patch.setattr(streams, "BUDGETS", (0.1, 0.5, 1.0))
    patch.setattr(order, "_METHODS", (rivals.OURS, rivals.GREEDY))


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> tuple[Recorded, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("known")
    data = clear_cut()
    write_folder(folder / "a folder", data)
    with pytest.MonkeyPatch.context() as patch:
        less_work(patch)
        found = evaluate(
            folder / "a folder", "--leave-one-task-out", "--order", "cost", out=folder / "figures.json"
        )
    return data, found


def test_the_right_answer_is_found_where_text_tells_tasks_apart(known: tuple[Recorded, Any]) -> None:
    data, found = known
    hard = np.mean([task == "proof" for task in split(data, 0).test.tasks])
    least = (hard * DEAR + (1 - hard) * CHEAP) / DEAR
    assert found["best_single"]["model"] == "dear"
    for policy in ("task_mean", "knn_40", "oracle"):
        assert found["policies"][policy]["k100"] == pytest.approx(least)
    # Shrinkage and the gate keep ours from being as sure, but not from being right where it is.
    assert found["k98"] == pytest.approx(least, rel=0.15)
    assert found["auc"] > 0.97


def test_random_mixes_of_constant_models_pay_for_every_point(known: tuple[Recorded, Any]) -> None:
    data, found = known
    easy = np.mean([task == "sum" for task in split(data, 0).test.tasks])
    hull = found["policies"]["hull"]
    assert hull["k100"] == pytest.approx(1.0)
    # From (CHEAP, easy) to (DEAR, 1), at half the dear model's cost.
    assert hull["r50"] == pytest.approx(easy + (1 - easy) * (0.5 * DEAR - CHEAP) / (DEAR - CHEAP))
    assert hull["auc"] is None
    assert hull["ece"] is None


def test_no_policy_beats_the_oracle(known: tuple[Recorded, Any]) -> None:
    _, found = known
    oracle = found["policies"]["oracle"]
    for policy in found["policies"].values():
        for name in ("r05", "r25", "r50", "r100"):
            assert policy[name] <= oracle[name] + 1e-9


def test_intervals_hold_their_figures_and_differences_are_paired(known: tuple[Recorded, Any]) -> None:
    _, found = known
    for policy in found["policies"].values():
        low, high = policy["r50_ci"]
        assert low - 1e-9 <= policy["r50"] <= high + 1e-9
    for name, policy in found["policies"].items():
        if name != "default":
            assert found["versus"][name]["r50"] == pytest.approx(found["r50"] - policy["r50"])
    assert found["versus"]["oracle"]["r50_ci"][1] <= 1e-9
    assert found["versus"]["hull"]["r50_ci"][0] > 0


def test_the_document_has_the_promised_keys_and_says_where_it_comes_from(known: tuple[Recorded, Any]) -> None:
    _, found = known
    names = {f"r{f:02d}" for f in range(5, 101, 5)} | {"r37", "k95", "k98", "k100", "auc", "brier", "ece"}
    wanted = names | {f"{name}_ci" for name in names}
    for policy in found["policies"].values():
        assert set(policy) == wanted
    assert all(found[name] == found["policies"]["default"][name] for name in wanted)
    assert found["command"].startswith("modelfleet evaluate --data '")
    assert found["command"].endswith("--leave-one-task-out --order cost")
    assert found["data"]["licence"] == "not known: see the documentation of the data"
    assert found["data"]["past"] + found["data"]["test"] == found["data"]["queries"] == 160
    assert found["models"] == ["cheap", "dear"]
    assert found["capacity"] is None
    assert set(found["order"]["orders"]) == {"cost"}
    assert len(found["curves"]["default"]["cost_share"]) == len(found["curves"]["default"]["low"])


def test_a_task_that_was_never_seen_is_left_to_the_best_single_model(known: tuple[Recorded, Any]) -> None:
    _, found = known
    # Trained on proofs alone, only the dear model is known to be good; on sums alone, both are.
    proofs = found["loto"]["tasks"]["sum"]
    assert proofs["single"] == "dear"
    assert proofs["gain"] == pytest.approx(0.0)
    assert found["loto"]["tasks"]["proof"]["single"] == "cheap"
    assert found["loto"]["worst"] == min(task["gain"] for task in found["loto"]["tasks"].values())
    gains = [task["gain"] for task in found["loto"]["tasks"].values()]
    assert found["loto"]["mean"] == pytest.approx(np.mean(gains))


def test_graded_quality_free_models_unknown_lengths_and_tasks_are_evaluated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    less_work(monkeypatch)
    data = recorded(5, n=100)
    graded = np.round(np.random.default_rng(0).random(data.quality.shape) * 0.5 + 0.5 * data.quality, 3)
    free = np.where(np.arange(4) == 0, 0.0, data.price_in)
    write_folder(
        tmp_path / "data",
        replace(data, quality=graded, price_in=free, price_out=np.zeros(4)),
        without=["cost_usd", "output_tokens"],
    )
    queries = tmp_path / "data" / "queries.parquet"
    parquet.write_table(parquet.read_table(queries).drop_columns(["task"]), queries)
    found = evaluate(tmp_path / "data", out=tmp_path / "found.json")
    assert found["policies"]["default"]["r50"] > 0
    assert found["constants"]["small"]["cost_usd"] == 0.0
    assert "task_mean" not in found["policies"]
    assert found["policies"]["default"]["brier"] < 0.25


def test_differences_are_shown_with_their_intervals(known: tuple[Recorded, Any]) -> None:
    data, _ = known
    protocol = split(data, 0)
    width = protocol.test.size
    cheap_half = np.arange(width) % 2 == 0
    policies = {
        "default": priced(np.where(cheap_half[:, None], [1.0, 0.0], [0.0, 1.0]), protocol.test.cost),
        "default_kappa_1": constants(width, 2),
        "hull": constants(width, 2),
        "oracle": constants(width, 2),
    }
    found = {
        name: measure(
            protocol, one.played(protocol.test.quality, protocol.test.cost), estimated=None, resamples=40
        )
        for name, one in policies.items()
    }
    table = tables.differences(found)
    assert list(table.columns[0].cells) == ["hull"]
    for column, name in zip(table.columns[1:], tables.DECISIVE, strict=True):
        ahead = versus(found["default"], found["hull"])[name]
        low, high = ahead.interval or (np.nan, np.nan)
        wanted = f"{100 * ahead.value:+.1f} ({100 * low:+.1f} .. {100 * high:+.1f})"
        assert list(column.cells) == [wanted]


def spoiled(folder: Path, column: str, values: list[Any]) -> Path:
    """Return a folder whose first outcomes have other values in one column."""
    write_folder(folder, recorded(6, n=40))
    path = folder / "outcomes.parquet"
    table = parquet.read_table(path)
    old = table[column].to_pylist()
    at = table.column_names.index(column)
    parquet.write_table(table.set_column(at, column, pa.array([*values, *old[len(values) :]])), path)
    return folder


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("quality", 1.5, "quality is 1.5"),
        ("quality", float("nan"), "quality is nan"),
        ("model", "stranger", "model is 'stranger'"),
        ("cost_usd", -1.0, "cost_usd is -1.0"),
    ],
)
def test_a_bad_value_is_named_with_its_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], column: str, value: object, said: str
) -> None:
    folder = spoiled(tmp_path / "data", column, [value])
    assert main(["evaluate", "--data", str(folder)]) == 2
    output = capsys.readouterr().out
    assert "outcomes.parquet" in output
    assert said in output


def test_missing_outcomes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path, recorded(6, n=40))
    table = parquet.read_table(tmp_path / "outcomes.parquet")
    parquet.write_table(table.slice(1), tmp_path / "outcomes.parquet")
    assert main(["evaluate", "--data", str(tmp_path)]) == 2
    assert "no outcome of query 'q0' by 'small'" in capsys.readouterr().out


@pytest.mark.parametrize(("name", "column"), [("queries", "prompt"), ("outcomes", "quality")])
def test_a_missing_column_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, column: str
) -> None:
    write_folder(tmp_path, recorded(6, n=40))
    path = tmp_path / f"{name}.parquet"
    parquet.write_table(parquet.read_table(path).drop_columns([column]), path)
    assert main(["evaluate", "--data", str(tmp_path)]) == 2
    assert f"column '{column}' is missing" in capsys.readouterr().out


def test_one_task_can_not_be_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path, replace(recorded(6, n=100), tasks=("only",) * 100))
    words = ["evaluate", "--data", str(tmp_path), "--leave-one-task-out", "--resamples", "20"]
    assert main(words) == 2
    assert "needs two tasks or more" in capsys.readouterr().out


def test_a_file_that_can_not_be_written_is_refused_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_folder(tmp_path, recorded(6, n=40))
    assert main(["evaluate", "--data", str(tmp_path), "--json", str(tmp_path)]) == 2
    assert "can not be written" in capsys.readouterr().out
