"""Chat requests are checked where routing needs it, and forwarded untouched elsewhere."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from modelfleet_core.catalog import RequestMapping
from modelfleet_sidecar import responses
from modelfleet_sidecar.bounds import DECIDING
from modelfleet_sidecar.calls import Call
from modelfleet_sidecar.chat import parse_json
from modelfleet_sidecar.failures import Failure, Fault
from modelfleet_sidecar.upstream_body import upstream_body

HELLO = [{"role": "user", "content": "hello"}]
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=12,
)


def parse(**fields: object) -> Call:
    return parse_json(json.dumps({"messages": HELLO} | fields).encode())


def fault_of(body: bytes) -> Fault | None:
    try:
        parse_json(body)
    except Failure as failure:
        return failure.fault
    return None


def forwarded(call: Call, *, stream: bool = False) -> dict[str, object]:
    body = upstream_body(call, served_name="served", max_output_tokens=7, stream=stream)
    value = json.loads(body)
    assert isinstance(value, dict)
    return value


def test_a_request_without_a_model_is_routed() -> None:
    assert parse().model == "auto"
    assert parse(model="").model == "auto"
    assert parse(model="big").model == "big"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"messages": None}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages[0]"),
        ({"messages": [{"content": "hello"}]}, "messages[0].role"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content"),
        ({"messages": [{"role": "user", "content": ["hello"]}]}, "messages[0].content[0]"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text"),
        ({"model": 5}, "model"),
        ({"stream": "yes"}, "stream"),
        ({"stream_options": True}, "stream_options"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"max_tokens": "many"}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": True}, "max_tokens"),
        ({"max_completion_tokens": 1.5}, "max_completion_tokens"),
        ({"n": 0}, "n"),
        ({"n": 129}, "n"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, object], field: str) -> None:
    with pytest.raises(Failure) as caught:
        parse(**fields)
    assert caught.value.fault is Fault.BAD_REQUEST
    assert caught.value.field == field
    assert field in caught.value.message


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "line 1 column 1"),
        (b"{", "line 1 column 2"),
        (b'{"a": NaN}', "NaN"),
        (b"[1]", "a JSON object, not a list"),
        (b'{"a": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_body_that_is_no_json_object_is_refused(body: bytes, said: str) -> None:
    with pytest.raises(Failure, match=said) as caught:
        parse_json(body)
    assert caught.value.status.http == 400


@given(st.binary(max_size=200))
def test_any_body_parses_or_fails_as_a_bad_request(body: bytes) -> None:
    assert fault_of(body) in (None, Fault.BAD_REQUEST)


@given(
    st.dictionaries(
        st.text(max_size=9).filter(lambda name: name.casefold() not in DECIDING), JSON, max_size=4
    )
)
def test_unknown_fields_are_forwarded_untouched(extra: dict[str, object]) -> None:
    sent = forwarded(parse(**extra))
    assert {name: sent[name] for name in extra} == extra


def test_the_token_limit_is_enforced_in_the_callers_own_field() -> None:
    assert forwarded(parse())["max_tokens"] == 7
    named = forwarded(parse(max_completion_tokens=500))
    assert named["max_completion_tokens"] == 7
    assert "max_tokens" not in named
    both = forwarded(parse(max_completion_tokens=500, max_tokens=600))
    assert (both["max_completion_tokens"], both["max_tokens"]) == (7, 7)


@pytest.mark.parametrize("value", [None, -1, 10**9, "many", 8.0])
def test_a_limit_that_only_some_servers_know_is_none_above_the_decided_one(value: object) -> None:
    sent = forwarded(parse(n_predict=value, max_tokens=7))
    assert (sent["n_predict"], sent["max_tokens"]) == (7, 7)
    assert forwarded(parse(n_predict=3))["n_predict"] == 3


def test_a_renamed_limit_is_the_decided_one_whatever_the_caller_says_under_the_new_name() -> None:
    changes = RequestMapping(rename={"max_tokens": "max_output_tokens"})
    call = parse(max_output_tokens=10**9)
    body = upstream_body(call, served_name="s", max_output_tokens=7, stream=False, changes=changes)
    assert json.loads(body)["max_output_tokens"] == 7


def test_neither_another_field_nor_a_default_becomes_a_limit_above_the_decided_one() -> None:
    changes = RequestMapping(rename={"room": "n_predict"}, defaults={"max_new_tokens": -1})
    body = upstream_body(
        parse(room=10**9), served_name="s", max_output_tokens=7, stream=False, changes=changes
    )
    sent = json.loads(body)
    assert (sent["n_predict"], sent["max_new_tokens"], sent["max_tokens"]) == (7, 7, 7)


@pytest.mark.parametrize("name", ["Max_Tokens", "MODEL", "N", "\u017ftream", "Best_Of", "Tools"])
def test_a_name_that_some_servers_take_for_another_is_refused(name: str) -> None:
    with pytest.raises(Failure, match=f"servers may take it for {name.casefold()}"):
        parse(**{name: 5})
    with pytest.raises(Failure, match="write content"):
        parse(messages=[{"role": "user", "content": "a", "Content": "b"}])


def test_a_stream_is_asked_for_usage_and_keeps_its_other_options() -> None:
    call = parse(stream=True, stream_options={"include_obfuscation": False})
    assert not call.wants_usage
    assert forwarded(call, stream=True)["stream_options"] == {
        "include_obfuscation": False,
        "include_usage": True,
    }


def test_a_plain_request_is_not_streamed_upstream() -> None:
    sent = forwarded(parse(stream=True, stream_options={"include_usage": True}), stream=False)
    assert "stream" not in sent
    assert "stream_options" not in sent


@pytest.mark.parametrize(
    "fields",
    [
        {"web_search_options": {}},
        {"prediction": {"type": "content", "content": "x"}},
        {"best_of": 4},
        {"n_cmpl": 4},
        {"models": ["another"]},
        {"modalities": ["text", "audio"]},
        {"messages": [{"role": "assistant", "content": None, "audio": {"id": "audio_1"}}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "image_url": "b"}]}]},
        {"service_tier": "priority"},
        {"tools": [{"type": "web_search"}]},
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": ""}}]}]},
    ],
)
def test_what_leaves_the_cost_without_a_bound_is_recognised(fields: dict[str, object]) -> None:
    assert parse(**fields).unbounded


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"temperature": 0.5, "seed": 1},
        {"tools": [{"type": "function", "function": {"name": "f", "parameters": {}}}]},
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}]},
        {"service_tier": "default", "web_search_options": None, "use_beam_search": False},
    ],
)
def test_a_usual_request_has_a_bound(fields: dict[str, object]) -> None:
    assert parse(**fields).unbounded == ""


def test_what_only_steers_sampling_adds_nothing_to_the_input_bound() -> None:
    steered = parse(temperature=0.5, stop=["x" * 1000], seed=1, max_tokens=5, user="u" * 1000)
    assert steered.hidden_tokens == parse().hidden_tokens


@pytest.mark.parametrize(
    "fields",
    [
        {"documents": ["d" * 1000]},
        {"messages": [{"role": "r" * 1000, "content": ""}]},
        {"messages": [{"role": "assistant", "content": None, "tool_calls": ["c" * 1000]}]},
        {"messages": [{"role": "user", "content": [{"type": "refusal", "refusal": "r" * 1000}]}]},
    ],
)
def test_whatever_may_reach_the_prompt_counts_towards_its_bound(fields: dict[str, object]) -> None:
    assert parse(**fields).hidden_tokens - parse().hidden_tokens >= 1000


def test_tools_count_towards_the_input_bound() -> None:
    tools = [{"type": "function", "function": {"name": "f", "description": "d" * 1000, "parameters": {}}}]
    assert parse(tools=tools).hidden_tokens - parse().hidden_tokens >= 1000


def test_half_a_surrogate_pair_survives_to_the_server() -> None:
    call = parse_json(b'{"messages": [{"role": "user", "content": "\\ud800"}]}')
    assert b"\\ud800" in upstream_body(call, served_name="s", max_output_tokens=1, stream=False)


def test_a_format_of_answers_that_has_an_object_for_its_type_needs_nothing_and_breaks_nothing() -> None:
    assert parse(response_format={"type": {}}).needs == parse().needs
    assert parse(response_format={"type": "json_object"}).needs - parse().needs == {"json"}


def test_a_tool_whose_type_is_no_string_has_no_bound() -> None:
    assert parse(tools=[{"type": {}}]).unbounded == "tools[0]"


@pytest.mark.parametrize("kind", [{}, [], 1, True])
def test_an_item_of_a_response_whose_type_is_no_string_is_refused_by_its_name(kind: object) -> None:
    with pytest.raises(Failure, match=r"input\[0\]\.type: must be a string such as message"):
        responses.parse_json(json.dumps({"model": "m", "input": [{"type": kind}]}).encode())
