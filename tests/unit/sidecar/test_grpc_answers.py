"""What model servers say becomes messages: text, reasoning, refusals, tool calls, or the raw events."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelfleet.v1 import router_pb2
from modelfleet_sidecar.failures import Failure
from modelfleet_sidecar.grpc_answers import chunk_message

DECISION = SimpleNamespace(variant="big/gpu")
"""All of a decision that is asked of it here."""


def chunk(*events: object, raw: bool = False) -> router_pb2.ChatChunk | None:
    block = b"".join(b"data: " + json.dumps(event).encode() + b"\n\n" for event in events)
    return chunk_message(block, DECISION, raw=raw)  # type: ignore[arg-type]


def delta(finish: str | None = None, **said: object) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": said, "finish_reason": finish}]}


def test_events_that_came_together_are_one_chunk() -> None:
    said = chunk(delta(content="It is"), delta(content=" sunny"), delta("stop"))
    assert said == router_pb2.ChatChunk(content="It is sunny", finish_reason="stop")


def test_an_event_that_says_nothing_is_no_chunk_unless_events_are_asked_for() -> None:
    event = delta(role="assistant")
    assert chunk(event) is None
    said = chunk(event, raw=True)
    assert said is not None
    assert [json.loads(one) for one in said.raw] == [event]


def test_tool_calls_come_piece_by_piece_under_their_index() -> None:
    function = {"name": "weather", "arguments": ""}
    said = chunk(
        delta(tool_calls=[{"index": 1, "id": "c1", "type": "function", "function": function}]),
        delta(tool_calls=[{"index": 1, "function": {"arguments": '{"a'}}]),
    )
    assert said is not None
    assert [(call.index, call.id, call.name, call.arguments) for call in said.tool_calls] == [
        (1, "c1", "weather", ""),
        (1, "", "", '{"a'),
    ]


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_reasoning_is_told_apart_whatever_the_server_calls_it(name: str) -> None:
    assert chunk(delta(**{name: "hm"})) == router_pb2.ChatChunk(reasoning="hm")


def test_a_refusal_is_told_apart() -> None:
    assert chunk(delta(refusal="no")) == router_pb2.ChatChunk(refusal="no")


def test_half_a_letter_is_replaced() -> None:
    assert chunk(delta(content="a\ud83d")) == router_pb2.ChatChunk(content="a\ufffd")


@pytest.mark.parametrize("payload", [b"{", b"[" * 100_000])
def test_an_event_without_json_is_the_servers_failure(payload: bytes) -> None:
    with pytest.raises(Failure) as caught:
        chunk_message(b"data: " + payload + b"\n\n", DECISION, raw=False)  # type: ignore[arg-type]
    assert caught.value.reason == "UpstreamMalformed"


NAMES = ("choices", "delta", "content", "tool_calls", "function", "name", "index", "id", "finish_reason")
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=15,
)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(events=st.lists(values | values.map(lambda value: {"choices": [{"delta": value}]}), max_size=3))
def test_any_json_is_some_chunk_or_none(events: list[object]) -> None:
    said = chunk(*events, raw=True)
    assert len(said.raw if said is not None else ()) == len(events)
