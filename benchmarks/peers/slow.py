"""Slow clients: half a head, half a body, one byte a second. When are they closed, and do others notice?

In: a running target. Out: seconds by kind, and what a client that behaves saw meanwhile.
"""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor

from benchmarks.peers.phases import Bench, Figures, load_of
from benchmarks.peers.plain import connect, head
from benchmarks.peers.prompts import chat_body
from benchmarks.peers.targets import Target
from benchmarks.peers.tools import run_load

LIMIT = 40.0
"""Seconds after which a slow client counts as never closed."""
CLIENTS = 8
"""Of each kind."""


def slow_clients(bench: Bench, target: Target) -> Figures:
    """Return the longest that a client of each kind stayed open, in seconds; None: some were never closed."""
    body = chat_body("hello", model="auto", stream=False)
    start = head(target, len(body))
    kinds = {
        "half_head_s": (start[: len(start) // 2], b""),
        "half_body_s": (start + body[: len(body) // 2], b""),
        "byte_a_second_s": (start[:10], start[10:] + body),
    }
    with ThreadPoolExecutor(CLIENTS * len(kinds)) as threads:
        waiting = {
            kind: [threads.submit(_open_for, target, now, rest) for _ in range(CLIENTS)]
            for kind, (now, rest) in kinds.items()
        }
        others = run_load(bench.tools, load_of(bench, target, "unary", 1, seconds=5.0))
        found: Figures = {}
        for kind, clients in waiting.items():
            closed = [seconds for client in clients if (seconds := client.result()) is not None]
            found[kind] = round(max(closed), 1) if len(closed) == CLIENTS else None
    found["others_p99_ms"] = round(others["whole_ms"]["p99"], 2)
    found["others_failed"] = others["requests"] - others["ok"]
    return found


def _open_for(target: Target, now: bytes, rest: bytes) -> float | None:
    """Send `now` at once and `rest` by a byte a second; return the seconds until the other side closes."""
    opened = time.monotonic()
    with connect(target) as connection:
        try:
            connection.sendall(now)
            connection.settimeout(1.0)
            while (open_for := time.monotonic() - opened) < LIMIT:
                if _closed(connection):
                    return open_for
                connection.sendall(rest[:1])
                rest = rest[1:]
        except OSError:
            return time.monotonic() - opened
    return None


def _closed(connection: socket.socket) -> bool:
    """Return whether the other side closes within the connection's timeout."""
    try:
        while connection.recv(4096):
            pass
    except TimeoutError:
        return False
    return True
