"""Runs one pod's container as a local process: what the embedded cluster and the lab need of a kubelet.

In comes a pod manifest with the address and port it was given; out go `ContainerState`s through a callback as
the process starts, answers its readiness probe, stops answering or exits. An exited process is started again
with growing delay. `embedded` and `node` turn the states into pod status.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import IO

import aiohttp

from modelfleet_operator.cluster.fields import integer, items, mapping, strings, text

STARTING_PROBE_SECONDS = 0.1
FIRST_RESTART_SECONDS = 1.0
LONGEST_RESTART_SECONDS = 30.0
_LAUNCHER = (
    "import ctypes, os, sys\n"
    "parent, *command = sys.argv[1:]\n"
    f"ctypes.CDLL(None).prctl(1, {int(signal.SIGKILL)})\n"
    "if os.getppid() == int(parent):\n"
    "    os.execvp(command[0], command)\n"
)
"""Becomes the command, which Linux kills when its parent dies, so that a killed operator leaves none.

It asks for that itself: code of ours that ran between fork and exec, in a process with threads of gRPC and of
solvers, crashed now and then.
"""
_log = logging.getLogger(__name__)
_VARIABLE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")


class ContainerState(Enum):
    """What the process of a pod is doing."""

    STARTING = "Starting"
    READY = "Ready"
    UNREADY = "Unready"
    EXITED = "Exited"


@dataclass(frozen=True, slots=True)
class Container:
    """What to run: `probe_path` and the seconds follow the manifest, with Kubernetes' defaults."""

    command: tuple[str, ...]
    environment: Mapping[str, str]
    probe_path: str
    probe_period: float
    probe_timeout: float
    probe_failures: int
    grace: float


class ContainerError(ValueError):
    """The pod's container can not run as a local process; the message says why."""


def container_of(pod: Mapping[str, object], *, address: str, port: int) -> Container:
    """Return what the pod's first container runs when it has `address` and `port`.

    Raises `ContainerError` for no command and for a variable whose source is not a known pod field.
    """
    metadata, spec = mapping(pod, "metadata"), mapping(pod, "spec")
    containers = items(spec, "containers")
    if not containers:
        raise ContainerError("spec.containers is empty; give it one container with a command")
    container = containers[0]
    fields = {
        "metadata.name": text(metadata, "name"),
        "metadata.namespace": text(metadata, "namespace"),
        "metadata.uid": text(metadata, "uid"),
        "spec.nodeName": text(spec, "nodeName"),
        "status.podIP": address,
    }
    environment = {"POD_NAME": text(metadata, "name"), "POD_IP": address, "PORT": str(port)}
    for variable in items(container, "env"):
        name = text(variable, "name")
        if "valueFrom" not in variable:
            environment[name] = _expand(text(variable, "value"), environment)
            continue
        path = text(mapping(mapping(variable, "valueFrom"), "fieldRef"), "fieldPath")
        if path not in fields:
            raise ContainerError(f"env {name}: only fieldRef to {', '.join(fields)} can be resolved here")
        environment[name] = fields[path]
    words = [*strings(container, "command"), *strings(container, "args")]
    if not strings(container, "command"):
        raise ContainerError("the container has no command; an image can not run here, name a program")
    probe = mapping(container, "readinessProbe")
    return Container(
        command=tuple(_expand(word, environment) for word in words),
        environment=environment,
        probe_path=text(mapping(probe, "httpGet"), "path") or "/health",
        probe_period=float(integer(probe, "periodSeconds", 10)),
        probe_timeout=float(integer(probe, "timeoutSeconds", 1)),
        probe_failures=integer(probe, "failureThreshold", 3),
        grace=float(integer(spec, "terminationGracePeriodSeconds", 30)),
    )


def _expand(value: str, environment: Mapping[str, str]) -> str:
    return _VARIABLE.sub(lambda match: environment.get(match[1], match[0]), value)


async def run_container(
    container: Container,
    *,
    address: str,
    port: int,
    changed: Callable[[ContainerState], None],
    stop: asyncio.Event,
    log: Path | None = None,
) -> None:
    """Keep the container's process running until `stop` is set, then end it gracefully and return.

    After SIGTERM the whole process group has `container.grace` seconds; what remains then is killed. On
    cancellation it is killed at once. Output is appended to `log`, or discarded.
    """
    delay = FIRST_RESTART_SECONDS
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=container.probe_timeout)) as http:
        while not stop.is_set():
            changed(ContainerState.STARTING)
            became_ready = await _run_once(
                container, f"http://{address}:{port}{container.probe_path}", http, changed, stop, log
            )
            if stop.is_set():
                return
            changed(ContainerState.EXITED)
            delay = FIRST_RESTART_SECONDS if became_ready else min(2 * delay, LONGEST_RESTART_SECONDS)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), delay)


async def _run_once(
    container: Container,
    probe: str,
    http: aiohttp.ClientSession,
    changed: Callable[[ContainerState], None],
    stop: asyncio.Event,
    log: Path | None,
) -> bool:
    """Run the process once; return whether it ever was ready."""
    with contextlib.ExitStack() as files:
        output: IO[bytes] | int = files.enter_context(log.open("ab")) if log else asyncio.subprocess.DEVNULL
        try:
            process = await _spawn(container, output)
        except OSError as error:
            _log.error("can not start %s: %s", container.command[0], error)
            return False
    ever_ready = asyncio.Event()
    exited = asyncio.ensure_future(process.wait())
    stopped = asyncio.ensure_future(stop.wait())
    prober = asyncio.ensure_future(_probe(container, probe, http, changed, ever_ready))
    try:
        await asyncio.wait({exited, stopped, prober}, return_when=asyncio.FIRST_COMPLETED)
        if prober.done():
            prober.result()  # it only ends by an error: show it
        prober.cancel()
        if not exited.done():
            _signal_group(process.pid, signal.SIGTERM)
            await asyncio.wait({exited}, timeout=container.grace)
    finally:
        prober.cancel()
        stopped.cancel()
        _signal_group(process.pid, signal.SIGKILL)
        await asyncio.shield(exited)
    return ever_ready.is_set()


async def _probe(
    container: Container,
    url: str,
    http: aiohttp.ClientSession,
    changed: Callable[[ContainerState], None],
    ever_ready: asyncio.Event,
) -> None:
    """Tell `changed` when the probe starts or stops succeeding; until the first success ask often."""
    ready, failures = False, 0
    while True:
        if await _answers(http, url):
            failures = 0
            ever_ready.set()
            if not ready:
                ready = True
                changed(ContainerState.READY)
        else:
            failures += 1
            if ready and failures >= container.probe_failures:
                ready = False
                changed(ContainerState.UNREADY)
        await asyncio.sleep(container.probe_period if ready else STARTING_PROBE_SECONDS)


async def _answers(http: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with http.get(url) as response:
            return 200 <= response.status < 400
    except (aiohttp.ClientError, TimeoutError):
        return False


async def _spawn(container: Container, output: IO[bytes] | int) -> asyncio.subprocess.Process:
    # Programs that were installed beside this interpreter are found without an activated environment.
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    environment = {**os.environ, "PATH": path, **container.environment}
    program = shutil.which(container.command[0], path=environment["PATH"])
    if program is None:
        raise FileNotFoundError(f"there is no such program in {environment['PATH']}")
    command = [program, *container.command[1:]]
    if sys.platform == "linux":
        command = [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *command]
    return await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        env=environment,
        start_new_session=True,
    )


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)
