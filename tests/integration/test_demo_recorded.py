"""The demo on real questions, recorded outcomes and real arrivals, as the README shows it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_demo_runs_on_recorded_outcomes_and_says_whose_they_are(
    recorded_data: Path, tmp_path: Path
) -> None:
    (command,) = re.findall(r"^modelfleet demo --data .*$", README, re.MULTILINE)
    program, *options = shlex.split(os.path.expandvars(command))
    assert program == "modelfleet"
    assert options[2].startswith(str(recorded_data))
    small = ["--duration", "3", "--rate", "15", "--output", str(tmp_path)]
    done = subprocess.run(
        [sys.executable, "-m", "modelfleet_lab", *options, *small],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["overspend_usd"], result["concurrency_violations"], result["lost_requests"]) == (0, 0, 0)
    assert {mix["model"] for mix in result["constant_models"]} >= {"claude-3-5-sonnet-20241022"}
    page = " ".join((tmp_path / "report.html").read_text().split())
    assert "ZeroEval, Apache-2.0, WildEval/ZeroEval @ 8c1485e" in page
    assert "CC BY 4.0, Azure/AzurePublicDataset @ b469a11; Patel et al., Splitwise, ISCA 2024" in page
