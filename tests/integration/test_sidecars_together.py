"""Several sidecars on one capacity service and the same model servers: the limits hold for all together."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from dataclasses import replace

import aiohttp
import pytest
from modelfleet_core.catalog import Pricing
from modelfleet_core.values import NANO, EndpointUrl
from modelfleet_lab.model_server.latency import LatencyProfile
from modelfleet_lab.model_server.server import ModelServer, ServerSettings
from modelfleet_sidecar.app import assemble
from modelfleet_sidecar.settings import Address
from support.leases import MemoryLedgers, capacity_service
from support.sidecars import settings_for

pytestmark = pytest.mark.integration

LATENCY = LatencyProfile(ttft=5.0, per_token=0.5, load=0.0)
PRICING = Pricing(input_femto=400_000_000, output_femto=600_000_000)  # as the fleet's manifest says
BUDGET = "0.0025"


async def test_three_sidecars_share_slots_and_a_small_budget_without_passing_either() -> None:
    """G1, G2, G3, G7 at once, counted by the model servers."""
    async with AsyncExitStack() as stack:
        servers = [
            ModelServer(ServerSettings(model="org/large", concurrency=3, latency=LATENCY, pricing=PRICING))
            for _ in range(2)
        ]
        for server in servers:
            await server.start()
            stack.push_async_callback(server.stop)
            await server.until(lambda server: server.ready)
        slots = {EndpointUrl(server.url): 3 for server in servers}
        service = await stack.enter_async_context(capacity_service(MemoryLedgers(), slots, budget=BUDGET))
        clients = []
        for number in range(3):
            settings = replace(
                settings_for(Address("127.0.0.1", service.port)),
                pod_name=f"app-{number}",
                pod_uid=f"uid-app-{number}",
            )
            sidecar = assemble(settings)
            await sidecar.start()
            stack.push_async_callback(sidecar.drain)
            client = aiohttp.ClientSession(f"http://{sidecar.http_address}")
            clients.append(await stack.enter_async_context(client))

        async def one(client: aiohttp.ClientSession, number: int) -> int:
            body = {
                "model": "auto",
                "stream": number % 2 == 0,
                "max_tokens": 30,
                "messages": [{"role": "user", "content": f"question {number}"}],
            }
            async with client.post("/v1/chat/completions", json=body) as response:
                await response.read()
            return response.status

        async def leased(client: aiohttp.ClientSession) -> None:
            async with asyncio.timeout(10.0):
                while await one(client, 0) == 503:  # noqa: ASYNC110 - a caller sees only the status
                    await asyncio.sleep(0.02)

        await asyncio.gather(*(leased(client) for client in clients))
        statuses = await asyncio.gather(*(one(client, number) for number in range(80) for client in clients))
        records = [record for server in servers for record in server.records]
        assert not any(record.over_concurrency for record in records)
        assert max(server.slots.peak for server in servers) <= 3
        billed = sum(record.cost_nano_usd for record in records)
        assert billed <= float(BUDGET) * NANO
        assert set(statuses) == {200, 429}
        # Whoever asks while the rest is reserved is refused, so that much may be left over, but not all.
        assert billed >= 0.25 * float(BUDGET) * NANO
