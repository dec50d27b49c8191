"""A model server that is killed or told to stop under traffic costs no request but streams that had begun."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
import pytest
from modelfleet_core.leasing.messages import SlotGrant
from modelfleet_core.values import EndpointUrl, NanoUsd
from support.sidecars import Spec, policy_of, running_sidecar

pytestmark = pytest.mark.integration

CHAT = "/v1/chat/completions"
MONEY = NanoUsd(10**12)
REQUESTS = 60


@dataclass(frozen=True, slots=True)
class ServerProgram:
    process: asyncio.subprocess.Process
    url: EndpointUrl


@asynccontextmanager
async def server_program(spec: Spec) -> AsyncIterator[ServerProgram]:
    """Run a simulated model server as a process of its own, which can be killed like a pod's."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = {
        "--listen": f"127.0.0.1:{port}",
        "--model": spec.served_name,
        "--concurrency": str(spec.slots),
        "--latency": "ttft=50,per_token=10,load=0",
        "--pricing": "1,2",
    }
    arguments = [text for option in options.items() for text in option]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "modelfleet_lab.model_server",
        *arguments,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with asyncio.timeout(30.0), aiohttp.ClientSession() as client:
            while not await _healthy(client, url):
                assert process.returncode is None
                await asyncio.sleep(0.05)
        yield ServerProgram(process, EndpointUrl(url))
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _healthy(client: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with client.get(f"{url}/health") as response:
            return response.status == 200
    except aiohttp.ClientConnectionError:
        return False


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
async def test_no_request_is_lost_when_one_of_two_servers_goes(end: signal.Signals) -> None:
    spec = Spec("big", slots=4)
    policy = policy_of(max_request=60.0)
    async with (
        server_program(spec) as first,
        server_program(spec) as second,
        running_sidecar(spec, policy=policy, money=MONEY) as rig,
        aiohttp.ClientSession(rig.http, connector=aiohttp.TCPConnector(limit=0)) as client,
    ):
        rig.lease.grant({one.url: SlotGrant(spec.key, 4) for one in (first, second)}, money=MONEY)
        ended = 0

        async def one(number: int) -> tuple[bool, str]:
            nonlocal ended
            stream = number % 2 == 0
            messages = [{"role": "user", "content": f"question {number}"}]
            fields = {"model": "auto", "messages": messages, "max_tokens": 20, "stream": stream}
            async with client.post(CHAT, json=fields) as response:
                text = await response.text()
                assert response.status == 200, text
            ended += 1
            return stream, text

        calls = [asyncio.create_task(one(number)) for number in range(REQUESTS)]
        async with asyncio.timeout(30.0):
            while ended < REQUESTS // 4:  # noqa: ASYNC110 - in the midst of it
                await asyncio.sleep(0.005)
        first.process.send_signal(end)
        answers = await asyncio.gather(*calls)
        cut = 0
        for stream, text in answers:
            if not stream:
                assert json.loads(text)["choices"]
                continue
            events = [event for event in text.split("\n\n") if event]
            broken = ['"error"' in event for event in events]
            if any(broken):
                cut += 1
                assert broken == [False] * (len(events) - 1) + [True]
                assert len(events) > 1, "what the caller has nothing of must be tried elsewhere"
                assert "[DONE]" not in text
            else:
                assert text.endswith("data: [DONE]\n\n")
        assert cut <= 4, "no more than ran at the server"
        await rig.settled()
        async with client.get(f"{rig.admin}/metrics") as response:
            lines = (await response.text()).splitlines()
        counted = [line for line in lines if line.startswith("modelfleet_sidecar_cut_streams_total{")]
        assert sum(float(line.rpartition(" ")[2]) for line in counted) == cut
        assert rig.lease.holding.idle()
