"""The webhook over HTTPS: certificates that change, hostile clients, and an end that loses nothing."""

from __future__ import annotations

import asyncio
import io
import json
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
import trustme
from aiohttp import web
from modelfleet_operator.injection import server as serving
from modelfleet_operator.injection.certificates import Certificates
from modelfleet_operator.injection.server import MAX_BYTES, Server
from modelfleet_operator.settings import Address
from support.injection import body, pod, webhook, write_certificate


@dataclass
class Rig:
    folder: Path
    authority: trustme.CA
    certificates: Certificates
    server: Server
    address: Address

    @property
    def url(self) -> str:
        return f"https://{self.address}/mutate"

    def trust(self, authority: trustme.CA | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context()
        (authority or self.authority).configure_trust(context)
        return context

    async def post(
        self, data: bytes | io.BytesIO, http: aiohttp.ClientSession | None = None
    ) -> aiohttp.ClientResponse:
        if http is not None:
            return await http.post(self.url, data=data, ssl=self.trust())
        async with aiohttp.ClientSession() as own:
            response = await own.post(self.url, data=data, ssl=self.trust())
            await response.read()
            return response

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(
            self.address.host, self.address.port, ssl=self.trust(), server_hostname="localhost"
        )


@pytest_asyncio.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    authority = trustme.CA()
    write_certificate(tmp_path, authority)
    certificates = Certificates(tmp_path)
    server = Server(webhook())
    address = await server.start(Address("127.0.0.1", 0), certificates.context)
    yield Rig(tmp_path, authority, certificates, server, address)
    await server.stop()


async def test_a_review_is_answered(rig: Rig) -> None:
    response = await rig.post(body(pod()))
    assert (response.status, response.content_type) == (200, "application/json")
    assert json.loads(await response.read())["response"]["patchType"] == "JSONPatch"


async def test_a_new_certificate_is_used_without_a_restart(rig: Rig) -> None:
    newer = trustme.CA()
    write_certificate(rig.folder, newer)
    assert rig.certificates.look()
    async with aiohttp.ClientSession() as http:
        response = await http.post(rig.url, data=body(pod()), ssl=rig.trust(newer))
        assert response.status == 200
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await http.post(rig.url, data=body(pod()), ssl=rig.trust())


async def test_a_client_that_names_no_server_gets_the_new_certificate_too(rig: Rig) -> None:
    newer = trustme.CA()
    write_certificate(rig.folder, newer)
    rig.certificates.look()
    context = rig.trust(newer)
    context.check_hostname = False
    _, writer = await asyncio.open_connection(
        rig.address.host, rig.address.port, ssl=context, server_hostname=""
    )
    writer.close()
    await writer.wait_closed()


async def test_a_body_that_is_too_large_is_refused(rig: Rig) -> None:
    response = await rig.post(io.BytesIO(b" " * (MAX_BYTES + 1)))
    assert response.status == 413
    whole = body(pod())
    response = await rig.post(io.BytesIO(b" " * (MAX_BYTES - len(whole)) + whole))
    assert response.status == 200


async def test_a_malformed_body_is_answered_with_what_is_wrong(rig: Rig) -> None:
    response = await rig.post(b"{}")
    assert response.status == 400
    assert (await response.text()).startswith("expected admission.k8s.io/v1 AdmissionReview")


@pytest.mark.parametrize(("method", "path", "status"), [("GET", "/mutate", 405), ("POST", "/", 404)])
async def test_nothing_else_is_served(rig: Rig, method: str, path: str, status: int) -> None:
    async with aiohttp.ClientSession() as http:
        response = await http.request(method, f"https://{rig.address}{path}", ssl=rig.trust())
        assert response.status == status


async def test_a_body_that_does_not_come_is_given_up(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "REQUEST_SECONDS", 0.05)
    reader, writer = await rig.connect()
    writer.write(b"POST /mutate HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{")
    assert (await reader.readline()).startswith(b"HTTP/1.1 408")
    writer.close()
    await writer.wait_closed()


async def test_a_connection_that_says_nothing_is_closed(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "REQUEST_SECONDS", 0.05)
    monkeypatch.setattr(serving, "HANDSHAKE_SECONDS", 0.05)
    reader, writer = await rig.connect()
    async with asyncio.timeout(10):
        assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()


async def test_one_client_can_not_take_connections_without_end(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving, "MAX_CONNECTIONS", 2)
    kept = [await rig.connect(), await rig.connect()]
    reader, writer = await rig.connect()
    async with asyncio.timeout(10):
        assert await reader.read() == b""
    writer.close()
    for _, open_writer in kept:
        open_writer.close()
    await asyncio.gather(*(end.wait_closed() for _, end in [*kept, (reader, writer)]), return_exceptions=True)


async def test_a_server_that_leaves_answers_and_closes_the_connection(rig: Rig) -> None:
    async with aiohttp.ClientSession() as http:
        before = await rig.post(body(pod()), http)
        assert "Connection" not in before.headers
        await before.read()
        rig.server.leave()
        for data, status in ((body(pod()), 200), (b"{}", 400)):
            after = await rig.post(data, http)
            assert (after.status, after.headers["Connection"]) == (status, "close")
            await after.read()


async def test_a_request_in_hand_is_answered_before_the_end(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = asyncio.Event()
    read = web.Request.read

    async def reading(request: web.Request) -> bytes:
        begun.set()
        return await read(request)

    monkeypatch.setattr(web.Request, "read", reading)
    reader, writer = await rig.connect()
    whole = body(pod())
    writer.write(b"POST /mutate HTTP/1.1\r\nHost: h\r\nContent-Length: %d\r\n\r\n" % len(whole))
    writer.write(whole[:50])
    await writer.drain()
    await asyncio.wait_for(begun.wait(), 10)
    rig.server.leave()
    stopping = asyncio.create_task(rig.server.stop())
    await asyncio.sleep(0)
    writer.write(whole[50:])
    answer = await reader.read()
    assert answer.startswith(b"HTTP/1.1 200")
    assert b"Connection: close" in answer
    await stopping
    writer.close()
    await writer.wait_closed()
