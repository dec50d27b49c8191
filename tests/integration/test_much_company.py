"""Idle connections and large bodies of some callers keep no other from its answer: G17."""

from __future__ import annotations

import asyncio
import io
import json
from contextlib import AsyncExitStack

import pytest
from support.callers import ASKED, CHAT, WAYS, caller_of
from support.sidecars import FAST, Spec, policy_of, running_sidecar

pytestmark = pytest.mark.integration

IDLE = 400
"""Connections that never ask; each takes two files in this process."""
LARGE = 15 * 1024 * 1024
PATIENCE = 20.0


async def test_hundreds_of_idle_connections_keep_nobody_from_an_answer() -> None:
    async with (
        running_sidecar(Spec("only", slots=8, latency=FAST), policy=policy_of(max_output_tokens=5)) as rig,
        caller_of(rig) as caller,
        AsyncExitStack() as stack,
        asyncio.timeout(PATIENCE),
    ):
        address = rig.sidecar.http_address
        for _ in range(IDLE):
            _reader, writer = await asyncio.open_connection(address.host, address.port)
            stack.callback(writer.close)
        told = await asyncio.gather(*(caller.ask(way) for way in WAYS for _ in range(5)))
        assert {one.reason for one in told} == {""}
        await rig.settled()


async def test_a_large_body_keeps_nobody_from_an_answer() -> None:
    text = "a word " * (LARGE // 7)
    large = json.dumps({**ASKED, "messages": [{"role": "user", "content": text}], "max_tokens": 5})
    async with (
        running_sidecar(Spec("only", slots=8, latency=FAST), policy=policy_of(max_output_tokens=5)) as rig,
        caller_of(rig) as caller,
        asyncio.timeout(PATIENCE),
    ):
        kind = {"content-type": "application/json"}

        async def send(body: str) -> int:
            data = io.BytesIO(body.encode())
            async with caller.http.post(CHAT, data=data, headers=kind) as response:
                await response.read()
                return response.status

        sending = asyncio.create_task(send(large))
        told = await asyncio.gather(*(caller.ask(way) for way in WAYS for _ in range(5)))
        assert {one.reason for one in told} == {""}
        assert await sending == 200
        await rig.settled()
