"""The programs that the demo starts, each with its output in a file, and their sure end.

In: command lines. Out: running processes; when one fails, its name and the end of its output. Next: `run` and
`rivals` start what they need through it.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import aiohttp

TAIL_LINES = 30
_LAUNCHER = (
    "import ctypes, os, sys\n"
    "parent, *command = sys.argv[1:]\n"
    f"ctypes.CDLL(None).prctl(1, {int(signal.SIGTERM)})\n"
    "if os.getppid() == int(parent):\n"
    "    os.execvp(command[0], command)\n"
)
"""Becomes the program, which Linux ends when the demo is killed outright.

It asks for that itself: code of ours that ran between fork and exec, in a process with other threads, crashed
now and then.
"""
T = TypeVar("T")


class ChildError(RuntimeError):
    """A program ended or did not become ready; the message shows the end of its output."""


@dataclass(frozen=True, slots=True)
class Child:
    name: str
    process: asyncio.subprocess.Process
    output: Path

    def tail(self) -> str:
        lines = self.output.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-TAIL_LINES:]) or "(it printed nothing)"

    def error(self, problem: str) -> ChildError:
        return ChildError(f"{self.name} {problem}; the end of {self.output}:\n{self.tail()}")


class Children:
    """Ends every program that it started when it is left, however that is."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._children: list[Child] = []
        self._started: list[Child] = []

    async def __aenter__(self) -> Children:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop(self._children)

    async def start(
        self, name: str, arguments: Sequence[str], environment: Mapping[str, str] | None = None
    ) -> Child:
        """Start a program in its own process group, with `environment` added to ours."""
        output = self._logs / f"{name}.log"
        output.parent.mkdir(parents=True, exist_ok=True)
        with output.open("wb") as file:
            process = await asyncio.create_subprocess_exec(
                *_launched(arguments),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                env={**os.environ, **(environment or {})},
                start_new_session=True,
            )
        child = Child(name, process, output)
        self._children.append(child)
        self._started.append(child)
        return child

    async def stop(self, children: Sequence[Child], *, grace: float = 8.0) -> None:
        """Ask `children` to end; kill those that have not after `grace` seconds."""
        for child in children:
            _signal(child, signal.SIGTERM)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await asyncio.gather(*(child.process.wait() for child in children))
        for child in children:
            _signal(child, signal.SIGKILL)
        await asyncio.gather(*(child.process.wait() for child in children))
        self._children = [child for child in self._children if child not in children]

    def tails(self) -> str:
        """Return the end of every program's output, also of those stopped, to tell what went wrong."""
        return "\n".join(f"the end of {child.output}:\n{child.tail()}" for child in self._started)

    async def guard(self, work: Coroutine[Any, Any, T]) -> T:
        """Return the result of `work`; raise ChildError as soon as a program ends meanwhile."""
        watched = list(self._children)
        task = asyncio.create_task(work)
        ends = [asyncio.create_task(child.process.wait()) for child in watched]
        try:
            await asyncio.wait([task, *ends], return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                child = next(child for child in watched if child.process.returncode is not None)
                raise child.error(f"ended with status {child.process.returncode}")
            return task.result()
        finally:
            for pending in (task, *ends):
                pending.cancel()
            await asyncio.gather(task, *ends, return_exceptions=True)

    async def ready(self, child: Child, url: str, *, timeout: float = 30.0) -> None:
        """Return once `url` answers 200; raise ChildError if `child` ends or takes longer than `timeout`."""
        try:
            async with asyncio.timeout(timeout), aiohttp.ClientSession() as session:
                while child.process.returncode is None:
                    with contextlib.suppress(aiohttp.ClientError):
                        async with session.get(url) as response:
                            if response.status == 200:
                                return
                    await asyncio.sleep(0.05)
        except TimeoutError:
            raise child.error(f"did not answer {url} within {timeout:g} s") from None
        raise child.error(f"ended with status {child.process.returncode} before it was ready")


def _signal(child: Child, number: signal.Signals) -> None:
    """Signal the whole group, which may outlive the program that led it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.process.pid, number)


def _launched(arguments: Sequence[str]) -> list[str]:
    if sys.platform != "linux":
        return list(arguments)
    return [sys.executable, "-I", "-S", "-c", _LAUNCHER, str(os.getpid()), *arguments]
