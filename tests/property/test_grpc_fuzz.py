"""G22 over gRPC: whatever bytes come, each call ends by an answer or by one status that says why.

The sidecar runs on a loop of its own thread, on a real port; the test sends raw bytes to its methods.
"""

from __future__ import annotations

import asyncio
import string
import threading
from collections.abc import Iterator

import grpc
import pytest
from google.protobuf import struct_pb2
from google.protobuf.message import Message
from google.rpc import error_details_pb2
from grpc_status import rpc_status
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from modelfleet.v1 import router_pb2
from modelfleet_core.values import NanoUsd
from support.sidecars import Rig, Spec, policy_of, running_sidecar

pytestmark = pytest.mark.property

METHODS = {
    "Route": router_pb2.RouteDecision,
    "RouteBatch": router_pb2.RouteBatchResponse,
    "Chat": router_pb2.ChatChunk,
    "Complete": router_pb2.ChatResponse,
    "Settle": router_pb2.SettleResponse,
    "Feedback": router_pb2.FeedbackResponse,
    "Explain": router_pb2.Explanation,
}
HELLO = router_pb2.ChatRequest(messages=[router_pb2.Message(role="user", content="hello")])
PRINTABLE = string.ascii_letters + string.digits + " ,.;:-+_/%"
"""What grpc takes as metadata, and more than the API reads."""
WITHOUT_REASON = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)
FEW = settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


class Wire:
    """Raw calls of a running sidecar."""

    def __init__(self, rig: Rig, channel: grpc.Channel) -> None:
        self.rig = rig
        self._calls = {
            name: (channel.unary_stream if name == "Chat" else channel.unary_unary)(
                f"/modelfleet.v1.Router/{name}"
            )
            for name in METHODS
        }

    def send(self, name: str, raw: bytes, headers: tuple[tuple[str, str], ...] = ()) -> str:
        """Make a call; return the reason that it failed with, empty: it did not. Decisions are given back."""
        try:
            answered = self._calls[name](raw, timeout=20.0, metadata=headers)
            parts = list(answered) if name == "Chat" else [answered]
        except grpc.RpcError as error:
            return reason_of(error)
        answers = [METHODS[name].FromString(part) for part in parts]
        if name == "Route":
            self._release(answers[0].decision_id)
        if name == "RouteBatch":
            for outcome in answers[0].outcomes:
                self._release(outcome.decision.decision_id)
        return ""

    def _release(self, decision_id: str) -> None:
        if decision_id:
            self.send("Settle", router_pb2.SettleRequest(decision_id=decision_id).SerializeToString())


def reason_of(error: grpc.RpcError) -> str:
    """Return the stable word of a status, which every failure must have."""
    assert error.code() not in WITHOUT_REASON, error.details()
    status = rpc_status.from_call(error)
    assert status is not None, error
    info = error_details_pb2.ErrorInfo()
    assert status.details[0].Unpack(info)
    assert info.domain == "modelfleet.io"
    assert info.reason
    assert error.details().startswith(f"{info.reason}: ")
    return info.reason


@pytest.fixture(scope="module")
def wire() -> Iterator[Wire]:
    loop = asyncio.new_event_loop()
    started: list[Rig] = []
    ready, stop = threading.Event(), asyncio.Event()

    async def serve() -> None:
        policy = policy_of(max_request=10.0, max_body=300_000)
        specs = (Spec("small", 0.5, slots=8), Spec("big", 0.8, slots=8))
        async with running_sidecar(*specs, policy=policy, money=NanoUsd(10**15)) as rig:
            started.append(rig)
            ready.set()
            await stop.wait()
            await rig.settled()
            assert rig.lease.holding.idle()

    failed: list[BaseException] = []

    def run() -> None:
        try:
            loop.run_until_complete(serve())
        except BaseException as error:  # noqa: BLE001 - told to the test below
            failed.append(error)
        finally:
            ready.set()
            loop.close()

    thread = threading.Thread(target=run)
    thread.start()
    assert ready.wait(30.0)
    if started:
        with grpc.insecure_channel(started[0].grpc) as channel:
            yield Wire(started[0], channel)
        loop.call_soon_threadsafe(stop.set)
    thread.join(30.0)
    assert not failed, failed


texts = st.text(max_size=40)
names = st.text(string.ascii_lowercase + "_", max_size=12)
floats = st.floats(allow_nan=True, allow_infinity=True)
json_values = st.recursive(
    st.none() | st.booleans() | floats | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner, max_size=4),
    max_leaves=12,
)
KNOWN = ("temperature", "tools", "response_format", "stop", "n", "stream", "tool_choice", "logprobs", "user")
structs = st.dictionaries(st.sampled_from(KNOWN) | names, json_values, max_size=4)


def encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def struct_of(values: dict[str, object]) -> struct_pb2.Struct:
    struct = struct_pb2.Struct()
    struct.update({encodable(name): value for name, value in values.items()})
    return struct


safe = texts.map(encodable)
images = st.builds(router_pb2.Image, url=safe, media_type=safe, detail=safe) | st.builds(
    router_pb2.Image, data=st.binary(max_size=50), media_type=safe
)
parts = (
    st.builds(router_pb2.Part, text=safe)
    | st.builds(router_pb2.Part, image=images)
    | st.builds(router_pb2.Part, other=structs.map(struct_of))
    | st.just(router_pb2.Part())
)
calls = st.builds(router_pb2.ToolCall, id=safe, name=safe, arguments=safe)
messages = st.builds(
    router_pb2.Message,
    role=st.sampled_from(("user", "assistant", "tool", "system", "")) | safe,
    content=safe,
    parts=st.lists(parts, max_size=3),
    name=safe,
    tool_calls=st.lists(calls, max_size=2),
    tool_call_id=safe,
    other=st.none() | structs.map(struct_of),
)
headers = st.dictionaries(
    st.sampled_from(
        (
            *(f"x-modelfleet-{name}" for name in ("tier", "task", "max-cost-usd", "min-quality")),
            *(f"x-modelfleet-{name}" for name in ("session", "exclude", "explain")),
            *("x-tier", "traceparent", "X-TIER"),
        )
    )
    | safe,
    st.sampled_from(("nan", "-1", "1e400", "0", "gold", "small,big", "none", ",,")) | safe,
    max_size=4,
)
chats = st.builds(
    router_pb2.ChatRequest,
    model=st.sampled_from(("auto", "", "small", "nope")) | safe,
    messages=st.lists(messages, max_size=3),
    max_output_tokens=st.none() | st.integers(0, 2**32 - 1),
    parameters=st.none() | structs.map(struct_of),
    headers=headers,
    raw=st.booleans(),
)
routes = st.builds(router_pb2.RouteRequest, chat=st.none() | chats)
requests = st.one_of(
    st.tuples(st.sampled_from(("Chat", "Complete")), chats),
    st.tuples(st.just("Route"), routes),
    st.tuples(
        st.just("RouteBatch"),
        st.builds(router_pb2.RouteBatchRequest, requests=st.lists(routes, max_size=4)),
    ),
    st.tuples(
        st.just("Settle"),
        st.builds(
            router_pb2.SettleRequest,
            decision_id=safe,
            usage=st.none() | st.builds(router_pb2.Usage, input_tokens=st.integers(0, 2**32 - 1)),
            outcome=st.integers(-5, 5),
        ),
    ),
    st.tuples(
        st.just("Feedback"),
        st.builds(router_pb2.FeedbackRequest, decision_id=safe, score=floats, comment=safe)
        | st.builds(router_pb2.FeedbackRequest, decision_id=safe, rating=st.integers(0, 2**32 - 1))
        | st.builds(router_pb2.FeedbackRequest, decision_id=safe, label=safe),
    ),
    st.tuples(st.just("Explain"), st.builds(router_pb2.ExplainRequest, decision_id=safe)),
)


@FEW
@given(request=requests)
def test_any_message_is_answered_or_refused_with_a_reason(wire: Wire, request: tuple[str, Message]) -> None:
    name, message = request
    wire.send(name, message.SerializeToString())


@FEW
@given(name=st.sampled_from(list(METHODS)), raw=st.binary(max_size=300))
def test_garbage_is_answered_or_refused_with_a_reason(wire: Wire, name: str, raw: bytes) -> None:
    wire.send(name, raw)


@FEW
@given(request=requests, data=st.data())
def test_a_message_with_bytes_changed_is_answered_or_refused_with_a_reason(
    wire: Wire, request: tuple[str, Message], data: st.DataObject
) -> None:
    name, message = request
    raw = bytearray(message.SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(raw)))
        kept = data.draw(st.integers(at, min(len(raw), at + 4)))
        raw[at:kept] = data.draw(st.binary(max_size=4))
    wire.send(name, bytes(raw))


@FEW
@given(
    name=st.sampled_from(("tier", "task", "max-cost-usd", "min-quality", "session", "exclude", "explain")),
    value=st.sampled_from(("nan", "-1", "1e400", "", "gold", "a,b")) | st.text(PRINTABLE, max_size=20),
)
def test_any_metadata_is_answered_or_refused_with_a_reason(wire: Wire, name: str, value: str) -> None:
    wire.send("Complete", HELLO.SerializeToString(), ((f"x-modelfleet-{name}", value),))


def nested(depth: int) -> bytes:
    """Return a chat whose parameters hold a list within a list, and so on."""
    value = b"\x11" + bytes(8)  # a number
    for _ in range(depth):
        inner = b"\x0a" + _length(value) + value  # ListValue.values
        value = b"\x32" + _length(inner) + inner  # Value.list_value
    entry = b"\x0a\x01a\x12" + _length(value) + value
    struct = b"\x0a" + _length(entry) + entry
    text = router_pb2.ChatRequest(messages=[router_pb2.Message(role="user", content="hello")])
    return text.SerializeToString() + b"\x22" + _length(struct) + struct


def _length(value: bytes) -> bytes:
    size, coded = len(value), b""
    while size > 0x7F:
        coded += bytes([size & 0x7F | 0x80])
        size >>= 7
    return coded + bytes([size])


@pytest.mark.parametrize(
    ("raw", "reasons"),
    [
        (b"\xff" * 100, {"MalformedMessage"}),
        (b"\x0a\x02\xc3\x28", {"MalformedMessage"}),  # a model's name that is no UTF-8
        (HELLO.SerializeToString()[:-1], {"MalformedMessage"}),
        (HELLO.SerializeToString() + b"\xba\x3e\x03abc", {""}),  # field 999, which nobody knows
        (HELLO.SerializeToString() + b"\x18" + b"\xff" * 9 + b"\x01", {""}),  # -1 as max_output_tokens
        (nested(10), {""}),
        (nested(1_000), {"MalformedMessage"}),
        (b"\x12\x06\x12\x04" + b"abcd", {"InvalidField"}),  # a message without a role
        (router_pb2.ChatRequest(model="x" * 200_000).SerializeToString(), {"InvalidField"}),
        (router_pb2.ChatRequest(model="x" * 400_000).SerializeToString(), {"BodyTooLarge"}),
        (b"", {"InvalidField"}),
    ],
    ids=lambda value: None if isinstance(value, bytes) else "-".join(value) or "ok",
)
def test_hostile_bytes_have_their_reason(wire: Wire, raw: bytes, reasons: set[str]) -> None:
    assert wire.send("Complete", raw) in reasons
    assert wire.send("Chat", raw) in reasons


def test_the_sidecar_answers_as_before(wire: Wire) -> None:
    assert wire.send("Complete", HELLO.SerializeToString()) == ""
