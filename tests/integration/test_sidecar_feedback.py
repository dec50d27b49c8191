"""Feedback over both APIs of a running sidecar: counted once, shown with its decision, kept in the pod."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import grpc.aio
import openai
import pytest
from modelfleet.v1 import router_pb2, router_pb2_grpc
from modelfleet_core.demand.sketch import NO_DEMAND
from modelfleet_core.estimation.experience import Experience, Figure, Scored
from modelfleet_core.policy import Learning
from modelfleet_lab.model_server.faults import Fault, FaultKind
from modelfleet_sidecar.wire import report_to
from support.sidecars import TRIED_ONCE, Rig, Spec, policy_of, running_sidecar

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


def sums(experience: Experience) -> dict[str, dict[str, float]]:
    """Return what is counted of each model, over all cells; figures of 0 are left out."""
    told: dict[str, dict[str, float]] = {}
    for cell in experience.cells:
        of_model = told.setdefault(cell.key.model, {})
        for figure in Figure:
            if value := float(cell.sums[figure]):
                of_model[figure.name] = of_model.get(figure.name, 0.0) + value
    return told


def evidence(rig: Rig) -> Experience:
    assert rig.lease.evidence is not None
    return rig.lease.evidence.changes()


async def test_the_unchanged_openai_client_can_send_feedback() -> None:
    async with running_sidecar(Spec("big")) as rig:
        client = openai.AsyncOpenAI(base_url=f"{rig.http}/v1", api_key="any", max_retries=0)
        async with client:
            answer = await client.chat.completions.create(
                model="auto", messages=[{"role": "user", "content": "hello"}]
            )
            said_so = {"decision_id": answer.id, "label": "good"}
            counted = await client.post("/feedback", body=said_so, cast_to=object)
            with pytest.raises(openai.NotFoundError, match="x-modelfleet-decision-id"):
                await client.post("/feedback", body=said_so | {"decision_id": "x"}, cast_to=object)
        assert counted["score"] == 1.0  # type: ignore[index]


async def test_a_score_teaches_once_of_the_model_that_answered() -> None:
    async with running_sidecar(Spec("big", 0.8)) as rig, clients_of(rig) as (client, _stub):
        decision = await answered(client)
        for _ in range(3):
            await said(client, decision_id=decision, score=0.25)
        told = sums(evidence(rig))["big"]
        assert (told["REQUESTS"], told["SCORES"], told["SCORE"]) == (1.0, 1.0, 0.25)
        assert told["PREDICTED"] == pytest.approx(0.8, abs=0.2)
        assert told["COST"] > 0
        (model,) = evidence(rig).models
        assert model.model == "big"
        assert model.scored[Scored.WEIGHT] == 1.0
        assert model.scored[Scored.SCORE] == 0.25


async def test_a_policy_that_does_not_learn_keeps_feedback_to_its_explanations() -> None:
    policy = replace(policy_of(), learning=Learning(enabled=False))
    async with running_sidecar(Spec("big"), policy=policy) as rig, clients_of(rig) as (client, _stub):
        decision = await answered(client)
        await said(client, decision_id=decision, score=1)
        async with client.get(f"/v1/decisions/{decision}") as response:
            assert (await response.json())["score"] == 1.0
        assert not evidence(rig).cells
        assert not evidence(rig).models


async def test_the_id_of_a_completion_names_its_decision() -> None:
    async with running_sidecar(Spec("big")) as rig, clients_of(rig) as (client, _stub):
        for stream in (False, True):
            body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
            async with client.post(CHAT, json=body) as response:
                text = await response.text()
                decision = response.headers["x-modelfleet-decision-id"]
            named = json.loads(text.removeprefix("data: ").partition("\n\n")[0])["id"]
            status, answer = await said(client, decision_id=named, label="good")
            assert (status, answer["decision_id"]) == (200, decision)


async def test_scores_of_an_answer_that_broke_off_teach_nothing() -> None:
    policy = policy_of(fallback=TRIED_ONCE)
    async with running_sidecar(Spec("big"), policy=policy) as rig, clients_of(rig) as (client, _stub):
        rig.servers["big"].set_faults(Fault(FaultKind.CUT_AFTER_FIRST))
        body = {"model": "auto", "messages": [{"role": "user", "content": "hi"}], "stream": True}
        async with client.post(CHAT, json=body) as response:
            await response.read()
            decision = response.headers["x-modelfleet-decision-id"]
        assert (await said(client, decision_id=decision, score=0))[0] == 200
        assert sums(evidence(rig))["big"] == {"ERRORS": 1.0}
        assert not evidence(rig).models


async def test_the_same_request_minutes_after_its_answer_counts_as_repeated() -> None:
    async with running_sidecar(Spec("big")) as rig, clients_of(rig) as (client, _stub):
        for text in ("one", "one", "two", "one"):
            await answered(client, text)
        assert sums(evidence(rig))["big"]["RETRIES"] == 2.0
        assert "two" not in repr(vars(rig.sidecar.router._learning))


@pytest.mark.parametrize(
    ("asked", "stream", "truncated"),
    [({}, False, 1.0), ({}, True, 1.0), ({"max_tokens": 1000}, False, 1.0), ({"max_tokens": 2}, False, 0.0)],
)
async def test_an_answer_cut_by_our_limit_counts_as_truncated_and_one_by_the_callers_does_not(
    asked: dict[str, int], stream: bool, truncated: float
) -> None:
    policy = policy_of(max_output_tokens=3)
    async with running_sidecar(Spec("big"), policy=policy) as rig, clients_of(rig) as (client, _stub):
        await answered(client, "tell me a very long story " * 20, stream=stream, **asked)
        assert sums(evidence(rig))["big"].get("TRUNCATED", 0.0) == truncated


async def test_settled_requests_count_as_their_caller_says() -> None:
    async with running_sidecar(Spec("big")) as rig, clients_of(rig) as (_client, stub):
        chat = router_pb2.ChatRequest(
            model="auto", messages=[router_pb2.Message(role="user", content="hello")]
        )
        for outcome in (router_pb2.OUTCOME_OK, router_pb2.OUTCOME_ERROR):
            decision = await stub.Route(router_pb2.RouteRequest(chat=chat))
            settle = router_pb2.SettleRequest(
                decision_id=decision.decision_id,
                usage=router_pb2.Usage(input_tokens=1, output_tokens=1),
                outcome=outcome,
            )
            await stub.Settle(settle)
        told = sums(evidence(rig))["big"]
        assert (told["REQUESTS"], told["ERRORS"], told["RETRIES"]) == (1.0, 1.0, 1.0)
        explained = await stub.Explain(router_pb2.ExplainRequest(decision_id=decision.decision_id))
        assert explained.failed_by == "SettledAsError"


async def test_scores_of_a_decision_that_never_reached_its_model_teach_nothing() -> None:
    async with running_sidecar(Spec("big")) as rig, clients_of(rig) as (_client, stub):
        chat = router_pb2.ChatRequest(
            model="auto", messages=[router_pb2.Message(role="user", content="hello")]
        )
        decision = (await stub.Route(router_pb2.RouteRequest(chat=chat))).decision_id
        await stub.Settle(router_pb2.SettleRequest(decision_id=decision))
        assert not (await stub.Feedback(router_pb2.FeedbackRequest(decision_id=decision, score=0.0))).repeated
        assert not evidence(rig).models
        explained = await stub.Explain(router_pb2.ExplainRequest(decision_id=decision))
        assert explained.failed_by == "NotSent"


async def test_no_text_comment_or_header_is_in_what_is_reported_or_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Only the decision's own page has the comment."""
    planted = ("plantedprompt", "plantedcomment", "plantedheader", "plantedtask", "plantedanswer")
    with caplog.at_level(logging.DEBUG, "modelfleet_sidecar"):
        async with running_sidecar(Spec("big")) as rig, clients_of(rig) as (client, _stub):
            headers = {"x-tenant": "plantedheader", "x-modelfleet-task": "plantedtask"}
            body = {"model": "auto", "messages": [{"role": "user", "content": "plantedprompt"}]}
            for _ in range(2):
                async with client.post(CHAT, json=body, headers=headers) as response:
                    await response.read()
                    decision = response.headers["x-modelfleet-decision-id"]
            for sent in ({"score": 1, "comment": "plantedcomment"}, {"label": "plantedanswer"}):
                await said(client, decision_id=decision, **sent)
            holding = rig.lease.holding
            report = replace(
                holding.report(0.0, demand=NO_DEMAND, fleet_version="", policy_version=""),
                experience=evidence(rig),
            )
            sent_bytes = report_to(report).SerializeToString()
            assert b"big" in sent_bytes
            async with aiohttp.ClientSession() as session, session.get(f"{rig.admin}/metrics") as scraped:
                metrics = await scraped.text()
            async with client.get(f"/v1/decisions/{decision}") as response:
                shown = await response.text()
    for text in planted:
        assert text.encode() not in sent_bytes
        assert text not in metrics
        assert text not in caplog.text
        assert (text in shown) == (text == "plantedcomment")
