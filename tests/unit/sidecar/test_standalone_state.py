"""The folder of a sidecar without an operator: what was written is there again, for one process at a time."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from modelfleet_core.leasing.accounts import BUDGET
from modelfleet_core.leasing.ledger import LedgerRecord, Stored, budget_period
from modelfleet_core.policy import Period
from modelfleet_core.values import ObjectKey
from modelfleet_sidecar.standalone.state import StateError, StateFolder

KEY = ObjectKey("default", "laptop")
DAY = budget_period(KEY, Period.DAY, datetime(2026, 11, 22, 12, tzinfo=UTC))
RECORD = LedgerRecord(KEY, DAY.id, 1, {BUDGET: Stored(5, 3)}, None)


def test_a_ledger_is_there_after_a_restart(tmp_path: Path) -> None:
    first = StateFolder(tmp_path / "state")
    assert first.read(KEY, DAY.id) is None
    version = first.write(RECORD)
    first.close()
    second = StateFolder(tmp_path / "state")
    assert second.read(KEY, DAY.id) == replace(RECORD, version=version)
    assert second.start == first.start + 1


def test_two_processes_never_share_a_folder(tmp_path: Path) -> None:
    first = StateFolder(tmp_path)
    with pytest.raises(StateError, match="in use by another sidecar"):
        StateFolder(tmp_path)
    first.close()
    StateFolder(tmp_path).close()


def test_a_folder_that_can_not_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StateError, match="can not be written"):
        StateFolder(tmp_path / "file" / "state")


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"policy": 1}', "[" * 100_000])
def test_a_ledger_that_was_damaged_is_refused(tmp_path: Path, content: str) -> None:
    folder = StateFolder(tmp_path)
    folder.write(RECORD)
    (path,) = tmp_path.glob("ledger-*.json")
    path.write_text(content)
    with pytest.raises(StateError, match="restore it"):
        folder.read(KEY, DAY.id)


def test_a_ledger_of_another_period_is_refused(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    folder.write(RECORD)
    (path,) = tmp_path.glob("ledger-*.json")
    tomorrow = budget_period(KEY, Period.DAY, datetime(2026, 11, 23, tzinfo=UTC))
    path.rename(tmp_path / path.name.replace("2026-11-22", "2026-11-23"))
    with pytest.raises(StateError, match="is of default/laptop/Day/2026-11-22"):
        folder.read(KEY, tomorrow.id)


def test_a_count_of_starts_that_was_damaged_is_refused(tmp_path: Path) -> None:
    (tmp_path / "starts").write_text("many")
    with pytest.raises(StateError, match="holds no number"):
        StateFolder(tmp_path)


def test_ledgers_go_a_whole_period_after_theirs(tmp_path: Path) -> None:
    folder = StateFolder(tmp_path)
    folder.write(RECORD)
    folder.forget(datetime(2026, 11, 23, 23, tzinfo=UTC))
    assert folder.read(KEY, DAY.id) is not None
    folder.forget(datetime(2026, 11, 24, tzinfo=UTC))
    assert folder.read(KEY, DAY.id) is None


def test_what_was_learned_is_there_after_a_restart(tmp_path: Path) -> None:
    first = StateFolder(tmp_path)
    assert first.learned() is None
    first.keep_learned(b"state")
    first.close()
    assert StateFolder(tmp_path).learned() == b"state"
