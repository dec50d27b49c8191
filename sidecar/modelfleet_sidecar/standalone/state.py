"""What a sidecar without an operator keeps: ledgers, what it learned, and the count of its starts.

In: records of the lease book and the learner's state. Out: the same after a restart, so that a budget's
period does not begin anew. One process at a time uses a folder. Every file is replaced in one step and forced
to the disk, so that a crash of the machine loses none that was written.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from datetime import datetime
from pathlib import Path

from modelfleet_core.leasing.ledger import LedgerRecord, period_of, record_from
from modelfleet_core.values import ObjectKey, PeriodId

MOST_BYTES = 4 << 20
_LEDGER = "ledger-"
_LEARNED = "learned.npz"
_STARTS = "starts"


class StateError(Exception):
    """The folder can not be used; says what to do."""


class StateFolder:
    """One folder, locked for this process until `close`."""

    def __init__(self, folder: Path) -> None:
        """Raises StateError where it can not be written or another process uses it."""
        self.folder = folder
        self.journal = folder / "journal"
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateError(f"{folder} can not be written: {error.strerror or error}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.start = self._count_start()
        except BlockingIOError:
            os.close(self._lock)
            raise StateError(f"{folder} is in use by another sidecar: give each its own folder") from None
        except (OSError, StateError) as error:
            os.close(self._lock)
            raise StateError(f"{folder} can not be used: {error}") from error

    def close(self) -> None:
        os.close(self._lock)

    def read(self, policy: ObjectKey, period: PeriodId) -> LedgerRecord | None:
        """Return the ledger of one policy and period; None: there is none. Raises StateError."""
        path = self._ledger(period)
        content = self._read(path)
        if content is None:
            return None
        try:
            data = json.loads(content)
            record = record_from(data, _version(content))
        except (ValueError, AttributeError, TypeError, RecursionError) as error:
            raise StateError(
                f"{path} can not be read ({error}): restore it, or delete it to begin the period anew"
            ) from error
        if record.policy != policy or record.period != period:
            raise StateError(f"{path} is of {record.period}, not of {period}: restore it, or delete it")
        return record

    def write(self, record: LedgerRecord) -> str:
        """Replace a ledger and return its new version. Raises OSError."""
        content = json.dumps(record.data(), indent=1, sort_keys=True).encode()
        self._replace(self._ledger(record.period), content)
        return _version(content)

    def forget(self, at: datetime) -> None:
        """Delete ledgers of periods that ended one whole period ago. Raises OSError."""
        for path in self.folder.glob(f"{_LEDGER}*.json"):
            period = period_of(PeriodId(path.stem.removeprefix(_LEDGER).replace("=", "/")))
            if period is not None and at >= period.ends + (period.ends - period.starts):
                path.unlink(missing_ok=True)

    def learned(self) -> bytes | None:
        """Return what `keep_learned` was given last; None: nothing. Raises StateError."""
        return self._read(self.folder / _LEARNED)

    def keep_learned(self, state: bytes) -> None:
        """Raises OSError."""
        self._replace(self.folder / _LEARNED, state)

    def _ledger(self, period: PeriodId) -> Path:
        return self.folder / f"{_LEDGER}{period.replace('/', '=')}.json"

    def _count_start(self) -> int:
        path = self.folder / _STARTS
        content = self._read(path) or b"0"
        if not content.strip().isdigit() or len(content) > 12:
            raise StateError(f"{path} holds no number: write one that is higher than all starts so far")
        start = int(content) + 1
        self._replace(path, str(start).encode())
        return start

    def _read(self, path: Path) -> bytes | None:
        try:
            with path.open("rb") as file:
                content = file.read(MOST_BYTES + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StateError(f"{path} can not be read: {error.strerror or error}") from error
        if len(content) > MOST_BYTES:
            raise StateError(f"{path} is over {MOST_BYTES} bytes: restore it, or delete it")
        return content

    def _replace(self, path: Path, content: bytes) -> None:
        draft = path.with_suffix(".draft")
        with open(draft, "wb", opener=_private) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
        folder = os.open(self.folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _version(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
