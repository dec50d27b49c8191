"""Callers that send too slowly, too much or in another protocol are told so, and nobody else notices."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest
from modelfleet_lab.model_server.latency import LatencyProfile
from modelfleet_sidecar import web_server
from support.sidecars import Rig, Spec, running_sidecar

HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\n"
BODY = b'{"messages":[{"role":"user","content":"hello"}]}'
WHOLE = HEAD + b"content-length: %d\r\n\r\n" % len(BODY) + BODY


async def talk(rig: Rig, *parts: bytes, pause: float = 0.0) -> bytes:
    """Send `parts` with pauses until the sidecar hangs up, or all was sent, and return what it said."""
    host, port = rig.sidecar.http_address
    reader, writer = await asyncio.open_connection(host, port)

    async def send() -> None:
        for part in parts:
            writer.write(part)
            await asyncio.sleep(pause)

    sending = asyncio.ensure_future(send())
    try:
        async with asyncio.timeout(10.0):
            return await reader.read()
    except ConnectionResetError:
        return b""
    finally:
        sending.cancel()
        writer.close()


def reason_of(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["code"]


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_server, "PATIENCE", 0.1)


async def fine(rig: Rig) -> bool:
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"{rig.http}/v1/chat/completions", data=BODY) as answer,
    ):
        return answer.status == 200


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "parts",
    [
        (HEAD,),
        (HEAD[:7],),
        (HEAD + b"content-length: 40\r\n\r\n", b"{"),
        (HEAD + b"transfer-encoding: chunked\r\n\r\n", b"a\r\n{"),
        tuple(WHOLE[i : i + 1] for i in range(len(WHOLE))),
    ],
    ids=["half a head", "half a line", "half a body", "half a chunk", "byte by byte"],
)
async def test_who_sends_too_slowly_is_told_so_and_cut_off_while_others_are_served(
    parts: tuple[bytes, ...],
) -> None:
    async with running_sidecar(Spec("small")) as rig:
        slow = [asyncio.ensure_future(talk(rig, *parts, pause=0.02)) for _ in range(20)]
        assert await fine(rig)
        for answer in await asyncio.gather(*slow):
            assert reason_of(answer) == (408, "RequestTooSlow")
        assert await fine(rig)


@pytest.mark.usefixtures("impatient")
async def test_a_large_body_that_keeps_coming_may_take_its_time() -> None:
    content = b"x" * 100 * 1024
    body = BODY.replace(b"hello", content)
    head = HEAD + b"connection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
    parts = [body[i : i + 16 * 1024] for i in range(0, len(body), 16 * 1024)]
    async with running_sidecar(Spec("small")) as rig:
        answer = await talk(rig, head, *parts, pause=0.05)
    assert answer.startswith(b"HTTP/1.1 200")


@pytest.mark.usefixtures("impatient")
async def test_a_long_answer_is_no_reason_to_hang_up() -> None:
    async with running_sidecar(Spec("small")) as rig:
        answer = await talk(rig, WHOLE.replace(b"host: x", b"host: x\r\nconnection: close"))
    assert answer.startswith(b"HTTP/1.1 200")


async def test_a_head_has_bounds() -> None:
    async with running_sidecar(Spec("small")) as rig:
        many = HEAD + b"".join(b"x-%d: y\r\n" % n for n in range(200)) + b"\r\n"
        assert reason_of(await talk(rig, many)) == (431, "HeadTooLarge")
        long = HEAD + b"x: " + b"y" * 70_000 + b"\r\n\r\n"
        assert reason_of(await talk(rig, long)) == (431, "HeadTooLarge")
        endless = await talk(rig, HEAD + b"x: ", *[b"y" * 50_000] * 1000)
        assert not endless or reason_of(endless) == (431, "HeadTooLarge")  # or reset, as more was sent
        assert await fine(rig)


@pytest.mark.parametrize(
    "request_",
    [b"\x16\x03\x01\x02\x00\x01\x00", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"CONNECT a:1 HTTP/1.1\r\n\r\n"],
    ids=["TLS", "HTTP/2", "CONNECT"],
)
async def test_what_is_no_http_1_request_is_refused(request_: bytes) -> None:
    async with running_sidecar(Spec("small")) as rig:
        assert reason_of(await talk(rig, request_)) == (400, "MalformedHttp")


async def test_an_offer_to_speak_http_2_is_ignored() -> None:
    offer = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n"
    once = HEAD + offer + b"content-length: %d\r\n\r\n" % len(BODY) + BODY
    last = WHOLE.replace(b"host: x", b"host: x\r\nconnection: close")
    async with running_sidecar(Spec("small")) as rig:
        both = await talk(rig, once + last)
        apart = await talk(rig, once[:-10], once[-10:] + last, pause=0.05)
    assert both.count(b"HTTP/1.1 200") == 2
    assert apart.count(b"HTTP/1.1 200") == 2


async def test_trailers_are_no_headers_and_have_bounds() -> None:
    head = HEAD + b"connection: close\r\ntransfer-encoding: chunked\r\n\r\n"
    chunked = head + b"%x\r\n" % len(BODY) + BODY + b"\r\n0\r\n"
    async with running_sidecar(Spec("small")) as rig:
        usual = await talk(rig, chunked + b"x-tier: gold\r\n\r\n")
        assert b"x-modelfleet-tier: bronze" in usual
        endless = await talk(rig, chunked, *[b"a: b\r\n" * 10_000] * 100)
        assert not endless or reason_of(endless) == (431, "HeadTooLarge")
        beside = await talk(rig, head + b"1;", *[b"x" * 50_000] * 100)
        assert not beside or reason_of(beside) == (431, "HeadTooLarge")
        assert await fine(rig)


async def test_a_connection_whose_body_came_after_its_answer_does_not_stay_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(web_server, "KEEP_ALIVE", 0.2)
    async with running_sidecar(Spec("small")) as rig:
        reader, writer = await asyncio.open_connection(*rig.sidecar.http_address)
        writer.write(b"POST /nothing HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\n")
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 404")
        writer.write(b"late")
        async with asyncio.timeout(10.0):
            await reader.read()
        writer.close()


@pytest.mark.usefixtures("impatient")
async def test_a_body_that_nobody_wants_may_not_take_for_ever() -> None:
    async with running_sidecar(Spec("small")) as rig:
        head = b"POST /nothing HTTP/1.1\r\nhost: x\r\ncontent-length: 400\r\n\r\n"
        answer = await talk(rig, head, *[b"x"] * 390, pause=0.02)
    assert answer.startswith(b"HTTP/1.1 404")
    assert answer.count(b"HTTP/1.1") == 1


async def test_what_follows_a_request_that_is_being_answered_is_never_its_answer() -> None:
    async with running_sidecar(Spec("small", latency=LatencyProfile(ttft=300.0, per_token=1.0))) as rig:
        assert await talk(rig, WHOLE + b"garbage\r\n\r\n") == b""
        crowd = WHOLE + b"GET /v1/models HTTP/1.1\r\nhost: x\r\n\r\n" * 100
        assert await talk(rig, crowd) == b""
        assert await fine(rig)
        await rig.settled()


async def test_connections_are_bounded_and_who_is_one_too_many_is_told_to_come_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(web_server, "MAX_CONNECTIONS", 2)
    async with running_sidecar(Spec("small")) as rig:
        idle = [await asyncio.open_connection(*rig.sidecar.http_address) for _ in range(2)]
        await asyncio.sleep(0)
        answer = await talk(rig, WHOLE)
        assert reason_of(answer) == (503, "TooManyConnections")
        assert b"retry-after: 5" in answer
        for _, writer in idle:
            writer.close()
            await writer.wait_closed()
        assert await fine(rig)


@pytest.mark.parametrize(
    "framing",
    [
        b"content-length: 48\r\ntransfer-encoding: chunked\r\n",
        b"transfer-encoding: chunked\r\ncontent-length: 48\r\n",
        b"content-length: 48\r\ncontent-length: 48\r\n",
        b"transfer-encoding: xchunked\r\n",
        b"content-length : 48\r\n",
        b"x: a\r\n content-length: 48\r\n",
    ],
)
async def test_a_request_whose_end_may_be_read_in_two_ways_is_refused(framing: bytes) -> None:
    async with running_sidecar(Spec("small")) as rig:
        assert reason_of(await talk(rig, HEAD + framing + b"\r\n" + BODY)) == (400, "MalformedHttp")


async def test_who_still_sends_can_read_why_its_request_is_refused() -> None:
    async with running_sidecar(Spec("small")) as rig:
        reader, writer = await asyncio.open_connection(*rig.sidecar.http_address)
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {20 << 20}\r\n\r\n"
        writer.write(head.encode())
        answer = await reader.readuntil(b"\r\n\r\n")
        for _ in range(20):  # a closed connection would answer this by a reset
            writer.write(b"x" * (1 << 20))
            await writer.drain()
        answer += await reader.read()
        assert reason_of(answer) == (413, "BodyTooLarge")
        writer.close()
        await writer.wait_closed()
        assert await fine(rig)
