"""Programs on a core of their own, what they use of it, and their sure end.

In: command lines. Out: CPU seconds and memory of a program with all its children, from /proc (Linux).
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

SERVER_CORE, *_, CLIENT_CORE = 2 * sorted(os.sched_getaffinity(0))
"""The first core that we may use and the last; figures mean little where they are one."""
FIRST = -10
"""Niceness of all that is measured or measures, so that other work on the machine waits rather than they."""
_TICKS = os.sysconf("SC_CLK_TCK")
_STOP_SECONDS = 10.0
_SAMPLES_EVERY = 0.2
_LISTENING = "0A"


class ProgramError(RuntimeError):
    """A program ended or did not do its part; the message shows the end of its output."""


@dataclass(frozen=True, slots=True)
class Program:
    """A running program; `output` is the file of all that it prints."""

    name: str
    process: subprocess.Popen[bytes]
    output: Path

    def check(self) -> None:
        """Raise ProgramError where it has ended."""
        if (code := self.process.poll()) is not None:
            raise self.error(f"ended with status {code}")

    def error(self, problem: str) -> ProgramError:
        lines = self.output.read_text(encoding="utf-8", errors="replace").splitlines()
        return ProgramError(f"{self.name} {problem}; the end of {self.output}:\n" + "\n".join(lines[-15:]))

    def pids(self) -> list[int]:
        """Return it and everything below it."""
        return tree(self.process.pid, parents())

    def cpu_seconds(self) -> float:
        """Return the CPU time of it and its children, living ones and those that it has waited for."""
        return sum(_cpu_ticks(pid) for pid in self.pids()) / _TICKS

    def resident_mb(self) -> float:
        """Return the resident memory in MiB, shared pages once for each process."""
        return sum(_resident_kb(pid) for pid in self.pids()) / 1024

    def sockets(self) -> int:
        """Return how many sockets its main process has open."""
        return open_sockets(self.process.pid)


def pinned(core: int) -> Sequence[str]:
    """Return the words that run a command on one core."""
    return "taskset", "--cpu-list", str(core)


def goes_first(leader: int) -> None:
    """Let a session's processes go before others, where we may say so (root) and Linux groups by session."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{leader}/autogroup").write_text(str(FIRST), encoding="ascii")


@contextlib.contextmanager
def program(
    name: str,
    command: Sequence[str],
    folder: Path,
    *,
    core: int,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Program]:
    """Run a command on one core until the block ends; its output goes to `folder`."""
    output = folder / f"{name}.log"
    with output.open("wb") as file:
        process = subprocess.Popen(
            [*pinned(core), *command],
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    goes_first(process.pid)
    running = Program(name, process, output)
    try:
        yield running
    finally:
        _end(running)


def _end(running: Program) -> None:
    started = running.pids()
    running.process.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        running.process.wait(_STOP_SECONDS)
    for pid in started:
        # Its children may outlive it; only those of its session are its own still.
        with contextlib.suppress(OSError):
            if os.getsid(pid) == running.process.pid:
                os.kill(pid, signal.SIGKILL)
    running.process.wait()


def end_with_us() -> None:
    """Let SIGTERM leave all blocks, so that no program outlives this one."""
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))


class Peak:
    """Samples a program's memory while its block lasts; `resident_mb` is the most that was seen."""

    def __init__(self, running: Program) -> None:
        self._running = running
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self.resident_mb = 0.0

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._over.wait(_SAMPLES_EVERY):
            self.resident_mb = max(self.resident_mb, self._running.resident_mb())


def parents() -> dict[int, int]:
    """Return the parent of every process."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (fields := _stat(int(entry))):
            found[int(entry)] = int(fields[1])
    return found


def tree(root: int, parent_of: Mapping[int, int]) -> list[int]:
    """Return `root` and all below it, parents first."""
    children: dict[int, list[int]] = {}
    for pid, parent in parent_of.items():
        children.setdefault(parent, []).append(pid)
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def stat_fields(text: str) -> list[str]:
    """Return what follows the name in /proc/PID/stat, which may itself hold spaces and brackets."""
    return text[text.rindex(")") + 2 :].split()


def busy_seconds() -> float:
    """Return the CPU seconds that the whole machine has worked so far, guests' time aside."""
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, _idle, _wait, interrupts, soft, *_ = (
            int(field) for field in file.readline().split()[1:]
        )
    return (user + nice + system + interrupts + soft) / _TICKS


def open_sockets(pid: int) -> int:
    """Return how many of a process's file descriptors are sockets."""
    folder, count = f"/proc/{pid}/fd", 0
    for name in os.listdir(folder):
        with contextlib.suppress(OSError):
            count += os.readlink(f"{folder}/{name}").startswith("socket:")
    return count


def caller_sockets(pid: int, ports: Sequence[int]) -> int:
    """Return how many connections to its own `ports` a process has open."""
    mine = set()
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            mine.add(os.readlink(f"/proc/{pid}/fd/{name}"))
    with open(f"/proc/{pid}/net/tcp", encoding="ascii") as file:
        return sum(f"socket:[{inode}]" in mine for inode in connections(file.read(), ports))


def connections(table: str, ports: Sequence[int]) -> list[str]:
    """Return the inodes of the connections at local `ports`, listeners aside, as /proc/net/tcp has them."""
    found = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        if int(fields[1].rpartition(":")[2], 16) in ports and fields[3] != _LISTENING:
            found.append(fields[9])
    return found


def _stat(pid: int) -> list[str]:
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            return stat_fields(file.read())
    except (OSError, ValueError):
        return []


def _cpu_ticks(pid: int) -> int:
    fields = _stat(pid)
    return sum(int(field) for field in fields[11:15]) if fields else 0


def _resident_kb(pid: int) -> int:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        for line in file:
            if line.startswith("Rss:"):
                return int(line.split()[1])
    return 0
