"""Stage forward, the edge: work that ends when whoever asked for it goes away.

In: how to be told that the caller has gone. Out: the cancelled body, as `DisconnectedError`. Around each HTTP
request that is answered by a model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType


class DisconnectedError(Exception):
    """The caller went away."""


class Attended:
    """`async with Attended(watch, done):` cancels its body when the caller goes away before `done` is true.

    `watch` is given what to call then, and None in the end. Raises DisconnectedError in place of that
    cancellation, once the body has unwound.
    """

    def __init__(self, watch: Callable[[Callable[[], None] | None], None], done: Callable[[], bool]) -> None:
        self._watch = watch
        self._done = done
        self._left = False

    async def __aenter__(self) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        self._task = task
        self._watch(self._leave)

    async def __aexit__(
        self, kind: type[BaseException] | None, _error: BaseException | None, _where: TracebackType | None
    ) -> None:
        self._watch(None)
        if self._left and self._task.uncancel() == 0 and kind is asyncio.CancelledError:
            raise DisconnectedError from None

    def _leave(self) -> None:
        if not self._left and not self._done():
            self._left = True
            self._task.cancel()
