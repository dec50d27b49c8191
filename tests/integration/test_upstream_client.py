"""The client to model servers on real sockets, against servers that misbehave byte by byte."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager

import pytest
import uvloop
from modelfleet_core.values import EndpointUrl
from modelfleet_sidecar.connection import MAX_HEAD, SILENCE, ConnectError, Connection, CutError, Target
from modelfleet_sidecar.upstream import Pool

pytestmark = pytest.mark.integration

Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"transfer-encoding: chunked\r\n\r\n"


class Now:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


@asynccontextmanager
async def server(talk: Talk) -> AsyncIterator[Target]:
    """Serve each connection by `talk`."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            await talk(reader, writer)
        writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    try:
        yield Target.parse(EndpointUrl(f"http://127.0.0.1:{port}/base/"))
    finally:
        listening.close()
        await listening.wait_closed()


@asynccontextmanager
async def pool(clock: Callable[[], float] = Now()) -> AsyncIterator[Pool]:  # noqa: B008 - stands still
    made = Pool(connect_timeout=2.0, clock=clock)
    try:
        yield made
    finally:
        await made.close()


async def take_request(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    await reader.readexactly(int(length.split(b":")[1]))
    return head


async def post(pool: Pool, target: Target, body: bytes = b"{}") -> Connection:
    connection = await pool.acquire(target)
    await connection.send(target, "/v1/x", body, {"x-request-id": "d-1"})
    return connection


async def whole(connection: Connection) -> bytes:
    parts = b""
    while data := await connection.read():
        parts += data
    return parts


async def test_a_response_in_single_bytes_is_read_whole_and_its_connection_used_again() -> None:
    heads: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            heads.append(await take_request(reader))
            for byte in CHUNKED + b"5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n":
                writer.write(bytes([byte]))
                await writer.drain()

    async with server(talk) as target, pool() as made:
        for _ in range(3):
            connection = await post(made, target)
            status, headers = await connection.head()
            assert (status, headers[b"transfer-encoding"]) == (200, b"chunked")
            assert await whole(connection) == b"hello!"
            made.release(connection)
        assert made.open_connections == 1
    assert heads[0].startswith(b"POST /base/v1/x HTTP/1.1\r\n")
    assert b"x-request-id: d-1\r\n" in heads[0]


async def test_what_comes_while_it_is_waited_for_is_relayed_in_order_until_it_is_not_taken() -> None:
    turns: asyncio.Queue[None] = asyncio.Queue()
    taken: list[bytes] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        writer.write(CHUNKED + b"1\r\na\r\n")
        for piece in (b"b", b"c", b"!", b"d"):
            await turns.get()
            writer.write(b"1\r\n" + piece + b"\r\n")
        writer.write(b"0\r\n\r\n")
        await reader.read()

    def relay(data: bytes) -> bool:
        taken.append(data)
        turns.put_nowait(None)
        return data != b"!"

    async with server(talk) as target, pool() as made:
        connection = await post(made, target)
        assert (await connection.head())[0] == 200
        first = await connection.read(relay)
        turns.put_nowait(None)
        second = await connection.read(relay)
        assert (first, taken, second[:1]) == (b"a", [b"b", b"c", b"!"], b"!")
        assert connection.waited > 0.0
        assert second[1:] + await whole(connection) == b"d"


async def test_an_interim_response_is_passed_over() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        writer.write(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK + b"content-length: 2\r\n\r\nok")
        await reader.read()

    async with server(talk) as target, pool() as made:
        connection = await post(made, target)
        assert await connection.head() == (200, {b"content-length": b"2"})
        assert await whole(connection) == b"ok"


async def test_a_body_without_length_ends_with_the_connection() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        writer.write(OK + b"\r\nall of it")

    async with server(talk) as target, pool() as made:
        connection = await post(made, target)
        await connection.head()
        assert await whole(connection) == b"all of it"
        assert not connection.reusable


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 200",
        b"nonsense\r\n\r\n",
        OK + b"content-length: 10\r\n\r\nshort",
        CHUNKED + b"5\r\nhel",
        CHUNKED + b"zz\r\nhello\r\n",
        OK + b"x: " + b"y" * (MAX_HEAD + 1) + b"\r\n\r\n",
    ],
)
async def test_a_response_that_breaks_off_or_makes_no_sense_is_cut(answer: bytes) -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        writer.write(answer)
        await writer.drain()

    async def exchange(made: Pool, target: Target) -> None:
        connection = await post(made, target)
        await connection.head()
        await whole(connection)

    async with server(talk) as target, pool() as made:
        with pytest.raises(CutError):
            await exchange(made, target)


async def test_a_server_that_says_more_than_it_was_asked_is_not_asked_again() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        writer.write(OK + b"content-length: 2\r\n\r\nok" + OK + b"content-length: 0\r\n\r\n")
        await reader.read()

    async with server(talk) as target, pool() as made:
        connection = await post(made, target)
        await connection.head()
        await whole(connection)
        assert not connection.reusable


async def test_a_connection_that_the_server_closed_or_that_is_old_is_not_used_again() -> None:
    connections = 0
    close = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        await take_request(reader)
        writer.write(OK + b"content-length: 2\r\n\r\nok")
        if connections == 1:
            await close.wait()
        else:
            await reader.read()

    clock = Now()
    async with server(talk) as target, pool(clock) as made:
        for number in (1, 2, 3):
            connection = await post(made, target)
            await connection.head()
            assert await whole(connection) == b"ok"
            made.release(connection)
            if number == 1:
                close.set()
                async with asyncio.timeout(5.0):
                    await connection.closed
            clock.seconds += 60.0
        assert connections == 3
        made.sweep()
        async with asyncio.timeout(5.0):
            await connection.closed


@pytest.mark.parametrize("last", [b"", b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\n\r\n"])
async def test_a_connection_that_the_server_closed_this_moment_gets_no_request(last: bytes) -> None:
    """The loop may be too busy to have heard of the close, and what is sent then may be work done twice."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        target = Target.parse(EndpointUrl(f"http://127.0.0.1:{listening.getsockname()[1]}"))
        async with pool() as made, asyncio.timeout(10):
            first = await post(made, target)
            server_side, _ = await loop.sock_accept(listening)
            with server_side:
                await loop.sock_recv(server_side, 65536)
                await loop.sock_sendall(server_side, OK + b"content-length: 2\r\n\r\nok")
                await first.head()
                assert await whole(first) == b"ok"
                made.release(first)
                if last:
                    server_side.send(last)
            assert await made.acquire(target) is not first


async def test_hanging_up_returns_when_the_server_has_noticed() -> None:
    noticed = asyncio.Event()
    may_close = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_request(reader)
        assert await reader.read() == b""
        noticed.set()
        await may_close.wait()

    async with server(talk) as target, pool() as made:
        connection = await post(made, target)
        hanging_up = asyncio.create_task(connection.hang_up(30.0))
        async with asyncio.timeout(5.0):
            await noticed.wait()
            assert not hanging_up.done()
            may_close.set()
            await hanging_up
        assert not connection.usable


async def test_hanging_up_on_a_deaf_server_ends_after_its_patience() -> None:
    never = asyncio.Event()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await never.wait()

    async with server(talk) as target, pool() as made:
        connection = await post(made, target)
        async with asyncio.timeout(5.0):
            await connection.hang_up(0.05)
        assert not connection.usable
        never.set()


async def test_hanging_up_on_a_server_that_has_just_reset_ends_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        target = Target.parse(EndpointUrl(f"http://127.0.0.1:{listening.getsockname()[1]}"))
        async with pool() as made:
            connection = await post(made, target)
            server_side, _ = listening.accept()
            server_side.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            server_side.close()
            async with asyncio.timeout(5.0):
                await connection.hang_up(30.0)
            assert not connection.usable


async def test_a_caller_that_does_not_read_holds_the_server_back() -> None:
    sent = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await take_request(reader)
        writer.write(OK + b"content-length: 50000000\r\n\r\n")
        for _ in range(500):
            writer.write(b"x" * 100_000)
            await writer.drain()
            sent += 100_000

    async with server(talk) as target, pool() as made:
        connection = await post(made, target)
        await connection.head()
        before = -1
        async with asyncio.timeout(10.0):
            while sent != before:  # until nothing more goes out
                before = sent
                await asyncio.sleep(0.2)
        assert sent < 50_000_000
        async with asyncio.timeout(20.0):
            assert len(await whole(connection)) == 50_000_000


async def test_what_interrupts_a_request_that_was_whole_already_does_not_meet_the_next_one() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while True:
            await take_request(reader)
            writer.write(OK + b"content-length: 2\r\n\r\nok")

    async with server(talk) as target, pool() as made:
        connection = await post(made, target)
        assert (await connection.head())[0] == 200
        assert await whole(connection) == b"ok"
        connection.interrupt(CutError("the caller reads slowly, and the time of the attempt is over"))
        made.release(connection)
        again = await post(made, target)
        assert again is connection
        assert (await again.head())[0] == 200
        assert await whole(again) == b"ok"


async def test_a_port_without_a_server_and_a_url_without_sense_fail_to_connect() -> None:
    async with pool() as made:
        with pytest.raises(ConnectError):
            await made.acquire(Target.parse(EndpointUrl("http://127.0.0.1:1")))
        for host in ("a" * 64 + ".example", "a..example"):
            with pytest.raises(ConnectError, match="host"):
                await made.acquire(Target.parse(EndpointUrl(f"http://{host}")))
    for url in ("ftp://127.0.0.1", "http://", "http://h:port", "127.0.0.1:80", "http://h/\N{SNOWMAN}"):
        with pytest.raises(ConnectError, match="URL"):
            Target.parse(EndpointUrl(url))


def test_an_endpoint_keeps_its_path_and_loses_its_password() -> None:
    target = Target.parse(EndpointUrl("https://user:secret@api.example.com/base/"))
    assert (target.authority, target.path) == ("api.example.com", "/base")
    assert (target.origin.secure, target.origin.port) == (True, 443)


@pytest.mark.parametrize("run", [asyncio.run, uvloop.run], ids=["asyncio", "uvloop"])
def test_a_machine_that_falls_silent_is_noticed_by_the_kernel(
    run: Callable[[Coroutine[None, None, None]], None],
) -> None:
    async def connect() -> None:
        listener = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        pool = Pool(connect_timeout=2.0, clock=Now())
        port = listener.sockets[0].getsockname()[1]
        connection = await pool.acquire(Target.parse(EndpointUrl(f"http://127.0.0.1:{port}")))
        transport = connection._transport
        assert transport is not None
        tcp = transport.get_extra_info("socket")
        assert tcp.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        set_to = {option: tcp.getsockopt(socket.IPPROTO_TCP, option) for option in SILENCE}
        assert set_to == SILENCE
        await pool.close()
        listener.close()
        await listener.wait_closed()

    run(connect())
