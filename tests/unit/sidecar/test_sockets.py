"""Unix sockets: what is left of an earlier start is replaced, what is someone's is not."""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

import pytest
from modelfleet_sidecar.sockets import SocketError, claim, listening, remove


def test_a_socket_listens_for_its_user_and_group_whatever_the_mask(tmp_path: Path) -> None:
    path = tmp_path / "router.sock"
    before = os.umask(0o077)
    try:
        with listening(path), socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(path))
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
    finally:
        os.umask(before)
    remove(path)
    remove(path)
    assert not path.exists()


def test_what_a_crashed_sidecar_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "router.sock"
    listening(path).close()
    assert path.is_socket()
    claim(path)
    assert not path.exists()


def test_a_socket_that_is_served_on_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "router.sock"
    with listening(path), pytest.raises(SocketError, match="another program serves there"):
        claim(path)
    assert path.is_socket()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    with pytest.raises(SocketError, match="no socket"):
        claim(path)
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    ("path", "problem"),
    [
        (Path("/tmp") / ("x" * 108), "at most 107 bytes"),  # noqa: S108 - nothing is made there
        (Path("router.sock"), "must be absolute"),
        (Path("/no/such/folder/router.sock"), "there is no folder"),
        (Path("/dev/null/router.sock"), "Not a directory"),
    ],
)
def test_a_path_that_can_not_be_used_says_why(path: Path, problem: str) -> None:
    with pytest.raises(SocketError, match=problem):
        listening(path)
