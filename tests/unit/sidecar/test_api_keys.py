"""API keys are read from mounted files, and nothing but the key itself ever holds one."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest
from modelfleet_core.catalog import SecretKey
from modelfleet_sidecar.keys import MAX_KEY, READ_AGAIN, ApiKeys
from support.sidecars import Spec, fleet_of

REF = SecretKey("frontier", "token")


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def mounted(folder: Path, content: bytes) -> Path:
    (folder / REF.name).mkdir(exist_ok=True)
    (folder / REF.name / REF.key).write_bytes(content)
    return folder


@pytest.mark.parametrize("content", [b"sk-1", b"sk-1\n", b"sk-1\r\n"])
def test_a_key_is_what_the_file_holds_without_its_line_end(tmp_path: Path, content: bytes) -> None:
    assert ApiKeys(mounted(tmp_path, content), Clock()).find(REF) == "sk-1"


@pytest.mark.parametrize(
    "content",
    [b"", b"\n", b"sk-1\r\nx-admin: 1", b"sk 1", b"sk-\xc3\xa9", b"\x00", b"x" * (MAX_KEY + 1)],
    ids=["empty", "only a line end", "another header", "blank", "not ASCII", "zero", "too long"],
)
def test_what_no_header_can_hold_is_no_key_and_is_not_quoted(
    tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    assert ApiKeys(mounted(tmp_path, content), Clock()).find(REF) is None
    assert "frontier/token" in caplog.text
    assert "sk" not in caplog.text
    assert "x-admin" not in caplog.text


def test_a_missing_key_is_said_once_and_again_when_it_is_there(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    keys = ApiKeys(tmp_path, clock)
    for _ in range(5):
        assert keys.find(REF) is None
        clock.now += 2 * READ_AGAIN
    assert len(caplog.records) == 1
    mounted(tmp_path, b"sk-1")
    assert keys.find(REF) == "sk-1"
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert "sk-1" not in caplog.text


def test_a_key_that_changed_is_taken_over_and_one_that_went_is_not_used(tmp_path: Path) -> None:
    clock = Clock()
    keys = ApiKeys(mounted(tmp_path, b"old"), clock)
    assert keys.find(REF) == "old"
    mounted(tmp_path, b"new")
    clock.now += READ_AGAIN
    assert keys.find(REF) == "new"
    (tmp_path / REF.name / REF.key).unlink()
    clock.now += READ_AGAIN
    assert keys.find(REF) is None


def test_a_folder_in_place_of_the_file_and_no_folder_at_all_are_no_keys(tmp_path: Path) -> None:
    (tmp_path / REF.name / REF.key).mkdir(parents=True)
    assert ApiKeys(tmp_path, Clock()).find(REF) is None
    assert ApiKeys(None, Clock()).find(REF) is None


def test_a_fleets_missing_keys_are_counted_once_each(tmp_path: Path) -> None:
    other = SecretKey("other", "token")
    specs = [Spec("a", api_key=REF), Spec("b", api_key=REF), Spec("c", api_key=other), Spec("d")]
    fleet = fleet_of(specs)
    assert ApiKeys(None, Clock()).missing(fleet) == 2
    keys = ApiKeys(mounted(tmp_path, b"sk-1"), Clock())
    assert keys.missing(fleet) == 1
    assert [keys.lacks(variant) for variant in fleet.variants()] == [False, False, True, False]
    assert keys.missing(replace(fleet, models=())) == 0
