"""Stage batch, before it: how many requests are taken up in one turn of the event loop.

In: requests that have come whole. Out: each one's turn, in the order in which they came. Next: `asking`.

Reading and deciding takes about a millisecond of the processor. Were all of a burst taken up in one turn of
the loop, slots that come free, answers that are relayed and timers would wait until the last is through.
"""

from __future__ import annotations

import asyncio
from collections import deque

MOST = 2
"""Requests that are taken up in one turn of the event loop. What waits for a timer goes on up to two turns
after that rang, and in each as many requests are answered as are taken up."""


class Intake:
    """`await turn()` before a request is taken up."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._left = most
        """Requests that may yet be taken up in this turn of the loop."""
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._due = False
        """Whether the next turn of the loop is waited for."""

    async def turn(self) -> None:
        """Return when it is this request's turn: at once, unless many came with it."""
        loop = asyncio.get_running_loop()
        if not self._due:
            self._due = True
            loop.call_soon(self._next, loop)
        if self._left > 0 and not self._waiting:
            self._left -= 1
            return
        mine = loop.create_future()
        self._waiting.append(mine)
        await mine

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        """A new turn of the loop."""
        self._due = False
        self._left = self._most
        while self._waiting and self._left > 0:
            first = self._waiting.popleft()
            if not first.done():  # else its caller has left
                first.set_result(None)
                self._left -= 1
        if self._waiting:
            self._due = True
            loop.call_soon(self._next, loop)
