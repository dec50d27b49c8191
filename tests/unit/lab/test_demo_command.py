"""The demo's command line: each mistake ends in one clear line, before anything starts."""

from __future__ import annotations

from pathlib import Path

import pyarrow
import pytest
from modelfleet_lab.__main__ import main
from modelfleet_lab.controlplane import namespace
from modelfleet_lab.controlplane.namespace import NamespaceError
from modelfleet_lab.demo import kubernetes
from modelfleet_lab.demo.scenario import RECORDED_MODELS
from pyarrow import parquet


@pytest.mark.parametrize(
    "options", [["--duration", "0"], ["--duration", "nan"], ["--rate", "fast"], ["--rate", "inf"], ["--seed"]]
)
def test_wrong_options_end_with_status_2(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["demo", *options])
    assert caught.value.code == 2
    assert "usage" in capsys.readouterr().err


def test_absent_data_is_named_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--data", str(tmp_path), "-o", str(tmp_path / "out")]) == 2
    assert "queries.parquet" in capsys.readouterr().out


TRACE = {"t_s": [0.0, 1.0], "input_tokens": [5, 6], "output_tokens": [7, 8]}


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (None, "trace.parquet is missing"),
        (b"no parquet", "trace.parquet can not be read as Parquet"),
        ({"t_s": [1.0]}, "column 'input_tokens' is missing"),
        (TRACE | {"output_tokens": [7, None]}, "trace.parquet: column 'output_tokens' is not all numbers"),
        (TRACE | {"t_s": ["soon", "later"]}, "trace.parquet: column 't_s' is not all numbers"),
        (TRACE, "the trace has 2 arrivals, the run needs 640"),
    ],
)
def test_a_trace_that_can_not_be_used_ends_in_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], table: object, says: str
) -> None:
    path = tmp_path / "trace.parquet"
    if isinstance(table, bytes):
        path.write_bytes(table)
    elif table is not None:
        parquet.write_table(pyarrow.table(table), path)
    assert main(["demo", "--trace", str(path), "-o", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().out
    assert says in " ".join(printed.split())
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "table", "says"),
    [
        ("queries.parquet", {"query_id": ["a"]}, "queries.parquet: column 'task' is missing"),
        ("outcomes.parquet", {"query_id": ["a"]}, "outcomes.parquet: column 'model' is missing"),
        ("models.csv", "name\nm\n", "models.csv: column 'model' is missing"),
    ],
)
def test_data_without_a_column_ends_in_one_clear_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, table: object, says: str
) -> None:
    columns = {
        "queries.parquet": ("query_id", "task", "prompt", "ref_answer"),
        "outcomes.parquet": ("query_id", "model", "quality", "output_tokens"),
    }
    for file, names in columns.items():
        parquet.write_table(pyarrow.table({column: ["x"] for column in names}), tmp_path / file)
    models = "\n".join(f"{model.name},False" for model in RECORDED_MODELS)
    (tmp_path / "models.csv").write_text(f"model,experimental_or_duplicate_endpoint\n{models}\n")
    if isinstance(table, str):
        (tmp_path / name).write_text(table)
    else:
        parquet.write_table(pyarrow.table(table), tmp_path / name)
    assert main(["demo", "--data", str(tmp_path), "-o", str(tmp_path / "out")]) == 2
    printed = capsys.readouterr().out
    assert says in " ".join(printed.split())
    assert printed.count("\n") == 1


def test_without_the_right_to_a_network_of_its_own_nothing_is_built(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise NamespaceError("no network of its own; run it as root")

    monkeypatch.setattr(namespace, "rehearse", refuse)
    monkeypatch.setattr(kubernetes, "find_or_build", lambda _: pytest.fail("it began to build"))
    assert main(["demo", "--kubernetes", "-o", str(tmp_path)]) == 1
    assert capsys.readouterr().out == "modelfleet demo: no network of its own; run it as root\n"


def test_without_go_the_message_says_what_to_install(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(namespace, "rehearse", lambda: None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    assert main(["demo", "--kubernetes", "-o", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().out
    assert "install Go 1.26 or later" in printed
    assert printed.count("\n") == 1


def test_help_shows_examples(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["demo", "--help"])
    assert "modelfleet demo --seed 7" in capsys.readouterr().out
