"""What `docs/leases.md` says of worst cases is what `benchmarks/worst_case.py` measures."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.property
ROOT = Path(__file__).parents[2]


def test_the_documented_worst_cases_are_the_measured_ones() -> None:
    script = [sys.executable, str(ROOT / "benchmarks" / "worst_case.py")]
    printed = subprocess.run(script, capture_output=True, text=True, check=True).stdout.strip()
    documented = (ROOT / "docs" / "leases.md").read_text(encoding="utf-8")
    assert printed.startswith("| after |")
    assert printed in documented, f"put this into docs/leases.md:\n{printed}"
