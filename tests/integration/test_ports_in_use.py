"""A program whose port is taken ends at once and says which setting to change."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.integration

FREE = "127.0.0.1:0"
NODES = Path(__file__).resolve().parents[2] / "examples" / "embedded"
OPERATOR = ["modelfleet-operator", "--cluster=embedded", f"--manifests={NODES}"]
SIDECAR = ["modelfleet-sidecar", "--namespace=n", "--pod-name=p", "--pod-uid=u", "--operator=127.0.0.1:9"]


@pytest.mark.parametrize(
    ("command", "flag", "setting"),
    [
        (["modelfleet-model-server", "--model=m"], "--listen", "--listen"),
        ([*OPERATOR, f"--capacity-listen={FREE}"], "--http-listen", "--http-listen"),
        ([*OPERATOR, f"--http-listen={FREE}"], "--capacity-listen", "--capacity-listen"),
        ([*SIDECAR, f"--grpc-listen={FREE}", f"--admin-listen={FREE}"], "--http-listen", "HTTP_LISTEN"),
        ([*SIDECAR, f"--http-listen={FREE}", f"--admin-listen={FREE}"], "--grpc-listen", "GRPC_LISTEN"),
    ],
)
def test_a_taken_port_is_named_with_its_setting(command: list[str], flag: str, setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        program = Path(sys.executable).with_name(command[0])
        done = subprocess.run(
            [str(program), *command[1:], f"{flag}={address}"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode in (1, 2)
    told = done.stdout + done.stderr
    assert setting in told
    assert f"{address} can not be listened on" in told
    assert "use another port" in told
    assert "Traceback" not in told
