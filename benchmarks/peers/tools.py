"""The harness's own programs, built from `go/`: the mock model server and the load generator.

In: addresses and files of bodies. Out: a running mock that can be told how to behave; what a load came to.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelfleet_lab.ports import free_ports

from benchmarks.peers.processes import CLIENT_CORE, Program, goes_first, pinned, program

SOURCES = Path(__file__).with_name("go")
UPSTREAMS = 4
FASTEST: Mapping[str, object] = {
    "first_ms": 0,
    "between_ms": 0,
    "chunks": 200,
    "record": False,
    "faults": [],
    "cut_after": 5,
    "retry_after": "",
}
_LOAD_SLACK = 100.0
"""Seconds that a load may last beyond its duration; one request may take a minute."""


@dataclass(frozen=True, slots=True)
class Tools:
    mock: Path
    load: Path


def build(folder: Path) -> Tools:
    """Build both with the installed Go; raise RuntimeError where that fails."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        subprocess.run(
            ["go", "build", "-trimpath", "-o", f"{folder.resolve()}/", "./mock", "./load"],
            cwd=SOURCES,
            check=True,
            capture_output=True,
            text=True,
        )
    except FileNotFoundError:
        raise RuntimeError("the harness needs Go 1.24 or later on the PATH; install it") from None
    except subprocess.CalledProcessError as error:
        raise RuntimeError(f"the harness's Go programs do not build:\n{error.stderr}") from None
    return Tools(folder / "mock", folder / "load")


@dataclass(frozen=True, slots=True)
class Mock:
    """The running mock; `urls` are its ports' base URLs."""

    program: Program
    urls: tuple[str, ...]

    def port(self, index: int) -> str:
        return self.urls[index].rpartition(":")[2]

    def behave(self, port: int | None = None, **changed: object) -> None:
        """Set how all ports, or the one of that index, behave; what is not named is as fast as can be."""
        whose = {} if port is None else {"port": self.port(port)}
        self._ask("/control", {**FASTEST, **changed, **whose})

    def events(self) -> list[dict[str, Any]]:
        """Return what was recorded since the last call."""
        events: list[dict[str, Any]] = self._ask("/events")
        return events

    def counts(self) -> dict[str, int]:
        """Return how many requests came so far, by what became of them."""
        counts: dict[str, int] = self._ask("/count")
        return counts

    def _ask(self, path: str, body: object = None) -> Any:
        data = None if body is None else json.dumps(body).encode()
        with urllib.request.urlopen(self.urls[0] + path, data, timeout=10) as response:
            return json.load(response)


@contextlib.contextmanager
def running_mock(tools: Tools, folder: Path) -> Iterator[Mock]:
    """Run the mock on the clients' core until the block ends."""
    ports = free_ports(UPSTREAMS)
    command = [str(tools.mock), "-ports", ",".join(map(str, ports))]
    with program("mock", command, folder, core=CLIENT_CORE) as running:
        mock = Mock(running, tuple(f"http://127.0.0.1:{port}" for port in ports))
        for _ in range(500):
            running.check()
            with contextlib.suppress(urllib.error.URLError):
                mock.behave()
                break
            time.sleep(0.01)
        yield mock


@dataclass(frozen=True, slots=True)
class Load:
    """How to ask: `kind` is unary, stream, grpc or grpc-stream."""

    kind: str
    url: str
    bodies: Path
    concurrency: int = 1
    seconds: float = 5.0
    requests: int = 0
    headers: Sequence[str] = ()
    rate: float = 0.0
    """Requests per second, evenly; 0: as fast as answers come."""
    spread: float = 0.0
    """Seconds in which the first requests start."""
    settle: str = ""
    """URL of gRPC's Settle, called after each Route."""
    cancel: float = 0.0
    """How many of 1 callers leave before their answer is whole."""
    keep: str = ""
    """A response header whose values are returned."""


def run_load(tools: Tools, load: Load) -> dict[str, Any]:
    """Return the load generator's figures; raise RuntimeError where it fails."""
    command = [
        *(*pinned(CLIENT_CORE), str(tools.load)),
        *("-kind", load.kind, "-url", load.url, "-bodies", str(load.bodies)),
        *("-concurrency", str(load.concurrency), "-duration", f"{load.seconds}s"),
        *("-requests", str(load.requests), "-cancel", str(load.cancel), "-keep", load.keep),
        *("-rate", str(load.rate), "-spread", f"{load.spread}s", "-settle", load.settle),
        *(word for header in load.headers for word in ("-header", header)),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as asking:
        goes_first(asking.pid)
        try:
            said, trouble = asking.communicate(timeout=load.seconds + _LOAD_SLACK)
        finally:
            asking.kill()
    if asking.returncode:
        raise RuntimeError(f"the load generator failed: {trouble[-1000:]}")
    figures: dict[str, Any] = json.loads(said)
    return figures
