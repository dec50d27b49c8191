"""Journals of former starts are found, believed only where they can be, and never grow without bound."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from modelfleet_core.leasing.journal import Ended, Granted, Life, TakenUp
from modelfleet_core.values import AccountId, EndpointUrl
from modelfleet_sidecar import journal
from modelfleet_sidecar.journal import Journal, former_lives, machine_boot
from support.lease_values import ONE, POD_A, TODAY

NEW = ONE._replace(boot="2")


def written(folder: Path, *, machine: str = "m", boot: str = "1", uid: str = ONE.uid) -> Path:
    """Leave the journal of a start that took 5 of 9 and crashed."""
    life = Journal(folder, Life(ONE._replace(boot=boot, uid=uid), machine))
    life.record(Granted(TODAY, 9))
    life.record(TakenUp(1, POD_A, {TODAY: 5}, {}, 1.0))
    life.close()
    return folder / f"{boot}.journal"


def test_a_new_start_finds_what_a_former_one_left(tmp_path: Path) -> None:
    written(tmp_path)
    (life,) = former_lives(tmp_path, NEW, "m")
    assert life.sidecar == ONE
    assert life.accounts[TODAY].granted == 9
    assert life.unsettled[1].amounts == {TODAY: 5}


def test_a_deleted_journal_is_found_no_more(tmp_path: Path) -> None:
    open_one = Journal(tmp_path, Life(ONE, "m"))
    open_one.delete()
    assert list(former_lives(tmp_path, NEW, "m")) == []
    assert list(tmp_path.iterdir()) == []


def test_the_journal_of_a_process_that_runs_or_of_another_pod_is_left_alone(tmp_path: Path) -> None:
    runs = Journal(tmp_path, Life(ONE, "m"))
    other = written(tmp_path, boot="9", uid="another-pod")
    assert list(former_lives(tmp_path, NEW, "m")) == []
    assert other.exists()
    runs.close()


def test_a_last_line_that_was_cut_off_is_tolerated(tmp_path: Path) -> None:
    path = written(tmp_path)
    path.write_bytes(path.read_bytes()[:-3])
    (life,) = former_lives(tmp_path, NEW, "m")
    assert (life.accounts[TODAY].granted, life.unsettled) == (9, {})


@pytest.mark.parametrize("content", [b"", b"nonsense\n", b"\xff\xfe\n", b'["life",99,"a","b","c","d","e"]\n'])
def test_garbage_is_put_aside_with_its_reason(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    path = written(tmp_path)
    path.write_bytes(content)
    assert list(former_lives(tmp_path, NEW, "m")) == []
    assert "can not be used" in caplog.text
    assert str(path) in caplog.text
    assert not path.exists()
    assert path.with_suffix(".refused").exists()


def test_a_journal_of_another_boot_of_the_machine_is_not_believed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    written(tmp_path, machine="before the power cut")
    assert list(former_lives(tmp_path, NEW, "m")) == []
    assert "started again" in caplog.text


def test_a_long_journal_is_refused_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written(tmp_path)
    monkeypatch.setattr(journal, "MAX_BYTES", 10)
    assert list(former_lives(tmp_path, NEW, "m")) == []
    assert "longer than" in caplog.text


def test_a_journal_stays_short_however_many_requests_it_sees(tmp_path: Path) -> None:
    kept = Journal(tmp_path, Life(ONE, "m"))
    kept.record(Granted(TODAY, 10**9))
    for number in range(10_000):
        kept.record(TakenUp(number, POD_A, {TODAY: 5}, {EndpointUrl("x!requests"): 1}, number / 10))
        kept.record(Ended(number, {TODAY: 3}))
    kept.record(TakenUp(10_000, POD_A, {TODAY: 7}, {}, 1.0))
    kept.close()
    assert (tmp_path / "1.journal").stat().st_size < 2 * journal.COMPACT_ABOVE
    (life,) = former_lives(tmp_path, NEW, "m")
    assert life.accounts[TODAY].spent == 30_000
    assert set(life.unsettled) == {10_000}


def test_a_disk_that_fails_ends_the_journal_with_an_error_and_no_half_truth(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Journal(tmp_path, Life(ONE, "m"))

    def full(file: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    kept.record(Granted(TODAY, 9))
    kept.record(Granted(AccountId("another"), 9))
    assert caplog.text.count("can not be written") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_can_not_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        Journal(tmp_path / "file", Life(ONE, "m"))


def test_a_boot_of_a_machine_has_a_name() -> None:
    assert machine_boot() == machine_boot() != ""
