"""What is in flight when a sidecar ends."""

from __future__ import annotations

import asyncio

import pytest
from modelfleet_sidecar.in_flight import InFlight


async def test_what_begins_after_the_end_was_called_ends_too() -> None:
    in_flight = InFlight(held=lambda: 0, abandoned=lambda: False)
    in_flight.end()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5.0), in_flight.within(3_600.0):
            await asyncio.Event().wait()
