"""How model servers are reached: own authorities and certificates, proxies, names that move, and addresses
that do not answer."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from modelfleet_core.values import EndpointUrl
from modelfleet_sidecar.connection import ConnectError, Target
from modelfleet_sidecar.dialing import Dialer, Proxies, UpstreamTls
from modelfleet_sidecar.upstream import MAX_AGE, Pool
from support.access import pem, write_pair

pytestmark = pytest.mark.integration

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n"


class Now:
    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@asynccontextmanager
async def server(
    said: bytes = b"ok", *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Answer every request with `said`; yield the port and the heads that came."""
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            while True:
                heads.append(await reader.readuntil(b"\r\n\r\n"))
                await reader.readexactly(2)
                writer.write(ANSWER + said)
        writer.close()

    async with await asyncio.start_server(serve, host, port, ssl=tls) as listening:
        yield listening.sockets[0].getsockname()[1], heads


@asynccontextmanager
async def proxy(port: int, *, refuses: bytes = b"") -> AsyncIterator[tuple[int, list[bytes]]]:
    """Connect whoever asks by CONNECT with `port` here; yield its own port and the heads that came."""
    heads: list[bytes] = []

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            if refuses:
                writer.write(refuses)
            elif heads[-1].startswith(b"CONNECT"):
                there, back = await asyncio.open_connection("127.0.0.1", port)
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
                await asyncio.gather(pump(reader, back), pump(there, writer))
            else:
                await reader.readexactly(2)
                writer.write(ANSWER + b"by")
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as listening:
        yield listening.sockets[0].getsockname()[1], heads


async def ask(pool: Pool, url: str) -> bytes:
    target = Target.parse(EndpointUrl(url))
    connection = await pool.acquire(target)
    await connection.send(target, "/v1/chat/completions", b"{}", {})
    status, _ = await connection.head()
    assert status == 200
    answer = b""
    while part := await connection.read():
        answer += part
    pool.release(connection)
    return answer


@asynccontextmanager
async def pool(dialer: Dialer, clock: Now | None = None) -> AsyncIterator[Pool]:
    made = Pool(connect_timeout=5.0, clock=clock or Now(), dialer=dialer)
    try:
        yield made
    finally:
        await made.close()


def serving(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


async def test_an_authority_of_ones_own_is_trusted_and_a_new_one_once_its_file_changes(
    tmp_path: Path,
) -> None:
    first, second = trustme.CA(), trustme.CA()
    file = tmp_path / "ca.pem"
    file.write_text(pem(first))
    dialer = Dialer(tls=UpstreamTls(str(file), None).context)
    async with server(tls=serving(second, "localhost")) as (port, _), pool(dialer) as made:
        with pytest.raises(ConnectError, match="certificate verify failed"):
            await ask(made, f"https://localhost:{port}")
        file.with_suffix(".new").write_text(pem(second))
        file.with_suffix(".new").rename(file)
        assert await ask(made, f"https://localhost:{port}") == b"ok"


async def test_an_authority_may_be_given_as_text() -> None:
    authority = trustme.CA()
    dialer = Dialer(tls=UpstreamTls(pem(authority), None).context)
    async with server(tls=serving(authority, "localhost")) as (port, _), pool(dialer) as made:
        assert await ask(made, f"https://localhost:{port}") == b"ok"
    with pytest.raises(OSError, match="no certificates in PEM"):
        UpstreamTls("-----BEGIN CERTIFICATE-----", None).context()


async def test_a_server_that_asks_for_a_certificate_gets_ours(tmp_path: Path) -> None:
    authority, clients = trustme.CA(), trustme.CA()
    context = serving(authority, "localhost")
    context.verify_mode = ssl.CERT_REQUIRED
    clients.configure_trust(context)
    file = tmp_path / "ca.pem"
    file.write_text(pem(authority))
    pair = write_pair(tmp_path / "client", clients, "sidecar")
    async with server(tls=context) as (port, heads):
        async with pool(Dialer(tls=UpstreamTls(str(file), pair).context)) as made:
            assert await ask(made, f"https://localhost:{port}") == b"ok"
        async with pool(Dialer(tls=UpstreamTls(str(file), None).context)) as made:
            with pytest.raises(Exception, match=r"connection (lost|closed)|certificate required"):
                await ask(made, f"https://localhost:{port}")
    assert len(heads) == 1


@pytest.mark.parametrize("missing", ["ca.pem", "tls.crt"])
def test_files_that_can_not_be_used_are_told_by_name(tmp_path: Path, missing: str) -> None:
    (tmp_path / missing).write_text("nothing")
    (tmp_path / "tls.key").write_text("nothing")
    tls = UpstreamTls(str(tmp_path / missing), None) if missing == "ca.pem" else UpstreamTls("", tmp_path)
    with pytest.raises(OSError, match=missing):
        tls.context()


async def test_an_external_endpoint_is_asked_through_the_proxy_and_a_pod_is_not(tmp_path: Path) -> None:
    authority = trustme.CA()
    file = tmp_path / "ca.pem"
    file.write_text(pem(authority))
    async with (
        server(tls=serving(authority, "api.example.test")) as (port, heads),
        proxy(port) as (proxy_port, connects),
    ):
        proxies = Proxies.of({"HTTPS_PROXY": f"http://us%20er:secret@127.0.0.1:{proxy_port}"})
        async with pool(Dialer(tls=UpstreamTls(str(file), None).context, proxies=proxies)) as made:
            url = f"https://api.example.test:{port}/base#m/v"
            assert await ask(made, url) == b"ok"
            assert await ask(made, url) == b"ok"
            with pytest.raises(ConnectError):
                await ask(made, url.removesuffix("#m/v"))
    (connect,) = connects
    assert connect.startswith(f"CONNECT api.example.test:{port} HTTP/1.1\r\n".encode())
    assert b"proxy-authorization: Basic dXMgZXI6c2VjcmV0\r\n" in connect
    assert [head.split(b" ")[:2] for head in heads] == [[b"POST", b"/base/v1/chat/completions"]] * 2
    assert b"secret" not in b"".join(heads)


async def test_plaintext_goes_to_the_proxy_with_the_whole_url() -> None:
    async with (
        proxy(1) as (port, heads),
        pool(Dialer(proxies=Proxies.of({"http_proxy": f"127.0.0.1:{port}"}))) as made,
    ):
        assert await ask(made, "http://api.example.test/base#m/v") == b"by"
    assert heads[0].startswith(b"POST http://api.example.test/base/v1/chat/completions HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "with 407"),
        (b"HTTP/1.1 200 OK\r\n\r\nsurplus", "with 200"),
        (b"220 mail\r\n", "did not answer"),
        (b"x" * 20_000, "did not answer"),
    ],
)
async def test_a_proxy_that_does_not_connect_is_told_as_such(reply: bytes, told: str) -> None:
    async with (
        proxy(1, refuses=reply) as (port, _),
        pool(Dialer(proxies=Proxies.of({"HTTPS_PROXY": f"http://127.0.0.1:{port}"}))) as made,
    ):
        with pytest.raises(ConnectError, match=told):
            await ask(made, "https://api.example.test#m/v")
        assert made.open_connections == 0


Addresses = list[str]


@pytest.fixture
async def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, Addresses]:
    """What names resolve to."""
    known: dict[str, Addresses] = {}

    async def resolve(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        found = [(socket.AF_INET6 if ":" in address else socket.AF_INET, address) for address in known[host]]
        return [(family, socket.SOCK_STREAM, 6, "", (address, port)) for family, address in found]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", resolve)
    return known


async def test_an_address_that_refuses_or_is_silent_does_not_keep_the_next_from_being_tried(
    names: dict[str, Addresses], monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = asyncio.get_running_loop()
    connect = loop.sock_connect

    async def silent(made: socket.socket, address: tuple[str, int]) -> None:
        if address[0] == "127.0.0.9":
            await asyncio.Event().wait()
        await connect(made, address)

    monkeypatch.setattr(loop, "sock_connect", silent)
    async with server() as (port, _), pool(Dialer()) as made:
        names["moved.test"] = ["127.0.0.8", "127.0.0.1"]
        assert await ask(made, f"http://moved.test:{port}") == b"ok"
        names["slow.test"] = ["127.0.0.9", "127.0.0.8", "127.0.0.1"]
        assert await ask(made, f"http://slow.test:{port}") == b"ok"
        names["gone.test"] = ["127.0.0.8"]
        with pytest.raises(ConnectError, match=r"failed|refused"):
            await ask(made, f"http://gone.test:{port}")
        with pytest.raises(ConnectError, match="not known"):
            await ask(made, f"http://unknown.test:{port}")


async def test_a_connection_is_not_kept_for_ever_so_that_a_name_can_move(names: dict[str, Addresses]) -> None:
    clock = Now()
    async with (
        server(b"v1", host="127.0.0.2") as (port, _),
        server(b"v2", host="127.0.0.3", port=port),
        pool(Dialer(), clock) as made,
    ):
        names["moving.test"] = ["127.0.0.2"]
        assert await ask(made, f"http://moving.test:{port}") == b"v1"
        names["moving.test"] = ["127.0.0.3"]
        for _ in range(int(MAX_AGE / 3.0) - 1):
            clock.seconds += 3.0
            assert await ask(made, f"http://moving.test:{port}") == b"v1"
        clock.seconds += 6.0
        assert await ask(made, f"http://moving.test:{port}") == b"v2"
        assert made.open_connections == 1


async def test_a_connection_that_has_ended_is_freed_at_once() -> None:
    """Servers that fail end many, and collections of what is old are rare: they would be kept for hours."""
    pool = Pool(connect_timeout=1.0, clock=Now())
    async with server() as (port, _):
        target = Target.parse(EndpointUrl(f"http://127.0.0.1:{port}"))
        connection = await pool.acquire(target)
        await connection.send(target, "/", b"{}", {})
        while await connection.read():
            pass
        kept = weakref.ref(connection)
        gc.disable()
        try:
            connection.abort()
            await connection.closed
            del connection
            await asyncio.sleep(0)
            assert kept() is None
        finally:
            gc.enable()
    await pool.close()
