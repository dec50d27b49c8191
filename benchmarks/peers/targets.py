"""What is measured: how each program is started in front of the mock, and how it is asked.

In: the mock's addresses. Out: a running `Target`, ready, alone on the servers' core.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from modelfleet_lab.ports import free_ports

from benchmarks.peers import fleet
from benchmarks.peers.processes import SERVER_CORE, Program, program
from benchmarks.peers.prompts import chat_body

CHAT = "/v1/chat/completions"
MAIN_SLOTS = 20_000
"""Slots of each of the four models where nothing is to bind."""


@dataclass(frozen=True, slots=True)
class Target:
    """A running gateway."""

    program: Program
    http: str
    """Base URL of its OpenAI API."""
    ready_s: float
    """From its start to the first answer."""
    headers: Sequence[str] = ()
    grpc: str = ""
    admin: str = ""
    """Base URL of its metrics; only the sidecar's are read."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a target runs: its own folder, in front of these base URLs."""

    folder: Path
    upstreams: Sequence[str]
    estimator: bytes | None
    """Of the sidecar; None: it goes by the manifest's priors."""
    cache: Path
    """Where other gateways are installed, and stay."""
    say: Callable[[str], None]


class Start(Protocol):
    """Runs a gateway until its block ends."""

    def __call__(self, place: Place) -> AbstractContextManager[Target]: ...


@contextlib.contextmanager
def sidecar(
    place: Place, *, slots: int = MAIN_SLOTS, module: Sequence[str] = ("modelfleet_sidecar",)
) -> Iterator[Target]:
    """Run the sidecar by a file, with its ledger and journal on disk; `module` is what Python runs."""
    http, grpc, admin = (f"127.0.0.1:{port}" for port in free_ports(3))
    with tempfile.TemporaryDirectory(dir=place.folder) as folder:
        config = fleet.write_config(Path(folder), place.upstreams, slots=slots, estimator=place.estimator)
        command = [
            *(sys.executable, "-m", *module, "--config", str(config)),
            *("--http-listen", http, "--grpc-listen", grpc, "--admin-listen", admin),
        ]
        began = time.monotonic()
        with program("sidecar", command, place.folder, core=SERVER_CORE) as running:
            url = f"http://{http}"
            wait_until(running, lambda: answers(url), 60.0)
            ready = time.monotonic() - began
            if place.estimator is not None:
                wait_until(running, lambda: _trained(url), 30.0)
            yield Target(running, url, ready, grpc=grpc, admin=f"http://{admin}")


def wait_until(running: Program, true: Callable[[], bool], seconds: float) -> None:
    """Return once it is true; raise ProgramError where the program ends first or the time is over."""
    until = time.monotonic() + seconds
    while not true():
        running.check()
        if time.monotonic() > until:
            raise running.error(f"was not ready after {seconds:g} s")
        time.sleep(0.01)


def answers(url: str, headers: Sequence[str] = (), path: str = CHAT) -> bool:
    """Return whether a chat completion is answered."""
    return response_headers(url, headers, path) is not None


def response_headers(url: str, headers: Sequence[str] = (), path: str = CHAT) -> Mapping[str, str] | None:
    """Return the headers of an answer to a greeting; None: there was no good one."""
    body = chat_body("hello", model="auto", stream=False)
    request = urllib.request.Request(url + path, body, {"Content-Type": "application/json"})
    for header in headers:
        name, _, value = header.partition(":")
        request.add_header(name.strip(), value.strip())
    with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=10) as response:
        response.read()
        return dict(response.headers)
    return None


def _trained(url: str) -> bool:
    """Return whether the sidecar decides by the trained estimator."""
    headers = response_headers(url)
    if headers is None:
        return False
    with urllib.request.urlopen(f"{url}/v1/decisions/{headers['x-modelfleet-decision-id']}") as response:
        return bool(json.load(response)["estimator_version"])
