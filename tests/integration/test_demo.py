"""The whole demo, small: the product on the embedded cluster and the four baselines."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration


def test_the_demo_keeps_every_limit_and_reports_all_policies(tmp_path: Path) -> None:
    options = ["demo", "--seed", "5", "--duration", "4", "--rate", "15", "--output", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "modelfleet_lab", *options],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["overspend_usd"] == 0
    assert result["concurrency_violations"] == 0
    assert result["lost_requests"] == 0
    assert [row["policy"].split(" (")[0] for row in result["table"]] == [
        "modelfleet",
        "best single",
        "round robin",
        "per-query greedy",
        "per-query price",
    ]
    for row in result["table"]:
        assert 0 < row["quality"] <= 1
        assert row["cost_usd"] > 0
        assert sum(row["answers_by_model"].values()) + row["shed"] >= 60
        assert row["policy"] in done.stdout
    assert (tmp_path / "report.html").stat().st_size > 50_000
    # The figures are those of the logs that lie beside the report.
    logged = [
        json.loads(line)
        for path in (tmp_path / "run" / "per-query-greedy").glob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    greedy = result["table"][3]
    assert greedy["cost_usd"] == pytest.approx(sum(record["cost_nano_usd"] for record in logged) / 1e9)
    assert greedy["quality"] == pytest.approx(
        len({record["question"] for record in logged if record["correct"] and not record["cancelled"]}) / 60,
        abs=1e-4,
    )
