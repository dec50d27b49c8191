"""Whether anyone is connected to a port, by the kernel's own tables."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from modelfleet_sidecar.callers import connected


@pytest.mark.parametrize(("family", "host"), [(socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")])
def test_a_port_has_a_caller_from_its_connection_until_the_caller_closes_it(
    family: socket.AddressFamily, host: str
) -> None:
    with socket.create_server((host, 0), family=family) as listener:
        port = listener.getsockname()[1]
        assert not connected(port)
        with socket.create_connection((host, port)):
            accepted, _ = listener.accept()
            assert connected(port)
        with accepted:
            assert accepted.recv(1) == b""
            assert not connected(port)


def test_where_the_kernel_does_not_tell_someone_may_be_there(tmp_path: Path) -> None:
    assert connected(1, tables=(tmp_path / "none",))
    (tmp_path / "empty").write_text("header\n")
    assert connected(1, tables=(tmp_path / "empty",))


def test_a_unix_socket_has_a_caller_from_its_connection_until_both_have_closed_it(tmp_path: Path) -> None:
    path = tmp_path / "router.sock"
    with socket.create_server(("127.0.0.1", 0)) as other, socket.socket(socket.AF_UNIX) as listener:
        port = other.getsockname()[1]
        listener.bind(str(path))
        listener.listen()
        assert not connected(port, path)
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(path))
            accepted, _ = listener.accept()
            assert connected(port, path)
            assert not connected(port, tmp_path / "another.sock")
        accepted.close()
        assert not connected(port, path)
