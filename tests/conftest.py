"""Rules of the whole suite: a skipped test fails the run where skips are forbidden (in CI).

Tests that need recorded outcomes, which are not in the repository, are deselected where they are absent.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

DATA = "MODELFLEET_DATA"


@pytest.fixture
def recorded_data() -> Path:
    """The folder of recorded outcomes and traces: `zeroeval` and `traces` lie in it."""
    return Path(os.environ[DATA])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    needing = [item for item in items if "recorded_data" in getattr(item, "fixturenames", ())]
    if needing and not os.environ.get(DATA):
        config.hook.pytest_deselected(items=needing)
        items[:] = [item for item in items if item not in needing]


def pytest_report_header() -> str | None:
    """Say so here: with several workers only they know what was deselected."""
    if os.environ.get(DATA):
        return None
    return f"{DATA} names no folder with recorded outcomes and traces: the tests that read it are deselected"


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not os.environ.get("MODELFLEET_FORBID_SKIPS"):
        return
    skipped = len(reporter.stats.get("skipped", []))
    if skipped and exitstatus == pytest.ExitCode.OK:
        reporter.write_line(f"{skipped} skipped, but MODELFLEET_FORBID_SKIPS is set", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
