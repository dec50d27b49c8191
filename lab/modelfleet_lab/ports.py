"""Serves demo, control plane and tests: ports for programs that are started with one.

Between the choice of a port and the start of its program anything may happen to it, above all that the system
gives it to an outgoing connection. So it is chosen below the range that serves those (Linux: from 32768).
"""

from __future__ import annotations

import random
import socket
from contextlib import ExitStack

LOWEST, END = 20_000, 32_768
_random = random.SystemRandom()


def free_ports(count: int) -> list[int]:
    """Return different ports of 127.0.0.1 that are free now."""
    with ExitStack() as held:
        ports: list[int] = []
        for port in _random.sample(range(LOWEST, END), END - LOWEST):
            if len(ports) == count:
                return ports
            probe = held.enter_context(socket.socket())
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            ports.append(port)
    raise OSError(f"fewer than {count} ports from {LOWEST} to {END - 1} of 127.0.0.1 are free")
