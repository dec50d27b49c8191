"""Unix sockets that the sidecar serves on: claimed at the start, opened to its group, removed at the end.

In: paths of settings. Out: paths that nothing else serves on. Next: `app` listens there.
"""

from __future__ import annotations

import os
import socket
import stat
from pathlib import Path

MODE = 0o660
"""Of the files: who may connect is the sidecar's own user and group."""
LONGEST = 107
"""Bytes that the kernel takes as a socket's path."""
PATIENCE = 1.0
"""Seconds for whoever may be there to take a connection."""


class SocketError(OSError):
    """A path that can not be served on; the message says why and what to do."""


def claim(path: Path) -> None:
    """Remove the file that a sidecar before this one left at `path`. Raises SocketError."""
    if len(os.fsencode(path)) > LONGEST:
        raise SocketError(f"a socket's path has at most {LONGEST} bytes; use a shorter one")
    if not path.is_absolute():
        raise SocketError("a socket's path must be absolute")
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        if not path.parent.is_dir():
            raise SocketError(f"there is no folder {path.parent}; create or mount it") from None
        return
    except OSError as error:
        raise SocketError(error.strerror or str(error)) from None
    if not stat.S_ISSOCK(kind):
        raise SocketError("a file that is no socket is there; use another path")
    if _answers(path):
        raise SocketError("another program serves there; use another path")
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise SocketError(f"what is left there can not be removed: {error.strerror}") from None


def listening(path: Path) -> socket.socket:
    """Return a socket that listens at `path`. Raises SocketError."""
    claim(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(path))
        share(path)
        listener.listen(1024)
    except OSError as error:
        listener.close()
        raise SocketError(error.strerror or str(error)) from None
    return listener


def share(path: Path) -> None:
    """Let the group of a socket that is served on connect to it, which its maker's mask may not."""
    path.chmod(MODE)


def remove(path: Path) -> None:
    """Remove the file of a socket that is served on no more."""
    path.unlink(missing_ok=True)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(PATIENCE)
        try:
            caller.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:  # it is there, though too busy or not ours
            return True
    return True
