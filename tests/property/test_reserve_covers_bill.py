"""Whatever a request holds, no model server that takes it can bill more than was reserved for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelfleet_core.catalog import Pricing
from modelfleet_core.values import NanoUsd
from modelfleet_sidecar import chat, completions, embeddings, responses
from modelfleet_sidecar.bounds import LIMITS, TOOL_TOKENS
from modelfleet_sidecar.calls import Call
from modelfleet_sidecar.chat import parse_fields
from modelfleet_sidecar.failures import Failure
from modelfleet_sidecar.frame import Frame
from modelfleet_sidecar.prospect import prospect
from modelfleet_sidecar.telemetry import Telemetry
from modelfleet_sidecar.templates import Templates
from modelfleet_sidecar.upstream_body import upstream_body
from support.desks import Desk
from support.sidecars import Spec, policy_of

pytestmark = pytest.mark.property

IMAGE_TOKENS = 700
TEMPLATE_TOKENS = 2000
"""Far more than is taken for usual."""
FRAME = 16
DESK = Desk(
    policy_of(budget=NanoUsd(10**15)),
    [Spec("big", 0.8, pricing=Pricing(3 * 10**9, 7 * 10**9), context_tokens=None)],
)
PLAIN = Desk(policy_of(), [Spec("big")])
"""Whose model declares nothing."""
DECISION = PLAIN.decide("hi")
assert DESK.lease.fleet is not None
DESK.lease.fleet = replace(
    DESK.lease.fleet,
    models=tuple(
        replace(
            model,
            image_tokens=IMAGE_TOKENS,
            template_tokens=TEMPLATE_TOKENS,
            capabilities=frozenset(
                {
                    "chat",
                    "tools",
                    "json",
                    "vision",
                    "completions",
                    "embeddings",
                    "responses",
                    "files",
                    "audio",
                }
            ),
        )
        for model in DESK.lease.fleet.models
    ),
)

LIMIT = st.none() | st.integers(-2, 40) | st.just(10**9)
TEXT = st.text(max_size=30)
PART = st.one_of(
    TEXT.map(lambda text: {"type": "text", "text": text}),
    st.tuples(TEXT, TEXT).map(lambda two: {"type": "text", "text": two[0], "other": two[1]}),
    st.just({"type": "text", "text": "a", "image_url": {"url": "http://x/y.png"}, "uuid": "1"}),
    st.just({"type": "image_url", "image_url": {"url": "http://x/y.png"}}),
    st.just({"type": "input_image", "image_url": "http://x/y.png"}),
    st.just({"type": "file", "file": {"file_id": "f"}}),
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "system", "assistant"]), "content": TEXT | st.lists(PART, max_size=3)},
    optional={
        "name": TEXT,
        "Content": TEXT,
        "audio": st.just({"id": "a"}),
        "tool_calls": st.lists(TEXT.map(lambda text: {"function": {"arguments": text}}), max_size=2),
    },
)
ANY: Mapping[str, st.SearchStrategy[Any]] = {
    **dict.fromkeys(LIMITS, LIMIT),
    "n": st.integers(1, 4),
    "N": st.integers(1, 4),
    "MAX_TOKENS": LIMIT,
    "n_cmpl": st.integers(1, 4),
    "best_of": st.integers(1, 4),
    "models": st.just(["dear"]),
    "tools": st.lists(TEXT.map(lambda text: {"type": "function", "function": {"name": text}}), max_size=2),
    "documents": st.lists(TEXT, max_size=2),
    "stream": st.booleans(),
    "messages": st.lists(MESSAGE, min_size=1, max_size=3),
    "input": TEXT,
    "prompt": TEXT,
    "suffix": TEXT,
}
PROMPT = TEXT | st.lists(TEXT, min_size=1, max_size=4) | st.lists(st.integers(0, 9), min_size=1, max_size=4)
ITEM = st.one_of(
    MESSAGE,
    st.just({"id": "msg_1"}),
    st.just({"type": "message", "id": "msg_1"}),
    st.just({"type": "reasoning", "id": "rs_1", "summary": []}),
    st.just({"type": "item_reference", "id": "msg_1"}),
    st.just(
        {"type": "computer_call_output", "output": {"type": "computer_screenshot", "image_url": "http://x"}}
    ),
    TEXT.map(lambda text: {"type": "function_call_output", "output": text}),
    st.lists(PART, max_size=2).map(lambda parts: {"type": "custom_tool_call_output", "output": parts}),
    TEXT.map(lambda text: {"type": "function_call", "arguments": text}),
)


def a(required: Mapping[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    others = {name: strategy for name, strategy in ANY.items() if name not in required}
    return st.fixed_dictionaries(dict(required), optional=others)


CALLS: Mapping[Callable[[bytes], Call], st.SearchStrategy[dict[str, Any]]] = {
    chat.parse_json: a({"messages": ANY["messages"]}),
    completions.parse_json: a({"prompt": PROMPT}),
    embeddings.parse_json: a({"input": PROMPT}),
    responses.parse_json: a({"input": TEXT | st.lists(ITEM, max_size=3)}),
}


def tokens(value: object) -> int:
    """Return the most tokens that a server makes of a text, or of JSON that its template writes out."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, indent=2)
    return len(text.encode("utf-8", "surrogatepass"))


def content(value: object) -> int:
    """Return the tokens of what a message says. Every image that a server finds counts."""
    if not isinstance(value, list):
        return 0 if value is None else tokens(value)
    total = 0
    for part in value:
        assert part["type"] != "file", "nobody knows how long it is"
        images = sum("image" in name for name in part)
        texts = [one for name, one in part.items() if "image" not in name and name != "type"]
        total += images * IMAGE_TOKENS + sum(map(tokens, texts)) + max(0, len(texts) - 1)
    return total + max(0, len(value) - 1)


def message(one: Mapping[str, Any]) -> int:
    assert not one.get("audio"), "nobody knows how long it is"
    total = FRAME
    for name, value in one.items():
        if name.lower() == "content":
            total += content(value)
        elif value and name != "role":
            total += tokens(value)
    return total


def item(one: Mapping[str, Any]) -> int:
    kind = one.get("type", "message")
    if kind == "message":
        assert one.get("content") is not None, "the server has it stored"
        return message(one)
    assert kind.startswith(("function", "custom")), "nobody knows how long it is"
    return FRAME + (content(one["output"]) if "output" in one else tokens(one))


def asked(sent: Mapping[str, Any], path: str) -> int:
    """Return the input tokens that a server bills."""
    extra = sum(tokens(sent[name]) for name in ("documents", "tools") if sent.get(name))
    extra += TEMPLATE_TOKENS + (TOOL_TOKENS if sent.get("tools") else 0)
    if path == "/v1/chat/completions":
        return extra + sum(map(message, sent["messages"]))
    if path == "/v1/responses":
        given = sent["input"]
        held = tokens(given) + FRAME if isinstance(given, str) else sum(map(item, given))
        return extra + held + (tokens(sent["instructions"]) if sent.get("instructions") else 0)
    given = sent["prompt" if path == "/v1/completions" else "input"]
    prompts = [given] if isinstance(given, str) or isinstance(given[0], int) else given
    suffix = sent.get("suffix") if path == "/v1/completions" else None
    each = [
        (len(one) if isinstance(one, list) else tokens(one)) + (tokens(suffix) if suffix else 0)
        for one in prompts
    ]
    documents = tokens(sent["documents"]) if sent.get("documents") else 0
    return sum(each) + len(prompts) * documents


def answered(sent: Mapping[str, Any], path: str, *, first: tuple[str, ...]) -> int:
    """Return the output tokens that a server can bill that obeys the limits in this order."""
    if path == "/v1/embeddings":
        return 0
    folded = {name.casefold(): value for name, value in sent.items()}
    assert len(folded) == len(sent), "a server that minds no case takes the last one"
    named = next(name for name in first if name in folded)
    limit = folded[named]
    assert isinstance(limit, int), f"{named} leaves it without a limit"
    assert limit >= 0, f"{named} leaves it without a limit"
    count = folded.get("n", 1) if path != "/v1/responses" or folded.get("n", 1) == 1 else 10**6
    prompt = sent.get("prompt")
    if path == "/v1/completions" and isinstance(prompt, list) and not isinstance(prompt[0], int):
        count *= len(prompt)
    assert not {"n_cmpl", "best_of", "models"} & folded.keys()
    return int(limit * count)


OWN = {
    "/v1/chat/completions": ("max_completion_tokens", "max_tokens"),
    "/v1/completions": ("max_tokens",),
    "/v1/responses": ("max_output_tokens",),
    "/v1/embeddings": (),
}


@pytest.mark.parametrize("parse", CALLS, ids=lambda parse: parse.__module__.rpartition(".")[2])
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_server_bills_more_than_the_reserve(parse: Callable[[bytes], Call], data: st.DataObject) -> None:
    fields = data.draw(CALLS[parse])
    try:
        call = parse(json.dumps(fields).encode())
        seen = DESK.look(DESK.router.ask(call, {}, remaining=None))
    except Failure:
        return  # refused, which costs nothing
    path = call.dialect.path
    sent = json.loads(
        upstream_body(call, served_name="m", max_output_tokens=seen.output_limit[0], stream=call.stream)
    )
    fleet = DESK.lease.fleet
    assert fleet is not None
    own = tuple(name for name in OWN[path] if sent.get(name) is not None)
    for alien in (None, *(name for name in LIMITS if name in sent and name not in OWN[path])):
        first = own if alien is None else (alien,)
        bill = fleet.models[0].pricing.cost(asked(sent, path), answered(sent, path, first=first))
        assert bill <= seen.candidate.reserve[0]


@settings(max_examples=60, deadline=None)
@given(
    template=st.integers(0, 20_000),
    texts=st.lists(st.tuples(st.text("ab ", max_size=200), st.floats(0.25, 1.0)), min_size=2, max_size=5),
)
def test_whatever_a_template_adds_at_most_the_first_of_short_requests_costs_more_than_its_reserve(
    template: int, texts: list[tuple[str, float]]
) -> None:
    fleet, policy = PLAIN.lease.fleet, PLAIN.lease.policy
    assert fleet is not None
    assert policy is not None
    templates = Templates(lease=PLAIN.lease, clock=lambda: 0.0, telemetry=Telemetry(), raised=lambda: None)
    short = 0
    for text, tokens_per_byte in texts:
        asked = PLAIN.router.ask(
            parse_fields({"messages": [{"role": "user", "content": text}]}), {}, remaining=None
        )
        frame = Frame(fleet, policy, templates.of(fleet))
        seen = prospect(asked, fleet, policy, PLAIN.estimator, frame=frame)
        counted = template + FRAME + round(tokens_per_byte * len(text))
        short += counted > seen.input_bound[0]
        told = replace(
            DECISION,
            input_tokens=seen.profile.input_tokens,
            prompt_bound=seen.input_bound[0] - frame.templates[0],
            template_tokens=frame.templates[0],
        )
        templates.counted(told, counted)
    assert short <= 1
