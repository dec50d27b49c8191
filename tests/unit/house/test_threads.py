"""No program starts a thread for each core of its node."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_COUNT = (
    "import {0}, numpy, os; numpy.ones((9, 9)) @ numpy.ones((9, 9)); print(len(os.listdir(os.environ['T'])))"
)
_TASKS = "/proc/self/task"


@pytest.mark.skipif(not Path(_TASKS).exists(), reason="threads are counted in /proc")
@pytest.mark.parametrize(
    "program",
    ["modelfleet_sidecar.__main__", "modelfleet_operator.__main__", "modelfleet_operator.injection.__main__"],
)
def test_matrices_are_multiplied_in_one_thread(program: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_NUM_THREADS"}
    environment["T"] = _TASKS
    command = [sys.executable, "-c", _COUNT.format(program)]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "1"
