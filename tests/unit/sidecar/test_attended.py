"""Work that ends when its caller goes away."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from modelfleet_sidecar.attended import Attended, DisconnectedError


async def never() -> None:
    await asyncio.Event().wait()


class Door:
    """Tells who watches it that the caller has gone."""

    def __init__(self) -> None:
        self.watched: Callable[[], None] | None = None

    def watch(self, left: Callable[[], None] | None) -> None:
        self.watched = left

    def shut(self) -> None:
        assert self.watched is not None
        self.watched()


async def test_a_caller_who_leaves_cancels_the_work_and_its_cleaning_up_is_waited_for() -> None:
    door, cleaned = Door(), asyncio.Event()

    async def cleaning() -> None:
        async with Attended(door.watch, lambda: False):
            try:
                asyncio.get_running_loop().call_soon(door.shut)
                await never()
            finally:
                await asyncio.sleep(0)
                cleaned.set()

    with pytest.raises(DisconnectedError):
        await cleaning()
    assert cleaned.is_set()
    assert door.watched is None


async def test_who_had_gone_before_ends_the_work_where_it_waits_first() -> None:
    def watch(left: Callable[[], None] | None) -> None:
        if left is not None:
            left()

    with pytest.raises(DisconnectedError):
        async with Attended(watch, lambda: False):
            await never()


async def test_what_others_cancel_is_no_caller_who_left() -> None:
    begun = asyncio.Event()

    async def work() -> None:
        async with Attended(Door().watch, lambda: False):
            begun.set()
            await never()

    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_whoever_leaves_after_the_answer_cancels_nothing() -> None:
    door = Door()
    async with Attended(door.watch, lambda: True):
        door.shut()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_an_error_of_the_work_stays_that_error() -> None:
    with pytest.raises(ZeroDivisionError):
        async with Attended(Door().watch, lambda: False):
            raise ZeroDivisionError
