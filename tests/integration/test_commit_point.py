"""Until its first content a stream may be tried elsewhere; what fails too often is left alone and probed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import pytest
from modelfleet_core.leasing.messages import SlotGrant
from modelfleet_core.policy import Breaker, Fallback, Timeouts
from modelfleet_core.values import EndpointUrl, NanoUsd
from support.sidecars import PRICING, Rig, Spec, policy_of, running_sidecar

pytestmark = pytest.mark.integration

CHAT = "/v1/chat/completions"
MONEY = NanoUsd(10**12)
USAGE = {"prompt_tokens": 3, "completion_tokens": 2}
BEST, NEXT = Spec("best", 0.9), Spec("next", 0.5)


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def delta(reason: str | None = None, **said: object) -> bytes:
    return event(choices=[{"index": 0, "delta": said, "finish_reason": reason}])


ROLE = delta(role="assistant", content="")
OK = delta(content="ok")
END = event(choices=[], usage=USAGE) + b"data: [DONE]\n\n"


def streamed(*events: bytes, kind: str = "text/event-stream") -> bytes:
    body = b"".join(events)
    head = f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def status(code: int, *headers: str) -> bytes:
    lines = "".join(f"{line}\r\n" for line in headers)
    return f"HTTP/1.1 {code} X\r\n{lines}content-length: 0\r\n\r\n".encode()


GOOD = streamed(ROLE, OK, END)


@dataclass(slots=True)
class Bench:
    rig: Rig
    client: aiohttp.ClientSession
    asked: list[int]
    """Requests by server."""
    answers: list[list[bytes]] = field(default_factory=list)

    async def ask(self, **fields: object) -> tuple[aiohttp.ClientResponse, str]:
        body = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": "hello"}]}
        headers = fields.pop("headers", None)
        async with self.client.post(CHAT, json=body | fields, headers=headers) as response:  # type: ignore[arg-type]
            return response, await response.text()

    async def metric(self, name: str) -> float:
        async with self.client.get(f"{self.rig.admin}/metrics") as response:
            lines = (await response.text()).splitlines()
        return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


@asynccontextmanager
async def bench(
    *answers: Callable[[], bytes], fallback: Fallback | None = None, specs: Sequence[Spec] = (BEST, NEXT)
) -> AsyncIterator[Bench]:
    """Run a sidecar before a server for each of `answers`; `b""` closes the connection."""
    asked = [0] * len(answers)

    async def play(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, k: int, answer: Callable[[], bytes]
    ) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                sizes = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
                await reader.readexactly(int(sizes[0].split(b":")[1]))
                asked[k] += 1
                if not (said := answer()):
                    return
                writer.write(said)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the sidecar went away
        finally:
            writer.close()

    async with AsyncExitStack() as stack:
        policy = policy_of(fallback=fallback if fallback is not None else Fallback())
        rig = await stack.enter_async_context(running_sidecar(*specs, policy=policy))
        grants = {}
        for k, (answer, spec) in enumerate(zip(answers, specs, strict=False)):
            server = await asyncio.start_server(
                lambda reader, writer, k=k, answer=answer: play(reader, writer, k, answer), "127.0.0.1", 0
            )
            stack.callback(server.close)
            port = server.sockets[0].getsockname()[1]
            grants[EndpointUrl(f"http://127.0.0.1:{port}")] = SlotGrant(spec.key, 4)
        rig.lease.grant(grants, money=MONEY)
        client = await stack.enter_async_context(aiohttp.ClientSession(rig.http))
        yield Bench(rig, client, asked)
        await rig.settled()


def always(answer: bytes) -> Callable[[], bytes]:
    return lambda: answer


NO_ANSWERS = {
    "an error after the role": streamed(ROLE, event(error={"message": "overloaded"})),
    "a cut after the role": streamed(ROLE),
    "nothing but the end": streamed(END),
    "a role and the end": streamed(ROLE, END),
    "no JSON after the role": streamed(ROLE, b"data: {\n\n"),
    "an error to finish with": streamed(ROLE, delta(reason="error"), END),
    "a whole answer instead": streamed(OK, END, kind="application/json"),
    "a page": streamed(OK, END, kind="text/html"),
}


@pytest.mark.parametrize("answer", NO_ANSWERS.values(), ids=NO_ANSWERS.keys())
async def test_what_has_no_content_yet_is_answered_elsewhere(answer: bytes) -> None:
    async with bench(always(answer), always(GOOD)) as it:
        response, text = await it.ask()
        assert response.status == 200
        assert response.headers["x-modelfleet-model"] == "next"
        assert text.count('"ok"') == 1
        assert text.count("assistant") == 1, "nothing of the first attempt was relayed"
        assert text.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("reason", ["stop", "length", "tool_calls", "content_filter"])
async def test_an_empty_answer_with_a_reason_is_one(reason: str) -> None:
    async with bench(always(streamed(ROLE, delta(reason=reason), END)), always(GOOD)) as it:
        response, text = await it.ask()
        assert response.headers["x-modelfleet-model"] == "best"
        assert text.endswith("data: [DONE]\n\n")
        assert it.asked == [1, 0]


@pytest.mark.parametrize("said", [{"tool_calls": [{"index": 0}]}, {"reasoning_content": "hm"}])
async def test_tool_calls_and_reasoning_are_content(said: dict[str, object]) -> None:
    async with bench(always(streamed(ROLE, delta(**said))), always(GOOD)) as it:
        _, text = await it.ask()
        assert "UpstreamCut" in text
        assert it.asked == [1, 0]


async def test_usage_in_every_event_counts_once_as_last_said() -> None:
    running = [event(choices=[{"index": 0, "delta": {"content": "a"}}], usage=USAGE) for _ in range(5)]
    cached = {**USAGE, "prompt_tokens_details": {"cached_tokens": 2}}
    async with bench(always(streamed(*running, event(choices=[], usage=cached), b"data: [DONE]\n\n"))) as it:
        response, text = await it.ask()
        assert text.count('"usage"') == 5, "the event that only counts was not asked for"
        await it.rig.settled()
        entry = it.rig.sidecar.router.explain(response.headers["x-modelfleet-decision-id"])
        assert entry.cost == PRICING.cost(3, 2)


@pytest.mark.parametrize("told", [True, False], ids=["told by the server", "estimated"])
async def test_a_decision_tells_what_its_answer_used_and_whether_that_is_a_guess(told: bool) -> None:
    async with bench(always(streamed(ROLE, OK, END if told else b"data: [DONE]\n\n"))) as it:
        response, _ = await it.ask()
        async with it.client.get(
            f"/v1/decisions/{response.headers['x-modelfleet-decision-id']}"
        ) as explained:
            decision = await explained.json()
    used = decision["usage"]
    assert used["estimated"] is not told
    if told:
        assert (used["input_tokens"], used["output_tokens"], used["cached_tokens"]) == (3, 2, 0)
        assert decision["cost_usd"] == PRICING.cost(3, 2) / 1e9
    else:
        assert used["input_tokens"] > 0
        assert 1 <= used["output_tokens"] <= 3, "at most one for each event"
        assert decision["cost_usd"] == decision["reserved_usd"]


async def test_a_breaker_opens_fails_clearly_says_when_and_lets_one_probe_through() -> None:
    broken = True
    under_way: list[int] = []

    def answer() -> bytes:
        under_way.append(sum(it.rig.lease.holding.in_flight().values()))
        return status(500) if broken else GOOD

    fallback = Fallback(max_attempts=1, breaker=Breaker(failures=3, open_for=0.3))
    async with bench(answer, fallback=fallback) as it:
        for _ in range(3):
            response, text = await it.ask()
            assert "UpstreamError" in text
        health = it.rig.sidecar.router._batcher.queue.placer
        assert health.shut(0.0)
        broken = False
        answers = await asyncio.gather(*(it.ask() for _ in range(4)))
        assert [response.status for response, _ in answers] == [200] * 4, "they waited for the probe"
        assert it.asked == [7]
        assert under_way[3] == 1, "nothing went there beside the probe"
    fallback = Fallback(max_attempts=1, breaker=Breaker(failures=3, open_for=100.0))
    async with bench(always(status(500)), fallback=fallback, specs=(BEST,)) as it:
        for _ in range(5):
            response, text = await it.ask()
        assert response.status == 503
        assert "BreakerOpen" in text
        assert 90 <= int(response.headers["retry-after"]) <= 100
        assert it.asked == [3]


async def test_another_model_answers_while_a_breaker_is_open_and_explain_says_why() -> None:
    fallback = Fallback(breaker=Breaker(failures=3, open_for=100.0))
    async with bench(always(status(500)), always(GOOD), fallback=fallback) as it:
        for _ in range(5):
            response, _ = await it.ask()
            assert response.headers["x-modelfleet-model"] == "next"
        assert it.asked == [3, 5]
        async with it.client.get(f"/v1/decisions/{response.headers['x-modelfleet-decision-id']}") as told:
            candidates = (await told.json())["candidates"]
        assert [one["excluded_by"] for one in candidates if one["model"] == "best"] == ["BreakerOpen"]


async def test_after_429_an_endpoint_is_left_alone_for_as_long_as_it_says_and_no_breaker_opens() -> None:
    fallback = Fallback(breaker=Breaker(failures=1, open_for=100.0))
    async with bench(always(status(429, "retry-after: 50")), always(GOOD), fallback=fallback) as it:
        for _ in range(4):
            response, _ = await it.ask()
            assert response.headers["x-modelfleet-model"] == "next"
        assert it.asked == [1, 4]
        response, text = await it.ask(model="best")
        assert (response.status, it.asked) == (429, [1, 4])
        assert "RateLimited" in text
        assert 40 <= int(response.headers["retry-after"]) <= 50


@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings"])
async def test_a_limit_that_429s_made_grows_again_whatever_the_answers_say_of_usage(path: str) -> None:
    said = {"choices": [{"index": 0, "message": {"content": "ok"}, "finish_reason": "stop"}]}
    if path != CHAT:
        said = {"data": [{"embedding": [0.5]}], "usage": {"prompt_tokens": 3, "total_tokens": 3}}  # type: ignore[dict-item]
    body = json.dumps(said).encode()
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    busy = [True]

    def answer() -> bytes:
        return status(429) if busy.pop() else head.encode() + body

    fallback = Fallback(max_attempts=1)
    asked = {"model": "best", "messages": [{"role": "user", "content": "hello"}]}
    if path != CHAT:
        asked = {"model": "best", "input": "hello"}
    async with bench(answer, fallback=fallback, specs=(BEST,)) as it:
        health = it.rig.sidecar.router._attempts._health
        async with it.client.post(path, json=asked) as refused:
            assert refused.status == 429
        assert not health.calm
        for _ in range(8):
            busy.append(False)
            async with it.client.post(path, json=asked) as response:
                assert response.status == 200, await response.text()
        (limit,) = health._limits.values()
        assert limit.limit(4) > 1


async def test_a_date_in_retry_after_counts_from_the_servers_own_clock() -> None:
    dated = status(429, "date: Wed, 21 Oct 2015 07:28:00 GMT", "retry-after: Wed, 21 Oct 2015 07:28:30 GMT")
    async with bench(always(dated), specs=(BEST,)) as it:
        response, _ = await it.ask()
        assert response.status == 429
        assert response.headers["retry-after"] == "30"


async def test_servers_that_all_fail_get_little_more_than_the_requests() -> None:
    fallback = Fallback(max_attempts=3, breaker=Breaker(failures=1000))
    specs = [Spec(name, quality, slots=4) for name, quality in (("a", 0.9), ("b", 0.8), ("c", 0.7))]
    async with bench(*[always(status(500))] * 3, fallback=fallback, specs=specs) as it:
        for _ in range(15):
            answers = await asyncio.gather(*(it.ask() for _ in range(4)))
            assert {response.status for response, _ in answers} == {503}
        assert sum(it.asked) < 60 + 60 // 5 + 25 + 30
        assert await it.metric("modelfleet_sidecar_retries_withheld_total{") > 0


async def test_all_attempts_together_stay_within_what_the_caller_pays() -> None:
    cut = always(b"")
    async with bench(cut, cut, specs=(BEST, Spec("next", 0.5))) as it:
        reserve = it.rig.sidecar.router.explain((await it.ask())[0].headers["x-modelfleet-decision-id"])
        once = 1.5 * reserve.decision.reserved / 1e9
        before = sum(it.asked)
        response, text = await it.ask(headers={"x-modelfleet-max-cost-usd": f"{once:.9f}"})
        assert response.status == 503
        assert "UpstreamCut" in text
        assert sum(it.asked) - before == 1


@pytest.mark.parametrize(
    ("timeouts", "beginning", "bound"),
    [
        (Timeouts(first_token=0.1), ROLE, "firstToken"),
        (Timeouts(between_tokens=0.1), ROLE + OK, "betweenTokens"),
        (Timeouts(min_tokens_per_second=200.0), ROLE + OK, "minTokensPerSecond"),
        (Timeouts(total=0.1), ROLE + OK, "total"),
    ],
)
async def test_a_bound_that_is_exceeded_is_named(timeouts: Timeouts, beginning: bytes, bound: str) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: 9999\r\n\r\n"
    fallback = Fallback(max_attempts=1, timeouts=timeouts)
    async with bench(always(head + beginning), fallback=fallback, specs=(BEST,)) as it:
        response, text = await it.ask()
        assert response.status == (503 if beginning == ROLE else 200)
        assert "UpstreamTimeout" in text
        assert f"timeouts.{bound}" in text
        assert "[DONE]" not in text
