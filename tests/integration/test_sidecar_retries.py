"""A request that fails before its caller has a byte is tried elsewhere: G7, G8, G9 and G10 hold."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace

import aiohttp
import grpc.aio
import pytest
from modelfleet.v1 import router_pb2, router_pb2_grpc
from modelfleet_core.leasing.accounts import accounts_of
from modelfleet_core.leasing.messages import SlotGrant
from modelfleet_core.policy import Breaker, Fallback, Period, Quota, RetryOn
from modelfleet_core.values import EndpointUrl, ModelName, NanoUsd
from modelfleet_sidecar import retry, unreachable
from modelfleet_sidecar.lease import boot_clock
from support.scripted import INPUT, OUTPUT, Act, Served, scripted_server
from support.sidecars import PRICING, SLOW, STUCK, Rig, Spec, fleet_of, policy_of, running_sidecar

pytestmark = pytest.mark.integration

CHAT = "/v1/chat/completions"
MONEY = NanoUsd(10**12)
COST = PRICING.cost(INPUT, OUTPUT)
PATIENT = Fallback(breaker=Breaker(failures=1000))
NOWHERE = EndpointUrl("http://127.0.0.1:1")
RETRIED = (Act.RESET, Act.CUT, Act.EARLY, Act.BUSY, Act.BROKEN, Act.UNKNOWN, Act.NONSENSE)
FREE = (Act.BUSY, Act.BROKEN, Act.UNKNOWN, Act.REFUSE)
"""Refused by status: nothing is billed."""


def body(**fields: object) -> dict[str, object]:
    return {"model": "auto", "messages": [{"role": "user", "content": "hello"}]} | fields


@dataclass(slots=True)
class Bench:
    """A sidecar before scripted servers, each with a slot of its own."""

    rig: Rig
    client: aiohttp.ClientSession
    servers: Sequence[Served]

    @property
    def requests(self) -> int:
        return sum(len(server.heads) for server in self.servers)

    async def metric(self, name: str) -> float:
        async with self.client.get(f"{self.rig.admin}/metrics") as response:
            lines = (await response.text()).splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))

    def spent(self) -> int:
        holding = self.rig.lease.holding
        states = [holding.account(account) for account in holding.accounts()]
        assert all(state is not None and state.reserved == 0 for state in states)
        return sum(state.spent for state in states if state is not None)


@asynccontextmanager
async def bench(
    *scripts: Callable[[], Act],
    specs: Sequence[Spec] | None = None,
    fallback: Fallback | None = None,
    money: NanoUsd = MONEY,
) -> AsyncIterator[Bench]:
    """Run a sidecar before a server for each script; `specs` says which model each serves."""
    models = list(specs) if specs is not None else [Spec("big")] * len(scripts)
    policy = policy_of(fallback=fallback if fallback is not None else Fallback())
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(scripted_server(script)) for script in scripts]
        unique = {spec.name: spec for spec in models}
        rig = await stack.enter_async_context(running_sidecar(*unique.values(), policy=policy, money=money))
        grants = {server.url: SlotGrant(spec.key, 1) for server, spec in zip(servers, models, strict=True)}
        rig.lease.grant(grants, money=money)
        connector = aiohttp.TCPConnector(limit=0)
        client = await stack.enter_async_context(aiohttp.ClientSession(rig.http, connector=connector))
        yield Bench(rig, client, servers)


def always(act: Act) -> Callable[[], Act]:
    return lambda: act


@pytest.mark.parametrize(
    ("act", "stream"),
    [
        *((act, False) for act in RETRIED),
        *((act, True) for act in RETRIED if act is not Act.CUT),  # a stream's first byte is out by then
    ],
)
async def test_what_fails_before_the_first_byte_is_answered_elsewhere(act: Act, stream: bool) -> None:
    specs = [Spec("best", 0.9), Spec("next", 0.5)]
    async with bench(always(act), always(Act.ANSWER), specs=specs) as it:
        async with it.client.post(CHAT, json=body(stream=stream)) as response:
            text = await response.text()
        assert response.status == 200
        assert response.headers["x-modelfleet-model"] == "next"
        assert response.headers["x-modelfleet-attempts"] == "2"
        assert text.endswith("data: [DONE]\n\n") if stream else json.loads(text)["choices"]
        assert text.count('"ok"') == 1
        assert [len(server.heads) for server in it.servers] == [1, 1]
        await it.rig.settled()
        url = f"/v1/decisions/{response.headers['x-modelfleet-decision-id']}"
        async with it.client.get(url) as explained:
            told = await explained.json()
        (earlier,) = told["earlier_attempts"]
        assert (earlier["model"], told["failed_by"]) == ("best", "")
        async with it.client.get(f"/v1/decisions/{earlier['decision_id']}") as explained:
            first = await explained.json()
        assert first["failed_by"] == earlier["failed_by"] != ""
        assert first["cost_usd"] == (0 if act in FREE else first["reserved_usd"])
        assert it.spent() == round((first["cost_usd"] + told["cost_usd"]) * 1e9)
        assert await it.metric("modelfleet_sidecar_retries_total{") == 1


async def test_a_server_that_knows_no_such_model_is_told_by_what_the_fleet_says_of_it() -> None:
    async with bench(always(Act.UNKNOWN), specs=[Spec("best", 0.9)]) as it:
        async with it.client.post(CHAT, json=body()) as response:
            said = (await response.json())["error"]
        assert (response.status, said["code"]) == (503, "UpstreamError")
        assert "servedName (served/best)" in said["message"]


async def test_a_server_that_refused_a_connection_is_said_to_be_out_of_reach_and_not_to_be_full() -> None:
    live, dead = Spec("live", 0.5), Spec("dead", 0.9)
    async with running_sidecar(live, dead) as rig, aiohttp.ClientSession(rig.http) as client:
        served = EndpointUrl(rig.servers["live"].url)
        rig.lease.grant({served: SlotGrant(live.key, 1), NOWHERE: SlotGrant(dead.key, 4)})
        for attempts in ("2", "1"):
            async with client.post(CHAT, json=body()) as response:
                assert (response.status, response.headers["x-modelfleet-model"]) == (200, "live")
                assert response.headers["x-modelfleet-attempts"] == attempts
        async with client.get(f"/v1/decisions/{response.headers['x-modelfleet-decision-id']}") as explained:
            told = await explained.json()
        words = {one["model"]: one["stopped_by"] for one in told["candidates"]}
        assert (words, told["certificate"]["binding"]) == ({"live": "", "dead": "Unreachable"}, [])


async def test_a_stream_cut_after_its_first_byte_ends_in_one_error_event_and_is_counted_apart() -> None:
    async with bench(always(Act.CUT), always(Act.ANSWER), specs=[Spec("a", 0.9), Spec("b", 0.5)]) as it:
        async with it.client.post(CHAT, json=body(stream=True)) as response:
            text = await response.text()
        events = [event for event in text.split("\n\n") if event]
        assert response.status == 200
        assert "[DONE]" not in text
        assert ["error" in event for event in events] == [False, True]
        assert json.loads(events[-1].removeprefix("data: "))["error"]["code"] == "UpstreamCut"
        assert it.requests == 1
        assert await it.metric("modelfleet_sidecar_cut_streams_total{") == 1
        assert await it.metric("modelfleet_sidecar_retries_total{") == 0
        await it.rig.settled()


async def test_a_pinned_request_goes_to_another_endpoint_of_its_model_and_to_no_other_model() -> None:
    pinned, other = Spec("pinned", 0.5), Spec("other", 0.9)
    acts = iter([Act.RESET, Act.ANSWER])
    both = lambda: next(acts)  # noqa: E731 - whichever of the two is asked first fails
    async with bench(both, both, always(Act.ANSWER), specs=[pinned, pinned, other]) as it:
        async with it.client.post(CHAT, json=body(model="pinned")) as response:
            assert response.status == 200
        assert response.headers["x-modelfleet-attempts"] == "2"
        assert [len(server.heads) for server in it.servers] == [1, 1, 0]
    async with bench(always(Act.BUSY), always(Act.ANSWER), specs=[pinned, other]) as it:
        async with it.client.post(CHAT, json=body(model="pinned")) as response:
            assert response.status == 429
        assert response.headers["x-modelfleet-attempts"] == "1"
        assert it.requests == 1


@pytest.mark.parametrize("stream", [True, False])
async def test_a_retry_goes_to_no_model_that_the_request_rules_out(stream: bool) -> None:
    roomy, tight, named = Spec("roomy", 0.9), Spec("tight", 0.8, context_tokens=300), Spec("named", 0.7)
    plain, last = Spec("plain", 0.6), Spec("last", 0.5)
    specs = [roomy, tight, named, plain, last]
    tool = {"type": "function", "function": {"name": "f"}}
    long = [{"role": "user", "content": "word " * 1000}]
    asked = body(stream=stream, messages=long, tools=[tool])
    async with bench(always(Act.BROKEN), *[always(Act.ANSWER)] * 4, specs=specs, fallback=PATIENT) as it:
        fleet = fleet_of(specs)
        models = [
            replace(model, capabilities=frozenset({"chat"})) if model.name == "plain" else model
            for model in fleet.models
        ]
        it.rig.lease.fleet = replace(fleet, models=tuple(models))
        headers = {"x-modelfleet-exclude": "named"}
        async with it.client.post(CHAT, json=asked, headers=headers) as response:
            assert (response.status, response.headers["x-modelfleet-model"]) == (200, "last")
        assert [len(server.heads) for server in it.servers] == [1, 0, 0, 0, 1]
        headers = {"x-modelfleet-exclude": "named, last"}
        async with it.client.post(CHAT, json=asked, headers=headers) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (503, "UpstreamError")
        assert [len(server.heads) for server in it.servers][1:] == [0, 0, 0, 1]


@pytest.mark.parametrize(
    ("fallback", "attempts"),
    [
        (Fallback(max_attempts=1), 1),
        (Fallback(max_attempts=2), 2),
        (Fallback(max_attempts=3), 3),
        (Fallback(retry_on=frozenset({RetryOn.CONNECT, RetryOn.TIMEOUT, RetryOn.RATE_LIMITED})), 1),
    ],
)
async def test_attempts_end_where_the_policy_says(fallback: Fallback, attempts: int) -> None:
    async with bench(*[always(Act.BROKEN)] * 4, fallback=fallback) as it:
        async with it.client.post(CHAT, json=body()) as response:
            error = (await response.json())["error"]
        assert (response.status, error["code"]) == (503, "UpstreamError")
        assert response.headers["x-modelfleet-attempts"] == str(attempts)
        async with it.client.get(f"/v1/decisions/{response.headers['x-modelfleet-decision-id']}") as told:
            last = await told.json()
        assert (last["failed_by"], len(last["earlier_attempts"])) == ("UpstreamError", attempts - 1)
        assert it.requests == attempts
        assert {len(server.heads) for server in it.servers} <= {0, 1}


async def test_a_request_that_the_server_finds_wrong_is_not_tried_elsewhere() -> None:
    async with bench(always(Act.REFUSE), always(Act.REFUSE)) as it:
        async with it.client.post(CHAT, json=body()) as response:
            assert response.status == 400
        assert it.requests == 1


async def test_a_retry_waits_for_the_only_other_slot_by_its_tier() -> None:
    live, dead = Spec("live", 0.5, slots=1, latency=SLOW), Spec("dead", 0.9)
    async with running_sidecar(live, dead) as rig, aiohttp.ClientSession(rig.http) as client:
        served = EndpointUrl(rig.servers["live"].url)
        rig.lease.grant({served: SlotGrant(live.key, 1)})
        first = asyncio.create_task(client.post(CHAT, json=body(max_tokens=20)))
        await rig.servers["live"].until(lambda server: server.slots.in_flight == 1)
        rig.lease.grant({served: SlotGrant(live.key, 1), NOWHERE: SlotGrant(dead.key, 4)})
        others = [
            asyncio.create_task(client.post(CHAT, json=body(max_tokens=5), headers={"x-tier": tier}))
            for tier in ("bronze", "gold")
        ]
        answers = await asyncio.gather(first, *others)
        assert [answer.status for answer in answers] == [200, 200, 200]
        assert rig.servers["live"].slots.peak == 1
        assert [answer.headers["x-modelfleet-attempts"] for answer in answers][1] == "2"
        await rig.settled()


async def test_where_nothing_else_is_leased_a_request_waits_a_moment_for_the_server_to_come_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retry, "PAUSE", 0.05)
    acts = iter([Act.RESET, Act.RESET, Act.ANSWER])
    async with bench(lambda: next(acts)) as it:
        async with it.client.post(CHAT, json=body()) as response:
            assert response.status == 200
        assert response.headers["x-modelfleet-attempts"] == "3"
    async with bench(always(Act.RESET)) as it:
        async with it.client.post(CHAT, json=body()) as response:
            assert (response.status, it.requests) == (503, 3)
        await it.rig.settled()


async def test_a_request_takes_the_endpoint_that_the_operator_leases_meanwhile() -> None:
    async with bench(always(Act.RESET), always(Act.ANSWER)) as it:
        gone, new = it.servers
        big = Spec("big").key
        it.rig.lease.grant({gone.url: SlotGrant(big, 1)}, money=MONEY)
        call = asyncio.create_task(it.client.post(CHAT, json=body()))
        async with asyncio.timeout(5.0):
            while it.rig.sidecar.router.waiting == 0:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
        it.rig.lease.grant({new.url: SlotGrant(big, 1)}, money=MONEY)
        response = await call
        assert (response.status, response.headers["x-modelfleet-attempts"]) == (200, "2")
        assert [len(server.heads) for server in it.servers] == [1, 1]


async def test_a_caller_that_left_while_its_request_waits_to_be_tried_again_is_not_served() -> None:
    async with bench(always(Act.RESET), always(Act.ANSWER)) as it:
        gone, new = it.servers
        big = Spec("big").key
        it.rig.lease.grant({gone.url: SlotGrant(big, 1)}, money=MONEY)
        call = asyncio.create_task(it.client.post(CHAT, json=body()))
        async with asyncio.timeout(5.0):
            while it.rig.sidecar.router.waiting == 0:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
        call.cancel()
        await asyncio.wait([call])
        async with asyncio.timeout(5.0):
            while it.rig.sidecar.router.waiting:  # noqa: ASYNC110 - nothing tells
                await asyncio.sleep(0.01)
        it.rig.lease.grant({new.url: SlotGrant(big, 1)}, money=MONEY)
        await it.rig.settled()
        assert [len(server.heads) for server in it.servers] == [1, 0]


async def test_an_attempt_without_money_for_it_is_not_sent() -> None:
    async with bench(always(Act.CUT), always(Act.ANSWER)) as it:
        once = it.rig.sidecar.router
        async with it.client.post(CHAT, json=body(max_tokens=50)) as response:
            reserved = once.explain(response.headers["x-modelfleet-decision-id"]).decision.reserved
    money = NanoUsd(reserved * 3 // 2)
    async with bench(always(Act.CUT), always(Act.CUT), money=money) as it:
        async with it.client.post(CHAT, json=body(max_tokens=50)) as response:
            error = (await response.json())["error"]
        assert (response.status, error["code"]) == (429, "BudgetExhausted")
        assert "UpstreamCut" in error["message"]
        assert it.requests == 1
        assert it.spent() <= money


async def test_a_request_that_breaks_its_connection_keeps_no_other_from_a_server_that_still_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(unreachable, "LEFT_ALONE", 3_600.0)
    acts = iter([Act.ANSWER, Act.RESET, Act.ANSWER])
    answered = asyncio.Event()
    big, small = Spec("big", 0.9), Spec("small", 0.5)
    once = Fallback(max_attempts=1)
    async with bench(lambda: next(acts), always(Act.ANSWER), specs=[big, small], fallback=once) as it:
        server, other = it.servers
        grants = {server.url: SlotGrant(big.key, 3), other.url: SlotGrant(small.key, 1)}
        it.rig.lease.grant(grants, money=MONEY)
        server.hold(answered)
        running = asyncio.create_task(it.client.post(CHAT, json=body()))
        await server.until(1)
        async with it.client.post(CHAT, json=body()) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (503, "UpstreamCut")
        async with it.client.post(CHAT, json=body()) as response:
            assert response.headers["x-modelfleet-model"] == "big"
        answered.set()
        assert (await running).status == 200


async def test_a_quota_counts_the_attempts_that_were_sent_and_no_others() -> None:
    live, dead = Spec("live", 0.5), Spec("dead", 0.9)
    quota = Quota(frozenset({ModelName("live"), ModelName("dead")}), 2, Period.DAY)
    policy = replace(policy_of(), quotas=(quota,))
    (account,) = accounts_of(policy)
    async with running_sidecar(live, dead, policy=policy) as rig, aiohttp.ClientSession(rig.http) as client:
        served = EndpointUrl(rig.servers["live"].url)
        grants = {served: SlotGrant(live.key, 1), NOWHERE: SlotGrant(dead.key, 1)}
        rig.lease.grant(grants, requests={account.name: account.limit})
        async with client.post(CHAT, json=body()) as response:
            assert (response.status, response.headers["x-modelfleet-attempts"]) == (200, "2")
        await rig.settled()
        assert rig.lease.holding.room(boot_clock()) == {account.name: 1}


async def test_a_deadline_that_passes_in_a_later_attempt_is_told_with_its_attempts() -> None:
    stuck, dead = Spec("stuck", 0.5, latency=STUCK), Spec("dead", 0.9)
    async with (
        running_sidecar(stuck, dead, policy=policy_of(max_request=1.0)) as rig,
        aiohttp.ClientSession(rig.http) as client,
    ):
        served = EndpointUrl(rig.servers["stuck"].url)
        rig.lease.grant({served: SlotGrant(stuck.key, 1), NOWHERE: SlotGrant(dead.key, 1)})
        async with client.post(CHAT, json=body(max_tokens=1)) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (504, "DeadlineExceeded")
        assert response.headers["x-modelfleet-attempts"] == "2"
        url = f"/v1/decisions/{response.headers['x-modelfleet-decision-id']}"
        async with client.get(url) as explained:
            told = await explained.json()
        assert (told["model"], told["failed_by"]) == ("stuck", "DeadlineExceeded")
        assert [attempt["model"] for attempt in told["earlier_attempts"]] == ["dead"]
        await rig.settled()


async def test_a_request_whose_model_leaves_the_fleet_meanwhile_ends_with_what_failed() -> None:
    kept = Spec("kept", 0.5)

    def reset() -> Act:
        it.rig.lease.fleet = fleet_of([kept])
        return Act.RESET

    async with bench(reset, always(Act.ANSWER), specs=[Spec("big", 0.9), kept]) as it:
        async with it.client.post(CHAT, json=body(model="big")) as response:
            error = (await response.json())["error"]
        assert (response.status, error["code"]) == (503, "UpstreamCut")
        assert response.headers["x-modelfleet-attempts"] == "1"
        await it.rig.settled()


async def test_grpc_calls_are_tried_again_too() -> None:
    acts = iter([Act.RESET, Act.ANSWER, Act.EARLY, Act.ANSWER])
    script = lambda: next(acts)  # noqa: E731 - one script for all servers
    async with bench(script, script, script) as it, grpc.aio.insecure_channel(it.rig.grpc) as channel:
        stub = router_pb2_grpc.RouterStub(channel)
        message = router_pb2.Message(role="user", content="hello")
        request = router_pb2.ChatRequest(model="auto", messages=[message])
        answer = await stub.Complete(request)
        assert answer.content == "ok"
        told = await stub.Explain(router_pb2.ExplainRequest(decision_id=answer.decision.decision_id))
        assert [attempt.failed_by for attempt in told.earlier_attempts] == ["UpstreamCut"]
        call = stub.Chat(request)
        chunks = [chunk async for chunk in call]
        metadata = dict(await call.initial_metadata() or ())
        assert metadata["x-modelfleet-attempts"] == "2"
        assert "".join(chunk.content for chunk in chunks) == "ok"
        assert it.requests == 4
        await it.rig.settled()


@pytest.mark.parametrize("stream", [True, False])
async def test_every_sequence_of_faults_ends_once_and_books_each_attempt_once(
    stream: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """G7, G8, G10 over all sequences of three acts, each at a server of its own."""
    monkeypatch.setattr(unreachable, "LEFT_ALONE", 0.0)
    monkeypatch.setattr(retry, "MOST", 1e9)
    plan: list[Act] = []
    script = lambda: plan.pop(0)  # noqa: E731 - one script for all servers
    acts = (Act.ANSWER, Act.RESET, Act.EARLY if stream else Act.CUT, Act.BUSY, Act.REFUSE)
    async with bench(script, script, script, fallback=PATIENT) as it:
        reserve = 0
        for sequence in itertools.product(acts, repeat=3):
            plan[:] = sequence
            sent, spent = it.requests, it.spent()
            async with it.client.post(CHAT, json=body(stream=stream, max_tokens=50)) as response:
                text = await response.text()
            await it.rig.settled()
            ends = [n for n, act in enumerate(sequence) if act in (Act.ANSWER, Act.REFUSE)]
            made = sequence[: ends[0] + 1] if ends else sequence
            assert it.requests - sent == len(made), sequence
            assert response.headers["x-modelfleet-attempts"] == str(len(made))
            assert (response.status == 200) == (made[-1] is Act.ANSWER), sequence
            assert text.count('"ok"') == (made[-1] is Act.ANSWER), sequence
            assert ("[DONE]" in text) == (stream and made[-1] is Act.ANSWER), sequence
            if not reserve and response.status == 200:
                decision = it.rig.sidecar.router.explain(response.headers["x-modelfleet-decision-id"])
                reserve = decision.decision.reserved
            unknown = sum(act not in FREE and act is not Act.ANSWER for act in made)
            assert it.spent() - spent == unknown * reserve + COST * (made[-1] is Act.ANSWER), sequence
            assert it.rig.sidecar.router.waiting == 0


async def test_a_server_without_what_its_fleet_says_is_spared_what_needs_it_and_nothing_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    able, other = Spec("able", 0.5), Spec("declares", 0.9)
    acts = itertools.chain([Act.REFUSE], itertools.repeat(Act.ANSWER))
    says = "declares does not support tools"
    tools = [{"type": "function", "function": {"name": "f"}}]
    fallback = Fallback(breaker=Breaker(failures=1))
    async with (
        scripted_server(lambda: next(acts), says=says) as lacking,
        bench(always(Act.ANSWER), specs=[able], fallback=fallback) as it,
    ):
        it.rig.lease.fleet = fleet_of([able, other])
        it.rig.lease.grant(
            {it.servers[0].url: SlotGrant(able.key, 4), lacking.url: SlotGrant(other.key, 4)}, money=MONEY
        )
        answers = []
        for fields in ({"tools": tools}, {"tools": tools}, {}):
            async with it.client.post(CHAT, json=body(**fields)) as response:
                assert response.status == 200, await response.text()
            answers.append(
                (response.headers["x-modelfleet-model"], response.headers["x-modelfleet-attempts"])
            )
        assert answers == [("able", "2"), ("able", "1"), ("declares", "1")]
        assert sum("its server has no tools" in line for line in caplog.messages) == 1
        # Where nothing else is left it is asked again: it may have been set up for it meanwhile.
        async with it.client.post(CHAT, json=body(tools=tools, model="declares")) as response:
            assert response.status == 200
