"""The program `modelfleet-sidecar` as pods run it: a process with a lease from a real capacity service."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
from modelfleet_core.catalog import Pricing
from modelfleet_core.leasing.journal import life_from
from modelfleet_core.values import EndpointUrl
from modelfleet_lab.model_server.latency import LatencyProfile
from modelfleet_lab.model_server.server import ModelServer, ServerSettings
from support.leases import POLICY, CapacityService, MemoryLedgers, capacity_service

pytestmark = pytest.mark.integration

SERVING = re.compile(r"serving HTTP on (\S+), gRPC on (\S+), admin on (\S+);")
LOOPBACK = {f"MODELFLEET_{name}_LISTEN": "127.0.0.1:0" for name in ("GRPC", "HTTP", "ADMIN")}
HELLO = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}
SLOW = LatencyProfile(ttft=300.0, per_token=10.0, load=0.0)


@dataclass(slots=True)
class Program:
    """A running sidecar process."""

    process: asyncio.subprocess.Process
    http: str
    admin: str

    async def stop(self) -> int:
        """Send SIGTERM; return the exit status."""
        self.process.terminate()
        async with asyncio.timeout(20.0):
            return await self.process.wait()


def environ_of(operator: str, **settings: str) -> Mapping[str, str]:
    pod = {
        "MODELFLEET_OPERATOR": operator,
        "MODELFLEET_NAMESPACE": "ml",
        "MODELFLEET_POD_NAME": "app-0",
        "MODELFLEET_POD_UID": "uid-app-0",
    }
    return os.environ | pod | LOOPBACK | settings


@asynccontextmanager
async def program(operator: str, **settings: str) -> AsyncIterator[Program]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "modelfleet_sidecar",
        env=environ_of(operator, **settings),
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stderr is not None
    said: list[bytes] = []
    try:
        async with asyncio.timeout(20.0):
            found = None
            while found is None:
                said.append(await process.stderr.readline())
                assert said[-1], b"".join(said).decode()
                found = SERVING.search(said[-1].decode())
        reading = asyncio.create_task(process.stderr.read())
        yield Program(process, f"http://{found[1]}", f"http://{found[3]}")
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    await reading


@asynccontextmanager
async def model_server(latency: LatencyProfile) -> AsyncIterator[ModelServer]:
    pricing = Pricing(input_femto=400_000_000, output_femto=600_000_000)  # as the fleet's manifest says
    server = ModelServer(ServerSettings(model="org/large", concurrency=8, latency=latency, pricing=pricing))
    await server.start()
    try:
        await server.until(lambda server: server.ready)
        yield server
    finally:
        await server.stop()


async def leased(client: aiohttp.ClientSession) -> None:
    """Return once the sidecar has its lease."""
    async with asyncio.timeout(10.0):
        status = 503
        while status == 503:
            async with client.get("/v1/models") as response:
                status = response.status
            await asyncio.sleep(0.02)
    assert status == 200


def spent(service: CapacityService) -> int:
    usage = service.publisher.usage(POLICY)
    return usage.spent if usage is not None else 0


async def test_a_leased_process_answers_drains_on_sigterm_and_gives_its_lease_back() -> None:
    async with (
        model_server(SLOW) as server,
        capacity_service(MemoryLedgers(), {EndpointUrl(server.url): 8}) as service,
        program(f"127.0.0.1:{service.port}") as sidecar,
        aiohttp.ClientSession(sidecar.http) as client,
    ):
        await leased(client)
        async with client.post("/v1/chat/completions", json=HELLO) as response:
            assert response.status == 200, await response.text()
            assert response.headers["x-modelfleet-model"] == "large"
        running = asyncio.create_task(client.post("/v1/chat/completions", json=HELLO | {"stream": True}))
        await server.until(lambda server: server.slots.in_flight == 1)
        stopping = asyncio.create_task(sidecar.stop())
        response = await running
        assert (await response.text()).endswith("data: [DONE]\n\n")
        assert await stopping == 0
        billed = sum(record.cost_nano_usd for record in server.records)
        assert len(server.records) == 2
        assert spent(service) == billed
        (variants,) = service.publisher.leased().values()
        assert [set(endpoints.values()) for endpoints in variants.values()] == [{0}]


async def _said(client: aiohttp.ClientSession, url: str) -> str:
    """Return the text once it is more than ok."""
    async with asyncio.timeout(20):
        while True:
            async with client.get(url) as response:
                if (text := await response.text()) != "ok\n":
                    return text
            await asyncio.sleep(0.05)


async def test_without_an_operator_the_process_listens_and_says_why_it_serves_nothing() -> None:
    async with (
        program("127.0.0.1:1", MODELFLEET_DRAIN_GRACE="0") as sidecar,
        aiohttp.ClientSession() as client,
    ):
        async with client.get(f"{sidecar.admin}/readyz") as response:
            assert response.status == 200
            assert "without the operator: UNAVAILABLE" in await _said(client, f"{sidecar.admin}/readyz")
        async with client.post(f"{sidecar.http}/v1/chat/completions", json=HELLO) as response:
            assert response.status == 503
            assert (await response.json())["error"]["code"] == "NoLease"
        assert await sidecar.stop() == 0


async def test_a_setting_that_can_not_be_used_ends_the_process_with_its_name() -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "modelfleet_sidecar",
        env=environ_of("127.0.0.1:1", MODELFLEET_HTTP_LISTEN="0.0.0.0:18080"),
        stderr=asyncio.subprocess.PIPE,
    )
    _, told = await process.communicate()
    assert process.returncode == 2
    assert b"MODELFLEET_HTTP_LISTEN" in told
    assert b"Traceback" not in told


def test_the_sidecar_loads_nothing_that_is_heavy() -> None:
    heavy = ("ortools", "kopf", "kubernetes", "aiohttp", "pandas", "matplotlib", "modelfleet_operator")
    code = f"import sys, modelfleet_sidecar.__main__; print([n for n in {heavy} if n in sys.modules])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def journals(folder: Path) -> set[Path]:
    return set(folder.glob("*.journal"))


async def test_a_sidecar_killed_with_money_in_flight_is_finished_by_its_next_start(tmp_path: Path) -> None:
    async with (
        model_server(SLOW) as server,
        capacity_service(MemoryLedgers(), {EndpointUrl(server.url): 8}) as service,
    ):
        operator = f"127.0.0.1:{service.port}"
        async with (
            program(operator, MODELFLEET_JOURNAL=str(tmp_path)) as killed,
            aiohttp.ClientSession(killed.http) as client,
        ):
            await leased(client)
            async with client.post("/v1/chat/completions", json=HELLO) as response:
                assert response.status == 200, await response.text()
            running = asyncio.create_task(client.post("/v1/chat/completions", json=HELLO | {"stream": True}))
            await server.until(lambda server: server.slots.in_flight == 1)
            killed.process.kill()
            await killed.process.wait()
            with pytest.raises(aiohttp.ClientError):
                await (await running).read()
        (journal,) = journals(tmp_path)
        life = life_from(journal.read_text().splitlines(keepends=True))
        (unsettled,) = life.unsettled.values()
        billed = sum(record.cost_nano_usd for record in server.records if record.cost_nano_usd)
        (lived,) = life.accounts.values()
        (reserve,) = unsettled.amounts.values()
        assert lived.spent == server.records[0].cost_nano_usd
        async with (
            program(operator, MODELFLEET_JOURNAL=str(tmp_path)) as next_one,
            aiohttp.ClientSession(next_one.http) as client,
        ):
            await leased(client)
            async with client.post("/v1/chat/completions", json=HELLO) as response:
                assert response.status == 200, await response.text()
            async with asyncio.timeout(30.0):
                unfinished = True
                while unfinished:
                    await asyncio.sleep(0.05)
                    unfinished = journal in journals(tmp_path)
            assert await next_one.stop() == 0
        assert journals(tmp_path) == set()
        usage = service.publisher.usage(POLICY)
        assert usage is not None
        answered = server.records[0].cost_nano_usd + server.records[-1].cost_nano_usd
        assert usage.spent == usage.granted == answered + reserve
        assert billed <= usage.spent


def test_a_program_that_is_begun_with_few_open_files_takes_as_many_as_it_may() -> None:
    code = (
        "import resource as r; most = r.getrlimit(r.RLIMIT_NOFILE)[1];"
        "r.setrlimit(r.RLIMIT_NOFILE, (200, most));"
        "from modelfleet_sidecar.__main__ import allow_connections; allow_connections();"
        "assert r.getrlimit(r.RLIMIT_NOFILE) == (most, most)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
