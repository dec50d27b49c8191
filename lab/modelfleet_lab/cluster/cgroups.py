"""Makes the control group of one cluster and removes it, with all that the kubelet made below it.

Namespaces end by themselves, control groups do not: `isolation` calls this from outside, before and after.
"""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_PATIENCE_SECONDS = 10.0
_POLL_SECONDS = 0.05


class CgroupError(RuntimeError):
    """A control group could not be made or removed; the message says which."""


def make(name: str) -> None:
    """Make the group `name` at the top of each hierarchy: version 2 has one, version 1 one per controller."""
    for hierarchy in _hierarchies():
        try:
            (hierarchy / name).mkdir(exist_ok=True)
        except OSError as error:
            raise CgroupError(f"no control group {hierarchy / name}: {error.strerror}") from error


def remove(name: str) -> None:
    """Remove the group `name` and all groups in it, which have no live process any more; it may be absent.

    Raises `CgroupError` if a process stays in one of them for 10 s.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    for hierarchy in _hierarchies():
        for folder, _, _ in os.walk(hierarchy / name, topdown=False):
            _remove_one(Path(folder), deadline)


def _remove_one(folder: Path, deadline: float) -> None:
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            # The kernel still takes leave of processes that have just ended.
            if error.errno != errno.EBUSY or time.monotonic() > deadline:
                raise CgroupError(f"the control group {folder} stays: {error.strerror}") from error
            time.sleep(_POLL_SECONDS)
        else:
            return


def _hierarchies() -> list[Path]:
    if (_ROOT / "cgroup.controllers").exists():
        return [_ROOT]
    return [path for path in _ROOT.iterdir() if path.is_dir() and not path.is_symlink()]
