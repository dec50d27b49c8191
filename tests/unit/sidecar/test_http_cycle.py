import asyncio
from collections.abc import Mapping

import pytest
from modelfleet_sidecar.http_cycle import HttpCycle

LENGTH = (b"content-length", b"2")


class Written:
    """A transport that keeps its writes apart."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False

    def write(self, data: bytes) -> None:
        self.writes.append(data)

    def writelines(self, parts: tuple[bytes, ...]) -> None:
        self.writes.append(b"".join(parts))

    def close(self) -> None:
        self.closed = True


class Ready:
    write_paused = False


def cycle_on(
    transport: Written, *, method: str = "POST", keep_alive: bool = True, whole: bool = True
) -> HttpCycle:
    """Return a cycle whose request has come, `whole` or its head alone."""
    cycle = HttpCycle(
        scope={"type": "http", "method": method},  # type: ignore[arg-type, typeddict-item]
        transport=transport,  # type: ignore[arg-type]
        flow=Ready(),  # type: ignore[arg-type]
        logger=None,  # type: ignore[arg-type]
        access_logger=None,  # type: ignore[arg-type]
        access_log=False,
        default_headers=[(b"date", b"today")],
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=keep_alive,
        on_response=lambda: None,
    )
    cycle.more_body = not whole
    return cycle


async def answer(
    cycle: HttpCycle, headers: list[tuple[bytes, bytes]], *parts: Mapping[str, object], status: int = 200
) -> None:
    await cycle.send({"type": "http.response.start", "status": status, "headers": headers})
    for part in parts:
        await cycle.send({"type": "http.response.body", **part})


async def test_a_whole_answer_is_one_write() -> None:
    transport = Written()
    cycle = cycle_on(transport)
    await answer(cycle, [LENGTH], {"body": b"ok"})
    assert transport.writes == [b"HTTP/1.1 200 OK\r\ndate: today\r\ncontent-length: 2\r\n\r\nok"]
    assert cycle.response_complete
    assert not transport.closed


async def test_a_streams_head_goes_with_its_first_chunk() -> None:
    transport = Written()
    parts = ({"body": b"0123456789abcdef", "more_body": True}, {"body": b"", "more_body": False})
    await answer(cycle_on(transport), [], *parts)
    assert transport.writes == [
        b"HTTP/1.1 200 OK\r\ndate: today\r\ntransfer-encoding: chunked\r\n\r\n10\r\n0123456789abcdef\r\n",
        b"0\r\n\r\n",
    ]


async def test_a_part_of_a_stream_is_taken_at_once_while_its_caller_reads() -> None:
    transport = Written()
    cycle = cycle_on(transport)
    await answer(cycle, [], {"body": b"a", "more_body": True})
    assert cycle.take(b"bc")
    assert transport.writes[1:] == [b"2\r\nbc\r\n"]
    cycle.flow.write_paused = True
    assert not cycle.take(b"d")
    cycle.flow.write_paused, cycle.disconnected = False, True
    assert not cycle.take(b"d")
    assert len(transport.writes) == 2


async def test_a_large_body_is_one_write_too() -> None:
    transport = Written()
    size = 100_000
    await answer(cycle_on(transport), [(b"content-length", b"%d" % size)], {"body": bytes(size)})
    (whole,) = transport.writes
    assert whole.endswith(b"\r\n\r\n" + bytes(size))


async def test_head_gets_the_head_only() -> None:
    transport = Written()
    await answer(cycle_on(transport, method="HEAD"), [LENGTH], {"body": b"ok"})
    assert transport.writes == [b"HTTP/1.1 200 OK\r\ndate: today\r\ncontent-length: 2\r\n\r\n"]


@pytest.mark.parametrize(
    ("keep_alive", "headers"), [(False, [LENGTH]), (True, [LENGTH, (b"connection", b"close")])]
)
async def test_a_connection_that_ends_says_so_once_and_ends(
    keep_alive: bool, headers: list[tuple[bytes, bytes]]
) -> None:
    transport = Written()
    await answer(cycle_on(transport, keep_alive=keep_alive), headers, {"body": b"ok"})
    assert transport.writes[0].count(b"connection: close\r\n") == 1
    assert transport.closed


async def test_a_connection_whose_caller_still_sends_is_not_closed_over_its_answer() -> None:
    transport = Written()
    cycle = cycle_on(transport, keep_alive=False, whole=False)
    await answer(cycle, [LENGTH], {"body": b"ok"})
    assert cycle.response_complete
    assert not transport.closed


@pytest.mark.parametrize("value", [b"a\r\nset-cookie: b", b"a\nb", b"a\rb", b"a\x00b", b"\x7f"])
async def test_no_header_breaks_out_of_the_head(value: bytes) -> None:
    transport = Written()
    with pytest.raises(RuntimeError, match="control character"):
        await answer(cycle_on(transport), [(b"x-request-id", value)])
    assert not transport.writes


@pytest.mark.parametrize("body", [b"o", b"okay"])
async def test_an_answer_of_another_length_than_it_said_is_an_error(body: bytes) -> None:
    transport = Written()
    with pytest.raises(RuntimeError, match="content-length"):
        await answer(cycle_on(transport), [LENGTH], {"body": body})
    assert not transport.writes


async def test_nothing_is_written_after_the_end() -> None:
    transport = Written()
    with pytest.raises(RuntimeError, match="complete before"):
        await answer(cycle_on(transport), [LENGTH], {"body": b"ok"}, {"body": b"ok"})
    assert len(transport.writes) == 1


async def test_who_has_gone_gets_nothing() -> None:
    transport = Written()
    cycle = cycle_on(transport)
    cycle.disconnected = True
    await answer(cycle, [LENGTH], {"body": b"ok"})
    assert not transport.writes
