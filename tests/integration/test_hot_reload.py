"""Policy, fleet, estimator and API keys that change under traffic: no restart, and no request is lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from modelfleet_sidecar.app import Sidecar
from support.estimators import POEM, SUM, poet_and_clerk
from support.standalone import fleet, model_servers, policy, standalone, write

pytestmark = pytest.mark.integration

ANSWER = json.dumps(
    {
        "id": "1",
        "object": "chat.completion",
        "model": "small",
        "choices": [
            {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "yes"}}
        ],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }
).encode()


async def until(holds: Callable[[], bool], timeout: float = 10.0) -> None:
    """Wait for what nothing tells of; files are looked at every second."""
    async with asyncio.timeout(timeout):
        while not holds():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


def url_of(sidecar: Sidecar) -> str:
    return f"http://{sidecar.http_address}/v1/chat/completions"


@asynccontextmanager
async def callers(one: Callable[[], Awaitable[None]], count: int) -> AsyncIterator[None]:
    """Let so many callers ask one request after the other until the block ends; each must end well."""
    over = asyncio.Event()

    async def caller() -> None:
        while not over.is_set():
            await one()

    async with asyncio.TaskGroup() as tasks:
        for _ in range(count):
            tasks.create_task(caller())
        yield
        over.set()


async def test_policy_fleet_and_estimator_change_under_streams_and_each_ends_whole(tmp_path: Path) -> None:
    config, estimator = tmp_path / "config.yaml", tmp_path / "mine.npz"
    trained = policy(estimator={"ref": {"name": "mine"}}, budget={"limit": "5", "period": "Day"})
    answered: list[str] = []
    async with model_servers(["poet", "clerk"], slots=16) as servers, aiohttp.ClientSession() as http:
        urls = {name: server.url for name, server in servers.items()}
        write(config, fleet(urls, in_flight=16), policy(budget={"limit": "5", "period": "Day"}))
        async with standalone(config, tmp_path / "state") as sidecar:

            async def stream() -> None:
                body = {"model": "auto", "stream": True, "max_tokens": 20}
                messages = [{"role": "user", "content": POEM.format(len(answered), 3)}]
                async with http.post(url_of(sidecar), json=body | {"messages": messages}) as response:
                    assert response.status == 200, await response.text()
                    said = await response.read()
                    assert said.rstrip().endswith(b"data: [DONE]"), said[-200:]
                    answered.append(response.headers["x-modelfleet-model"])

            async def model_for(form: str) -> str:
                text = form.format(3, 4)
                body = {"model": "auto", "max_tokens": 20, "messages": [{"role": "user", "content": text}]}
                async with http.post(url_of(sidecar), json=body) as response:
                    assert response.status == 200
                    return response.headers["x-modelfleet-model"]

            async with callers(stream, 6):
                await until(lambda: len(answered) > 20)
                estimator.with_suffix(".new").write_bytes(poet_and_clerk().manifest)
                estimator.with_suffix(".new").rename(estimator)
                write(config, fleet(urls, in_flight=16), trained)
                async with asyncio.timeout(10.0):
                    while (await model_for(SUM), await model_for(POEM)) != ("clerk", "poet"):  # noqa: ASYNC110
                        await asyncio.sleep(0.1)
                estimator.write_bytes(b"no estimator")
                write(config, fleet({"poet": urls["poet"]}, in_flight=4), trained)
                await until(lambda: sidecar.router.models() == ("auto", "poet"))
                write(config, fleet(urls, in_flight=16), trained)
                await until(lambda: sidecar.router.models() == ("auto", "poet", "clerk"))
                assert await model_for(SUM) == "clerk", "the last good estimator is in use"
        records = sum(len(server.records) for server in servers.values())
    assert len(answered) > 40
    assert records >= len(answered)
    assert all(not record.cancelled for server in servers.values() for record in server.records)


@asynccontextmanager
async def keyed_server() -> AsyncIterator[tuple[str, list[bytes], set[bytes]]]:
    """Serve whoever sends one of some keys; yield the URL, the keys that came, and those that are taken."""
    came: list[bytes] = []
    taken = {b"first"}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                fields = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
                await reader.readexactly(int(fields[b"content-length"]))
                key = fields[b"authorization"].removeprefix(b"Bearer ")
                came.append(key)
                status = b"200 OK" if key in taken else b"401 Unauthorized"
                length = str(len(ANSWER)).encode()
                kind = b"content-type: application/json\r\ncontent-length: "
                writer.write(b"HTTP/1.1 " + status + b"\r\n" + kind + length + b"\r\n\r\n" + ANSWER)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}", came, taken


async def test_an_api_key_is_replaced_under_traffic(tmp_path: Path) -> None:
    config, key = tmp_path / "config.yaml", tmp_path / "keys" / "api" / "token"
    key.parent.mkdir(parents=True)
    key.write_text("first")
    answered: list[int] = []
    async with keyed_server() as (url, came, taken), aiohttp.ClientSession() as http:
        write(config, fleet({"small": url}, key={"name": "api", "key": "token"}), policy())
        async with standalone(config, None, keys=tmp_path / "keys") as sidecar:

            async def ask() -> None:
                body = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}
                async with http.post(url_of(sidecar), json=body) as response:
                    await response.read()
                    answered.append(response.status)

            async with callers(ask, 4):
                await until(lambda: b"first" in came)
                taken.add(b"second")  # whoever gives out keys takes both for a while
                key.with_suffix(".new").write_text("second")
                key.with_suffix(".new").rename(key)
                await until(lambda: b"second" in came)
                count = len(came)
                await until(lambda: len(came) > count + 20)
                taken.remove(b"first")
                count = len(came)
                await until(lambda: len(came) > count + 20)
        assert set(answered) == {200}
        assert set(came[count:]) == {b"second"}
