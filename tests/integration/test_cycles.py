"""A request's objects are freed with it: none waits in a cycle, text and all, for a collection of garbage."""

from __future__ import annotations

import gc
from contextlib import AsyncExitStack

import pytest
from modelfleet_core.leasing.messages import SlotGrant
from modelfleet_core.values import NanoUsd
from support.callers import WAYS, Caller, Way, caller_of
from support.faulty import Ill, Log, faulty_server
from support.sidecars import Rig, Spec, running_sidecar

pytestmark = pytest.mark.integration

CALLS = 5


async def cycles_after(rig: Rig, caller: Caller, way: Way) -> set[str]:
    """Return of which of the sidecar's types some object waits for a collection after calls."""
    await caller.ask(way)  # whatever is made once
    await rig.settled()
    gc.collect()
    gc.disable()
    try:
        for _ in range(CALLS):
            await caller.ask(way)
        await rig.settled()
        gc.set_debug(gc.DEBUG_SAVEALL)
        gc.collect()
        kinds = {type(one) for one in gc.garbage}
        return {kind.__qualname__ for kind in kinds if kind.__module__.startswith("modelfleet_")}
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_nothing_of_a_request_waits_for_a_collection(way: Way) -> None:
    async with AsyncExitStack() as stack:
        url = await stack.enter_async_context(faulty_server(Ill.NOTHING, Log()))
        spec = Spec("model", 0.9)
        rig = await stack.enter_async_context(running_sidecar(spec, money=NanoUsd(10**15)))
        rig.lease.grant({url: SlotGrant(spec.key, 2)}, money=NanoUsd(10**15))
        caller = await stack.enter_async_context(caller_of(rig, lambda: None))
        assert not await cycles_after(rig, caller, way)
