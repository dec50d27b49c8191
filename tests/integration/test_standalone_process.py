"""The program by a file, as README and docs show it: killed, stopped under a stream, with keys of a shell."""

from __future__ import annotations

import asyncio
import re
import shlex
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from modelfleet_core.leasing.accounts import BUDGET
from modelfleet_lab.model_server.latency import LatencyProfile
from modelfleet_lab.ports import free_ports
from support.programs import Program, program
from support.standalone import fleet, ledger, model_servers, policy, write

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
SLOW = LatencyProfile(ttft=50.0, per_token=25.0, load=0.0)
LIMIT = 10**9
"""Nano-USD."""
HELLO = {"model": "auto", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 20}


@asynccontextmanager
async def sidecar(folder: Path, **settings: str) -> AsyncIterator[tuple[Program, str]]:
    """Run the program; yield it and where it answers."""
    http, grpc, admin = (f"127.0.0.1:{port}" for port in free_ports(3))
    environment = {
        "MODELFLEET_CONFIG": str(folder / "config.yaml"),
        "MODELFLEET_HTTP_LISTEN": http,
        "MODELFLEET_GRPC_LISTEN": grpc,
        "MODELFLEET_ADMIN_LISTEN": admin,
        **settings,
    }
    async with program("modelfleet-sidecar", folder / "logs", environment, f"http://{admin}") as running:
        await running.ready()
        yield running, f"http://{http}/v1/chat/completions"


async def ask(url: str, headers: Mapping[str, str] | None = None) -> int:
    async with aiohttp.ClientSession() as http, http.post(url, json=HELLO, headers=headers) as response:
        await response.read()
        return response.status


async def test_a_killed_process_forgets_no_money_and_leaves_little_idle(tmp_path: Path) -> None:
    async with model_servers(["small"]) as servers:
        budget = {"limit": "1", "period": "Month"}
        write(tmp_path / "config.yaml", fleet({"small": servers["small"].url}), policy(budget=budget))
        async with sidecar(tmp_path) as (running, url):
            assert [await ask(url) for _ in range(5)] == [200] * 5
            await running.kill()
        before = sum(record.cost_nano_usd for record in servers["small"].records)
        state = tmp_path / "config.yaml.state"
        assert ledger(state).accounts[BUDGET].watermark > before
        async with sidecar(tmp_path) as (running, url):
            assert await ask(url) == 200
            while "is finished: 0 requests" not in running.tail():  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            await running.stop()
        billed = sum(record.cost_nano_usd for record in servers["small"].records)
    assert billed > before
    stored = ledger(state).accounts[BUDGET]
    assert stored.spent == billed
    assert billed <= stored.watermark <= billed + LIMIT // 64


async def test_a_stream_under_way_ends_whole_and_is_booked_when_the_program_is_stopped(
    tmp_path: Path,
) -> None:
    async with model_servers(["small"], latency=SLOW) as servers, aiohttp.ClientSession() as http:
        budget = {"limit": "1", "period": "Month"}
        write(tmp_path / "config.yaml", fleet({"small": servers["small"].url}), policy(budget=budget))
        async with sidecar(tmp_path) as (running, url):
            async with http.post(url, json=HELLO | {"stream": True}) as response:
                first = await response.content.readline()
                running.process.terminate()
                rest = await response.content.read()
            assert await asyncio.to_thread(running.process.wait, 20.0) == 0
        (record,) = servers["small"].records
    assert first.startswith(b"data: ")
    assert rest.rstrip().endswith(b"data: [DONE]")
    stored = ledger(tmp_path / "config.yaml.state").accounts[BUDGET]
    assert not record.cancelled
    assert stored.spent == stored.watermark == record.cost_nano_usd


async def test_an_api_key_comes_from_the_environment(tmp_path: Path) -> None:
    async with model_servers(["small"], api_key="sesame") as servers:
        reference = {"name": "open-ai", "key": "token.txt"}
        write(tmp_path / "config.yaml", fleet({"small": servers["small"].url}, key=reference), policy())
        async with sidecar(tmp_path, MODELFLEET_KEY_OPEN_AI_TOKEN_TXT="sesame") as (running, url):
            assert await ask(url) == 200
        async with sidecar(tmp_path) as (running, url):
            assert await ask(url) == 503
            assert "set MODELFLEET_KEY_OPEN_AI_TOKEN_TXT, or MODELFLEET_KEYS to a folder" in running.tail()


def commands() -> list[str]:
    """Return the commands of the README that start a sidecar by a file, and what it asks."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (found,) = re.findall(
        r"^```sh\n(modelfleet-model-server .*\nmodelfleet-sidecar .*)\n```", readme, re.MULTILINE
    )
    return [line.removesuffix(" &") for line in found.splitlines()]


async def test_the_commands_of_the_readme_answer_a_request(tmp_path: Path) -> None:
    model, http, grpc, admin = free_ports(4)
    text = (ROOT / "examples" / "standalone" / "laptop.yaml").read_text()
    (tmp_path / "laptop.yaml").write_text(text.replace("127.0.0.1:8000", f"127.0.0.1:{model}"))
    server, sidecar = (
        shlex.split(
            command.replace("127.0.0.1:8000", f"127.0.0.1:{model}").replace(
                "examples/standalone", str(tmp_path)
            )
        )
        for command in commands()
    )
    sidecar += [
        f"--{name}-listen=127.0.0.1:{port}"
        for name, port in (("http", http), ("grpc", grpc), ("admin", admin))
    ]
    processes = [
        await asyncio.create_subprocess_exec(
            Path(sys.executable).with_name(name), *arguments, stderr=asyncio.subprocess.DEVNULL
        )
        for name, *arguments in (server, sidecar)
    ]
    try:
        assert await answered(f"http://127.0.0.1:{http}/v1/chat/completions") == 200
    finally:
        for process in processes:
            process.terminate()
            await process.wait()
    assert not (tmp_path / "laptop.yaml.state").exists()


async def answered(url: str) -> int:
    """Return the first status of a server that is starting."""
    async with asyncio.timeout(60.0):
        while True:
            try:
                status = await ask(url)
            except aiohttp.ClientConnectionError:
                status = 503
            if status != 503:
                return status
            await asyncio.sleep(0.1)
