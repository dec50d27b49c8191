"""Many calls of all kinds leave nothing behind: G8, G17. `make soak` does the same with a million."""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import os
from contextlib import AsyncExitStack, suppress
from functools import partial
from random import Random

import pytest
from modelfleet_core.leasing.messages import SlotGrant
from modelfleet_core.policy import Breaker, Fallback
from modelfleet_core.values import NanoUsd
from modelfleet_sidecar import books, retry, unreachable
from modelfleet_sidecar.explain import DecisionLog
from modelfleet_sidecar.upstream import Pool
from support.callers import WAYS, Caller, caller_of
from support.faulty import Ill, Log, faulty_server
from support.memory import resident
from support.sidecars import Rig, Spec, policy_of, running_sidecar

pytestmark = pytest.mark.integration

MONEY = NanoUsd(10**15)
ILLS = (
    *(Ill.NOTHING, Ill.NOTHING, Ill.NO_USAGE, Ill.RESET_AFTER, Ill.CUT_FIRST, Ill.CUT_BETWEEN),
    *(Ill.BROKEN, Ill.BUSY, Ill.ERROR_BETWEEN, Ill.NO_BYTES),
)
WARM_UP, CALLS, AT_ONCE = 250, 800, 16
LEAVERS = 0.1
"""Part of the callers that go before they have their answer."""
MOST_GROWTH = 12 * 2**20
"""Bytes that the process may grow by, callers and model servers included."""


async def quiet(rig: Rig, most: float = math.inf) -> tuple[int, int]:
    """Wait until nothing is left of any call, and at most so many tasks; return tasks and open files, without
    idle connections."""
    await rig.settled()
    pool = rig.sidecar.router._pool
    for connection in list(pool._open):
        connection.abort()
    with suppress(TimeoutError):
        async with asyncio.timeout(10.0):
            # Nothing tells when servers have seen the last connection close.
            while too_much(pool, most):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    assert too_much(pool, most) == []
    assert rig.sidecar.router.waiting == 0
    gc.collect()
    return len(asyncio.all_tasks()), len(os.listdir("/proc/self/fd"))


def too_much(pool: Pool, most: float) -> list[str]:
    """Return connections to model servers and their tasks; all tasks, where there are more than so many."""
    tasks = sorted(getattr(task.get_coro(), "__qualname__", "") for task in asyncio.all_tasks())
    left = [f"{len(pool._open)} connections"] if pool.open_connections else []
    return left + [task for task in tasks if len(tasks) > most or "faulty" in task]


async def load(caller: Caller, calls: int, random: Random, log: Log) -> int:
    """Make so many calls, some at once; return how many ended, left ones included."""
    numbers, ended = itertools.count(), 0

    async def one_after_the_other() -> None:
        nonlocal ended
        while (number := next(numbers)) < calls:
            asking = asyncio.create_task(caller.ask(WAYS[number % len(WAYS)]))
            if random.random() < LEAVERS:
                for _ in range(random.randint(0, 20)):
                    await asyncio.sleep(0)
                asking.cancel()
            await asyncio.wait([asking])
            assert asking.cancelled() or asking.exception() is None, asking.exception()
            ended += 1
            log.seen.clear()

    async with asyncio.timeout(60.0):
        await asyncio.gather(*(one_after_the_other() for _ in range(AT_ONCE)))
    return ended


async def test_calls_of_all_kinds_leave_no_task_file_slot_or_memory_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(books, "DecisionLog", partial(DecisionLog, kept=100))  # full before it is measured
    monkeypatch.setattr(unreachable, "LEFT_ALONE", 0.0)
    monkeypatch.setattr(retry, "PAUSE", 0.01)
    log, random = Log(), Random(1)
    specs = [Spec(f"model-{number}", 0.9 - number / 100) for number in range(len(ILLS))]
    policy = policy_of(fallback=Fallback(breaker=Breaker(failures=1000)))
    async with AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(faulty_server(ill, log)) for ill in ILLS]
        rig = await stack.enter_async_context(running_sidecar(*specs, policy=policy, money=MONEY))
        slots = {url: SlotGrant(spec.key, 2) for url, spec in zip(urls, specs, strict=True)}
        rig.lease.grant(slots, money=MONEY)
        caller = await stack.enter_async_context(caller_of(rig, log.heard.set))
        await load(caller, WARM_UP, random, log)
        tasks, files = await quiet(rig)
        memory = resident()
        assert await load(caller, CALLS, random, log) == CALLS
        after = await quiet(rig, most=tasks)
        assert after[1] <= files + AT_ONCE  # callers keep their connections
        assert resident() - memory <= MOST_GROWTH
