"""A former start of a sidecar is finished beside the present one, and harms it in no way."""

from __future__ import annotations

import asyncio

import pytest
from modelfleet_core.leasing.holding import Holding
from modelfleet_core.leasing.journal import Granted, Life, TakenUp
from modelfleet_core.leasing.messages import Want
from modelfleet_core.leasing.slots import UPSTREAM_NOTICES
from modelfleet_core.values import AccountId
from modelfleet_sidecar.lease import LeaseClient, boot_clock
from support.leases import (
    FLEET,
    LARGE,
    PATIENCE,
    POD_A,
    POLICY,
    MemoryLedgers,
    capacity_service,
    leasing,
    sidecar_id,
    total_free,
    until,
)

pytestmark = pytest.mark.integration
TODAY = AccountId("ml/assistant/Day/2026-11-22/budget")


class Clock:
    """The boot clock, put forward by tests."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return boot_clock() + self.ahead


def crashed() -> Life:
    """Return what a start left that was granted 100 and had 30 of it in flight."""
    life = Life(sidecar_id("one", "1"), "machine")
    life.add(Granted(TODAY, 100))
    life.add(TakenUp(7, POD_A, {TODAY: 30}, {}, 0.0))
    return life


async def test_what_a_former_start_left_is_settled_and_the_rest_is_granted_again() -> None:
    clock = Clock()
    async with capacity_service(MemoryLedgers(), {POD_A: 4}, clock=clock) as service:
        now = clock()
        holding = Holding.finishing(crashed(), now, settles_at=now + UPSTREAM_NOTICES)
        former = LeaseClient(f"127.0.0.1:{service.port}", holding.sidecar, clock=clock, holding=holding)
        running = asyncio.create_task(former.run())
        finishing = asyncio.create_task(former.finish())
        await until(former, lambda: former.connected)
        leased = service.publisher.leased()[FLEET][LARGE]
        assert leased[POD_A] == 1  # its request may still be at the model server
        clock.ahead = UPSTREAM_NOTICES
        async with asyncio.timeout(PATIENCE):
            await finishing
        running.cancel()
        await asyncio.wait([running])
        usage = service.publisher.usage(POLICY)
        assert usage is not None
        assert (usage.spent, usage.granted) == (30, 30)
        assert service.publisher.leased()[FLEET][LARGE] == {POD_A: 0}


async def test_a_former_start_that_is_finished_never_takes_the_present_one_for_dead() -> None:
    clock = Clock()
    async with capacity_service(MemoryLedgers(), {POD_A: 4}, clock=clock) as service:
        async with leasing(service, "one", "2") as present:
            present.want({LARGE: Want(4)}, {})
            await until(present, lambda: total_free(present) == 4)
        now = clock()
        holding = Holding.finishing(crashed(), now, settles_at=now)
        former = LeaseClient(f"127.0.0.1:{service.port}", holding.sidecar, clock=clock, holding=holding)
        running = asyncio.create_task(former.run())  # while the present one's stream is away
        async with asyncio.timeout(PATIENCE):
            await former.finish()
        running.cancel()
        await asyncio.wait([running])
        clock.ahead = UPSTREAM_NOTICES + 1
        async with leasing(service, "two") as other:
            await until(other, lambda: other.connected)
            assert total_free(other) == 0
            assert service.publisher.leased()[FLEET][LARGE] == {POD_A: 4}
