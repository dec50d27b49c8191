"""Callers that send too slowly, too much or in another protocol are told so, and nobody else notices."""

from __future__ import annotations

import asyncio
import json

import aiohttp
import pytest
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
