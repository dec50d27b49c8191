"""Stage forward, the edge: work that ends when whoever asked for it goes away.

In: a coroutine that returns once the caller has gone. Out: the cancelled body, as `DisconnectedError`.
Around each HTTP request that is answered by a model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import TracebackType

FIRST_LOOK = 0.004
"""Seconds until the caller is watched: what is done by then never has to pay for a task of its own."""


class DisconnectedError(Exception):
    """The caller went away."""


class Attended:
    """`async with Attended(gone, done):` cancels its body when `gone` returns before `done` is true.

    Raises DisconnectedError in place of that cancellation, once the body has unwound.
    """

    def __init__(self, gone: Callable[[], Awaitable[None]], done: Callable[[], bool]) -> None:
        self._gone = gone
        self._done = done
        self._watch: asyncio.Future[None] | None = None
        self._left = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        self._task = task
        self._timer = task.get_loop().call_later(FIRST_LOOK, self._look)

    async def __aexit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None
    ) -> None:
        self._timer.cancel()
        if self._watch is not None:
            self._watch.cancel()
        if self._left and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise DisconnectedError from None

    def _look(self) -> None:
        self._watch = asyncio.ensure_future(self._gone())
        self._watch.add_done_callback(self._ended)

    def _ended(self, watch: asyncio.Future[None]) -> None:
        if not watch.cancelled() and not self._done():
            watch.exception()  # whatever ended it, nobody can be answered any more
            self._left = True
            self._task.cancel()
