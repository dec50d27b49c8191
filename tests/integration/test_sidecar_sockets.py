"""Both APIs over Unix sockets, beside their ports."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path

import aiohttp
import grpc.aio
import pytest
from modelfleet.v1 import router_pb2, router_pb2_grpc
from modelfleet_sidecar import app, router
from modelfleet_sidecar.app import Sidecar
from modelfleet_sidecar.callers import connected
from modelfleet_sidecar.settings import SettingsError
from support.sidecars import GivenLease, Spec, running_sidecar, settings_for

pytestmark = pytest.mark.integration

QUESTION = router_pb2.ChatRequest(messages=[router_pb2.Message(role="user", content="hello")])


async def test_both_apis_answer_on_sockets_and_ports_and_leave_no_file(tmp_path: Path) -> None:
    grpc_path, web = tmp_path / "router.sock", tmp_path / "openai.sock"
    async with running_sidecar(Spec("big"), grpc_socket=grpc_path, http_socket=web) as rig:
        for address in (f"unix:{grpc_path}", rig.grpc):
            async with grpc.aio.insecure_channel(address) as channel:
                answer = await router_pb2_grpc.RouterStub(channel).Complete(QUESTION)
                assert answer.decision.model == "big"
        body = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}
        for connector, url in (
            (aiohttp.UnixConnector(str(web)), "http://sidecar"),
            (aiohttp.TCPConnector(), rig.http),
        ):
            async with (
                aiohttp.ClientSession(connector=connector) as session,
                session.post(f"{url}/v1/chat/completions", json=body) as response,
            ):
                assert response.status == 200
                assert (await response.json())["choices"]
        for path in (grpc_path, web):
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
        await rig.settled()
    assert not grpc_path.exists()
    assert not web.exists()


async def test_a_shutdown_waits_for_who_is_to_settle_and_is_connected_by_the_socket(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "router.sock"
    looked = asyncio.Event()

    def look(port: int, socket: Path | None) -> bool:
        looked.set()
        return connected(port, socket)

    monkeypatch.setattr(app, "connected", look)
    monkeypatch.setattr(router, "HOUSEKEEPING", 0.01)
    async with (
        running_sidecar(Spec("big"), grpc_socket=path, drain_grace=3_600.0) as rig,
        grpc.aio.insecure_channel(f"unix:{path}") as channel,
    ):
        stub = router_pb2_grpc.RouterStub(channel)
        decision = await stub.Route(router_pb2.RouteRequest(chat=QUESTION))
        draining = asyncio.create_task(rig.sidecar.drain())
        async with asyncio.timeout(5.0):
            for _ in range(3):
                looked.clear()
                await looked.wait()
        assert not draining.done()
        await stub.Settle(router_pb2.SettleRequest(decision_id=decision.decision_id))
        assert await draining
        assert rig.lease.holding.idle()


@pytest.mark.parametrize("name", ["grpc_socket", "http_socket"])
async def test_a_socket_of_another_program_is_refused_by_the_settings_name(name: str, tmp_path: Path) -> None:
    path = tmp_path / "in-use"
    path.write_text("mine")
    sidecar = Sidecar(settings=settings_for(**{name: path}), lease=GivenLease())
    with pytest.raises(SettingsError, match=rf"MODELFLEET_{name.upper()}=.*no socket"):
        await sidecar.start()
    assert path.read_text() == "mine"
