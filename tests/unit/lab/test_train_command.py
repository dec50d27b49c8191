"""`modelfleet train` and `modelfleet estimator inspect`: what is learned, written, shown and refused."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from distributed import LocalCluster
from modelfleet_core.estimation.artifact import decode
from modelfleet_core.estimation.features import feature_matrix
from modelfleet_core.estimation.trained import Trained
from modelfleet_lab.__main__ import main
from modelfleet_lab.estimator import files
from modelfleet_lab.outcomes import streaming
from modelfleet_lab.train import counting
from pyarrow import parquet
from support.recorded_folder import MODELS, recorded, tables, write_folder, write_models

LEFT_OUT = "other"
LEARNED = tuple(model for model in MODELS if model != LEFT_OUT)


@dataclass(frozen=True, slots=True)
class Made:
    """What one run of the command left and said."""

    estimator: Path
    figures: Path
    shown: str


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("recorded"), recorded(1, n=300), experimental=[LEFT_OUT])


@pytest.fixture(scope="module")
def made(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Made:
    folder = tmp_path_factory.mktemp("made")
    estimator, figures = folder / "out" / "estimator.npz", folder / "figures.json"
    with redirect_stdout(StringIO()) as said:
        assert main(["train", "--data", str(data), "-o", str(estimator), "--json", str(figures)]) == 0
    return Made(estimator, figures, " ".join(said.getvalue().split()))


@pytest.fixture(scope="module")
def estimator(made: Made) -> Path:
    return made.estimator


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with LocalCluster(
        n_workers=1,
        threads_per_worker=2,
        processes=False,
        dashboard_address=None,
        protocol="tcp://",
        host="127.0.0.1",
    ) as started:
        yield started.scheduler_address


def told(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_training_writes_an_estimator_that_tells_hard_texts_from_easy_ones(estimator: Path) -> None:
    trained = decode(estimator.read_bytes())
    assert trained.models == LEARNED
    assert set(trained.tasks) == {"proof", "sum"}
    past = recorded(1, n=300)
    hard, easy = (past.prompts[past.tasks.index(task)] for task in ("proof", "sum"))
    found = trained.predict(feature_matrix([hard, easy]))
    assert found.quality[0, 0] < found.quality[1, 0] - 0.2
    assert found.output_tokens[0, 0] > 1.5 * found.output_tokens[1, 0]


def test_training_says_what_was_learned(made: Made) -> None:
    assert "3 models, 2 tasks, 900 outcomes" in made.shown
    assert "1,200 outcomes of 300 queries in" in made.shown
    assert "peak memory" in made.shown
    assert "of a fifth that was held out: AUC 0." in made.shown
    assert "proof" in made.shown
    assert "left out: other, which models.csv flags as experimental_or_duplicate_endpoint" in made.shown
    found = json.loads(made.figures.read_text(encoding="utf-8"))
    assert found["bytes"] == made.estimator.stat().st_size
    assert [row["model"] for row in found["models"]] == list(LEARNED)
    assert found["models"][2]["quality"] == pytest.approx(recorded(1, n=300).quality[:, 2].mean(), abs=0.01)
    assert found["peak_bytes"] > 0
    assert 40 < found["held_out"]["queries"] < 80
    assert found["held_out"]["auc"] > 0.65
    assert found["held_out"]["ece"] < 0.15
    assert list(made.estimator.parent.iterdir()) == [made.estimator]


def same(left: Trained, right: Trained) -> None:
    """Compare what they estimate: signs of directions are free, and sums in another order round otherwise."""
    assert (left.models, set(left.tasks)) == (right.models, set(right.tasks))
    x = feature_matrix([f"Prove by induction that {i}" for i in range(20)])
    a, b = left.predict(x), right.predict(x)
    for name in ("quality", "output_tokens"):
        assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-4, abs=1e-5), name


def test_the_order_of_rows_and_files_does_not_matter(
    estimator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = recorded(1, n=300)
    queries, outcomes = tables(data)
    order = np.random.default_rng(0).permutation(len(outcomes))
    write_models(tmp_path, data, experimental=[LEFT_OUT])
    parquet.write_table(queries.take(order[order < 300]), tmp_path / "queries.parquet")
    parquet.write_table(outcomes.take(order[:500]), tmp_path / "outcomes-0.parquet")
    parquet.write_table(outcomes.take(order[500:]), tmp_path / "outcomes-1.parquet")
    monkeypatch.setattr(streaming, "PART_OUTCOMES", 200)
    monkeypatch.setattr(counting, "ROWS", 16)
    assert main(["train", "--data", str(tmp_path), "-o", str(tmp_path / "e.npz")]) == 0
    same(files.read(tmp_path / "e.npz"), files.read(estimator))


def test_a_dask_cluster_learns_the_same(
    data: Path, estimator: Path, cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streaming, "PART_OUTCOMES", 200)
    path = tmp_path / "e.npz"
    assert main(["train", "--data", str(data), "-o", str(path), "--dask", cluster]) == 0
    same(files.read(path), files.read(estimator))


def test_a_dask_cluster_refuses_what_can_not_be_used(
    cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_folder(tmp_path / "data", recorded(1, n=50))
    table = parquet.read_table(folder / "queries.parquet")
    parquet.write_table(table.slice(1), folder / "queries.parquet")
    assert main(["train", "--data", str(folder), "-o", str(tmp_path / "e.npz"), "--dask", cluster]) == 2
    assert "query_id 'q0' is not in queries.parquet" in told(capsys)


def test_workers_of_another_version_are_refused(
    data: Path,
    cluster: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    drawn = iter(["theirs", "ours"])
    monkeypatch.setattr(counting, "feature_matrix", lambda texts: np.array([[hash(next(drawn))]], np.float64))
    assert main(["train", "--data", str(data), "-o", str(tmp_path / "e.npz"), "--dask", cluster]) == 1
    assert "has another version of modelfleet" in told(capsys)


def test_without_dask_or_its_scheduler_the_command_says_so(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["train", "--data", str(data), "-o", str(tmp_path / "e.npz"), "--dask"]
    monkeypatch.setattr("modelfleet_lab.train.dask.CONNECT_SECONDS", 0.2)
    assert main([*options, "tcp://127.0.0.1:9"]) == 1
    assert "no Dask scheduler answers at tcp://127.0.0.1:9" in told(capsys)
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert main([*options, "tcp://127.0.0.1:9"]) == 1
    assert "--dask needs distributed: pip install 'modelfleet[dask]'" in told(capsys)
    assert not (tmp_path / "e.npz").exists()


def test_data_that_can_not_be_used_leave_the_old_estimator_as_it_was(
    estimator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "e.npz"
    path.write_bytes(estimator.read_bytes())
    assert main(["train", "--data", str(tmp_path), "-o", str(path)]) == 2
    assert "queries.parquet is missing" in told(capsys)
    assert path.read_bytes() == estimator.read_bytes()


def test_a_failed_write_leaves_the_old_estimator_and_nothing_else(
    estimator: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "e.npz"
    path.write_bytes(b"old")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        files.write(path, files.read(estimator))
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_an_estimator_is_inspected(
    estimator: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "figures.json"
    assert main(["estimator", "inspect", str(estimator), "--json", str(figures)]) == 0
    shown = told(capsys)
    assert f"estimator {files.read(estimator).version}: 3 models, 2 tasks" in shown
    assert "kappa" in shown
    found = json.loads(figures.read_text(encoding="utf-8"))
    data = recorded(1, n=300)
    proofs = np.array(data.tasks) == "proof"
    (large,) = (row for row in found["tasks"]["proof"] if row["model"] == "large")
    assert large["samples"] == proofs.sum()
    assert large["quality_ci"][0] < data.quality[proofs, 2].mean() < large["quality_ci"][1]
    assert large["quality_ci"][1] - large["quality_ci"][0] < 0.15


def test_an_inspection_shows_a_task_and_a_text(estimator: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimator", "inspect", str(estimator), "--task", "proof"]) == 0
    assert "outcomes in proof" in told(capsys)
    past = recorded(1, n=300)
    text = ["--text", f"{past.prompts[past.tasks.index('proof')]} [b]"]
    assert main(["estimator", "inspect", str(estimator), *text]) == 0
    assert "tasks: proof " in told(capsys)
    assert main(["estimator", "inspect", str(estimator), *text, "--task", "sum"]) == 0
    assert "tasks: sum 100%, proof 0%" in told(capsys)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        (b"no archive", [], "not an estimator"),
        (None, [], "No such file"),
        (b"\0" * (files.MOST_BYTES + 1), [], "is larger than"),
    ],
)
def test_what_is_no_estimator_is_refused(
    tmp_path: Path,
    content: bytes | None,
    options: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "e.npz"
    if content is not None:
        path.write_bytes(content)
    assert main(["estimator", "inspect", str(path), *options]) == 2
    assert message in told(capsys)


def test_a_task_that_the_estimator_does_not_know_is_refused(
    estimator: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["estimator", "inspect", str(estimator), "--task", "chess"]) == 2
    assert "knows no task 'chess'; it knows" in told(capsys)
