"""What callers wish, policies allow and tiers aim at holds over HTTP and gRPC, alone and in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import aiohttp
import grpc
import pytest
from modelfleet.v1 import router_pb2, router_pb2_grpc
from modelfleet_core.policy import ModelChoice, OnOverload, Policy, Tenants, Tier
from modelfleet_core.values import ModelName, TierName
from support.sidecars import CRAWLING, Spec, policy_of, running_sidecar

pytestmark = pytest.mark.integration

SPECS = (Spec("small", 0.5), Spec("big", 0.8), Spec("never", 0.99))


def _policy() -> Policy:
    gold = Tier(TierName("gold"), 4.0, {"x-tier": "gold"}, models=ModelChoice(frozenset({ModelName("big")})))
    return replace(
        policy_of(),
        models=ModelChoice(deny=frozenset({ModelName("never")})),
        tiers=(gold, Tier(TierName("bronze"), 1.0, {})),
        aliases={"gpt-4o": "auto", "cheap": "small"},
        tenants=Tenants("x-tenant"),
    )


CASES: list[tuple[str, dict[str, str], str]] = [
    ("auto", {}, "big"),
    ("gpt-4o", {}, "big"),
    ("cheap", {}, "small"),
    ("auto", {"x-modelfleet-exclude": "big"}, "small"),
    ("auto", {"x-modelfleet-min-quality": "0.85"}, "big"),
    ("auto", {"x-modelfleet-min-quality": "1"}, "QualityBelowLimit"),
    ("auto", {"x-modelfleet-max-cost-usd": "0"}, "CostAboveLimit"),
    ("auto", {"x-modelfleet-max-cost-usd": "dear"}, "InvalidHeader"),
    ("auto", {"x-modelfleet-tier": "silver"}, "InvalidHeader"),
    ("auto", {"x-tier": "gold", "x-modelfleet-exclude": "big"}, "ModelNotAllowed"),
    ("never", {}, "ModelNotAllowed"),
    ("small", {"x-tier": "gold"}, "ModelNotAllowed"),
    ("unknown", {}, "ModelNotFound"),
]


def _chat(model: str, headers: Mapping[str, str]) -> router_pb2.ChatRequest:
    messages = [router_pb2.Message(role="user", content="hello")]
    return router_pb2.ChatRequest(model=model, messages=messages, headers=dict(headers))


async def test_every_way_to_ask_decides_alike() -> None:
    async with (
        running_sidecar(*SPECS, policy=_policy()) as rig,
        aiohttp.ClientSession(rig.http) as client,
        grpc.aio.insecure_channel(rig.grpc) as channel,
    ):
        stub = router_pb2_grpc.RouterStub(channel)
        http: list[str] = []
        metadata: list[str] = []
        for model, headers, _ in CASES:
            asked = {"model": model, "messages": [{"role": "user", "content": "hello"}]}
            async with client.post("/v1/chat/completions", json=asked, headers=headers) as response:
                error = (await response.json()).get("error", {})
                http.append(error.get("code") or response.headers["x-modelfleet-model"])
                assert response.status in (200, 400, 404)
            try:
                call = stub.Complete(_chat(model, {}), metadata=tuple(headers.items()))
                metadata.append((await call).decision.model)
            except grpc.aio.AioRpcError as refused:
                metadata.append((refused.details() or "").split(":")[0])
        routes = [router_pb2.RouteRequest(chat=_chat(model, headers)) for model, headers, _ in CASES]
        batch = await stub.RouteBatch(router_pb2.RouteBatchRequest(requests=routes))
        expected = [what for *_, what in CASES]
        assert http == expected
        assert [outcome.decision.model or outcome.refusal.reason for outcome in batch.outcomes] == expected
        assert [one if one in ("small", "big") else "refused" for one in metadata] == [
            what if what in ("small", "big") else "refused" for what in expected
        ]


async def test_explanations_say_what_left_models_out() -> None:
    async with (
        running_sidecar(*SPECS, policy=_policy()) as rig,
        grpc.aio.insecure_channel(rig.grpc) as channel,
    ):
        stub = router_pb2_grpc.RouterStub(channel)
        request = router_pb2.RouteRequest(chat=_chat("auto", {"x-modelfleet-exclude": "small"}))
        decided = await stub.Route(request)
        told = await stub.Explain(router_pb2.ExplainRequest(decision_id=decided.decision_id))
        await stub.Settle(router_pb2.SettleRequest(decision_id=decided.decision_id))
    assert {one.model: one.excluded_by for one in told.candidates} == {
        "small": "Excluded",
        "big": "",
        "never": "Policy",
    }


async def test_a_tier_that_sheds_refuses_soon_and_says_when_to_come_back() -> None:
    tiers = (Tier(TierName("batch"), 1.0, {}, on_overload=OnOverload.SHED),)
    async with (
        running_sidecar(
            Spec("slow", slots=1, latency=CRAWLING), policy=replace(policy_of(), tiers=tiers)
        ) as rig,
        aiohttp.ClientSession(rig.http) as client,
    ):
        asked = {"model": "auto", "messages": [{"role": "user", "content": "hello"}]}
        held = asyncio.create_task(client.post("/v1/chat/completions", json=asked).__aenter__())
        async with asyncio.timeout(5.0):
            while not rig.lease.holding.in_flight().values():  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)
        async with client.post("/v1/chat/completions", json=asked) as response:
            error = (await response.json())["error"]
            assert (response.status, error["code"]) == (429, "NoFreeSlot")
            assert int(response.headers["retry-after"]) >= 1
        held.cancel()
        await asyncio.wait([held])
