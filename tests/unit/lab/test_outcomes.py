"""Recorded outcomes: read whole for evaluations, in parts for training, with errors that name the place."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from modelfleet_lab.outcomes import Recorded, is_past, read, scanning, stream, streaming
from pyarrow import parquet
from support.recorded_folder import recorded, tables, write_folder, write_models


def whole(folder: Path, **options: int) -> dict[str, tuple[str | None, tuple[float, ...], tuple[float, ...]]]:
    """Return task, quality and output tokens by prompt, as the stream gives them."""
    found = {}
    with stream(folder, **options) as streamed:
        for batch in streamed.batches():
            for k, prompt in enumerate(batch.prompts):
                assert prompt not in found
                found[prompt] = (batch.tasks[k], tuple(batch.quality[k]), tuple(batch.output_tokens[k]))
    return found


def expected(data: Recorded) -> dict[str, tuple[str | None, tuple[float, ...], tuple[float, ...]]]:
    rows = zip(data.prompts, data.tasks, data.quality, data.output_tokens, strict=True)
    return {prompt: (task, tuple(quality), tuple(tokens)) for prompt, task, quality, tokens in rows}


def change(folder: Path, name: str, changed: Callable[[pa.Table], pa.Table]) -> None:
    path = folder / f"{name}.parquet"
    parquet.write_table(changed(parquet.read_table(path)), path)


def put(table: pa.Table, column: str, values: object) -> pa.Table:
    return table.set_column(table.column_names.index(column), column, pa.array(values))


def test_outcomes_are_read_as_written(tmp_path: Path) -> None:
    data = recorded(1, n=20)
    found = read(write_folder(tmp_path, data))
    assert (found.models, found.prompts, found.tasks) == (data.models, data.prompts, data.tasks)
    for name in ("quality", "cost", "input_tokens", "output_tokens"):
        assert (getattr(found, name) == getattr(data, name)).all(), name
    assert found.price_in == pytest.approx(data.price_in)
    assert found.price_out == pytest.approx(data.price_out)


def test_repeated_prompts_and_flagged_models_are_left_out(tmp_path: Path) -> None:
    data = recorded(1, n=20)
    data = replace(data, prompts=(data.prompts[1], *data.prompts[1:]))
    found = read(write_folder(tmp_path, data, experimental=["other"]))
    assert len(found.prompts) == 19
    assert found.models == ("small", "middle", "large")
    assert dict(found.left_out) == {"other": "experimental_or_duplicate_endpoint"}
    assert (found.quality == data.quality[[0, *range(2, 20)], :3]).all()


def test_a_model_whose_hidden_tokens_are_not_counted_is_left_out(tmp_path: Path) -> None:
    write_folder(tmp_path, recorded(1, n=5))
    path = tmp_path / "models.csv"
    lines = path.read_text(encoding="utf-8").splitlines()
    lines = [
        lines[0] + ",hidden_reasoning_tokens",
        *(line + ",False" for line in lines[1:3]),
        lines[3] + ",True",
    ]
    path.write_text("\n".join([*lines, "other,2,4,False,\n"]), encoding="utf-8")
    assert read(tmp_path).models == ("small", "middle", "other")


def test_without_recorded_cost_tokens_are_priced(tmp_path: Path) -> None:
    data = recorded(1, n=5)
    assert read(write_folder(tmp_path, data, without=["cost_usd"])).cost == pytest.approx(data.cost)
    write_folder(tmp_path, data, without=["cost_usd", "output_tokens"])
    assert read(tmp_path).cost[0] == pytest.approx([1e-4, 4e-4, 2e-3, 2e-4])


def test_an_outcome_without_cost_or_length_is_not_taken_as_free(tmp_path: Path) -> None:
    write_folder(tmp_path, recorded(1, n=5))
    for column in ("cost_usd", "output_tokens"):
        change(tmp_path, "outcomes", lambda t, c=column: put(t, c, [None, *t[c].to_pylist()[1:]]))
    with pytest.raises(ValueError, match="neither cost_usd nor output_tokens of query 'q0' by 'small'"):
        read(tmp_path)


def test_several_outcomes_of_one_query_are_averaged(tmp_path: Path) -> None:
    data = recorded(1, n=5)
    write_folder(tmp_path, data)
    change(
        tmp_path,
        "outcomes",
        lambda t: pa.concat_tables([t, put(t, "quality", 1.0 - t["quality"].to_numpy())]),
    )
    assert (read(tmp_path).quality == 0.5).all()
    assert {row[1] for row in whole(tmp_path).values()} == {(0.5,) * 4}


def test_an_evaluation_refuses_missing_outcomes_and_training_takes_them(tmp_path: Path) -> None:
    data = recorded(1, n=5)
    write_folder(tmp_path, data)
    change(tmp_path, "outcomes", lambda t: t.slice(1))
    with pytest.raises(ValueError, match=r"no outcome of query 'q0' by 'small' \(1 of 20 are missing\)"):
        read(tmp_path)
    found = whole(tmp_path)
    assert np.isnan(found[data.prompts[0]][1]).tolist() == [True, False, False, False]
    change(tmp_path, "outcomes", lambda t: t.filter(pc.not_equal(t["query_id"], "q0")))
    assert set(whole(tmp_path)) == set(data.prompts[1:])


def test_a_task_may_be_unknown(tmp_path: Path) -> None:
    data = recorded(1, n=5)
    write_folder(tmp_path, data)
    change(tmp_path, "queries", lambda t: put(t, "task", [*t["task"].to_pylist()[:4], None]))
    assert whole(tmp_path)[data.prompts[4]][0] is None
    assert read(tmp_path).tasks == (*data.tasks[:4], "")
    change(tmp_path, "queries", lambda t: t.drop_columns(["task"]))
    assert read(tmp_path).tasks == ("",) * 5
    assert {row[0] for row in whole(tmp_path).values()} == {None}


@pytest.mark.parametrize("rows", [1, 7, 4096])
def test_a_stream_gives_every_query_once_however_it_is_cut(
    tmp_path: Path, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = recorded(3, n=100)
    write_folder(tmp_path, data)
    monkeypatch.setattr(streaming, "PART_OUTCOMES", 60)
    monkeypatch.setattr(scanning, "ROWS", 33)
    assert whole(tmp_path, rows=rows) == expected(data)


def test_parts_are_small_and_a_query_is_whole_in_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path, recorded(3, n=200))
    monkeypatch.setattr(streaming, "PART_OUTCOMES", 100)
    with stream(tmp_path) as streamed:
        sizes = [sum(len(batch.prompts) for batch in part.batches(10**6)) for part in streamed.parts()]
        assert (streamed.queries, streamed.outcomes, len(sizes)) == (200, 800, 9)
    assert sum(sizes) == 200
    assert max(sizes) < 50


def test_parts_are_small_where_each_query_was_asked_of_few_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_folder(tmp_path, recorded(3, n=200))
    change(tmp_path, "outcomes", lambda t: t.filter(pc.equal(t["model"], "small")))
    monkeypatch.setattr(streaming, "PART_CELLS", 100)
    with stream(tmp_path) as streamed:
        assert max(sum(len(batch.prompts) for batch in part.batches(10**6)) for part in streamed.parts()) < 50


def test_a_stream_can_be_read_again_in_the_same_order_and_leaves_nothing_behind(tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    data = write_folder(tmp_path / "data", recorded(3, n=50))
    with stream(data, scratch=scratch) as streamed:
        first, again = ([batch.prompts for batch in streamed.batches()] for _ in range(2))
        assert list(scratch.iterdir())
    assert first == again
    assert not list(scratch.iterdir())
    change(data, "outcomes", lambda t: put(t, "quality", t["quality"].to_numpy() + 1))
    with pytest.raises(ValueError, match="quality"), stream(data, scratch=scratch):
        pass
    assert not list(scratch.iterdir())


def test_part_files_in_any_of_the_usual_layouts_are_one_table(tmp_path: Path) -> None:
    data = recorded(3, n=60)
    queries, outcomes = tables(data)
    for name, paths in (
        ("dashes", ["queries-0.parquet", "queries-1.parquet", "outcomes-0.parquet", "outcomes-1.parquet"]),
        ("folder", ["queries/a.parquet", "queries/b.parquet", "outcomes/a.parquet", "outcomes/b.parquet"]),
        ("suffix", [f"{n}.parquet/part.{k}.parquet" for n in ("queries", "outcomes") for k in (0, 1)]),
    ):
        folder = tmp_path / name
        for path, table in zip(
            paths,
            (queries.slice(0, 25), queries.slice(25), outcomes.slice(0, 99), outcomes.slice(99)),
            strict=True,
        ):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(table, folder / path, row_group_size=20)
        write_models(folder, data)
        assert read(folder).prompts == data.prompts, name
        assert whole(folder) == expected(data), name


def test_columns_of_other_types_are_understood(tmp_path: Path) -> None:
    data = recorded(3, n=20)
    write_folder(tmp_path, data)
    numbers = {f"q{i}": i for i in range(20)}
    for name in ("queries", "outcomes"):
        change(tmp_path, name, lambda t: put(t, "query_id", [numbers[i] for i in t["query_id"].to_pylist()]))
    change(tmp_path, "outcomes", lambda t: put(t, "quality", t["quality"].to_numpy() > 0.5))
    change(tmp_path, "outcomes", lambda t: put(t, "model", t["model"].combine_chunks().dictionary_encode()))
    assert (read(tmp_path).quality == data.quality).all()
    assert whole(tmp_path) == expected(data)


BAD: dict[str, tuple[str, Callable[[pa.Table], pa.Table], str]] = {
    "missing column": (
        "outcomes",
        lambda t: t.drop_columns(["quality"]),
        "outcomes.parquet: column 'quality' is missing",
    ),
    "missing prompt": (
        "queries",
        lambda t: t.drop_columns(["prompt"]),
        "queries.parquet: column 'prompt' is missing",
    ),
    "null quality": (
        "outcomes",
        lambda t: put(t, "quality", [0.5, None, *[1.0] * 18]),
        "row 1, counted from 0: quality is null; it must be a value",
    ),
    "NaN quality": (
        "outcomes",
        lambda t: put(t, "quality", [0.5, 1.0, float("nan"), *[1.0] * 17]),
        "row 2, counted from 0: quality is nan",
    ),
    "quality above 1": (
        "outcomes",
        lambda t: put(t, "quality", [*[1.0] * 19, 1.5]),
        "row 19, counted from 0: quality is 1.5; it must be a number from 0 to 1",
    ),
    "text for quality": (
        "outcomes",
        lambda t: put(t, "quality", ["good"] * 20),
        "column 'quality' must be a number",
    ),
    "negative tokens": (
        "outcomes",
        lambda t: put(t, "output_tokens", [*[1.0] * 4, -1.0, *[1.0] * 15]),
        "row 4, counted from 0: output_tokens is -1.0; it must be 0 or more, or null",
    ),
    "unknown model": (
        "outcomes",
        lambda t: put(t, "model", ["gpt", *t["model"].to_pylist()[1:]]),
        "row 0, counted from 0: model is 'gpt'; it must be one that .*models.csv names",
    ),
    "unknown query": (
        "outcomes",
        lambda t: put(t, "query_id", [*t["query_id"].to_pylist()[:19], "q99"]),
        "query_id 'q99' is not in queries.parquet",
    ),
    "repeated query": (
        "queries",
        lambda t: pa.concat_tables([t, t.slice(2, 1)]),
        "query_id 'q2' is there more than once",
    ),
    "no outcomes": ("outcomes", lambda t: t.slice(0, 0), "outcomes.parquet has no rows"),
    "no queries": ("queries", lambda t: t.slice(0, 0), "queries.parquet has no rows"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_can_not_be_used_is_named(tmp_path: Path, case: str) -> None:
    name, changed, message = BAD[case]
    write_folder(tmp_path, recorded(1, n=5))
    change(tmp_path, name, changed)
    with pytest.raises(ValueError, match=message):
        read(tmp_path)
    with pytest.raises(ValueError, match=message):
        whole(tmp_path)


def test_rows_are_counted_over_the_whole_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_folder(tmp_path, recorded(1, n=30))
    monkeypatch.setattr(scanning, "ROWS", 7)
    change(tmp_path, "outcomes", lambda t: put(t, "quality", [*[1.0] * 100, -1.0, *[1.0] * 19]))
    with pytest.raises(ValueError, match=r"row 100, counted from 0: quality is -1\.0"):
        whole(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name\nsmall\n", "column 'model' is missing"),
        ("model\n", "names no model"),
        ("model\nsmall\nsmall\n", "line 3: model 'small' is there twice"),
        ("model,usd_per_mtok_in\nsmall,cheap\n", "line 2: usd_per_mtok_in is 'cheap'"),
        ("model,usd_per_mtok_in\nsmall,-1\n", "line 2: usd_per_mtok_in is '-1'"),
        (
            "model,experimental_or_duplicate_endpoint\nsmall,maybe\n",
            "line 2: .* is 'maybe'; write true or false",
        ),
    ],
)
def test_a_table_of_models_that_can_not_be_used_is_named(tmp_path: Path, text: str, message: str) -> None:
    write_folder(tmp_path, recorded(1, n=5))
    (tmp_path / "models.csv").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        read(tmp_path)


def test_where_every_cost_is_recorded_neither_prices_nor_input_tokens_are_needed(tmp_path: Path) -> None:
    data = recorded(1, n=5)
    write_folder(tmp_path, data)
    (tmp_path / "models.csv").write_text("model\nsmall\nmiddle\nlarge\nother\n", encoding="utf-8")
    change(tmp_path, "queries", lambda t: t.drop_columns(["input_tokens"]))
    found = read(tmp_path)
    assert (found.cost == data.cost).all()
    assert found.input_tokens.tolist() == [-(-len(prompt) // 4) for prompt in data.prompts]
    assert not found.price_in.any()
    assert not found.price_out.any()


def test_what_a_missing_cost_would_be_worked_out_by_is_asked_for(tmp_path: Path) -> None:
    data = recorded(1, n=5)
    write_folder(tmp_path, data, without=["cost_usd"])
    change(tmp_path, "queries", lambda t: t.drop_columns(["input_tokens"]))
    with pytest.raises(ValueError, match=r"queries\.parquet: column 'input_tokens', .* cost_usd are not"):
        read(tmp_path)
    (tmp_path / "models.csv").write_text("model\nsmall\nmiddle\nlarge\nother\n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"models\.csv: column 'usd_per_mtok_in' is missing, .* cost_usd"):
        read(tmp_path)


def test_training_needs_no_prices(tmp_path: Path) -> None:
    data = recorded(1, n=5)
    write_folder(tmp_path, data, without=["cost_usd", "output_tokens"])
    (tmp_path / "models.csv").write_text("model\nsmall\nmiddle\nlarge\nother\n", encoding="utf-8")
    change(tmp_path, "queries", lambda t: t.drop_columns(["input_tokens"]))
    assert [row[1] for row in whole(tmp_path).values()] == [tuple(row) for row in data.quality]


def test_missing_files_and_files_that_are_no_parquet_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no folder"):
        read(tmp_path / "nowhere")
    with pytest.raises(ValueError, match=r"queries\.parquet is missing"):
        read(tmp_path)
    write_folder(tmp_path, recorded(1, n=5))
    (tmp_path / "models.csv").rename(tmp_path / "elsewhere.csv")
    with pytest.raises(ValueError, match=r"models\.csv is missing"):
        read(tmp_path)
    (tmp_path / "elsewhere.csv").rename(tmp_path / "models.csv")
    (tmp_path / "outcomes.parquet").write_bytes(b"PAR1 but no more")
    with pytest.raises(ValueError, match=r"outcomes\.parquet can not be read as Parquet"):
        read(tmp_path)
    (tmp_path / "outcomes.parquet").unlink()
    with pytest.raises(ValueError, match=r"outcomes\.parquet is missing"):
        read(tmp_path)


def test_the_split_is_a_hash_of_seed_and_prompt() -> None:
    prompts = tuple(f"question {i}" for i in range(1000))
    past = is_past(prompts, 7)
    digest = int(hashlib.sha256(b"7|question 5").hexdigest()[:8], 16)
    assert past[5] == (digest / 2**32 < 0.6)
    assert 0.55 < past.mean() < 0.65
    assert (past != is_past(prompts, 8)).any()
