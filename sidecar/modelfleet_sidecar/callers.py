"""Stage forward, its end: whether an application is still connected, so that its decisions may be settled.

In: a port of the sidecar. Out: whether anyone holds a connection to it, from the kernel's tables of this
network namespace. Next: `in_flight` no longer waits for decisions that nobody can settle.
"""

from __future__ import annotations

from pathlib import Path

TABLES = (Path("/proc/self/net/tcp"), Path("/proc/self/net/tcp6"))
_ESTABLISHED = "01"


def connected(port: int, tables: tuple[Path, ...] = TABLES) -> bool:
    """Return whether a connection to `port` is open; True where the kernel does not tell."""
    try:
        lines = [line for table in tables if table.exists() for line in table.read_text().splitlines()[1:]]
    except OSError:
        return True
    if not lines:
        return True
    local = f":{port:04X}"
    rows = (line.split() for line in lines)
    return any(row[1].endswith(local) and row[3] == _ESTABLISHED for row in rows)
