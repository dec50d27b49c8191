"""Stage forward, its end: whether an application is still connected, so that its decisions may be settled.

In: a port and a Unix socket of the sidecar. Out: whether anyone is connected to one, from the kernel's tables
of this network namespace. Next: `in_flight` no longer waits for decisions that nobody can settle.
"""

from __future__ import annotations

from pathlib import Path

TABLES = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
UNIX_TABLE = Path("/proc/self/net/unix")
_ESTABLISHED = "01"
_CONNECTED = "03"


def connected(
    port: int,
    socket: Path | None = None,
    *,
    tables: tuple[Path, ...] = TABLES,
    unix_table: Path = UNIX_TABLE,
) -> bool:
    """Return whether a connection to `port` or to `socket` is open; True where the kernel does not tell."""
    try:
        lines = [line for table in tables if table.exists() for line in table.read_text().splitlines()[1:]]
        unix = unix_table.read_text().splitlines()[1:] if socket is not None else []
    except OSError:
        return True
    if not lines:
        return True
    local = f":{port:04X}"
    rows = (line.split() for line in lines)
    if any(row[1].endswith(local) and row[3] == _ESTABLISHED for row in rows):
        return True
    # Num RefCount Protocol Flags Type St Inode Path
    ends = (line.split(maxsplit=7) for line in unix)
    return any(len(end) == 8 and end[7] == str(socket) and end[5] == _CONNECTED for end in ends)
