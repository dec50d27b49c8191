"""The requests that a simulated server runs at once: a limit and a first-come queue behind it.

In: arrivals and departures. Out: who may run, how many run and wait, and the peaks. Next: `serving`.
"""

from __future__ import annotations

import asyncio
from collections import deque

from modelfleet_lab.model_server.changes import Changes


class Slots:
    """`concurrency` requests run at once; later ones wait in order of arrival."""

    def __init__(self, concurrency: int, changes: Changes) -> None:
        if concurrency < 1:
            raise ValueError(f"concurrency is {concurrency}; a server runs at least 1 request at once")
        self.concurrency = concurrency
        self.running = 0
        self.peak = 0
        self._changes = changes
        self._queue: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        return len(self._queue)

    @property
    def in_flight(self) -> int:
        return self.running + len(self._queue)

    async def take(self) -> None:
        """Return once this request may run; whoever takes a slot must `release` it."""
        self.peak = max(self.peak, self.in_flight + 1)
        if self.running < self.concurrency and not self._queue:
            self.running += 1
            self._changes.notify()
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append(turn)
        self._changes.notify()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.cancelled():
                self._queue.remove(turn)
                self._changes.notify()
            else:
                self.release()  # The slot came in the same moment as the cancellation.
            raise

    def release(self) -> None:
        """Give the slot to the next in the queue, or back."""
        while self._queue:
            turn = self._queue.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self.running -= 1
        self._changes.notify()
