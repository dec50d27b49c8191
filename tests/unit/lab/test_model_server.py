"""The simulated model server, over real HTTP on loopback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import aiohttp
import pytest
from modelfleet_core.catalog import Pricing
from modelfleet_lab.model_server import (
    FAULT_HEADER,
    Answer,
    Fault,
    FaultKind,
    LatencyProfile,
    ModelServer,
    ServerSettings,
    answer_line,
    message_key,
    read_records,
)
from modelfleet_lab.model_server.__main__ import parse_pricing
from modelfleet_lab.model_server.answers import Call, read_answers
from modelfleet_lab.model_server.latency import parse_latency
from openai import AsyncOpenAI

QUESTION = "What is 17 + 25?"
ANSWER = Answer("Adding the two numbers gives 42.\nAnswer: 42", 12, question="q1", correct=True)
FAST = LatencyProfile(ttft=1.0, per_token=0.1)
PRICING = Pricing(2_000_000_000, 6_000_000_000)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ModelServer]:
    made = ModelServer(
        ServerSettings(
            model="m",
            concurrency=2,
            latency=FAST,
            answers={message_key(QUESTION): ANSWER},
            pricing=PRICING,
            chunk_seconds=0.0,
            log=tmp_path / "requests.jsonl",
        )
    )
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as made:
        yield made


def body(**more: object) -> dict[str, object]:
    return {"model": "m", "messages": [{"role": "user", "content": QUESTION}], **more}


async def events(response: aiohttp.ClientResponse) -> list[str]:
    text = await response.text()
    return [part.removeprefix("data: ") for part in text.split("\n\n") if part]


async def test_the_openai_client_reads_plain_and_streamed_answers(server: ModelServer) -> None:
    client = AsyncOpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)
    plain = await client.chat.completions.create(model="m", messages=[{"role": "user", "content": QUESTION}])
    assert plain.choices[0].message.content == ANSWER.text
    assert plain.usage is not None
    assert plain.usage.completion_tokens == 12
    stream = await client.chat.completions.create(
        model="m",
        messages=[{"role": "user", "content": QUESTION}],
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == ANSWER.text
    assert chunks[-2].choices[0].finish_reason == "stop"
    assert chunks[-1].usage == plain.usage
    assert [model.id async for model in client.models.list()] == ["m"]
    await client.close()


async def test_a_stream_reports_usage_only_when_asked(
    server: ModelServer, session: aiohttp.ClientSession
) -> None:
    async with session.post(f"{server.url}/v1/chat/completions", json=body(stream=True)) as response:
        got = await events(response)
    assert got[-1] == "[DONE]"
    assert all("usage" not in json.loads(part) for part in got[:-1])


async def test_a_function_that_is_offered_is_called_before_its_result_is_talked_of(
    session: aiohttp.ClientSession,
) -> None:
    arguments = '{"a": 17, "b": 25}'
    answers = {message_key(QUESTION): replace(ANSWER, call=Call("add", arguments))}
    made = ModelServer(ServerSettings(model="m", latency=FAST, answers=answers, chunk_seconds=0.0))
    await made.start()
    url = f"{made.url}/v1/chat/completions"
    tools = [{"type": "function", "function": {"name": "add"}}]
    async with session.post(url, json=body(tools=tools)) as response:
        (choice,) = (await response.json())["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    (call,) = choice["message"]["tool_calls"]
    assert call["function"] == {"name": "add", "arguments": arguments}
    async with session.post(url, json=body(tools=tools, stream=True)) as response:
        choices = [json.loads(part)["choices"][0] for part in (await events(response))[:-1]]
    pieces = [piece for choice in choices for piece in choice["delta"].get("tool_calls", ())]
    assert "".join(piece["function"]["arguments"] for piece in pieces) == arguments
    assert [piece["function"].get("name") for piece in pieces if "id" in piece] == ["add"]
    assert [choice["finish_reason"] for choice in choices][-1] == "tool_calls"
    result = [*body()["messages"], {"role": "tool", "tool_call_id": call["id"], "content": "42"}]
    for other in ({"messages": result}, {"tools": [{"type": "function", "function": {"name": "sub"}}]}):
        async with session.post(url, json=body(tools=tools) | other) as response:
            assert (await response.json())["choices"][0]["message"]["content"] == ANSWER.text
    await made.stop()


async def test_completions_answer_a_prompt(server: ModelServer, session: aiohttp.ClientSession) -> None:
    request = {"model": "m", "prompt": QUESTION}
    async with session.post(f"{server.url}/v1/completions", json=request) as response:
        assert (await response.json())["choices"][0]["text"] == ANSWER.text


async def test_max_tokens_cut_the_answer_and_its_bill(
    server: ModelServer, session: aiohttp.ClientSession
) -> None:
    async with session.post(f"{server.url}/v1/chat/completions", json=body(max_tokens=5)) as response:
        row = await response.json()
    assert row["choices"][0]["finish_reason"] == "length"
    assert row["usage"]["completion_tokens"] == 5
    (record,) = server.records
    assert (record.output_tokens, record.correct) == (5, False)


async def test_each_request_is_logged_with_what_it_was_billed(
    server: ModelServer, session: aiohttp.ClientSession, tmp_path: Path
) -> None:
    headers = {"x-request-id": "decision-7"}
    async with session.post(f"{server.url}/v1/chat/completions", json=body(), headers=headers) as response:
        usage = (await response.json())["usage"]
    (record,) = read_records(tmp_path / "requests.jsonl")
    assert record == server.records[0]
    assert (record.request_id, record.question, record.correct) == ("decision-7", "q1", True)
    assert (record.input_tokens, record.output_tokens) == (usage["prompt_tokens"], 12)
    assert record.cost_nano_usd == usage["prompt_tokens"] * 2_000 + 12 * 6_000
    assert (record.status, record.cancelled, record.over_concurrency) == (200, False, False)
    assert record.start < (record.first_token or 0) < record.end


async def test_requests_beyond_the_concurrency_wait_and_are_marked(
    server: ModelServer, session: aiohttp.ClientSession
) -> None:
    server.set_faults(Fault(FaultKind.SLOW_START, seconds=0.1))

    async def ask() -> None:
        async with session.post(f"{server.url}/v1/chat/completions", json=body()) as response:
            assert response.status == 200

    await asyncio.gather(*(ask() for _ in range(5)))
    assert sorted(record.in_flight_at_arrival for record in server.records) == [0, 1, 2, 3, 4]
    assert sum(record.over_concurrency for record in server.records) == 3
    assert server.slots.peak == 5
    assert server.slots.in_flight == 0


async def test_a_caller_that_sees_the_end_finds_the_slot_free(
    server: ModelServer, session: aiohttp.ClientSession
) -> None:
    async def ask_often() -> None:
        for _ in range(20):
            async with session.post(f"{server.url}/v1/chat/completions", json=body(stream=True)) as response:
                await response.read()

    await asyncio.gather(ask_often(), ask_often())
    assert not any(record.over_concurrency for record in server.records)


async def test_a_caller_that_leaves_is_recorded_as_cancelled_and_frees_its_slot(
    server: ModelServer, session: aiohttp.ClientSession
) -> None:
    server.set_faults(Fault(FaultKind.STALL_MIDSTREAM, seconds=60, count=1))
    async with session.post(f"{server.url}/v1/chat/completions", json=body(stream=True)) as response:
        await response.content.readany()
    await server.until(lambda server: len(server.records) == 1)
    assert server.records[0].cancelled
    assert server.records[0].output_tokens == 1
    assert server.slots.in_flight == 0


async def test_a_caller_that_leaves_the_queue_takes_no_slot(
    server: ModelServer, session: aiohttp.ClientSession
) -> None:
    server.set_faults(Fault(FaultKind.STALL, seconds=60, count=3))
    asked = [
        asyncio.create_task(session.post(f"{server.url}/v1/chat/completions", json=body()).__aenter__())
        for _ in range(3)
    ]
    await server.until(lambda server: server.slots.waiting == 1)
    for task in asked:
        task.cancel()
    await server.until(lambda server: len(server.records) == 3)
    assert server.slots.in_flight == 0
    assert sorted(record.input_tokens > 0 for record in server.records) == [False, True, True]
    await asyncio.gather(*asked, return_exceptions=True)


@pytest.mark.parametrize(
    ("kind", "status"),
    [(FaultKind.RATE_LIMIT, 429), (FaultKind.SERVER_ERROR, 500), (FaultKind.UNAVAILABLE, 503)],
)
async def test_refusals_bill_nothing(
    server: ModelServer, session: aiohttp.ClientSession, kind: FaultKind, status: int
) -> None:
    async with session.post(
        f"{server.url}/admin/faults", json={"faults": [{"kind": kind.value, "count": 1}]}
    ):
        pass
    async with session.post(f"{server.url}/v1/chat/completions", json=body()) as response:
        assert response.status == status
        assert ("Retry-After" in response.headers) == (status == 429)
        assert "error" in await response.json()
    assert server.records[0].cost_nano_usd == 0
    async with session.post(f"{server.url}/v1/chat/completions", json=body()) as response:
        assert response.status == 200


@pytest.mark.parametrize("stream", [False, True])
async def test_a_connection_cut_before_the_first_byte_fails_the_caller(
    server: ModelServer, session: aiohttp.ClientSession, stream: bool
) -> None:
    headers = {FAULT_HEADER: "cut_before_first"}
    with pytest.raises(aiohttp.ClientError):
        await session.post(f"{server.url}/v1/chat/completions", json=body(stream=stream), headers=headers)
    assert server.records[0].status == 0


@pytest.mark.parametrize("stream", [False, True])
async def test_a_connection_cut_after_the_first_chunk_never_looks_complete(
    server: ModelServer, session: aiohttp.ClientSession, stream: bool
) -> None:
    headers = {FAULT_HEADER: "cut_after_first"}
    with pytest.raises(aiohttp.ClientError):
        async with session.post(
            f"{server.url}/v1/chat/completions", json=body(stream=stream), headers=headers
        ) as response:
            await response.read()
    assert server.slots.in_flight == 0


async def test_an_overload_can_come_inside_the_stream(
    server: ModelServer, session: aiohttp.ClientSession
) -> None:
    headers = {FAULT_HEADER: json.dumps({"kind": "overload_in_stream"})}
    async with session.post(
        f"{server.url}/v1/chat/completions", json=body(stream=True), headers=headers
    ) as response:
        got = await events(response)
    assert json.loads(got[1])["error"]["code"] == "overloaded"
    assert not server.records[0].correct


@pytest.mark.parametrize("stream", [False, True])
async def test_a_malformed_answer_is_no_json(
    server: ModelServer, session: aiohttp.ClientSession, stream: bool
) -> None:
    headers = {FAULT_HEADER: "malformed"}
    async with session.post(
        f"{server.url}/v1/chat/completions", json=body(stream=stream), headers=headers
    ) as response:
        text = await response.text()
    broken = text.split("\n\n")[1].removeprefix("data: ") if stream else text
    with pytest.raises(json.JSONDecodeError):
        json.loads(broken)


@pytest.mark.parametrize(
    ("request_body", "status"),
    [
        (b"{", 400),
        (b"[]", 400),
        (b'{"model": "m"}', 400),
        (b'{"model": "m", "messages": []}', 400),
        (b'{"model": "m", "messages": [{"role": "user", "content": 3}]}', 400),
        (b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": "7"}', 400),
        (b'{"model": "other", "messages": [{"role": "user", "content": "x"}]}', 404),
    ],
)
async def test_bad_input_gets_one_clear_error(
    server: ModelServer, session: aiohttp.ClientSession, request_body: bytes, status: int
) -> None:
    async with session.post(f"{server.url}/v1/chat/completions", data=request_body) as response:
        assert response.status == status
        assert (await response.json())["error"]["message"]


async def test_a_server_with_an_api_key_answers_only_who_shows_it(session: aiohttp.ClientSession) -> None:
    server = ModelServer(ServerSettings(model="m", latency=FAST, api_key="sesame"))
    await server.start()
    for given, status in (("Bearer sesame", 200), ("Bearer sesam", 401), ("sesame", 401), ("", 401)):
        headers = {"Authorization": given}
        async with session.post(f"{server.url}/v1/chat/completions", json=body(), headers=headers) as answer:
            assert answer.status == status
            if status == 401:
                assert (await answer.json())["error"]["code"] == "invalid_api_key"
    await server.stop()


async def test_health_waits_for_the_start_and_metrics_carry_vllms_names(
    session: aiohttp.ClientSession,
) -> None:
    slow = ModelServer(ServerSettings(model="m", startup=0.05, latency=FAST))
    await slow.start()
    async with session.get(f"{slow.url}/health") as response:
        assert response.status == 503
    await slow.until(lambda server: server.ready)
    async with session.post(f"{slow.url}/v1/chat/completions", json=body()) as response:
        assert response.status == 200
    async with session.get(f"{slow.url}/metrics") as response:
        text = await response.text()
    await slow.stop()
    for name in ("num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"):
        assert f'vllm:{name}{{model_name="m"}} 0.0' in text
    assert 'vllm:request_success_total{finished_reason="stop",model_name="m"} 1.0' in text


async def test_stopping_lets_requests_in_flight_end(
    server: ModelServer, session: aiohttp.ClientSession
) -> None:
    server.set_faults(Fault(FaultKind.STALL_MIDSTREAM, seconds=0.1))
    async with session.post(f"{server.url}/v1/chat/completions", json=body(stream=True)) as response:
        await response.content.readany()
        stopping = asyncio.create_task(server.stop(grace=None))
        assert (await response.text()).endswith("data: [DONE]\n\n")
    await stopping


async def test_content_parts_are_the_same_question(
    server: ModelServer, session: aiohttp.ClientSession
) -> None:
    parts = [{"type": "text", "text": QUESTION}]
    async with session.post(
        f"{server.url}/v1/chat/completions", json=body(messages=[{"role": "user", "content": parts}])
    ) as response:
        assert (await response.json())["choices"][0]["message"]["content"] == ANSWER.text


def test_a_loaded_server_is_slower_as_the_measured_profiles_are() -> None:
    profile = LatencyProfile(ttft=100, per_token=10)
    at_four = profile.next_token(4), profile.first_token(4, 0)
    for running, per_token, first in ((8, 1.15, 1.10), (16, 1.42, 1.37), (32, 1.76, 1.82), (64, 2.26, 2.53)):
        assert profile.next_token(running) / at_four[0] == pytest.approx(per_token, rel=0.08)
        assert profile.first_token(running, 0) / at_four[1] == pytest.approx(first, rel=0.08)
    assert profile.next_token(1) == pytest.approx(0.01)
    assert LatencyProfile(per_token=10, load=0).next_token(64) == pytest.approx(0.01)


def test_answers_survive_their_file(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(answer_line(QUESTION, ANSWER) + "\n\n", encoding="utf-8")
    assert read_answers(path) == {message_key(QUESTION): ANSWER}
    path.write_text('{"sha256": "x"}\n', encoding="utf-8")
    with pytest.raises(ValueError, match=r"answers\.jsonl:1"):
        read_answers(path)


def test_options_are_read_or_refused() -> None:
    assert parse_latency("ttft=5,load=0") == LatencyProfile(ttft=5, load=0)
    with pytest.raises(ValueError, match="none of ttft"):
        parse_latency("tfft=5")
    assert parse_pricing("0.10,0.40") == Pricing(100_000_000, int(Decimal("0.4") * 10**9))
    with pytest.raises(ValueError, match="not IN,OUT"):
        parse_pricing("free")
