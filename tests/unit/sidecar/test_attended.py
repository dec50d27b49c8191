"""Work that ends when its caller goes away."""

from __future__ import annotations

import asyncio

import pytest
from modelfleet_sidecar.attended import Attended, DisconnectedError


async def never() -> None:
    await asyncio.Event().wait()


async def test_a_caller_who_leaves_cancels_the_work_and_its_cleaning_up_is_waited_for() -> None:
    left, cleaned = asyncio.Event(), asyncio.Event()

    async def gone() -> None:
        await left.wait()

    async def cleaning() -> None:
        async with Attended(gone, lambda: False):
            try:
                left.set()
                await never()
            finally:
                await asyncio.sleep(0)
                cleaned.set()

    with pytest.raises(DisconnectedError):
        await cleaning()
    assert cleaned.is_set()


async def test_what_others_cancel_is_no_caller_who_left() -> None:
    begun = asyncio.Event()

    async def work() -> None:
        async with Attended(never, lambda: False):
            begun.set()
            await never()

    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_whoever_leaves_after_the_answer_cancels_nothing() -> None:
    looked = asyncio.Event()

    async def gone() -> None:
        looked.set()

    async with Attended(gone, lambda: True):
        await looked.wait()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_an_error_of_the_work_stays_that_error() -> None:
    with pytest.raises(ZeroDivisionError):
        async with Attended(never, lambda: False):
            raise ZeroDivisionError
