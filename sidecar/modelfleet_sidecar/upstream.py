"""Stage forward, the pool: connections to model servers, opened as needed and used again.

In: the server that a request goes to. Out: a `Connection` for that one request. Next: `forward`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import cast

from modelfleet_sidecar.connection import ConnectError, Connection, Target
from modelfleet_sidecar.dialing import Dialer, Origin, Proxy

KEEP_ALIVE = 4.0
"""Seconds. Servers commonly close an idle connection after 5: ours goes first, or a request meets that."""
MAX_AGE = 300.0
"""Seconds after which a connection takes no further request: its name may have other addresses by then."""
MAX_IDLE = 256


class Pool:
    """Idle connections by origin; opens new ones as needed. The lease's slots bound how many are in use."""

    def __init__(
        self,
        *,
        connect_timeout: float,
        clock: Callable[[], float],
        dialer: Dialer | None = None,
    ) -> None:
        """`dialer`: None: directly, and by the system's CAs."""
        self._dialer = dialer if dialer is not None else Dialer()
        self._connect_timeout = connect_timeout
        self._clock = clock
        self._idle: dict[Origin, deque[Connection]] = {}
        self._open: set[Connection] = set()

    @property
    def open_connections(self) -> int:
        return len(self._open)

    async def acquire(self, target: Target, *, within: float | None = None) -> Connection:
        """Return a connection for one request, a new one `within` seconds; None: as the pool was told. Raises
        ConnectError.

        A server may close an idle connection while a request is on its way. Nothing tells then whether the
        model has begun, so such an attempt ends as cut, booked at its reserve; what can be done is to go
        before the server does, and to look right before sending.
        """
        idle = self._idle.get(target.origin)
        while idle:
            connection = idle.pop()
            now = self._clock()
            fresh = now - connection.idle_since < KEEP_ALIVE and now - connection.opened_at < MAX_AGE
            if fresh and connection.usable and connection.quiet:
                return connection
            connection.abort()
        return await self._connect(target.origin, self._connect_timeout if within is None else within)

    def reaches(self, target: Target) -> bool:
        """Return whether a connection to that server is open: then it lives."""
        return any(connection.origin == target.origin and connection.usable for connection in self._open)

    def release(self, connection: Connection) -> None:
        """Take a connection back after a whole response."""
        idle = self._idle.setdefault(connection.origin, deque())
        if not connection.reusable or len(idle) >= MAX_IDLE:
            connection.abort()
            return
        connection.idle_since = self._clock()
        idle.append(connection)

    def sweep(self) -> None:
        """Close what has been idle too long; call it now and then."""
        horizon = self._clock() - KEEP_ALIVE
        for origin, idle in list(self._idle.items()):
            while idle and (not idle[0].usable or idle[0].idle_since < horizon):
                idle.popleft().abort()
            if not idle:
                del self._idle[origin]

    async def close(self) -> None:
        """Close every connection, also those in use."""
        for connection in list(self._open):
            connection.abort()
        if self._open:
            await asyncio.wait([connection.closed for connection in self._open], timeout=1.0)
        self._idle.clear()

    async def _connect(self, origin: Origin, within: float) -> Connection:
        loop = asyncio.get_running_loop()

        def made(proxy: Proxy | None) -> Connection:
            return Connection(loop, origin, opened_at=self._clock(), proxy=proxy)

        try:
            async with asyncio.timeout(within):
                connection = cast(Connection, await self._dialer.dial(origin, made))
        except TimeoutError:
            raise ConnectError(f"no connection within {within:g} s", late=True) from None
        except UnicodeError:
            raise ConnectError(f"{origin.host!r} can be the name of no host") from None
        except OSError as error:
            raise ConnectError(error.strerror or str(error) or type(error).__name__) from None
        self._open.add(connection)
        connection.closed.add_done_callback(lambda _: self._open.discard(connection))
        return connection
