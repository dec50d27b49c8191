"""Stage forward: keeps this start's journal in a folder that outlives the process, and reads those before it.

In come entries from `Holding`, each written before it takes effect outside; out go the journals of former
starts of this pod that ended without a farewell, for `former.py` to finish. The folder is an emptyDir, so it
goes with the pod. Lines are not forced to the disk: they survive the process, and a journal that another
boot of the machine wrote is not believed.
"""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from modelfleet_core.leasing.journal import Entry, JournalError, Life, life_from, line_of
from modelfleet_core.leasing.messages import SidecarId

log = logging.getLogger(__name__)

COMPACT_ABOVE = 256 * 1024
"""Bytes above which a journal is written anew, once it is also four times as long as it must be."""
MAX_BYTES = 64 * 1024 * 1024
"""Longer ones are not read."""
_SUFFIX = ".journal"
_REFUSED = ".refused"


def machine_boot() -> str:
    """Return which boot of which machine this is."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


class Journal:
    """The journal of one start, locked while it is open. A disk that fails ends it, with an error in the log:
    then a crash would leave what this start had been granted unused until its period ends."""

    def __init__(self, folder: Path, life: Life) -> None:
        """Begin, or go on with, the journal of `life`. Raises OSError where nothing can be written."""
        self._path = folder / f"{life.sidecar.boot}{_SUFFIX}"
        self._life = life
        self._file: int | None = None
        self._bytes = self._least = 0
        folder.mkdir(parents=True, exist_ok=True)
        self._rewrite()

    def record(self, entry: Entry) -> None:
        """Write an entry."""
        if self._file is None:
            return
        self._life.add(entry)
        line = line_of(entry).encode()
        try:
            if os.write(self._file, line) < len(line):
                raise OSError("the disk is full")
            self._bytes += len(line)
            if self._bytes > max(COMPACT_ABOVE, 4 * self._least):
                self._rewrite()
        except OSError as error:
            log.error(
                "the journal %s can not be written (%s) and ends here: if this sidecar crashes, what it was "
                "granted stays unused until its period ends",
                self._path,
                error,
            )
            self.delete()

    def close(self) -> None:
        """Leave the journal to the next start."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def delete(self) -> None:
        """All was given back and acknowledged, or the journal can not be believed any more."""
        self.close()
        self._path.unlink(missing_ok=True)

    def _rewrite(self) -> None:
        """Put the shortest journal in place of the present one, in one step."""
        text = "".join(self._life.lines()).encode()
        draft = self._path.with_suffix(".draft")
        file = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.write(file, text) < len(text):
                raise OSError("the disk is full")
            draft.rename(self._path)
        except OSError:
            os.close(file)
            raise
        self.close()
        self._file = file
        self._bytes = self._least = len(text)


def former_lives(folder: Path, sidecar: SidecarId, machine: str) -> Iterator[Life]:
    """Yield what former starts of this pod left, the oldest first; those that can not be believed are put
    aside with an error in the log, and what they were granted stays unused until its period ends."""
    for path in sorted(folder.glob(f"*{_SUFFIX}"), key=lambda path: path.stat().st_mtime):
        try:
            with path.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                life = _read(path)
        except BlockingIOError:
            continue  # a process that still runs
        except (JournalError, OSError, UnicodeDecodeError) as error:
            _put_aside(path, str(error))
            continue
        if (life.sidecar.namespace, life.sidecar.uid) != (sidecar.namespace, sidecar.uid):
            continue  # a folder that pods share: the other may live
        if life.machine != machine:
            _put_aside(path, "the machine was started again since, so its last lines may be lost")
        elif life.sidecar.boot != sidecar.boot:
            yield life


def _read(path: Path) -> Life:
    if path.stat().st_size > MAX_BYTES:
        raise JournalError(f"it is longer than {MAX_BYTES} bytes")
    return life_from(path.read_text(encoding="utf-8").splitlines(keepends=True))


def _put_aside(path: Path, reason: str) -> None:
    log.error(
        "the journal %s can not be used: %s; what that start of the sidecar was granted stays unused until "
        "its period ends",
        path,
        reason,
    )
    path.rename(path.with_suffix(_REFUSED))
