"""Feedback over both APIs of a running sidecar: counted once, shown with its decision, kept in the pod."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import grpc.aio
import pytest
from modelfleet.v1 import router_pb2, router_pb2_grpc
from support.sidecars import Rig, Spec, running_sidecar

pytestmark = pytest.mark.integration

CHAT = "/v1/chat/completions"


@asynccontextmanager
async def clients_of(
    rig: Rig,
) -> AsyncIterator[tuple[aiohttp.ClientSession, router_pb2_grpc.RouterAsyncStub]]:
    async with aiohttp.ClientSession(rig.http) as session, grpc.aio.insecure_channel(rig.grpc) as channel:
        yield session, router_pb2_grpc.RouterStub(channel)


async def answered(client: aiohttp.ClientSession, text: str = "hello", **fields: object) -> str:
    """Ask for an answer and return its decision's id."""
    body = {"model": "auto", "messages": [{"role": "user", "content": text}], **fields}
    async with client.post(CHAT, json=body) as response:
        assert response.status == 200
        await response.read()
        return response.headers["x-modelfleet-decision-id"]


async def said(client: aiohttp.ClientSession, **fields: object) -> tuple[int, dict[str, object]]:
    async with client.post("/v1/feedback", json=fields) as response:
        return response.status, await response.json()


async def test_feedback_is_counted_once_however_often_and_by_whatever_api_it_is_sent() -> None:
    async with running_sidecar(Spec("big")) as rig, clients_of(rig) as (client, stub):
        decision = await answered(client)
        first = await said(client, decision_id=decision, rating=4, comment="well said")
        assert first == (200, {"decision_id": decision, "score": 0.75, "repeated": False})
        again = await said(client, decision_id=decision, score=0)
        assert again == (200, {"decision_id": decision, "score": 0.75, "repeated": True})
        told = await stub.Feedback(router_pb2.FeedbackRequest(decision_id=decision, label="bad"))
        assert (told.score, told.repeated) == (0.75, True)


async def test_an_explanation_shows_the_score_and_the_comment() -> None:
    async with running_sidecar(Spec("big")) as rig, clients_of(rig) as (client, stub):
        decision = await answered(client)
        asked = router_pb2.ExplainRequest(decision_id=decision)
        assert not (await stub.Explain(asked)).HasField("score")
        request = router_pb2.FeedbackRequest(decision_id=decision, score=0.0, comment="not so")
        assert not (await stub.Feedback(request)).repeated
        explained = await stub.Explain(asked)
        assert explained.HasField("score")
        assert explained.score == 0.0
        async with client.get(f"/v1/decisions/{decision}") as response:
            shown = await response.json()
        assert (shown["score"], shown["comment"]) == (0.0, "not so")


async def test_a_routed_decision_takes_feedback_before_and_after_it_is_settled() -> None:
    async with running_sidecar(Spec("big")) as rig, clients_of(rig) as (_client, stub):
        chat = router_pb2.ChatRequest(
            model="auto", messages=[router_pb2.Message(role="user", content="hello")]
        )
        for settled_first in (True, False):
            decision = (await stub.Route(router_pb2.RouteRequest(chat=chat))).decision_id
            settle = router_pb2.SettleRequest(
                decision_id=decision, usage=router_pb2.Usage(input_tokens=1, output_tokens=1)
            )
            if settled_first:
                await stub.Settle(settle)
            request = router_pb2.FeedbackRequest(decision_id=decision, rating=5)
            assert not (await stub.Feedback(request)).repeated
            if not settled_first:
                await stub.Settle(settle)
            assert (await stub.Feedback(request)).repeated


async def test_feedback_on_an_unknown_decision_says_what_to_send() -> None:
    async with running_sidecar(Spec("big")) as rig, clients_of(rig) as (client, stub):
        status, error = await said(client, decision_id="d-unknown", score=1)
        assert status == 404
        assert error["error"]["code"] == "DecisionNotFound"  # type: ignore[index]
        assert "x-modelfleet-decision-id" in error["error"]["message"]  # type: ignore[index]
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Feedback(router_pb2.FeedbackRequest(decision_id="d-unknown", score=1))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_bad_feedback_gets_openais_error_envelope() -> None:
    async with running_sidecar(Spec("big")) as rig, clients_of(rig) as (client, stub):
        status, error = await said(client, decision_id="d-1", rating=9)
        assert status == 400
        assert error["error"]["param"] == "rating"  # type: ignore[index]
        async with client.post("/v1/feedback", data=b"x" * 100_000) as response:
            assert response.status == 413
        async with client.get("/v1/feedback") as response:
            assert response.status == 405
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Feedback(router_pb2.FeedbackRequest(decision_id="d-1"))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
