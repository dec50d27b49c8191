"""A rule and what the profiler saw are told over HTTP and gRPC, and nothing of the prompt is."""

from __future__ import annotations

from dataclasses import replace

import aiohttp
import grpc
import pytest
from modelfleet.v1 import router_pb2, router_pb2_grpc
from modelfleet_core.policy import Policy, Rule, RuleMatch
from modelfleet_core.values import ModelName, TaskName
from support.sidecars import Spec, policy_of, running_sidecar

pytestmark = pytest.mark.integration

SECRET = "Does this contract let the landlord of Zanzibar evict a tenant, under the law?"
SPECS = (Spec("small", 0.5), Spec("big", 0.8))


def _policy() -> Policy:
    legal = Rule(
        "legal",
        RuleMatch(any_keyword=("contract",)),
        task=TaskName("law"),
        params={"max_tokens": 7, "temperature": 0},
        allow=frozenset({ModelName("small")}),
    )
    return replace(policy_of(), rules=(legal,))


async def test_an_http_answer_names_its_rule_and_its_decision_tells_what_was_seen() -> None:
    async with (
        running_sidecar(*SPECS, policy=_policy()) as rig,
        aiohttp.ClientSession(rig.http) as client,
    ):
        asked = {"model": "auto", "messages": [{"role": "user", "content": SECRET}]}
        async with client.post("/v1/chat/completions", json=asked) as response:
            answer = await response.json()
        assert response.headers["x-modelfleet-rule"] == "legal"
        assert response.headers["x-modelfleet-model"] == "small"
        assert answer["usage"]["completion_tokens"] <= 7
        async with client.get(f"/v1/decisions/{response.headers['x-modelfleet-decision-id']}") as told:
            text, explained = await told.text(), await told.json()
        asked["messages"] = [{"role": "user", "content": "hello"}]
        async with client.post("/v1/chat/completions", json=asked) as plain:
            assert "x-modelfleet-rule" not in plain.headers
        async with client.get(f"{rig.admin}/metrics") as metrics:
            assert 'modelfleet_sidecar_ruled_decisions_total{rule="legal"} 1.0' in await metrics.text()
    assert (explained["rule"], explained["task"]) == ("legal", "law")
    assert explained["rule_matched_by"] == ["anyKeyword: contract"]
    assert explained["max_output_tokens"] == 7
    assert "Zanzibar" not in text
    assert "evict" not in text
    profile = explained["profile"]
    assert (profile["script"], profile["language"], profile["domain"]) == ("Latin", "en", "law")
    assert (profile["style"], profile["urgency"]) == ("Conversation", "Interactive")
    assert any(sign.startswith("domain law: ") for sign in profile["signs"])
    excluded = {option["model"]: option["excluded_by"] for option in explained["candidates"]}
    assert excluded == {"small": "", "big": "rule:legal"}


async def test_grpc_tells_the_same() -> None:
    async with (
        running_sidecar(*SPECS, policy=_policy()) as rig,
        grpc.aio.insecure_channel(rig.grpc) as channel,
    ):
        stub = router_pb2_grpc.RouterStub(channel)
        chat = router_pb2.ChatRequest(messages=[router_pb2.Message(role="user", content=SECRET)])
        call = stub.Complete(chat)
        answer = await call
        assert dict(await call.initial_metadata())["x-modelfleet-rule"] == "legal"
        told = await stub.Explain(router_pb2.ExplainRequest(decision_id=answer.decision.decision_id))
    assert told.rule == "legal"
    assert list(told.rule_matched_by) == ["anyKeyword: contract"]
    assert (told.profile.domain, told.profile.urgency) == ("law", "Interactive")
    assert "Zanzibar" not in str(told)
