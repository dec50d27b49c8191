"""Runs a function in namespaces of its own: processes, mounts, network and message queues.

In come a folder and what to do; out goes an exit code. When the first process in there ends, for whatever
reason, the kernel kills all others, and with the last one every mount, interface and packet filter is gone.
Control groups and the state folder are removed from outside, also those of earlier runs that were killed
together with their outside. Called by `__main__`; what runs inside is `node`.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import secrets
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn

from modelfleet_lab.cluster import cgroups, mounts
from modelfleet_lab.controlplane import namespace
from modelfleet_lab.controlplane.daemon import die_with_parent

_NEW_MOUNTS, _NEW_QUEUES, _NEW_PROCESSES, _NEW_NETWORK = 0x00020000, 0x08000000, 0x20000000, 0x40000000
_STATE = "state"
_LOCK = "lock"


class IsolationError(RuntimeError):
    """The namespaces could not be made; the message says why."""


@contextmanager
def run_folder(base: Path) -> Iterator[Path]:
    """Make a folder for one run below `base`, and a control group of its name; remove both at the end.

    Only the folder's part `state` goes for sure: what else lies in the folder then is kept.
    """
    folder = base.resolve() / f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
    state = folder / _STATE
    base.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as held:
        with (base / _LOCK).open("w") as starting:
            fcntl.flock(starting, fcntl.LOCK_EX)
            _sweep(base)
            state.mkdir(parents=True)
            lock = held.enter_context((state / _LOCK).open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        cgroups.make(cgroup_of(folder))
        try:
            yield folder
        finally:
            _remove(folder)


def cgroup_of(folder: Path) -> str:
    """Return the name of the control group of a run."""
    return f"modelfleet-{folder.name}"


def _sweep(base: Path) -> None:
    """Remove what runs left that were killed from outside."""
    for state in base.glob(f"*/{_STATE}"):
        with (state / _LOCK).open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue  # it still runs
            _remove(state.parent)


def _remove(folder: Path) -> None:
    cgroups.remove(cgroup_of(folder))
    shutil.rmtree(folder / _STATE)
    if not any(folder.iterdir()):
        folder.rmdir()


def run(inside: Callable[[], int], state: Path) -> int:
    """Run `inside` in a child with new namespaces and return its exit code; 128 + n where signal n ended it.

    Call it once per process, before it has other threads: children that are started later would have to live
    in the ended namespace. Raises `IsolationError`.
    """
    if _unshare(_NEW_PROCESSES) != 0:
        why = os.strerror(ctypes.get_errno())
        raise IsolationError(f"no namespaces of its own for this process: {why}; run it as root on Linux")
    sys.stdout.flush()
    sys.stderr.flush()
    first = os.fork()
    if first == 0:
        _be_first(inside, state)
    return _wait_for(first)


def _wait_for(child: int) -> int:
    """Return the exit code of a child; meanwhile it is the one that requests to end go to."""

    def pass_on(number: int, _: FrameType | None) -> None:
        os.kill(child, number)

    previous = {number: signal.signal(number, pass_on) for number in (signal.SIGTERM, signal.SIGHUP)}
    # The terminal sends an interrupt to the command inside as well, which knows what to do about it.
    previous[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        status = os.waitpid(child, 0)[1]
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _be_first(inside: Callable[[], int], state: Path) -> NoReturn:
    """Be the first process of the namespaces: set them up, start `inside`, reap orphans until it ends."""
    code = 1
    try:
        die_with_parent()
        _enter(state)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        worker = os.fork()
        if worker == 0:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            code = _guarded(inside)
        else:
            code = _reap_until(worker)
    except OSError as error:
        print(f"the cluster's namespaces could not be set up: {error}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # the caller's blocks belong to its own process


def _enter(state: Path) -> None:
    if _unshare(_NEW_MOUNTS | _NEW_QUEUES | _NEW_NETWORK) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    mounts.set_up(state, resolver=namespace.ADDRESS)
    if os.getpid() != 1:
        raise OSError("this is not the first process of its namespace")
    namespace.bring_up(netmask="255.255.255.255")


def _guarded(inside: Callable[[], int]) -> int:
    try:
        die_with_parent()
        return inside()
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    except BaseException:  # noqa: BLE001 - this process ends here: whatever it was must be seen
        traceback.print_exc()
        return 1


def _reap_until(worker: int) -> int:
    def pass_on(number: int, _: FrameType | None) -> None:
        os.kill(worker, number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, pass_on)
    while True:
        pid, status = os.wait()
        if pid == worker:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _unshare(flags: int) -> int:
    if sys.platform != "linux":
        raise IsolationError(f"no namespaces on {sys.platform}: a node needs Linux")
    return int(ctypes.CDLL(None, use_errno=True).unshare(flags))
