"""Rules of the whole suite: a skipped test fails the run where skips are forbidden (in CI)."""

from __future__ import annotations

import os

import pytest


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is None or not os.environ.get("MODELFLEET_FORBID_SKIPS"):
        return
    skipped = len(reporter.stats.get("skipped", []))
    if skipped and exitstatus == pytest.ExitCode.OK:
        reporter.write_line(f"{skipped} skipped, but MODELFLEET_FORBID_SKIPS is set", red=True)
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
