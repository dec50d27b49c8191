"""A caller that leaves ends its request wherever it is, and the model's work with it: G8, G9."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from enum import Enum

import pytest
from modelfleet_core.leasing.messages import SlotGrant
from modelfleet_core.policy import Breaker, Fallback
from modelfleet_core.values import EndpointUrl, NanoUsd
from modelfleet_sidecar import forward, retry
from support.callers import WAYS, Caller, Way, caller_of
from support.faulty import Ill, Log, faulty_server
from support.sidecars import Rig, Spec, policy_of, running_sidecar

pytestmark = pytest.mark.integration

MONEY = NanoUsd(10**12)
PROMPT = 1.0
"""Seconds in which the model server must know that the caller has left."""
PATIENCE = 10.0


class Stage(Enum):
    """Where a request is when its caller leaves."""

    CONNECT = "while a connection is made"
    FIRST = "before the first token"
    BETWEEN = "in the middle of the answer"
    QUEUE = "while it waits for a slot"
    PAUSE = "in the pause before it is tried again"


ILLS = {
    Stage.FIRST: Ill.STALL_FIRST,
    Stage.BETWEEN: Ill.STALL_BETWEEN,
    Stage.QUEUE: Ill.STALL_FIRST,
    Stage.PAUSE: Ill.RESET_AFTER,
}


@dataclass(frozen=True, slots=True)
class Scene:
    rig: Rig
    caller: Caller
    log: Log
    knocked: asyncio.Event
    """Set when a connection has come that is never answered."""


@asynccontextmanager
async def silent(knocked: asyncio.Event) -> AsyncIterator[EndpointUrl]:
    """Take connections and never greet: TLS waits for ever."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        knocked.set()
        while await reader.read(1024):
            pass
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield EndpointUrl(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    finally:
        server.close()
        await server.wait_closed()


@asynccontextmanager
async def scene(stage: Stage) -> AsyncIterator[Scene]:
    log, knocked, only = Log(), asyncio.Event(), Spec("only")
    async with AsyncExitStack() as stack:
        server = silent(knocked) if stage is Stage.CONNECT else faulty_server(ILLS[stage], log)
        url = await stack.enter_async_context(server)
        rig = await stack.enter_async_context(running_sidecar(only, money=MONEY))
        rig.lease.grant({url: SlotGrant(only.key, 1)}, money=MONEY)
        yield Scene(rig, await stack.enter_async_context(caller_of(rig)), log, knocked)


async def reached(it: Scene, stage: Stage, way: Way) -> None:
    """Return once the last request is at its stage."""
    match stage:
        case Stage.CONNECT:
            await it.knocked.wait()
        case Stage.FIRST:
            await it.log.until(1)
        case Stage.BETWEEN:
            await it.log.until(1, pieces=1)
        case Stage.QUEUE | Stage.PAUSE:
            while not it.rig.sidecar.router.waiting:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.005)


@pytest.mark.parametrize("stage", list(Stage), ids=lambda stage: stage.value)
async def test_a_caller_that_leaves_ends_its_request_and_the_models_work(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry, "PAUSE", 60.0)

    async def leave(way: Way) -> None:
        async with scene(stage) as it, asyncio.timeout(PATIENCE):
            calls = [asyncio.create_task(it.caller.ask(way))]
            if stage is Stage.QUEUE:
                await it.log.until(1)  # which takes the only slot
                calls.append(asyncio.create_task(it.caller.ask(way)))
            await reached(it, stage, way)
            for call in reversed(calls):
                call.cancel()
            ended = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(end, asyncio.CancelledError) for end in ended)
            async with asyncio.timeout(PROMPT):
                await it.log.until(len(it.log.seen), ended=True)
                router = it.rig.sidecar.router
                # Nothing tells when the last of it has gone.
                while router.waiting or router._pool.open_connections:  # noqa: ASYNC110
                    await asyncio.sleep(0.005)
            await it.rig.settled()
            assert len(it.log.seen) == (0 if stage is Stage.CONNECT else 1)
            assert all(seen.left for seen in it.log.seen) or stage is Stage.PAUSE
            charged = it.rig.lease.holding.money(0.0)
            assert charged is not None
            assert (charged == MONEY) == (stage is Stage.CONNECT), "what was not sent costs nothing"

    await asyncio.gather(*(leave(way) for way in WAYS))


@pytest.mark.parametrize(("due", "shut"), [(0.0, True), (100.0, False)])
async def test_a_server_that_hangs_longer_than_its_callers_wait_is_left_alone_and_no_other(
    due: float, shut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`due`: seconds after which an answer is overdue."""
    monkeypatch.setattr(forward, "hung_after", lambda _usual, _tokens: due)
    fallback = Fallback(max_attempts=1, breaker=Breaker(failures=2, open_for=100.0))

    async def tried(way: Way) -> None:
        log, only = Log(), Spec("only")
        async with (
            faulty_server(Ill.STALL_FIRST, log) as url,
            running_sidecar(only, policy=policy_of(fallback=fallback)) as rig,
            caller_of(rig) as caller,
            asyncio.timeout(PATIENCE),
        ):
            rig.lease.grant({url: SlotGrant(only.key, 2)})
            calls = [asyncio.create_task(caller.ask(way)) for _ in range(2)]
            await log.until(2)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            await log.until(2, ended=True)
            await rig.settled()
            assert bool(rig.sidecar.router._batcher.queue.placer.shut(0.0)) == shut

    await asyncio.gather(*(tried(way) for way in WAYS))
