"""Every kind of call is routed, bounded, forwarded untouched, accounted and explained alike."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import aiohttp
import openai
import pytest
from modelfleet_core.catalog import RequestMapping
from modelfleet_core.leasing.messages import SlotGrant
from modelfleet_core.policy import ModelChoice
from modelfleet_core.values import EndpointUrl, ModelName, NanoUsd
from support.recorders import (
    ANSWERS,
    CHAT,
    COMPLETIONS,
    EMBEDDINGS,
    EVENTS,
    INPUT,
    OUTPUT,
    RESPONSES,
    Recorded,
    recorder,
)
from support.sidecars import GivenLease, Rig, Spec, fleet_of, policy_of, running_sidecar

ALL = frozenset({"chat", "tools", "json", "vision", "completions", "embeddings", "responses"})
MONEY = NanoUsd(10**10)
HELLO = [{"role": "user", "content": "hello"}]
ASKED: Mapping[str, Mapping[str, object]] = {
    CHAT: {"messages": HELLO},
    COMPLETIONS: {"prompt": "hello"},
    EMBEDDINGS: {"input": ["hello", "world"]},
    RESPONSES: {"input": "hello", "instructions": "be brief"},
}
PIXEL = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
SEEN = [{"role": "user", "content": [{"type": "text", "text": "what is it?"}, PIXEL]}]


@dataclass(slots=True)
class Stage:
    rig: Rig
    server: Recorded
    client: aiohttp.ClientSession

    async def post(
        self, path: str, body: Mapping[str, object] | bytes, **headers: str
    ) -> tuple[int, bytes, Mapping[str, str]]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.client.post(self.rig.http + path, data=io.BytesIO(data), headers=named) as answer:
            return answer.status, await answer.read(), answer.headers

    async def get(self, path: str, method: str = "GET") -> tuple[int, bytes, Mapping[str, str]]:
        async with self.client.request(method, self.rig.http + path) as answer:
            return answer.status, await answer.read(), answer.headers


@asynccontextmanager
async def stage(
    *,
    capabilities: frozenset[str] | None = ALL,
    image_tokens: int | None = None,
    request: RequestMapping | None = None,
    max_body: int = 64 * 1024 * 1024,
) -> AsyncIterator[Stage]:
    spec = Spec("small", slots=16)
    async with (
        recorder() as server,
        running_sidecar(granted=False) as rig,
        aiohttp.ClientSession() as client,
    ):
        lease: GivenLease = rig.lease
        fleet = fleet_of([spec, Spec("other")])
        model = replace(
            fleet.models[0],
            capabilities=capabilities,
            image_tokens=image_tokens,
            request=request if request is not None else RequestMapping(),
        )
        lease.fleet = replace(fleet, models=(model, fleet.models[1]))
        lease.policy = policy_of(budget=MONEY, max_body=max_body)
        lease.grant({EndpointUrl(server.url): SlotGrant(spec.key, 16)}, money=MONEY)
        yield Stage(rig, server, client)


def reason_of(body: bytes) -> str:
    code = json.loads(body)["error"]["code"]
    assert isinstance(code, str)
    return code


@pytest.mark.parametrize("path", ANSWERS)
async def test_each_kind_is_answered_accounted_and_explained(path: str) -> None:
    async with stage() as on:
        status, body, headers = await on.post(path, ASKED[path])
        assert (status, json.loads(body)) == (200, ANSWERS[path])
        assert on.server.paths == [path]
        spent = INPUT + (0 if path == EMBEDDINGS else 2 * OUTPUT)
        assert float(headers["x-modelfleet-cost-usd"]) == pytest.approx(spent * 1e-6)
        _, explained, _ = await on.get(f"/v1/decisions/{headers['x-modelfleet-decision-id']}")
        assert json.loads(explained)["cost_usd"] == pytest.approx(spent * 1e-6)
        await on.rig.settled()


@pytest.mark.parametrize("path", EVENTS)
async def test_each_kind_but_embeddings_streams_to_its_own_end(path: str) -> None:
    async with stage() as on:
        status, body, headers = await on.post(path, {**ASKED[path], "stream": True})
        assert status == 200
        told = [event for event in EVENTS[path] if path == RESPONSES or b'"choices":[]' not in event]
        assert body == b"".join(told)
        assert ("stream_options" in on.server.fields) == (path != RESPONSES)
        await on.rig.settled()
        _, explained, _ = await on.get(f"/v1/decisions/{headers['x-modelfleet-decision-id']}")
        assert json.loads(explained)["cost_usd"] == pytest.approx((INPUT + 2 * OUTPUT) * 1e-6)


async def test_the_unchanged_openai_client_takes_the_answers_of_the_other_kinds() -> None:
    async with (
        stage() as on,
        openai.AsyncOpenAI(base_url=f"{on.rig.http}/v1", api_key="modelfleet", max_retries=0) as client,
    ):
        embedded = await client.embeddings.create(model="auto", input=["hello", "world"])
        assert embedded.data[0].embedding == [0.5, 0.25]
        assert on.server.fields["encoding_format"] == "base64", "the client's own wish went on"
        whole = await client.responses.create(model="auto", input="hello")
        assert whole.output_text == "ok"
        events = [
            event async for event in await client.responses.create(model="auto", input="x", stream=True)
        ]
        assert [event.type for event in events][-2:] == ["response.output_text.delta", "response.completed"]
        old = await client.completions.create(model="auto", prompt="hello")
        assert old.choices[0].text == "ok"
        chunks = [c async for c in await client.completions.create(model="auto", prompt="x", stream=True)]
        assert "".join(chunk.choices[0].text for chunk in chunks) == "ok", "no chunk of usage was asked for"


@pytest.mark.parametrize("path", ANSWERS)
async def test_values_go_on_byte_for_byte(path: str) -> None:
    odd = (
        b'"seed": 123456789012345678901234567890, "temperature":0.70, "x": {"e": 1E-7, "z":1.0,\n'
        b' "k": [ 1 ]}, "user": "\\u00e9\\ud800/\\/"'
    )
    body = json.dumps(ASKED[path]).encode()[:-1] + b", " + odd + b"}"
    async with stage() as on:
        status, _, _ = await on.post(path, body)
        assert status == 200
    sent = on.server.bodies[0]
    for part in odd.split(b", "):
        name, _, value = part.strip().partition(b":")
        assert name + b":" + value.strip() in sent


async def test_of_a_repeated_name_only_the_last_value_goes_on() -> None:
    async with stage() as on:
        body = b'{"messages":[{"role":"user","content":"a","content":"b"}],"max_tokens":9,"max_tokens":5}'
        assert (await on.post(CHAT, body))[0] == 200
    assert on.server.bodies[0].count(b'"max_tokens":5') == 1
    assert b'"a"' not in on.server.bodies[0]
    assert b":9" not in on.server.bodies[0]


@pytest.mark.parametrize(
    ("path", "limit"), [(CHAT, "max_tokens"), (COMPLETIONS, "max_tokens"), (RESPONSES, "max_output_tokens")]
)
async def test_the_limit_of_tokens_has_the_name_of_its_kind(path: str, limit: str) -> None:
    async with stage() as on:
        await on.post(path, ASKED[path])
        assert on.server.fields[limit] == 100
        await on.post(path, {**ASKED[path], limit: 7})
        assert on.server.fields[limit] == 7


async def test_embeddings_get_no_limit_of_tokens() -> None:
    async with stage() as on:
        await on.post(EMBEDDINGS, ASKED[EMBEDDINGS])
    assert on.server.fields == {**ASKED[EMBEDDINGS], "model": "served/small"}


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (COMPLETIONS, {}, "prompt"),
        (COMPLETIONS, {"prompt": [[]]}, "prompt[0]"),
        (COMPLETIONS, {"prompt": [1, "a"]}, "prompt[1]"),
        (EMBEDDINGS, {"input": 5}, "input"),
        (EMBEDDINGS, {"input": "a", "stream": True}, "stream"),
        (EMBEDDINGS, {"input": ["a"] * 2049}, "input"),
        (RESPONSES, {}, "input"),
        (RESPONSES, {"input": [5]}, "input[0]"),
        (RESPONSES, {"input": "a", "max_output_tokens": 0}, "max_output_tokens"),
        (RESPONSES, {"input": "a", "previous_response_id": "r"}, "previous_response_id"),
        (RESPONSES, {"input": "a", "tools": [{"type": "web_search"}]}, "tools[0]"),
        (RESPONSES, {"input": [{"type": "item_reference", "id": "i"}]}, "input[0]"),
    ],
)
async def test_what_can_not_be_used_or_bounded_is_named(
    path: str, body: dict[str, object], field: str
) -> None:
    async with stage() as on:
        status, said, _ = await on.post(path, body)
    assert (status, json.loads(said)["error"]["param"]) == (400, field)


async def test_prompts_may_be_lists_and_tokens_and_each_is_bounded() -> None:
    async with stage() as on:
        for prompt in (["a", "b"], [1, 2, 3], [[1, 2], [3]]):
            status, _, headers = await on.post(COMPLETIONS, {"prompt": prompt, "n": 2})
            assert status == 200
            _, explained, _ = await on.get(f"/v1/decisions/{headers['x-modelfleet-decision-id']}")
            answers = 2 * (1 if prompt == [1, 2, 3] else 2)
            assert json.loads(explained)["reserved_usd"] >= answers * 100 * 2e-6


@pytest.mark.parametrize("path", [EMBEDDINGS, RESPONSES])
async def test_a_model_gets_only_what_it_declares_unless_it_is_named(path: str) -> None:
    async with stage(capabilities=None) as on:
        status, said, _ = await on.post(path, ASKED[path])
        assert (status, reason_of(said)) == (400, "NoCapableModel")
        status, _, _ = await on.post(path, {**ASKED[path], "model": "small"})
        assert status == 200


async def test_an_image_counts_what_its_model_says_and_not_its_text() -> None:
    picture = "A" * 12_000_000
    big = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": picture}}]}]
    async with stage(image_tokens=1000) as on:
        status, _, headers = await on.post(CHAT, {"messages": big})
        assert status == 200
        assert on.server.fields["messages"] == big
        _, explained, _ = await on.get(f"/v1/decisions/{headers['x-modelfleet-decision-id']}")
    assert 1000e-6 <= json.loads(explained)["reserved_usd"] <= 2000e-6


async def test_an_image_of_unknown_size_is_refused_under_a_budget_only() -> None:
    async with stage() as on:
        status, said, _ = await on.post(CHAT, {"messages": SEEN})
        assert (status, reason_of(said)) == (400, "UnboundedImage")
        assert on.rig.lease.policy is not None
        on.rig.lease.policy = replace(on.rig.lease.policy, budget=None)
        on.rig.lease.change()
        assert (await on.post(CHAT, {"messages": SEEN}))[0] == 200


async def test_a_body_has_the_bound_of_the_policy() -> None:
    async with stage(max_body=1000) as on:
        status, said, headers = await on.post(CHAT, {"messages": HELLO, "user": "u" * 2000})
        assert (status, reason_of(said), headers["connection"]) == (413, "BodyTooLarge", "close")


async def test_requests_are_changed_as_the_model_needs_it() -> None:
    changes = RequestMapping(
        system_prompt="Think.",
        rename={"max_tokens": "max_completion_tokens", "top_k": "topK"},
        remove=frozenset({"logit_bias"}),
        defaults={"temperature": 0.6},
    )
    async with stage(request=changes) as on:
        await on.post(CHAT, {"messages": HELLO, "top_k": 5, "logit_bias": {}})
        assert on.server.fields == {
            "messages": [{"role": "system", "content": "Think."}, *HELLO],
            "model": "served/small",
            "temperature": 0.6,
            "max_completion_tokens": 100,
            "topK": 5,
        }
        own = [{"role": "system", "content": "Be kind."}, *HELLO]
        await on.post(CHAT, {"messages": own, "temperature": 0})
        assert on.server.fields["messages"] == [{"role": "system", "content": "Think.\n\nBe kind."}, *HELLO]
        assert on.server.fields["temperature"] == 0
        await on.post(RESPONSES, ASKED[RESPONSES])
        assert on.server.fields["instructions"] == "Think.\n\nbe brief"
        await on.post(EMBEDDINGS, ASKED[EMBEDDINGS])
        assert on.server.fields["input"] == ["hello", "world"]


async def test_a_system_prompt_counts_as_input() -> None:
    reserved = []
    for prompt in ("", "p" * 1000):
        async with stage(request=RequestMapping(system_prompt=prompt)) as on:
            _, _, headers = await on.post(CHAT, {"messages": HELLO})
            _, explained, _ = await on.get(f"/v1/decisions/{headers['x-modelfleet-decision-id']}")
            reserved.append(json.loads(explained)["reserved_usd"])
    assert reserved[1] - reserved[0] >= 1000e-6


async def test_traces_go_along_and_authorization_stays() -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with stage() as on:
        _, _, headers = await on.post(
            CHAT,
            ASKED[CHAT],
            traceparent=trace,
            tracestate="a=b",
            x_request_id="mine",
            authorization="Bearer secret",
            cookie="c=d",
        )
        sent = on.server.headers[0]
        assert (sent["traceparent"], sent["tracestate"], sent["x-request-id"]) == (trace, "a=b", "mine")
        assert not {"authorization", "cookie"} & sent.keys()
        assert headers["x-request-id"] == "mine"
        _, _, headers = await on.post(CHAT, ASKED[CHAT], traceparent="nonsense")
        assert "traceparent" not in on.server.headers[1]
        assert on.server.headers[1]["x-request-id"] == headers["x-modelfleet-decision-id"]


async def test_a_caller_is_told_of_the_decision_as_much_as_it_wants() -> None:
    async with stage() as on:
        _, _, full = await on.post(CHAT, ASKED[CHAT], x_modelfleet_explain="full")
        told = json.loads(full["x-modelfleet-explanation"])
        assert [one["model"] for one in told["candidates"]] == ["small", "other"]
        assert len(full["x-modelfleet-explanation"]) <= 4096
        _, _, none = await on.post(CHAT, ASKED[CHAT], x_modelfleet_explain="none")
        assert [name for name in none if name.startswith("x-modelfleet")] == ["x-modelfleet-decision-id"]
        _, body, _ = await on.get(f"/v1/decisions/{none['x-modelfleet-decision-id']}")
        assert json.loads(body)["candidates"] == []
        status, said, _ = await on.post(CHAT, ASKED[CHAT], x_modelfleet_explain="much")
        assert (status, reason_of(said)) == (400, "InvalidHeader")


async def test_models_are_listed_as_clients_may_name_them() -> None:
    async with stage() as on:
        policy = on.rig.lease.policy
        assert policy is not None
        choice = ModelChoice(deny=frozenset({ModelName("other")}))
        on.rig.lease.policy = replace(policy, models=choice, aliases={"gpt-4o": "auto"})
        _, body, _ = await on.get("/v1/models")
        assert [model["id"] for model in json.loads(body)["data"]] == ["auto", "gpt-4o", "small"]
        assert json.loads((await on.get("/v1/models/gpt-4o"))[1])["object"] == "model"
        assert (await on.get("/v1/models/other"))[0] == 404
        status, body, _ = await on.get("/v1/models", "HEAD")
        assert (status, body) == (200, b"")


async def test_methods_and_codings_that_are_not_taken_are_said() -> None:
    async with stage() as on:
        for method in ("OPTIONS", "GET", "DELETE"):
            status, _, headers = await on.get(CHAT, method)
            assert (status, headers["allow"]) == (405, "POST")
        status, said, _ = await on.post(CHAT, b"\x1f\x8b", content_encoding="gzip")
        assert (status, reason_of(said)) == (415, "ContentEncoding")
        assert (await on.post(CHAT, ASKED[CHAT], content_type="text/plain"))[0] == 200
