"""Serves every stage: how late the event loop runs what is due, which every request in the sidecar waits for.

In: a clock. Out: one figure each `EVERY` seconds, for the metric `modelfleet_sidecar_loop_lag_seconds`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NoReturn

EVERY = 0.02
"""Seconds: a call that keeps the loop for longer can not go unnoticed."""


async def watch(clock: Callable[[], float], told: Callable[[float], None]) -> NoReturn:
    """Tell the seconds by which each of a row of timers rang too late, until cancelled."""
    while True:
        due = clock() + EVERY
        await asyncio.sleep(EVERY)
        told(max(0.0, clock() - due))
