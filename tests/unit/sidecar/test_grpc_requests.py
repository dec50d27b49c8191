"""gRPC's messages become the request that OpenAI's JSON would be."""

from __future__ import annotations

import base64
import json

import pytest
from google.protobuf import struct_pb2
from modelfleet.v1 import router_pb2
from modelfleet_sidecar.failures import Failure
from modelfleet_sidecar.grpc_requests import chat_call
from modelfleet_sidecar.request_text import write

USER = router_pb2.Message(role="user", content="hello")


def struct(**values: object) -> struct_pb2.Struct:
    made = struct_pb2.Struct()
    made.update(values)
    return made


def fields(*messages: router_pb2.Message, **named: object) -> dict[str, object]:
    return dict(chat_call(router_pb2.ChatRequest(messages=messages, **named)).fields)


def test_text_stays_text_and_whole_numbers_whole() -> None:
    assert fields(USER, model="auto", max_output_tokens=7, parameters=struct(seed=3, temperature=0.5)) == {
        "messages": [{"role": "user", "content": "hello"}],
        "model": "auto",
        "max_tokens": 7,
        "seed": 3,
        "temperature": 0.5,
    }


def test_parts_become_openais_parts() -> None:
    message = router_pb2.Message(
        role="user",
        parts=[
            router_pb2.Part(text="look"),
            router_pb2.Part(image=router_pb2.Image(url="https://example.com/a.png", detail="low")),
            router_pb2.Part(image=router_pb2.Image(data=b"\x89PNG", media_type="image/png")),
            router_pb2.Part(other=struct(type="file", file={"file_id": "f-1"})),
        ],
    )
    (sent,) = fields(message)["messages"]
    picture = base64.b64encode(b"\x89PNG").decode()
    assert sent["content"] == [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{picture}"}},
        {"type": "file", "file": {"file_id": "f-1"}},
    ]


def test_pictures_are_sent_as_they_were_written_and_everything_beside_them() -> None:
    message = router_pb2.Message(
        role="user",
        name="é",
        parts=[
            router_pb2.Part(text='"look"'),
            router_pb2.Part(image=router_pb2.Image(data=bytes(range(256)) * 4000, media_type="image/gif")),
            router_pb2.Part(image=router_pb2.Image(data=b"x", detail="high")),
            router_pb2.Part(image=router_pb2.Image(url='https://example.com/"')),
        ],
        other=struct(x=[1, {"y": None}]),
    )
    system = router_pb2.Message(role="system", content="be\n brief")
    call = chat_call(router_pb2.ChatRequest(messages=[system, message], parameters=struct(seed=1)))
    assert call.source is not None
    assert json.loads(call.source.of("messages", call.fields["messages"]) or "") == call.fields["messages"]
    assert json.loads(write(call.fields, call.source)) == call.fields
    (_, sent) = call.fields["messages"]
    data = base64.b64encode(bytes(range(256)) * 4000).decode()
    assert sent["content"][1]["image_url"]["url"] == f"data:image/gif;base64,{data}"


def test_a_conversation_without_pictures_has_no_text_of_its_own() -> None:
    assert chat_call(router_pb2.ChatRequest(messages=[USER])).source is None


def test_tool_calls_and_their_results_become_openais() -> None:
    call = router_pb2.ToolCall(id="c1", name="weather", arguments='{"city": "Paris"}')
    asked, told = fields(
        router_pb2.Message(role="assistant", tool_calls=[call], other=struct(reasoning_content="hm")),
        router_pb2.Message(role="tool", content="sunny", tool_call_id="c1", name="weather"),
    )["messages"]
    function = {"name": "weather", "arguments": '{"city": "Paris"}'}
    assert asked == {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": function}],
        "reasoning_content": "hm",
    }
    assert told == {"role": "tool", "content": "sunny", "tool_call_id": "c1", "name": "weather"}


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (router_pb2.Message(content="hello"), "messages[0].role"),
        (router_pb2.Message(role="user", parts=[router_pb2.Part()]), "messages[0].parts[0]"),
        (
            router_pb2.Message(role="user", content="both", parts=[router_pb2.Part(text="x")]),
            "messages[0].content",
        ),
        (
            router_pb2.Message(role="user", parts=[router_pb2.Part(image=router_pb2.Image())]),
            "messages[0].parts[0].image",
        ),
        (
            router_pb2.Message(
                role="user",
                parts=[router_pb2.Part(image=router_pb2.Image(data=b"x", media_type="image/png;,"))],
            ),
            "messages[0].parts[0].image.media_type",
        ),
        (router_pb2.Message(role="user", other=struct(content="x")), "messages[0].other.content"),
        (router_pb2.Message(role="user", other=struct(x=float("nan"))), "messages[0].other"),
    ],
)
def test_what_can_not_be_said_is_refused_by_its_field(message: router_pb2.Message, field: str) -> None:
    with pytest.raises(Failure) as caught:
        fields(message)
    assert caught.value.field == field


def test_fields_that_the_message_has_itself_are_no_parameters() -> None:
    for name in ("model", "messages", "max_tokens", "max_completion_tokens", "stream", "stream_options", "n"):
        with pytest.raises(Failure) as caught:
            fields(USER, parameters=struct(**{name: 1}))
        assert caught.value.field == f"parameters.{name}"
