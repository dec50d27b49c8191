"""Odd but possible words of callers and model servers reach the other side, or end in one clear status."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import grpc
import grpc.aio
import pytest
from google.protobuf import struct_pb2
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from modelfleet.v1 import router_pb2, router_pb2_grpc
from modelfleet_core.leasing.messages import SlotGrant
from modelfleet_core.policy import Breaker, Fallback
from modelfleet_core.values import EndpointUrl, NanoUsd
from support.sidecars import Rig, Spec, fleet_of, policy_of, running_sidecar

pytestmark = pytest.mark.integration

HALF = "\ud83d"
"""Half of a letter beyond 16 bits, as servers write that cut texts at such halves."""
PATIENT = Fallback(breaker=Breaker(failures=1000))
USAGE = {"prompt_tokens": 1, "completion_tokens": 1}


@asynccontextmanager
async def sidecar_before(answer: bytes, until: asyncio.Event | None = None) -> AsyncIterator[Rig]:
    """Run a sidecar whose only model server answers everything with these bytes, not before `until`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        await reader.readexactly(int(length.split(b":")[1]))
        if until is not None:
            await until.wait()
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        spec = Spec("big")
        async with running_sidecar(spec, policy=policy_of(fallback=PATIENT)) as rig:
            rig.lease.grant({EndpointUrl(f"http://127.0.0.1:{port}"): SlotGrant(spec.key, 4)})
            yield rig
    finally:
        server.close()
        await server.wait_closed()


def response(status: str, body: object) -> bytes:
    text = json.dumps(body).encode()
    return f"HTTP/1.1 {status}\r\ncontent-length: {len(text)}\r\n\r\n".encode() + text


def stream(*chunks: object) -> bytes:
    body = b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
    return head + body + b"data: [DONE]\n\n"


def hello(**parameters: object) -> router_pb2.ChatRequest:
    request = router_pb2.ChatRequest(messages=[router_pb2.Message(role="user", content="hello")])
    if parameters:
        request.parameters.CopyFrom(struct_pb2.Struct())
        request.parameters.update(parameters)
    return request


async def info_of(call: object) -> tuple[grpc.aio.AioRpcError, str]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    info = error_details_pb2.ErrorInfo()
    status = rpc_status.from_call(caught.value)
    assert status is not None, caught.value
    status.details[0].Unpack(info)
    return caught.value, info.reason


async def test_half_a_letter_in_an_answer_ends_no_call() -> None:
    answer = {"choices": [{"message": {"content": f"a{HALF}b"}, "finish_reason": "stop"}], "usage": USAGE}
    async with (
        sidecar_before(response("200 OK", answer)) as rig,
        grpc.aio.insecure_channel(rig.grpc) as channel,
    ):
        got = await router_pb2_grpc.RouterStub(channel).Complete(hello())
        assert got.content == "a\ufffdb"
        assert json.loads(got.raw) == answer


async def test_half_a_letter_in_a_stream_ends_no_call() -> None:
    chunks = [{"choices": [{"delta": {"content": text}}]} for text in ("a", HALF, "b")]
    async with (
        sidecar_before(stream(*chunks, {"choices": [], "usage": USAGE})) as rig,
        grpc.aio.insecure_channel(rig.grpc) as channel,
    ):
        call = router_pb2_grpc.RouterStub(channel).Chat(hello())
        assert "".join([chunk.content async for chunk in call]) == "a\ufffdb"


@pytest.mark.parametrize("letter", [HALF, "\U0001f600", "\x00", "é"], ids=["half", "wide", "null", "accent"])
async def test_whatever_a_server_says_of_its_error_reaches_the_caller_as_one_status(letter: str) -> None:
    body = {"error": {"message": letter * 2000}}
    async with (
        sidecar_before(response("500 Broken", body)) as rig,
        grpc.aio.insecure_channel(rig.grpc) as channel,
        aiohttp.ClientSession() as session,
    ):
        for _ in range(10):  # gRPC drops metadata that is a little too long by chance
            error, reason = await info_of(router_pb2_grpc.RouterStub(channel).Complete(hello()))
            assert (error.code(), reason) == (grpc.StatusCode.UNAVAILABLE, "UpstreamError")
        said = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}
        async with session.post(f"{rig.http}/v1/chat/completions", json=said) as answer:
            assert answer.status == 503
            assert (await answer.json())["error"]["code"] == "UpstreamError"


async def test_a_caller_may_say_half_a_letter() -> None:
    body = json.dumps({"messages": [{"role": "user", "content": HALF}]})
    answer = {"choices": [{"message": {"content": "ok"}}], "usage": USAGE}
    async with sidecar_before(response("200 OK", answer)) as rig, aiohttp.ClientSession() as session:
        url = f"{rig.http}/v1/chat/completions"
        async with session.post(url, data=body, headers={"content-type": "application/json"}) as got:
            assert (got.status, await got.json()) == (200, answer)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
async def test_a_parameter_that_json_can_not_say_is_the_callers_fault(number: float) -> None:
    async with (
        sidecar_before(response("200 OK", {})) as rig,
        grpc.aio.insecure_channel(rig.grpc) as channel,
    ):
        call = router_pb2_grpc.RouterStub(channel).Complete(hello(temperature=number))
        error, reason = await info_of(call)
        assert (error.code(), reason) == (grpc.StatusCode.INVALID_ARGUMENT, "InvalidField")


async def test_a_status_stays_within_what_clients_take_however_many_models_it_names() -> None:
    specs = [Spec(f"{number:02}-{'m' * 120}") for number in range(64)]
    async with running_sidecar(Spec("big")) as rig, grpc.aio.insecure_channel(rig.grpc) as channel:
        rig.lease.fleet = fleet_of(specs)
        request = hello()
        request.model = "nobody"
        error, reason = await info_of(router_pb2_grpc.RouterStub(channel).Complete(request))
        assert (error.code(), reason) == (grpc.StatusCode.NOT_FOUND, "ModelNotFound")


SAID = {"role": "assistant", "content": "ok"}
LONG = {"prompt_tokens": 3000, "completion_tokens": 1}
OVER = response("200 OK", {"choices": [{"message": SAID, "finish_reason": "stop"}], "usage": LONG})
"""Of a server whose template adds far more than its fleet says."""
SHORT = {"model": "big", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 10}


async def test_a_template_that_adds_more_than_the_fleet_says_costs_more_than_the_reserve_only_once() -> None:
    async with sidecar_before(OVER) as rig, aiohttp.ClientSession() as web:
        (endpoint,) = rig.lease.holding.lease.slots
        rig.lease.grant({endpoint: SlotGrant(Spec("big").key, 4)}, money=NanoUsd(10**9))
        excess = []
        for _ in range(2):
            async with web.post(f"{rig.http}/v1/chat/completions", json=SHORT) as got:
                assert got.status == 200, await got.text()
            async with web.get(f"{rig.admin}/metrics") as told:
                lines = (await told.text()).splitlines()
            excess.append(
                next(line for line in lines if line.startswith("modelfleet_sidecar_excess_usd_total"))
            )
        assert 'modelfleet_sidecar_prompts_above_bound_total{model="big"} 1.0' in lines
    assert float(excess[0].split()[1]) > 0.0
    assert excess[1] == excess[0]


async def test_what_waits_is_reserved_anew_when_a_template_turns_out_to_add_more() -> None:
    until = asyncio.Event()
    async with sidecar_before(OVER, until) as rig, aiohttp.ClientSession() as web:
        (endpoint,) = rig.lease.holding.lease.slots
        rig.lease.grant({endpoint: SlotGrant(Spec("big").key, 1)}, money=NanoUsd(10**9))

        async def ask() -> float:
            async with web.post(f"{rig.http}/v1/chat/completions", json=SHORT) as got:
                assert got.status == 200, await got.text()
                decision = got.headers["x-modelfleet-decision-id"]
            return rig.sidecar.router.explain(decision).decision.reserved / 1e9

        first = asyncio.create_task(ask())
        while not rig.lease.holding.in_flight():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.005)
        second = asyncio.create_task(ask())
        async with asyncio.timeout(10.0):
            while not rig.sidecar.router.waiting:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.005)
        until.set()
        cost = 3000e-6 + 2e-6
        assert await first < cost <= await second
