"""The Router service over real sockets, against simulated model servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import grpc
import grpc.aio
import pytest
from google.protobuf import struct_pb2
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from modelfleet.v1 import router_pb2, router_pb2_grpc
from modelfleet_core.leasing.messages import SlotGrant
from modelfleet_core.values import EndpointUrl, NanoUsd, leased_endpoint
from modelfleet_lab.model_server.faults import Fault, FaultKind
from modelfleet_sidecar import router
from modelfleet_sidecar.lease import boot_clock
from support.sidecars import CRAWLING, SLOW, STUCK, Rig, Spec, fleet_of, policy_of, running_sidecar

pytestmark = pytest.mark.integration

OPTIONS = (("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1))


@asynccontextmanager
async def stub_of(rig: Rig) -> AsyncIterator[router_pb2_grpc.RouterAsyncStub]:
    async with grpc.aio.insecure_channel(rig.grpc, options=OPTIONS) as channel:
        yield router_pb2_grpc.RouterStub(channel)


def chat(content: str = "hello", *, model: str = "auto", **fields: object) -> router_pb2.ChatRequest:
    request = router_pb2.ChatRequest(model=model, messages=[router_pb2.Message(role="user", content=content)])
    if fields:
        parameters = struct_pb2.Struct()
        parameters.update(fields)
        request.parameters.CopyFrom(parameters)
    return request


def route(content: str = "hello", **fields: object) -> router_pb2.RouteRequest:
    return router_pb2.RouteRequest(chat=chat(content, **fields))


async def failure_of(call: object) -> tuple[grpc.StatusCode, error_details_pb2.ErrorInfo, float | None]:
    """Return code, ErrorInfo and RetryInfo's seconds of a call that fails."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call  # type: ignore[misc]
    status = rpc_status.from_call(caught.value)
    assert status is not None
    info = error_details_pb2.ErrorInfo()
    retry: float | None = None
    for detail in status.details:
        if detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            told = error_details_pb2.RetryInfo()
            detail.Unpack(told)
            retry = told.retry_delay.seconds + told.retry_delay.nanos / 1e9
        else:
            detail.Unpack(info)
    assert info.domain == "modelfleet.io"
    return caught.value.code(), info, retry


async def test_complete_answers_with_decision_usage_and_cost() -> None:
    async with running_sidecar(Spec("small", 0.5), Spec("big", 0.8)) as rig, stub_of(rig) as stub:
        call = stub.Complete(chat(temperature=0.5, seed=7))
        answer = await call
        (record,) = rig.servers["big"].records
        assert answer.content
        assert answer.finish_reason == "stop"
        assert answer.decision.model == "big"
        assert answer.decision.decision_id == record.request_id
        assert (answer.usage.input_tokens, answer.usage.output_tokens) == (
            record.input_tokens,
            record.output_tokens,
        )
        assert answer.cost_nano_usd == record.cost_nano_usd
        initial, trailing = dict(await call.initial_metadata()), dict(await call.trailing_metadata())
        assert initial["x-modelfleet-model"] == "big"
        assert initial["x-modelfleet-decision-id"] == record.request_id
        assert float(trailing["x-modelfleet-cost-usd"]) == record.cost_nano_usd / 1e9
        told = await stub.Explain(router_pb2.ExplainRequest(decision_id=record.request_id))
        assert (told.usage, told.usage.estimated) == (answer.usage, False)


async def test_chat_streams_text_between_its_decision_and_its_usage() -> None:
    async with running_sidecar(Spec("big")) as rig, stub_of(rig) as stub:
        whole = await stub.Complete(chat())
        call = stub.Chat(chat())
        chunks = [chunk async for chunk in call]
        assert chunks[0].decision.model == "big"
        assert "".join(chunk.content for chunk in chunks) == whole.content
        assert len([chunk for chunk in chunks if chunk.content]) > 1
        assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["stop"]
        assert chunks[-1].usage == whole.usage
        assert chunks[-1].cost_nano_usd == whole.cost_nano_usd
        assert dict(await call.trailing_metadata())["x-modelfleet-output-tokens"] == str(
            whole.usage.output_tokens
        )
        await rig.settled()


async def test_tier_and_task_come_from_metadata_before_the_messages_headers() -> None:
    math = Spec("math", 0.2, by_task={"math": 0.95})
    async with running_sidecar(math, Spec("chat", 0.6)) as rig, stub_of(rig) as stub:
        request = chat()
        request.headers["X-Tier"] = "silver"
        request.headers["x-modelfleet-task"] = "math"
        answer = await stub.Complete(request, metadata=(("x-tier", "gold"),))
        assert (answer.decision.tier, answer.decision.task, answer.decision.model) == ("gold", "math", "math")


async def test_a_caller_who_wants_nothing_explained_gets_only_the_id_as_metadata() -> None:
    async with running_sidecar(Spec("big")) as rig, stub_of(rig) as stub:
        call = stub.Complete(chat(), metadata=(("x-modelfleet-explain", "none"),))
        answer = await call
        initial, trailing = await call.initial_metadata(), await call.trailing_metadata()
        named = [item for item in (*initial, *trailing) if item[0].startswith("x-modelfleet-")]
        assert named == [("x-modelfleet-decision-id", answer.decision.decision_id)]
        told = await stub.Explain(router_pb2.ExplainRequest(decision_id=answer.decision.decision_id))
        assert told.cost_nano_usd == answer.cost_nano_usd
        assert not told.candidates


async def test_a_routed_request_holds_its_slot_until_it_is_settled_once() -> None:
    money = NanoUsd(10**9)
    async with running_sidecar(Spec("big"), money=money) as rig, stub_of(rig) as stub:
        decision = await stub.Route(route())
        assert decision.endpoint == rig.servers["big"].url
        assert decision.served_name == "served/big"
        assert decision.settle_within.seconds == 20
        holding = rig.lease.holding
        assert sum(holding.in_flight().values()) == 1
        async with aiohttp.ClientSession() as session:
            asked = {
                "model": decision.served_name,
                "max_tokens": decision.max_output_tokens,
                "messages": [{"role": "user", "content": "hello"}],
            }
            async with session.post(f"{decision.endpoint}/v1/chat/completions", json=asked) as response:
                used = (await response.json())["usage"]
        settle = router_pb2.SettleRequest(
            decision_id=decision.decision_id,
            usage=router_pb2.Usage(
                input_tokens=used["prompt_tokens"], output_tokens=used["completion_tokens"]
            ),
            outcome=router_pb2.OUTCOME_OK,
        )
        first, second = await stub.Settle(settle), await stub.Settle(settle)
        (record,) = rig.servers["big"].records
        assert (first.cost_nano_usd, first.repeated) == (record.cost_nano_usd, False)
        assert (second.cost_nano_usd, second.repeated) == (record.cost_nano_usd, True)
        assert not second.expired
        assert holding.idle()
        told = await stub.Explain(router_pb2.ExplainRequest(decision_id=decision.decision_id))
        assert told.usage == settle.usage


async def test_two_models_of_one_server_have_slots_apart_and_its_plain_url() -> None:
    async with running_sidecar(Spec("one", slots=2)) as rig, stub_of(rig) as stub:
        one, two = Spec("one"), Spec("two")
        url = EndpointUrl(rig.servers["one"].url)
        rig.lease.fleet = fleet_of([one, two])
        rig.lease.grant(
            {
                leased_endpoint(url, one.key): SlotGrant(one.key, 1),
                leased_endpoint(url, two.key): SlotGrant(two.key, 1),
            }
        )
        decisions = [await stub.Route(route(model=name)) for name in ("one", "two")]
        assert [(d.model, d.endpoint) for d in decisions] == [("one", url), ("two", url)]
        assert set(rig.lease.holding.free(boot_clock()).values()) == {0}
        for decision in decisions:
            await stub.Settle(router_pb2.SettleRequest(decision_id=decision.decision_id))
        answer = await stub.Complete(chat(model="one"))
        assert answer.decision.endpoint == url
        await rig.settled()


async def test_a_request_that_the_sidecar_forwards_can_not_be_settled_for_less_by_its_caller() -> None:
    async with running_sidecar(Spec("big"), money=NanoUsd(10**9)) as rig, stub_of(rig) as stub:
        chunks = aiter(stub.Chat(chat()))
        decision = (await anext(chunks)).decision
        settle = router_pb2.SettleRequest(decision_id=decision.decision_id)
        code, info, _ = await failure_of(stub.Settle(settle))
        assert (code, info.metadata["field"]) == (grpc.StatusCode.INVALID_ARGUMENT, "decision_id")
        rest = [chunk async for chunk in chunks]
        await rig.settled()
        (record,) = rig.servers["big"].records
        assert rest[-1].cost_nano_usd == record.cost_nano_usd > 0
        assert (await stub.Settle(settle)).repeated


async def test_a_decision_that_never_reached_the_model_costs_nothing() -> None:
    async with running_sidecar(Spec("big"), money=NanoUsd(10**9)) as rig, stub_of(rig) as stub:
        decision = await stub.Route(route())
        settled = await stub.Settle(router_pb2.SettleRequest(decision_id=decision.decision_id))
        assert settled.cost_nano_usd == 0
        assert rig.lease.holding.idle()
        told = await stub.Explain(router_pb2.ExplainRequest(decision_id=decision.decision_id))
        assert not told.HasField("usage")


async def test_a_decision_that_nobody_settles_costs_its_reserve_and_frees_its_slot() -> None:
    policy = policy_of(max_request=1.0)
    async with running_sidecar(Spec("big"), policy=policy, money=NanoUsd(10**9)) as rig, stub_of(rig) as stub:
        decision = await stub.Route(route())
        await rig.settled()
        settled = await stub.Settle(router_pb2.SettleRequest(decision_id=decision.decision_id))
        assert (settled.cost_nano_usd, settled.repeated) == (decision.reserved_nano_usd, True)
        assert settled.expired


async def test_explain_shows_every_model_and_the_certificate() -> None:
    specs = (Spec("small", 0.5), Spec("big", 0.8), Spec("tiny", 0.2, context_tokens=50))
    async with running_sidecar(*specs) as rig, stub_of(rig) as stub:
        decision = await stub.Route(route("word " * 100))
        told = await stub.Explain(router_pb2.ExplainRequest(decision_id=decision.decision_id))
        assert told.decision == decision
        assert [candidate.model for candidate in told.candidates] == ["big", "small", "tiny"]
        assert [candidate.excluded_by for candidate in told.candidates] == ["", "", "ContextLength"]
        assert told.certificate.termination == "Optimal"
        assert told.certificate.bound >= told.certificate.objective
        assert told.batch_size == 1
        await stub.Settle(router_pb2.SettleRequest(decision_id=decision.decision_id))


async def test_a_batch_keeps_its_order_and_never_takes_more_than_the_lease() -> None:
    specs = (Spec("small", 0.5, slots=20), Spec("big", 0.8, slots=10))
    async with running_sidecar(*specs, money=NanoUsd(10**9)) as rig, stub_of(rig) as stub:
        asked = [route("hello", model=("small", "auto", "nope")[number % 3]) for number in range(60)]
        asked[4].ClearField("chat")
        answer = await stub.RouteBatch(router_pb2.RouteBatchRequest(requests=asked))
        assert len(answer.outcomes) == 60
        for number, outcome in enumerate(answer.outcomes):
            if number % 3 == 2:
                assert outcome.refusal.reason == "ModelNotFound"
            elif number == 4:
                assert outcome.refusal.reason == "InvalidField"
            elif number % 3 == 0 and outcome.HasField("decision"):
                assert outcome.decision.model == "small"
            elif outcome.HasField("refusal"):
                assert outcome.refusal.reason == "NoFreeSlot"
                assert outcome.refusal.retry_after.seconds >= 1
        taken = [outcome.decision.model for outcome in answer.outcomes if outcome.HasField("decision")]
        assert (taken.count("small"), taken.count("big")) == (20, 10)
        assert answer.certificate.bound >= answer.certificate.objective
        for outcome in answer.outcomes:
            if outcome.HasField("decision"):
                await stub.Settle(router_pb2.SettleRequest(decision_id=outcome.decision.decision_id))
        assert rig.lease.holding.idle()


async def test_a_batch_of_ten_thousand_is_answered_and_a_larger_one_refused() -> None:
    async with running_sidecar(Spec("big", slots=50)) as rig, stub_of(rig) as stub:
        requests = [route()] * 10_000
        answer = await stub.RouteBatch(router_pb2.RouteBatchRequest(requests=requests))
        assert len(answer.outcomes) == 10_000
        taken = [outcome.decision for outcome in answer.outcomes if outcome.HasField("decision")]
        assert len(taken) == 50
        for decision in taken:
            await stub.Settle(router_pb2.SettleRequest(decision_id=decision.decision_id))
        larger = router_pb2.RouteBatchRequest(requests=[*requests, route()])
        code, info, _ = await failure_of(stub.RouteBatch(larger))
        assert code is grpc.StatusCode.INVALID_ARGUMENT
        assert info.metadata["field"] == "requests"


@pytest.mark.parametrize(
    ("request_", "code", "reason", "field"),
    [
        (chat(model="gpt-9"), grpc.StatusCode.NOT_FOUND, "ModelNotFound", "model"),
        (router_pb2.ChatRequest(), grpc.StatusCode.INVALID_ARGUMENT, "InvalidField", "messages"),
        (chat(n=3), grpc.StatusCode.INVALID_ARGUMENT, "InvalidField", "parameters.n"),
        (chat(messages=["x"]), grpc.StatusCode.INVALID_ARGUMENT, "InvalidField", "parameters.messages"),
        (
            router_pb2.ChatRequest(messages=[router_pb2.Message(role="user")], max_output_tokens=0),
            grpc.StatusCode.INVALID_ARGUMENT,
            "InvalidField",
            "max_output_tokens",
        ),
        (
            router_pb2.ChatRequest(messages=[router_pb2.Message(content="hello")]),
            grpc.StatusCode.INVALID_ARGUMENT,
            "InvalidField",
            "messages[0].role",
        ),
    ],
)
async def test_bad_input_gets_one_clear_status(
    request_: router_pb2.ChatRequest, code: grpc.StatusCode, reason: str, field: str
) -> None:
    async with running_sidecar(Spec("big")) as rig, stub_of(rig) as stub:
        for call in (stub.Complete(request_), stub.Route(router_pb2.RouteRequest(chat=request_))):
            got, info, _ = await failure_of(call)
            assert (got, info.reason, info.metadata["field"]) == (code, reason, field)
        assert rig.servers["big"].records == ()


async def test_a_message_of_20_megabytes_is_refused() -> None:
    async with running_sidecar(Spec("big")) as rig, stub_of(rig) as stub:
        code, info, _ = await failure_of(stub.Complete(chat("x" * 20 * 1024 * 1024)))
        assert (code, info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BodyTooLarge")


async def test_without_a_lease_calls_are_told_when_to_come_back() -> None:
    async with running_sidecar(Spec("big"), granted=False) as rig, stub_of(rig) as stub:
        for call in (
            stub.Complete(chat()),
            stub.RouteBatch(router_pb2.RouteBatchRequest(requests=[route()])),
        ):
            code, info, retry = await failure_of(call)
            assert (code, info.reason) == (grpc.StatusCode.UNAVAILABLE, "NoLease")
            assert retry is not None


async def test_an_unreachable_server_and_an_empty_budget_say_which() -> None:
    async with running_sidecar(Spec("big"), money=NanoUsd(1000)) as rig, stub_of(rig) as stub:
        code, info, retry = await failure_of(stub.Complete(chat()))
        assert (code, info.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "BudgetExhausted")
        assert retry is not None
        assert retry > 1000
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Complete(chat())
        violated = error_details_pb2.QuotaFailure()
        status = rpc_status.from_call(caught.value)
        assert status is not None
        assert [detail.Unpack(violated) for detail in status.details] == [False, False, True]
        assert [one.subject for one in violated.violations] == ["budget"]
        assert "does not cover" in violated.violations[0].description
    async with running_sidecar(Spec("big")) as rig, stub_of(rig) as stub:
        await rig.servers["big"].stop()
        code, info, retry = await failure_of(stub.Complete(chat()))
        assert (code, info.reason) == (grpc.StatusCode.UNAVAILABLE, "UpstreamUnreachable")
        await rig.settled()


async def test_the_callers_deadline_reaches_the_model_server() -> None:
    async with running_sidecar(Spec("big", latency=STUCK)) as rig, stub_of(rig) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Complete(chat(), timeout=1.0)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await rig.servers["big"].until(lambda server: bool(server.records), timeout=1.0)
        assert rig.servers["big"].records[0].cancelled
        await rig.settled()


async def test_the_policys_longest_request_is_a_rich_deadline_error() -> None:
    policy = policy_of(max_request=0.3)
    async with running_sidecar(Spec("big", latency=STUCK), policy=policy) as rig, stub_of(rig) as stub:
        code, info, _ = await failure_of(stub.Complete(chat()))
        assert (code, info.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DeadlineExceeded")


async def test_an_expired_deadline_never_reaches_a_server() -> None:
    async with running_sidecar(Spec("big")) as rig, stub_of(rig) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Complete(chat(), timeout=0.0)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await rig.settled()
        assert rig.servers["big"].records == ()


@pytest.mark.parametrize("stream", [True, False])
async def test_a_cancelled_call_cancels_the_models_work_within_a_second(stream: bool) -> None:
    async with running_sidecar(Spec("big", latency=CRAWLING)) as rig, stub_of(rig) as stub:
        server = rig.servers["big"]
        call = stub.Chat(chat()) if stream else stub.Complete(chat())
        if stream:
            await call.__aiter__().__anext__()
        await server.until(lambda server: server.slots.in_flight == 1)
        call.cancel()
        await server.until(lambda server: bool(server.records), timeout=1.0)
        assert server.records[0].cancelled
        await rig.settled()


async def test_a_stream_that_breaks_ends_in_a_status_not_as_if_complete() -> None:
    async with running_sidecar(Spec("big")) as rig, stub_of(rig) as stub:
        rig.servers["big"].set_faults(Fault(FaultKind.CUT_AFTER_FIRST))
        texts: list[str] = []

        async def read() -> None:
            async for chunk in stub.Chat(chat()):
                texts.append(chunk.content)

        code, info, _ = await failure_of(read())
        assert (code, info.reason) == (grpc.StatusCode.UNAVAILABLE, "UpstreamCut")
        assert any(texts)
        await rig.settled()


async def test_reflection_and_health_serve_tools_like_grpcurl() -> None:
    async with running_sidecar(Spec("big")) as rig, grpc.aio.insecure_channel(rig.grpc) as channel:
        reflection = reflection_pb2_grpc.ServerReflectionStub(channel)

        requests = [
            reflection_pb2.ServerReflectionRequest(list_services=""),
            reflection_pb2.ServerReflectionRequest(file_containing_symbol="modelfleet.v1.Router"),
        ]
        listed, found = [answer async for answer in reflection.ServerReflectionInfo(iter(requests))]
        names = {service.name for service in listed.list_services_response.service}
        assert {"modelfleet.v1.Router", "grpc.health.v1.Health"} <= names
        raw = found.file_descriptor_response.file_descriptor_proto
        services = [service for file in map(FileDescriptorProto.FromString, raw) for service in file.service]
        methods = {method.name for service in services for method in service.method}
        assert {"Route", "RouteBatch", "Chat", "Complete", "Settle", "Explain"} <= methods
        health = health_pb2_grpc.HealthStub(channel)
        for service in ("", "modelfleet.v1.Router"):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_mixed_calls_leave_nothing_held() -> None:
    """G8 over gRPC: answers, streams, routes and cancels in a burst."""
    specs = (Spec("small", 0.5, slots=3), Spec("big", 0.8, slots=3))
    async with running_sidecar(*specs, money=NanoUsd(10**9)) as rig, stub_of(rig) as stub:

        async def one(number: int) -> None:
            if number % 3 == 0:
                await stub.Complete(chat())
            elif number % 3 == 1:
                async for _ in stub.Chat(chat()):
                    if number % 2:
                        return  # the call is cancelled when it is dropped
            else:
                decision = await stub.Route(route())
                await stub.Settle(router_pb2.SettleRequest(decision_id=decision.decision_id))

        calls = [asyncio.create_task(one(number)) for number in range(120)]
        done, _ = await asyncio.wait(calls)
        assert [task.exception() for task in done if task.exception() is not None] == []
        await rig.settled()
        assert rig.lease.holding.idle()
        records = [record for server in rig.servers.values() for record in server.records]
        assert not any(record.over_concurrency for record in records)


async def test_a_shutdown_waits_for_a_routed_decision_while_someone_is_connected_to_settle_it() -> None:
    async with running_sidecar(Spec("big")) as rig, stub_of(rig) as stub:
        decision = await stub.Route(route())
        draining = asyncio.create_task(rig.sidecar.drain())
        async with asyncio.timeout(5.0):
            while rig.sidecar.router.ready:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
        await asyncio.sleep(0)
        assert not draining.done()
        await stub.Settle(router_pb2.SettleRequest(decision_id=decision.decision_id))
        assert await draining
        assert rig.lease.holding.idle()


async def test_a_shutdown_does_not_wait_for_decisions_of_an_application_that_has_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(router, "HOUSEKEEPING", 0.01)
    async with running_sidecar(Spec("big"), drain_grace=3_600.0) as rig:
        async with stub_of(rig) as stub:
            await stub.Route(route())
            draining = asyncio.create_task(rig.sidecar.drain())
            async with asyncio.timeout(5.0):
                while rig.sidecar.router.ready:  # noqa: ASYNC110 - nothing tells
                    await asyncio.sleep(0.01)
        async with asyncio.timeout(20.0):
            assert not await draining
        assert rig.sidecar.router.unsettled == 1  # the operator counts its slot until the pod has gone


async def test_while_it_drains_a_stream_goes_on_and_new_calls_are_told_so_and_then_the_channel_ends() -> None:
    async with running_sidecar(Spec("big", latency=SLOW)) as rig, stub_of(rig) as stub:
        running = stub.Chat(chat(max_output_tokens=40))
        assert (await anext(aiter(running))).HasField("decision")
        draining = asyncio.create_task(rig.sidecar.drain())
        async with asyncio.timeout(5.0):
            while rig.sidecar.router.ready:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
        code, info, retry = await failure_of(stub.Complete(chat()))
        assert (code, info.reason) == (grpc.StatusCode.UNAVAILABLE, "Draining")
        assert retry is not None
        last = [chunk async for chunk in running][-1]
        assert last.HasField("usage")
        assert await draining
        with pytest.raises(grpc.aio.AioRpcError) as ended:
            await stub.Complete(chat())
        assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
