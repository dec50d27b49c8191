"""How late the event loop is, by a clock that the test moves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from modelfleet_sidecar.loop_lag import EVERY, watch


async def test_a_timer_that_rings_late_tells_by_how_much() -> None:
    lags: list[float] = []
    told = asyncio.Event()

    def times() -> Iterator[float]:
        for late in (0.0, 0.03, -0.01):
            yield 10.0
            yield 10.0 + EVERY + late
        told.set()
        yield 10.0

    watching = asyncio.create_task(watch(times().__next__, lags.append))
    await told.wait()
    watching.cancel()
    assert lags == pytest.approx([0.0, 0.03, 0.0])
