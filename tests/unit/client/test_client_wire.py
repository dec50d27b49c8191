"""What the client's values become on the wire, and what statuses are raised as."""

from __future__ import annotations

import pytest
from google.protobuf import json_format
from modelfleet_client import BadRequest, Chat, Image, Message, ToolCall, errors
from modelfleet_client.errors import error_class
from modelfleet_client.wire import chat_request, feedback_request


def test_a_text_is_one_message_of_the_user_without_headers() -> None:
    assert json_format.MessageToDict(chat_request(Chat("hello"))) == {
        "model": "auto",
        "messages": [{"role": "user", "content": "hello"}],
    }


def test_a_message_as_openai_writes_it_is_refused_with_what_to_write() -> None:
    with pytest.raises(BadRequest, match=r"a message is a dict; write .*Message\('user', 'text'\)"):
        chat_request(Chat([{"role": "user", "content": "hello"}]))  # type: ignore[list-item]


def test_wishes_become_the_headers_that_the_http_api_reads() -> None:
    chat = Chat(
        "hello",
        tier="gold",
        task="math",
        max_cost_usd=0.0000125,
        min_quality=0.7,
        session="s-1",
        exclude=["small", "old"],
        explain="none",
        headers={"x-tenant": "acme"},
    )
    assert dict(chat_request(chat).headers) == {
        "x-modelfleet-tier": "gold",
        "x-modelfleet-task": "math",
        "x-modelfleet-max-cost-usd": "0.000012500",
        "x-modelfleet-min-quality": "0.700000",
        "x-modelfleet-session": "s-1",
        "x-modelfleet-exclude": "small,old",
        "x-modelfleet-explain": "none",
        "x-tenant": "acme",
    }


def test_parts_calls_and_results_keep_their_place() -> None:
    chat = Chat(
        [
            Message("user", ["look:", Image(data=b"png"), Image(url="https://x/y.png", detail="low")]),
            Message("assistant", tool_calls=[ToolCall("c1", "see", '{"a":1}')]),
            Message("tool", "seen", tool_call_id="c1", other={"cache": True}),
        ]
    )
    user, assistant, tool = chat_request(chat).messages
    assert [part.WhichOneof("part") for part in user.parts] == ["text", "image", "image"]
    assert user.parts[1].image.data == b"png"
    assert (user.parts[2].image.url, user.parts[2].image.detail) == ("https://x/y.png", "low")
    assert assistant.tool_calls[0].arguments == '{"a":1}'
    assert (tool.tool_call_id, dict(tool.other)) == ("c1", {"cache": True})


def test_tools_and_other_fields_travel_as_parameters() -> None:
    tool = {"type": "function", "function": {"name": "see", "parameters": {"type": "object"}}}
    request = chat_request(Chat("hello", tools=[tool], parameters={"temperature": 0.5}))
    assert json_format.MessageToDict(request.parameters) == {"temperature": 0.5, "tools": [tool]}


@pytest.mark.parametrize(
    "chat",
    [
        Chat("hello", parameters={"when": object()}),
        Chat("half a letter \ud800"),
        Chat("hello", max_output_tokens=-1),
    ],
)
def test_what_no_message_can_say_is_refused_before_it_is_sent(chat: Chat) -> None:
    with pytest.raises(BadRequest, match="can not be sent"):
        chat_request(chat)


def test_a_feedback_has_exactly_one_verdict() -> None:
    assert feedback_request("d", 0.0, None, None, "").WhichOneof("verdict") == "score"
    with pytest.raises(BadRequest, match="exactly one"):
        feedback_request("d", 0.5, 3, None, "")
    with pytest.raises(BadRequest, match="exactly one"):
        feedback_request("d", None, None, None, "")
    with pytest.raises(BadRequest, match="can not be sent"):
        feedback_request("d", None, -3, None, "")


@pytest.mark.parametrize(
    ("code", "reason", "raised"),
    [
        ("INVALID_ARGUMENT", "InvalidField", errors.BadRequest),
        ("UNAUTHENTICATED", "Unauthenticated", errors.Unauthenticated),
        ("NOT_FOUND", "ModelNotFound", errors.NotFound),
        ("RESOURCE_EXHAUSTED", "BodyTooLarge", errors.TooLarge),
        ("RESOURCE_EXHAUSTED", "", errors.TooLarge),
        ("RESOURCE_EXHAUSTED", "BudgetExhausted", errors.BudgetExhausted),
        ("RESOURCE_EXHAUSTED", "UpstreamRateLimited", errors.Overloaded),
        ("UNAVAILABLE", "NoLease", errors.NoLease),
        ("UNAVAILABLE", "UpstreamCut", errors.Unavailable),
        ("UNAVAILABLE", "", errors.Unreachable),
        ("DEADLINE_EXCEEDED", "", errors.Late),
        ("CANCELLED", "", errors.Cancelled),
        ("INTERNAL", "InternalError", errors.SidecarBroke),
        ("UNIMPLEMENTED", "", errors.ModelfleetError),
    ],
)
def test_each_status_is_raised_as_what_callers_do_about_it(
    code: str, reason: str, raised: type[errors.ModelfleetError]
) -> None:
    assert error_class(code, reason) is raised
