"""Runs one program in the background until a block ends, and waits until it is ready.

`start` and the cluster's parts hand in its path and arguments; its output goes to `<name>.log` in a folder.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

READY_SECONDS = 120.0
END_SECONDS = 10.0
_POLL_SECONDS = 0.1
_LAST_LINES = 15
_PR_SET_PDEATHSIG = 1
# Becomes the program, which Linux kills when its parent dies, so that a killed run leaves nothing. It asks
# for that itself: code of ours between fork and exec, in a process with other threads, crashes now and then.
_LAUNCHER = (
    sys.executable,
    "-ISc",
    "import ctypes, os, sys\n"
    "parent, *command = sys.argv[1:]\n"
    "if sys.platform == 'linux':\n"
    f"    ctypes.CDLL(None).prctl({_PR_SET_PDEATHSIG}, {int(signal.SIGKILL)})\n"
    "if os.getppid() == int(parent):\n"
    "    os.execvp(command[0], command)\n",
)


class DaemonError(RuntimeError):
    """A program ended or did not become ready; the message has the end of its log."""


@dataclass(frozen=True, slots=True)
class Daemon:
    """A program that was started."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def require(self, why_not_ready: Callable[[], str]) -> None:
        """Wait until `why_not_ready` returns nothing; raises `DaemonError` with its last words."""
        deadline = time.monotonic() + READY_SECONDS
        while why := why_not_ready():
            code = self.process.poll()
            if code is None and time.monotonic() < deadline:
                time.sleep(_POLL_SECONDS)
                continue
            what = (
                f"is not ready after {READY_SECONDS:.0f} s ({why})"
                if code is None
                else f"ended with exit code {code}"
            )
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-_LAST_LINES:])
            raise DaemonError(f"{self.name} {what}; the end of {self.log}:\n{tail}")


@contextmanager
def running(
    name: str,
    path: Path,
    arguments: Sequence[str],
    folder: Path,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Daemon]:
    """Run a program until the block ends, in an order that the caller's blocks give.

    Call it from the main thread: the program is killed when the thread that started it ends.
    """
    log = folder / f"{name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*_LAUNCHER, str(os.getpid()), str(path), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(environment or {})},
            start_new_session=True,  # Ctrl-C reaches us, and we end them in order
        )
    try:
        yield Daemon(name, process, log)
    finally:
        process.terminate()
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def die_with_parent() -> None:
    """Ask Linux to kill this process when the thread that started it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
