"""No model server makes a request cost less than it may be billed, or a later one hang."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace

import pytest
from modelfleet_core.catalog import Pricing
from modelfleet_core.policy import RetryOn, Timeouts
from modelfleet_core.values import EndpointUrl, NanoUsd
from modelfleet_sidecar import forward
from modelfleet_sidecar.chat import parse_fields
from modelfleet_sidecar.connection import HIGH_WATER
from modelfleet_sidecar.decision import Decision
from modelfleet_sidecar.failures import Failure
from modelfleet_sidecar.forward import Forwarder, Hearing
from modelfleet_sidecar.keys import ApiKeys
from modelfleet_sidecar.lease import boot_clock
from modelfleet_sidecar.upstream import Pool
from support.decisions import decision

pytestmark = pytest.mark.integration

PATIENCE = 10.0
RESERVE = NanoUsd(1_000_000)
CALL = parse_fields({"messages": [{"role": "user", "content": "hello"}]})
STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def chunked(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def decision_at(port: int, number: int = 1) -> Decision:
    at = EndpointUrl(f"http://127.0.0.1:{port}")
    pricing = Pricing(input_femto=10**9, output_femto=10**9)
    return replace(decision(number), endpoint=at, slot=at, reserved=RESERVE, pricing=pricing)


class Books:
    """Settles once, as the lease does: None books the reserve."""

    def __init__(self) -> None:
        self.booked: dict[int, NanoUsd] = {}
        self._settled = asyncio.Event()

    def settle(self, decision: Decision, actual: NanoUsd | None) -> NanoUsd:
        charged = decision.reserved if actual is None else actual
        self._settled.set()
        return self.booked.setdefault(decision.reservation, charged)

    def release(self, decisions: Iterable[Decision]) -> None:
        for one in decisions:
            self.settle(one, NanoUsd(0))

    async def first(self) -> NanoUsd:
        async with asyncio.timeout(PATIENCE):
            await self._settled.wait()
        return self.booked[1]


@asynccontextmanager
async def forwarding(
    talk: Talk, attempts: Hearing | None = None
) -> AsyncIterator[tuple[Forwarder, Books, int]]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client went away, as some tests want
        finally:
            writer.close()

    books = Books()
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    forwarder = Forwarder(
        pool=Pool(connect_timeout=2.0, clock=boot_clock),
        settle=books.settle,
        release=books.release,
        keys=ApiKeys(None, boot_clock),
        clock=boot_clock,
        noted=lambda _exchange, _timing: None,
        attempts=attempts or Unheard(),
    )
    try:
        yield forwarder, books, server.sockets[0].getsockname()[1]
    finally:
        await forwarder.close()
        server.close()
        await server.wait_closed()


class Unheard:
    """Nobody asks how attempts end."""

    def answered(self, decision: Decision, began: float) -> None:
        pass

    def counted(self, decision: Decision, input_tokens: int) -> None:
        pass

    def failed(self, decision: Decision, began: float, failure: Failure) -> None:
        pass


class Failed(Unheard):
    """Which failures were told."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def failed(self, decision: Decision, began: float, failure: Failure) -> None:
        self.reasons.append(failure.reason)


CHOICES = [{"index": 0, "message": {"role": "assistant", "content": "ok"}}]
ANSWER = json.dumps({"choices": CHOICES}).encode()


async def take_request(reader: asyncio.StreamReader) -> None:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.split(b":")[1]))


@pytest.mark.parametrize("cut", [True, False], ids=["cut by the server", "left by the caller"])
async def test_running_usage_of_an_answer_that_did_not_end_is_no_bound(cut: bool) -> None:
    running = event(
        choices=[{"index": 0, "delta": {"content": "a"}}], usage={"prompt_tokens": 3, "completion_tokens": 1}
    )

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        writer.write(STREAM + chunked(running))
        await writer.drain()
        if not cut:
            await reader.read()

    async with forwarding(talk) as (forwarder, books, port):
        with contextlib.suppress(Failure):
            async with (
                asyncio.timeout(PATIENCE),
                forwarder.open(decision_at(port), CALL, stream=True) as got,
                aclosing(got.events()) as events,
            ):
                async for _ in events:
                    if not cut:
                        break
        assert await books.first() == RESERVE


IMAGE = {"type": "image_url", "image_url": {"url": "http://example.com/slow.png"}}
TOOL = {"type": "function", "function": {"name": "f", "description": "x" * 30_000}}


@pytest.mark.parametrize(
    ("more", "blamed"),
    [
        ({}, True),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, False),
        ({"plugins": [{"id": "web"}]}, False),
        ({"tools": [TOOL]}, False),
    ],
    ids=["text", "an image that the server may have to fetch", "work at the server", "long tools"],
)
async def test_a_server_that_was_silent_until_its_caller_left_is_blamed_only_for_work_that_is_known(
    more: Mapping[str, object], blamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(forward, "hung_after", lambda _usual, tokens: 0.0 if tokens < 5_000 else 100.0)
    asked, heard = asyncio.Event(), Failed()

    async def talk(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        asked.set()
        await reader.read()

    async with forwarding(talk, heard) as (forwarder, books, port), asyncio.timeout(PATIENCE):

        async def ask() -> None:
            call = parse_fields({**CALL.fields, **more})
            async with forwarder.open(decision_at(port), call, stream=True):
                pass

        asking = asyncio.create_task(ask())
        await asked.wait()
        asking.cancel()
        await asyncio.wait([asking])
        assert await books.first() == RESERVE
    assert heard.reasons == (["UpstreamTimeout"] if blamed else [])


async def test_a_long_answer_that_nobody_read_leaves_no_connection_that_hangs() -> None:
    # The piece that makes it whole is the one that takes it over what is read ahead.
    body = b'"' + b"x" * (HIGH_WATER - 1) + b'"'
    answers: list[int] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await take_request(reader)
            answers.append(1)
            answer = body if len(answers) == 1 else ANSWER
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(answer) + answer)
            await writer.drain()

    async with forwarding(talk) as (forwarder, _, port), asyncio.timeout(PATIENCE):
        async with forwarder.open(decision_at(port), CALL, stream=False) as got:
            while not got._connection.complete:  # noqa: ASYNC110 - nobody waits for it but this test
                await asyncio.sleep(0)
        async with forwarder.open(decision_at(port, 2), CALL, stream=False) as got:
            await got.begin()
            assert got.answer == ANSWER


@pytest.mark.parametrize("value", ["nan", "inf", "-5", "soon", "Wed, 21 Oct 2026 07:28:00 GMT"])
async def test_any_retry_after_of_a_server_becomes_a_finite_time(value: str) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        head = f"HTTP/1.1 429 Too Many Requests\r\nretry-after: {value}\r\ncontent-length: 0\r\n\r\n"
        writer.write(head.encode())
        await writer.drain()
        await reader.read()

    async with forwarding(talk) as (forwarder, books, port):
        with pytest.raises(Failure) as failed:
            async with forwarder.open(decision_at(port), CALL, stream=False):
                pass
        assert failed.value.retry_after is not None
        assert math.isfinite(failed.value.retry_after)
        assert 0 <= failed.value.retry_after <= 3600
        assert await books.first() == 0


@pytest.mark.parametrize("tokens", [2**31, 10**30, 10**400], ids=["2^31", "10^30", "10^400"])
async def test_usage_beyond_any_model_books_the_reserve(tokens: int) -> None:
    body = json.dumps(
        {"choices": CHOICES, "usage": {"prompt_tokens": 3, "completion_tokens": tokens}}
    ).encode()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        await reader.read()

    async with forwarding(talk) as (forwarder, books, port):
        async with forwarder.open(decision_at(port), CALL, stream=False) as got:
            await got.begin()
        assert await books.first() == RESERVE
        assert got.receipt is not None
        assert got.receipt.usage.estimated


@pytest.mark.parametrize("reads", [False, True], ids=["by the caller", "by the server"])
async def test_a_total_time_that_is_over_is_blamed_on_who_was_waited_for(reads: bool) -> None:
    said = event(choices=[{"index": 0, "delta": {"content": "a"}}])

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        writer.write(STREAM + chunked(said))
        await writer.drain()
        await reader.read()

    async with forwarding(talk) as (forwarder, _, port):

        async def relay() -> None:
            async with (
                asyncio.timeout(PATIENCE),
                forwarder.open(decision_at(port), CALL, stream=True, timeouts=Timeouts(total=0.3)) as got,
                aclosing(got.events()) as events,
            ):
                async for _ in events:
                    while not reads and got._connection._interruption is None:  # noqa: ASYNC110 - as above
                        await asyncio.sleep(0)

        with pytest.raises(Failure, match=r"timeouts\.total") as failed:
            await relay()
        assert failed.value.retry_on is (RetryOn.TIMEOUT if reads else None)
