"""Streams of every kind of call: where content begins, where they end, what they used and how they fail."""

from __future__ import annotations

import json

import pytest
from modelfleet_sidecar.dialect import CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES, Dialect, Usage, read_usage
from modelfleet_sidecar.sse import EventStream, error_text


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def typed(kind: str, **fields: object) -> bytes:
    return f"event: {kind}\n".encode() + event(type=kind, **fields)


DONE = b"data: [DONE]\n\n"
CREATED = typed("response.created", response={"id": "r", "status": "in_progress", "error": None})
TEXT = typed("response.output_text.delta", delta="hi")
WHOLE = {
    "id": "r",
    "status": "completed",
    "error": None,
    "output": [{"type": "message"}],
    "usage": {
        "input_tokens": 9,
        "output_tokens": 4,
        "total_tokens": 13,
        "input_tokens_details": {"cached_tokens": 5},
    },
}


def read(dialect: Dialect, *events: bytes) -> tuple[EventStream, bytes]:
    stream = EventStream(keep_usage=False, dialect=dialect)
    return stream, b"".join(stream.feed(one) for one in events)


@pytest.mark.parametrize(
    ("dialect", "before", "content"),
    [
        (CHAT, event(choices=[{"delta": {"role": "assistant", "content": ""}}]), {"content": "a"}),
        (CHAT, event(choices=[], prompt_filter_results=[]), {"tool_calls": [{}]}),
        (CHAT, b": wait\n\n", {"refusal": "no"}),
    ],
)
def test_a_chat_begins_with_its_first_content(
    dialect: Dialect, before: bytes, content: dict[str, object]
) -> None:
    stream, relayed = read(dialect, before)
    assert (stream.spoke, relayed) == (False, before)
    stream.feed(event(choices=[{"delta": content}]))
    assert stream.spoke


def test_completions_begin_with_text_and_end_as_chats_do() -> None:
    stream, _ = read(COMPLETIONS, event(choices=[{"text": ""}]))
    assert not stream.spoke
    stream.feed(event(choices=[{"text": "a", "finish_reason": "length"}]) + DONE)
    assert (stream.spoke, stream.done, stream.cut) == (True, True, True)


def test_a_response_ends_in_its_last_event_with_usage_and_without_done() -> None:
    last = typed("response.completed", response=WHOLE)
    stream, relayed = read(RESPONSES, CREATED)
    assert (stream.spoke, relayed) == (False, CREATED)
    assert stream.feed(TEXT) == TEXT
    assert (stream.spoke, stream.done) == (True, False)
    assert stream.feed(last) == last
    assert stream.done
    assert stream.usage == Usage(9, 4, cached_tokens=5)


def test_a_response_that_is_incomplete_is_whole_but_cut() -> None:
    ended = {**WHOLE, "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    stream, _ = read(RESPONSES, TEXT, typed("response.incomplete", response=ended))
    assert (stream.done, stream.cut) == (True, True)


@pytest.mark.parametrize("begun", [True, False])
def test_a_response_that_fails_says_its_error_and_never_ends(begun: bool) -> None:
    failed = typed("response.failed", response={"status": "failed", "error": {"message": "overloaded"}})
    for last in (failed, typed("error", message="overloaded", code="server_error")):
        stream, relayed = read(RESPONSES, *([TEXT] if begun else []), last)
        assert error_text(stream.error) == "overloaded"
        assert not stream.done
        assert last not in relayed


@pytest.mark.parametrize(
    ("dialect", "answer", "is_one"),
    [
        (CHAT, {"choices": []}, False),
        (CHAT, {"choices": [{"message": {"role": "assistant", "content": ""}}]}, False),
        (CHAT, {"choices": [{"message": {"content": ""}, "finish_reason": "stop"}]}, True),
        (CHAT, {"choices": [{"message": {"content": None, "tool_calls": [{}]}}]}, True),
        (COMPLETIONS, {"choices": [{"text": ""}]}, False),
        (COMPLETIONS, {"choices": [{"text": "a"}]}, True),
        (EMBEDDINGS, {"data": []}, False),
        (EMBEDDINGS, {"data": [{"embedding": [0.1]}]}, True),
        (RESPONSES, {"output": []}, False),
        (RESPONSES, WHOLE, True),
    ],
)
def test_an_answer_has_content_or_a_reason_to_have_none(
    dialect: Dialect, answer: dict[str, object], is_one: bool
) -> None:
    assert dialect.failure(answer) is None
    assert dialect.answers(answer) is is_one


def test_usage_is_read_as_each_kind_says_it() -> None:
    assert read_usage({"usage": {"prompt_tokens": 7, "total_tokens": 7}}) == Usage(7, 0)
    assert read_usage(WHOLE) == Usage(9, 4, cached_tokens=5)
    lying = {"prompt_tokens": 3, "completion_tokens": 1, "prompt_tokens_details": {"cached_tokens": 9}}
    assert read_usage({"usage": lying}) == Usage(3, 1, cached_tokens=3)


def test_tokens_are_counted_by_events_or_by_what_they_hold() -> None:
    small = event(choices=[{"delta": {"content": "abcd"}}])
    stream, _ = read(CHAT, *[small] * 10)
    assert 10 <= stream.tokens <= 12
    stream.feed(event(choices=[{"delta": {"content": "abcd" * 100}}]))
    assert 105 <= stream.tokens <= 125


@pytest.mark.parametrize("reason", ["error", "abort"])
def test_a_server_that_gives_up_after_content_says_no_end(reason: str) -> None:
    content = event(choices=[{"delta": {"content": "a"}, "finish_reason": None}])
    given_up = event(choices=[{"delta": {}, "finish_reason": reason}])
    stream, relayed = read(CHAT, content, given_up, DONE)
    assert relayed == content
    assert not stream.done
    assert stream.error is not None


@pytest.mark.parametrize("dialect", [CHAT, COMPLETIONS, EMBEDDINGS, RESPONSES])
@pytest.mark.parametrize("odd", [{}, [], [{}], 7, None, True])
def test_a_reason_to_finish_that_is_no_text_is_none(dialect: Dialect, odd: object) -> None:
    answer = {"choices": [{"finish_reason": odd}], "status": odd, "type": odd, "response": {"status": odd}}
    assert dialect.failure(answer) is None
    assert not dialect.finishes(answer)
    assert not dialect.cut(answer)
