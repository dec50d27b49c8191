"""The OpenAI-compatible API over real sockets, against simulated model servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import openai
import pytest
from modelfleet_core.demand.sketch import NO_DEMAND
from modelfleet_core.leasing.accounts import BUDGET
from modelfleet_core.leasing.messages import SlotGrant
from modelfleet_core.values import EndpointUrl, NanoUsd
from modelfleet_lab.model_server.faults import Fault, FaultKind
from modelfleet_lab.model_server.latency import LatencyProfile
from support.sidecars import CRAWLING, SLOW, STUCK, TRIED_ONCE, Rig, Spec, policy_of, running_sidecar

pytestmark = pytest.mark.integration

CHAT = "/v1/chat/completions"
HELLO = [{"role": "user", "content": "hello"}]


@asynccontextmanager
async def client_of(rig: Rig) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(rig.http, connector=connector) as session:
        yield session


def openai_of(rig: Rig) -> openai.AsyncOpenAI:
    """Return the official client as users set it up, but without retries, which would hide losses."""
    return openai.AsyncOpenAI(base_url=f"{rig.http}/v1", api_key="any", max_retries=0)


async def error_of(response: aiohttp.ClientResponse) -> dict[str, str]:
    """Return the error object; each answer that is no success must have exactly one."""
    body = await response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    error: dict[str, str] = body["error"]
    return error


async def ask(client: aiohttp.ClientSession, **fields: object) -> aiohttp.ClientResponse:
    """POST a chat request and read its answer to the end."""
    async with client.post(CHAT, json=body(**fields)) as response:
        await response.read()
    return response


def body(**fields: object) -> dict[str, object]:
    return {"model": "auto", "messages": HELLO} | fields


async def test_a_plain_answer_names_its_decision_and_cost() -> None:
    async with running_sidecar(Spec("small", 0.5), Spec("big", 0.8)) as rig, client_of(rig) as client:
        async with client.post(CHAT, json=body()) as response:
            answer = await response.json()
        assert response.status == 200
        assert response.headers["x-modelfleet-model"] == "big"
        assert response.headers["x-modelfleet-variant"] == "gpu"
        assert response.headers["x-modelfleet-reason"] == "BestValue"
        assert response.headers["x-modelfleet-tier"] == "bronze"
        (record,) = rig.servers["big"].records
        assert record.request_id == response.headers["x-modelfleet-decision-id"]
        assert float(response.headers["x-modelfleet-cost-usd"]) == record.cost_nano_usd / 1e9
        assert answer["choices"][0]["message"]["content"]


async def test_headers_choose_tier_and_task() -> None:
    math = Spec("math", 0.2, by_task={"math": 0.95})
    async with running_sidecar(math, Spec("chat", 0.6)) as rig, client_of(rig) as client:
        headers = {"x-tier": "gold", "x-modelfleet-task": "math"}
        async with client.post(CHAT, json=body(), headers=headers) as response:
            assert response.headers["x-modelfleet-tier"] == "gold"
            assert response.headers["x-modelfleet-model"] == "math"
        assert [(tier, task.split("/")[0]) for tier, task, _ in rig.lease.demand] == [("gold", "math")]


async def test_a_fleet_models_name_pins_it() -> None:
    async with running_sidecar(Spec("small", 0.5), Spec("big", 0.8)) as rig, client_of(rig) as client:
        response = await ask(client, model="small")
        assert response.headers["x-modelfleet-model"] == "small"
        assert response.headers["x-modelfleet-reason"] == "Pinned"


async def test_a_stream_ends_with_done_and_usage_only_when_asked() -> None:
    async with running_sidecar(Spec("big")) as rig, client_of(rig) as client:
        for asked in (False, True):
            options = {"stream_options": {"include_usage": True}} if asked else {}
            async with client.post(CHAT, json=body(stream=True, **options)) as response:
                text = await response.text()
            assert response.headers["content-type"].startswith("text/event-stream")
            assert text.endswith("data: [DONE]\n\n")
            assert ('"usage"' in text) is asked
        await rig.settled()
        billed = sum(record.cost_nano_usd for record in rig.servers["big"].records)
        async with client.get(f"/v1/decisions/{response.headers['x-modelfleet-decision-id']}") as told:
            explained = await told.json()
        assert explained["cost_usd"] * 2 == billed / 1e9


async def test_the_unchanged_openai_client_chats_streams_and_lists() -> None:
    async with running_sidecar(Spec("small", 0.5), Spec("big", 0.8)) as rig, openai_of(rig) as client:
        answer = await client.chat.completions.create(
            model="auto", messages=[{"role": "user", "content": "hello"}], temperature=0.2, max_tokens=50
        )
        assert answer.choices[0].message.content
        assert answer.usage is not None
        stream = await client.chat.completions.create(
            model="auto",
            messages=[{"role": "user", "content": "hello"}],
            stream=True,
            stream_options={"include_usage": True},
        )
        chunks = [chunk async for chunk in stream]
        text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == answer.choices[0].message.content
        assert chunks[-1].usage is not None
        assert [model.id async for model in client.models.list()] == ["auto", "small", "big"]
        assert (await client.models.retrieve("big")).id == "big"
        with pytest.raises(openai.NotFoundError, match="use 'auto' or one of: small, big"):
            await client.models.retrieve("huge")
        with pytest.raises(openai.NotFoundError, match="not in the fleet"):
            await client.chat.completions.create(model="gpt-9", messages=[{"role": "user", "content": "x"}])
        with pytest.raises(openai.BadRequestError, match="max_tokens"):
            await client.chat.completions.create(
                model="auto", messages=[{"role": "user", "content": "x"}], max_tokens=0
            )


async def test_the_policys_token_limit_holds_upstream() -> None:
    policy = policy_of(max_output_tokens=5)
    async with running_sidecar(Spec("big"), policy=policy) as rig, client_of(rig) as client:
        for asked in ({}, {"max_tokens": 1000}, {"max_completion_tokens": 3}):
            async with client.post(CHAT, json=body(**asked)) as response:
                assert response.status == 200
        assert [record.output_tokens for record in rig.servers["big"].records] == [5, 5, 3]


@pytest.mark.parametrize(
    ("raw", "status", "code", "param"),
    [
        (b'{"messages": [', 400, "MalformedJson", None),
        (b'{"messages": "hello"}', 400, "InvalidField", "messages"),
        (b'{"messages": [{"role": "user", "content": 1}]}', 400, "InvalidField", "messages[0].content"),
        (
            b'{"model": "gpt-9", "messages": [{"role": "user", "content": "x"}]}',
            404,
            "ModelNotFound",
            "model",
        ),
    ],
)
async def test_bad_input_gets_one_clear_error(raw: bytes, status: int, code: str, param: str | None) -> None:
    async with running_sidecar(Spec("big")) as rig, client_of(rig) as client:
        async with client.post(CHAT, data=raw) as response:
            error = await error_of(response)
        assert response.status == status
        assert (error["code"], error["param"]) == (code, param)
        assert rig.servers["big"].records == ()


async def test_paths_and_methods_that_are_not_served_say_so() -> None:
    async with running_sidecar(Spec("big")) as rig, client_of(rig) as client:
        async with client.get("/v2/chat") as response:
            assert response.status == 404
            assert (await error_of(response))["code"] == "PathNotFound"
        async with client.get(CHAT) as response:
            assert response.status == 405
        async with client.get("/v1/decisions/d-unknown") as response:
            assert response.status == 404
            assert (await error_of(response))["code"] == "DecisionNotFound"


@pytest.mark.parametrize("declared", [True, False])
async def test_a_body_of_20_megabytes_is_refused_while_it_arrives(declared: bool) -> None:
    parts = [b'{"messages": [{"role": "user", "content": "', *[b"x" * 1024 * 1024] * 20, b'"}]}']

    async def pieces() -> AsyncIterator[bytes]:
        for part in parts:
            yield part

    headers = {"content-length": str(sum(map(len, parts)))} if declared else {}
    async with running_sidecar(Spec("big")) as rig, client_of(rig) as client:
        async with client.post(CHAT, data=pieces(), headers=headers) as response:
            assert response.status == 413
            assert (await error_of(response))["code"] == "BodyTooLarge"
        assert (await ask(client)).status == 200


async def test_without_a_lease_requests_are_told_to_come_back() -> None:
    async with running_sidecar(Spec("big"), granted=False) as rig, client_of(rig) as client:
        rig.lease.refusal = "no policy selects pod ml/app-0"
        async with client.post(CHAT, json=body()) as response:
            error = await error_of(response)
        assert response.status == 503
        assert error["code"] == "NoLease"
        assert "no policy selects" in error["message"]
        assert int(response.headers["retry-after"]) >= 1
        async with client.get("/v1/models") as response:
            assert response.status == 503


async def test_a_lease_that_ran_out_counts_as_none() -> None:
    async with running_sidecar(Spec("big")) as rig, client_of(rig) as client:
        rig.lease.grant(rig.slots, ttl=0.0)
        async with client.post(CHAT, json=body()) as response:
            assert response.status == 503
            assert (await error_of(response))["code"] == "NoLease"


async def test_an_unreachable_model_server_is_named() -> None:
    policy = policy_of(fallback=TRIED_ONCE)
    async with running_sidecar(Spec("big"), policy=policy) as rig, client_of(rig) as client:
        await rig.servers["big"].stop()
        async with client.post(CHAT, json=body()) as response:
            error = await error_of(response)
        assert response.status == 503
        assert error["code"] == "UpstreamUnreachable"
        assert "big/gpu" in error["message"]
        assert int(response.headers["retry-after"]) >= 1
        await rig.settled()
        assert rig.lease.holding.money(0.0) is None


async def test_a_deadline_ends_in_one_504_and_frees_the_server() -> None:
    stuck = Spec("big", latency=STUCK)
    async with running_sidecar(stuck, policy=policy_of(max_request=0.5)) as rig, client_of(rig) as client:
        async with client.post(CHAT, json=body()) as response:
            error = await error_of(response)
        assert response.status == 504
        assert error["code"] == "DeadlineExceeded"
        await rig.servers["big"].until(lambda server: server.slots.in_flight == 0, timeout=1.0)
        await rig.settled()


async def test_a_request_without_a_place_ends_at_its_deadline() -> None:
    async with (
        running_sidecar(Spec("big"), policy=policy_of(max_request=0.3)) as rig,
        client_of(rig) as client,
    ):
        rig.lease.grant({})
        async with client.post(CHAT, json=body()) as response:
            assert response.status == 504
            assert "NoFreeSlot" in (await error_of(response))["message"]
        assert rig.sidecar.router.waiting == 0


async def test_a_deadline_that_no_model_keeps_is_not_put_down_to_slots_where_some_are_free() -> None:
    slow = Spec("big", latency=LatencyProfile(ttft=5000.0, per_token=5.0, load=0.0))
    async with running_sidecar(slow, policy=policy_of(max_request=0.05)) as rig, client_of(rig) as client:
        async with client.post(CHAT, json=body()) as response:
            said = (await error_of(response))["message"]
        assert (response.status, response.headers["x-modelfleet-reason"]) == (504, "DeadlineExceeded")
        assert "no model is expected to answer in the 0.0" in said
        assert "NoFreeSlot" not in said


async def test_a_deadline_within_a_stream_is_an_error_event_and_no_clean_end() -> None:
    async with (
        running_sidecar(Spec("big", latency=CRAWLING), policy=policy_of(max_request=1.0)) as rig,
        client_of(rig) as client,
    ):
        async with client.post(CHAT, json=body(stream=True)) as response:
            text = await response.text()
        assert response.status == 200
        assert "[DONE]" not in text
        assert json.loads(text.strip().rpartition("data: ")[2])["error"]["code"] == "DeadlineExceeded"


@pytest.mark.parametrize("stream", [True, False])
async def test_a_caller_that_leaves_cancels_the_models_work_within_a_second(stream: bool) -> None:
    async with running_sidecar(Spec("big", latency=CRAWLING)) as rig, client_of(rig) as client:
        server = rig.servers["big"]
        call = asyncio.create_task(client.post(CHAT, json=body(stream=stream)))
        await server.until(lambda server: server.slots.in_flight == 1)
        if stream:
            (await call).close()
        else:
            call.cancel()
        await server.until(lambda server: server.slots.in_flight == 0, timeout=1.0)
        await server.until(lambda server: bool(server.records), timeout=1.0)
        assert server.records[0].cancelled
        await rig.settled()


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        (FaultKind.RATE_LIMIT, 429, "UpstreamRateLimited"),
        (FaultKind.SERVER_ERROR, 503, "UpstreamError"),
        (FaultKind.UNAVAILABLE, 503, "UpstreamError"),
        (FaultKind.CUT_BEFORE_FIRST, 503, "UpstreamCut"),
        (FaultKind.CUT_AFTER_FIRST, 503, "UpstreamCut"),
        (FaultKind.MALFORMED, 503, "UpstreamMalformed"),
        (FaultKind.OVERLOAD_IN_STREAM, 503, "UpstreamError"),
    ],
)
async def test_each_fault_of_a_server_is_one_error_to_the_caller(
    kind: FaultKind, status: int, code: str
) -> None:
    policy = policy_of(fallback=TRIED_ONCE)
    async with running_sidecar(Spec("big"), policy=policy) as rig, client_of(rig) as client:
        rig.servers["big"].set_faults(Fault(kind, seconds=7.0))
        async with client.post(CHAT, json=body()) as response:
            error = await error_of(response)
        assert (response.status, error["code"]) == (status, code)
        if kind is FaultKind.RATE_LIMIT:
            assert response.headers["retry-after"] == "7"
        await rig.settled()
        rig.servers["big"].set_faults()
        assert (await ask(client)).status == 200


@pytest.mark.parametrize("kind", [FaultKind.CUT_AFTER_FIRST, FaultKind.OVERLOAD_IN_STREAM])
async def test_a_stream_that_breaks_ends_in_an_error_event(kind: FaultKind) -> None:
    async with running_sidecar(Spec("big")) as rig:
        rig.servers["big"].set_faults(Fault(kind))
        async with client_of(rig) as client, client.post(CHAT, json=body(stream=True)) as response:
            text = await response.text()
        assert "[DONE]" not in text
        assert "error" in json.loads(text.strip().rpartition("data: ")[2])
        async with openai_of(rig) as official:
            stream = await official.chat.completions.create(
                model="auto", messages=[{"role": "user", "content": "x"}], stream=True
            )
            with pytest.raises(openai.APIError):
                _ = [chunk async for chunk in stream]
        await rig.settled()


async def test_a_request_over_every_context_is_refused_and_a_roomier_model_is_found() -> None:
    small, large = Spec("small", 0.9, context_tokens=200), Spec("large", 0.5, context_tokens=2000)
    async with running_sidecar(small, large) as rig, client_of(rig) as client:
        for words, status in ((20, 200), (300, 200), (5000, 400)):
            messages = [{"role": "user", "content": "word " * words}]
            async with client.post(CHAT, json=body(messages=messages, max_tokens=50)) as response:
                assert response.status == status
                if status == 400:
                    assert (await error_of(response))["code"] == "ContextLength"
        assert [len(server.records) for server in rig.servers.values()] == [1, 1]


async def test_a_cost_without_bound_is_refused_under_a_budget_only() -> None:
    messages = [{"role": "user", "content": [{"type": "input_audio", "input_audio": {"data": "UklGRg=="}}]}]
    async with running_sidecar(Spec("big"), money=NanoUsd(10**9)) as rig, client_of(rig) as client:
        response = await ask(client, messages=messages, model="big")
        assert response.status == 400
        assert (await error_of(response))["code"] == "UnboundedCost"
    async with running_sidecar(Spec("big")) as rig, client_of(rig) as client:
        assert (await ask(client, messages=messages, model="big")).status == 200


async def test_an_exhausted_budget_is_429_with_a_time_to_come_back() -> None:
    async with running_sidecar(Spec("big"), money=NanoUsd(1000)) as rig, client_of(rig) as client:
        async with client.post(CHAT, json=body()) as response:
            assert response.status == 429
            assert (await error_of(response))["code"] == "BudgetExhausted"
        assert 3000 < int(response.headers["retry-after"]) <= 3600
        assert rig.servers["big"].records == ()


async def test_what_waits_tells_the_operator_what_it_could_use() -> None:
    async with running_sidecar(Spec("big"), money=NanoUsd(10**9)) as rig, client_of(rig) as client:
        slots = dict(rig.slots)
        rig.lease.grant({}, money=NanoUsd(10**9))
        calls = [asyncio.create_task(client.post(CHAT, json=body())) for _ in range(3)]
        async with asyncio.timeout(5.0):
            while sum(want.slots for want in rig.lease.wants.values()) < 3:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
        assert rig.sidecar.router.waiting == 3
        assert sum(want.slots for want in rig.lease.wants.values()) == 3
        assert rig.lease.needs[BUDGET].total > 0
        rig.lease.grant(slots, money=NanoUsd(10**9))
        assert [response.status for response in await asyncio.gather(*calls)] == [200, 200, 200]
        await rig.settled()
        async with asyncio.timeout(5.0):
            while rig.lease.wants or rig.lease.needs:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)


async def test_a_burst_breaks_neither_slots_nor_budget_and_loses_nothing() -> None:
    """G2 and G3, measured at the model servers; G7: each caller gets one answer or one error."""
    small = Spec("small", 0.5, slots=2)
    big = Spec("big", 0.8, slots=3)
    money = NanoUsd(8_000_000)
    policy = policy_of(max_output_tokens=40)
    async with running_sidecar(small, big, policy=policy, money=money) as rig, client_of(rig) as client:

        async def one(number: int) -> int:
            stream = number % 3 == 0
            messages = [{"role": "user", "content": f"question {number}"}]
            async with client.post(CHAT, json=body(stream=stream, messages=messages)) as response:
                text = await response.text()
            if response.status == 200 and stream:
                assert text.endswith("data: [DONE]\n\n")
            return response.status

        statuses = await asyncio.gather(*(one(number) for number in range(240)))
        await rig.settled()
        records = [record for server in rig.servers.values() for record in server.records]
        assert not any(record.over_concurrency for record in records)
        assert rig.servers["small"].slots.peak <= 2
        assert rig.servers["big"].slots.peak <= 3
        assert sum(record.cost_nano_usd for record in records) <= money
        assert set(statuses) == {200, 429}
        assert statuses.count(200) == len(records)


async def test_mixed_cancels_leave_no_slot_and_no_money_held() -> None:
    """G8: whatever callers do, all counters return to zero; and G2 and G3 hold through it."""
    money = NanoUsd(10**9)
    slow = LatencyProfile(ttft=10.0, per_token=5.0, load=0.0)
    specs = (Spec("small", 0.5, slots=3, latency=slow), Spec("big", 0.8, slots=3, latency=slow))
    async with running_sidecar(*specs, money=money) as rig, client_of(rig) as client:
        rig.servers["small"].set_faults(Fault(FaultKind.CUT_AFTER_FIRST, probability=0.2))

        async def one(number: int) -> None:
            async with client.post(CHAT, json=body(stream=number % 2 == 0)) as response:
                if number % 3 == 0:
                    await response.content.readany()
                else:
                    await response.read()

        calls = [asyncio.create_task(one(number)) for number in range(150)]
        for number, call in enumerate(calls):
            if number % 5 == 0:
                await asyncio.sleep(0.002)  # spreads the cancels over every stage of a request
                calls[number // 2].cancel()
                call.cancel()
        await asyncio.wait(calls)
        await rig.settled()
        assert rig.sidecar.router.waiting == 0
        holding = rig.lease.holding
        assert holding.idle()
        assert not holding.in_flight()
        records = [record for server in rig.servers.values() for record in server.records]
        assert not any(record.over_concurrency for record in records)
        account = holding.account(
            next(iter(holding.report(0.0, demand=NO_DEMAND, fleet_version="", policy_version="").accounts))
        )
        assert account is not None
        assert account.reserved == 0
        assert sum(record.cost_nano_usd for record in records) <= account.spent <= money


async def test_the_admin_port_serves_health_and_metrics_only() -> None:
    async with running_sidecar(Spec("big")) as rig, client_of(rig) as client:
        assert (await ask(client)).status == 200
        async with aiohttp.ClientSession(rig.admin) as admin:
            for path, status in (("/healthz", 200), ("/readyz", 200), ("/metrics", 200), (CHAT, 404)):
                async with admin.get(path) as response:
                    assert response.status == status
                    text = await response.text()
                if path == "/metrics":
                    assert (
                        'modelfleet_sidecar_requests_total{model="big",outcome="Ok",tier="bronze"} 1.0'
                        in text
                    )
                    assert "hello" not in text


async def test_an_address_in_use_is_said_clearly() -> None:
    from modelfleet_sidecar.app import Sidecar
    from modelfleet_sidecar.settings import SettingsError
    from support.sidecars import GivenLease, settings_for

    async with running_sidecar(Spec("big")) as rig:
        for name in ("http", "grpc", "admin"):
            taken = getattr(rig.sidecar, f"{name}_address")
            settings = replace(settings_for(), **{f"{name}_listen": taken})
            with pytest.raises(SettingsError, match=f"MODELFLEET_{name.upper()}_LISTEN"):
                await Sidecar(settings=settings, lease=GivenLease()).start()


async def test_draining_finishes_what_runs_and_refuses_what_comes() -> None:
    async with running_sidecar(Spec("big", latency=SLOW)) as rig, client_of(rig) as client:
        running = asyncio.create_task(client.post(CHAT, json=body(max_tokens=10)))
        await rig.servers["big"].until(lambda server: server.slots.in_flight == 1)
        assert await rig.sidecar.drain()
        assert (await running).status == 200
        with pytest.raises(aiohttp.ClientConnectionError):
            await client.post(CHAT, json=body())
        assert rig.lease.holding.idle()


async def test_while_it_drains_a_caller_is_told_so_on_an_old_connection_and_on_a_new_one() -> None:
    async with running_sidecar(Spec("big", latency=SLOW)) as rig, client_of(rig) as client:
        async with client.post(CHAT, json=body(max_tokens=1)) as response:
            await response.read()  # its connection stays open
        running = asyncio.create_task(client.post(CHAT, json=body(stream=True, max_tokens=40)))
        await rig.servers["big"].until(lambda server: server.slots.in_flight == 1)
        draining = asyncio.create_task(rig.sidecar.drain())
        async with asyncio.timeout(5.0):
            while rig.sidecar.router.ready:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
        async with client_of(rig) as other:
            for one in (client, other):
                async with one.post(CHAT, json=body()) as response:
                    error = await error_of(response)
                assert (response.status, error["code"]) == (503, "Draining")
                assert response.headers["connection"] == "close"
                assert "retry-after" in response.headers
        async with client.get(f"{rig.admin}/readyz") as ready:
            assert ready.status == 503
        async with await running as response:
            assert (await response.text()).endswith("data: [DONE]\n\n")
        assert await draining
        assert rig.lease.holding.idle()


async def test_a_dead_server_does_not_draw_every_request_while_another_can_be_reached() -> None:
    live, dead = Spec("big", 0.8), Spec("dead", 0.9)
    async with running_sidecar(live, dead) as rig, client_of(rig) as client:
        nowhere = EndpointUrl("http://127.0.0.1:1")
        reachable = EndpointUrl(rig.servers["big"].url)
        rig.lease.grant({reachable: SlotGrant(live.key, 4), nowhere: SlotGrant(dead.key, 4)})
        attempts = []
        for _ in range(10):
            async with client.post(CHAT, json=body()) as response:
                assert response.status == 200
                attempts.append(response.headers["x-modelfleet-attempts"])
        assert attempts == ["2"] + ["1"] * 9
        rig.lease.policy = policy_of(fallback=TRIED_ONCE)
        rig.lease.grant({nowhere: SlotGrant(dead.key, 4)})
        async with client.post(CHAT, json=body()) as response:
            assert (response.status, (await error_of(response))["code"]) == (503, "UpstreamUnreachable")
