"""Stage forward, its end: what is in flight, so that a sidecar that shuts down can wait for it or end it.

In: requests from `router`, by the context that they run in. Out: whether nothing is left to do. Next: `app`
closes the listeners.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager


class InFlight:
    """Counts what runs; `held` tells how many decisions are not settled yet, which count too, unless they are
    `abandoned`: nobody is left to settle them."""

    def __init__(self, held: Callable[[], int], abandoned: Callable[[], bool]) -> None:
        self.draining = False
        """Whether nothing new is to be accepted."""
        self._held = held
        self._abandoned = abandoned
        self._active = 0
        self._limits: set[asyncio.Timeout] = set()
        self._over = False
        self._idle = asyncio.Event()

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Count what runs within."""
        self._active += 1
        try:
            yield
        finally:
            self._active -= 1
            self.rest()

    @asynccontextmanager
    async def within(self, seconds: float) -> AsyncIterator[None]:
        """Raise TimeoutError where the body takes longer, or `end` is called."""
        # What got its decision right before the end begins after it.
        async with asyncio.timeout(0.0 if self._over else max(0.0, seconds)) as limit:
            self._limits.add(limit)
            try:
                yield
            finally:
                self._limits.discard(limit)

    def rest(self) -> None:
        """Look whether nothing is left; call it when a decision was settled."""
        if self.draining and not self._active and not self._held():
            self._idle.set()

    def look(self) -> None:
        """The same, also at who is left; call it now and then."""
        self.rest()
        if self.draining and not self._active and not self._idle.is_set() and self._abandoned():
            self._idle.set()

    async def ended(self, seconds: float) -> bool:
        """Wait until nothing is left, for `seconds` at most; call it once `draining` is set."""
        self.look()
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    def end(self) -> None:
        """End what runs `within` a time now, or would from now on."""
        self._over = True
        for limit in self._limits:
            if not limit.expired():
                limit.reschedule(0.0)
