"""Processes of pods end with everything that they started, gracefully or at once."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import sys
from collections.abc import Callable
from pathlib import Path

from modelfleet_operator.cluster.processes import Container, ContainerState, run_container

CONTAINER = Container(
    command=(), environment={}, probe_path="/", probe_period=1, probe_timeout=1, probe_failures=1, grace=20
)


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - a file that another process writes has no event
            await asyncio.sleep(0.02)


def _running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A killed grandchild may wait for its new parent to take note of it.
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def _start(
    script: str, tmp_path: Path, stop: asyncio.Event, states: list[ContainerState] | None = None
) -> asyncio.Task[None]:
    return asyncio.create_task(
        run_container(
            dataclasses.replace(CONTAINER, command=("sh", "-c", script)),
            address="127.0.0.1",
            port=1,
            changed=states.append if states is not None else lambda _: None,
            stop=stop,
            log=tmp_path / "log",
        )
    )


async def test_a_stopped_pod_ends_gracefully_with_its_children(tmp_path: Path) -> None:
    stop = asyncio.Event()
    script = "trap 'echo bye; exit' TERM; sleep 600 & echo $!; wait"
    task = _start(script, tmp_path, stop)
    log = tmp_path / "log"
    await _until(lambda: log.exists() and log.read_text().endswith("\n"))
    child = int(log.read_text())
    stop.set()
    async with asyncio.timeout(10):
        await task
    assert log.read_text().endswith("bye\n")
    await _until(lambda: not _running(child))


async def test_a_cancelled_pod_is_killed_although_it_refuses_to_end(tmp_path: Path) -> None:
    task = _start("trap '' TERM; echo $$; while :; do sleep 1; done", tmp_path, asyncio.Event())
    log = tmp_path / "log"
    await _until(lambda: log.exists() and log.read_text().endswith("\n"))
    task.cancel()
    async with asyncio.timeout(10):
        await asyncio.wait({task})
    assert not _running(int(log.read_text()))


async def test_a_pod_dies_with_the_process_that_runs_it(tmp_path: Path) -> None:
    log = tmp_path / "log"
    program = (
        "import asyncio, pathlib, sys\n"
        "from modelfleet_operator.cluster.processes import Container, run_container\n"
        "sleeper = Container(('sh', '-c', 'echo $$; exec sleep 600'), {}, '/', 1, 1, 1, 1)\n"
        "log, stop = pathlib.Path(sys.argv[1]), asyncio.Event()\n"
        "pod = run_container(sleeper, address='127.0.0.1', port=1, changed=print, stop=stop, log=log)\n"
        "asyncio.run(pod)\n"
    )
    runner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, str(log), stdout=asyncio.subprocess.DEVNULL
    )
    await _until(lambda: log.exists() and log.read_text().endswith("\n"))
    pod = int(log.read_text())
    assert _running(pod)
    runner.kill()
    await runner.wait()
    await _until(lambda: not _running(pod))


async def test_a_pod_that_exits_is_started_again(tmp_path: Path) -> None:
    stop, states, log = asyncio.Event(), list[ContainerState](), tmp_path / "log"
    task = _start("echo started", tmp_path, stop, states)
    await _until(lambda: log.exists() and log.read_text() == "started\nstarted\n")
    stop.set()
    await task
    assert states[:3] == [ContainerState.STARTING, ContainerState.EXITED, ContainerState.STARTING]


async def test_a_program_that_does_not_exist_is_tried_again_and_can_be_stopped(tmp_path: Path) -> None:
    stop, states = asyncio.Event(), list[ContainerState]()
    missing = dataclasses.replace(CONTAINER, command=("no-such-program-here",))
    task = asyncio.create_task(
        run_container(missing, address="127.0.0.1", port=1, changed=states.append, stop=stop)
    )
    await _until(lambda: ContainerState.EXITED in states)
    stop.set()
    async with asyncio.timeout(10):
        await task
