"""Stage forward, its end: what is in flight, so that a sidecar that shuts down can wait for it or end it.

In: requests from `router`, by the context that they run in. Out: whether nothing is left to do. Next: `app`
closes the listeners.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType


class InFlight:
    """Counts what runs; `held` tells how many decisions are not settled yet, which count too, unless they are
    `abandoned`: nobody is left to settle them."""

    def __init__(self, held: Callable[[], int], abandoned: Callable[[], bool]) -> None:
        self.draining = False
        """Whether nothing new is to be accepted."""
        self._held = held
        self._abandoned = abandoned
        self._active = 0
        self._limits: set[Within] = set()
        self._over = False
        self._idle = asyncio.Event()

    def busy(self) -> Busy:
        """Count what runs within."""
        return Busy(self)

    def within(self, seconds: float) -> Within:
        """Raise TimeoutError where the body takes longer, or `end` is called."""
        # What got its decision right before the end begins after it.
        return Within(0.0 if self._over else max(0.0, seconds), self._limits)

    def begins(self) -> None:
        self._active += 1

    def ends(self) -> None:
        self._active -= 1
        self.rest()

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
            limit.expire()


class Busy:
    """A context whose body counts as in flight."""

    def __init__(self, in_flight: InFlight) -> None:
        self._in_flight = in_flight

    def __enter__(self) -> None:
        self._in_flight.begins()

    def __exit__(self, *_error: object) -> None:
        self._in_flight.ends()


class Within:
    """A context whose body has so many seconds, as `asyncio.timeout` has it, which costs three times as much;
    it is one of `limits` while it runs."""

    __slots__ = ("_cancelling", "_expired", "_limits", "_seconds", "_task", "_timer")

    def __init__(self, seconds: float, limits: set[Within]) -> None:
        self._seconds = seconds
        self._limits = limits
        self._expired = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        self._task, self._cancelling = task, task.cancelling()
        self._timer = task.get_loop().call_later(self._seconds, self.expire)
        self._limits.add(self)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _where: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._limits.discard(self)
        uncancelled = self._expired and self._task.uncancel() <= self._cancelling
        if uncancelled and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def expire(self) -> None:
        """The time is over now."""
        if not self._expired:
            self._expired = True
            self._timer.cancel()
            self._task.cancel()
