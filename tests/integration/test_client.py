"""The typed client's contract with a real sidecar, the same for plain calls and for asyncio."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import modelfleet_client as mf
import pytest
from modelfleet_core.values import NanoUsd
from modelfleet_lab.model_server.faults import Fault, FaultKind
from support.sidecars import CRAWLING, STUCK, Rig, Spec, fleet_of, policy_of, running_sidecar

pytestmark = pytest.mark.integration

Run = Callable[..., Any]
ONCE = mf.Retries(attempts=1)


class Plain:
    """The client for threads, each call in one."""

    def __init__(self, client: mf.Client) -> None:
        self.client = client

    async def __call__(self, name: str, *given: Any, **named: Any) -> Any:
        return await asyncio.to_thread(getattr(self.client, name), *given, **named)

    async def read(self, stream: mf.Stream) -> list[str]:
        return await asyncio.to_thread(list, stream)

    async def pieces(self, stream: mf.Stream) -> list[mf.Piece]:
        return await asyncio.to_thread(lambda: list(stream.pieces()))

    @asynccontextmanager
    async def settling(self, decision: mf.Decision) -> AsyncIterator[mf.Routed]:
        block = self.client.settling(decision)
        routed = await asyncio.to_thread(block.__enter__)
        try:
            yield routed
        except ZeroDivisionError as error:
            await asyncio.to_thread(block.__exit__, type(error), error, error.__traceback__)
            raise
        else:
            await asyncio.to_thread(block.__exit__, None, None, None)

    async def first(self, stream: mf.Stream) -> str:
        return await asyncio.to_thread(next, iter(stream))


class Async:
    """The client for asyncio."""

    def __init__(self, client: mf.AsyncClient) -> None:
        self.client = client

    async def __call__(self, name: str, *given: Any, **named: Any) -> Any:
        return await getattr(self.client, name)(*given, **named)

    async def read(self, stream: mf.AsyncStream) -> list[str]:
        return [text async for text in stream]

    async def pieces(self, stream: mf.AsyncStream) -> list[mf.Piece]:
        return [piece async for piece in stream.pieces()]

    def settling(self, decision: mf.Decision) -> Any:
        return self.client.settling(decision)

    async def first(self, stream: mf.AsyncStream) -> str:
        return await anext(aiter(stream))


@pytest.fixture(params=["plain", "async"])
def client_of(request: pytest.FixtureRequest) -> Run:
    @asynccontextmanager
    async def opened(address: str, **named: Any) -> AsyncIterator[Plain | Async]:
        if request.param == "plain":
            with mf.Client(address, **named) as client:
                yield Plain(client)
        else:
            async with mf.AsyncClient(address, **named) as client:
                yield Async(client)

    return opened


def test_both_clients_have_the_same_calls() -> None:
    def calls(client: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(call).parameters)
            for name, call in inspect.getmembers(client, inspect.isfunction)
            if not name.startswith("_") or name == "__init__"
        }

    assert calls(mf.Client) == calls(mf.AsyncClient)


async def test_an_answer_tells_its_decision_usage_and_cost(client_of: Run) -> None:
    math = Spec("math", 0.2, by_task={"math": 0.95})
    async with running_sidecar(math, Spec("chat", 0.6)) as rig, client_of(rig.grpc) as call:
        answer = await call("complete", "What is 17 * 23?", task="math", headers={"x-tier": "gold"})
        (record,) = rig.servers["math"].records
        assert (answer.model, answer.decision.tier, answer.decision.task) == ("math", "gold", "math")
        assert answer.text
        assert answer.usage == mf.Usage(record.input_tokens, record.output_tokens)
        assert answer.cost_nano_usd == record.cost_nano_usd
        explained = await call("explain", answer.decision.id)
        assert explained.decision.id == answer.decision.id
        assert explained.cost_nano_usd == record.cost_nano_usd
        assert [candidate.model for candidate in explained.candidates] == ["math", "chat"]
        counted = await call("feedback", answer.decision.id, rating=5)
        again = await call("feedback", answer.decision.id, score=0.0)
        assert (counted.score, counted.repeated, again.score, again.repeated) == (1.0, False, 1.0, True)


async def test_wishes_hold_over_grpc_as_over_http(client_of: Run) -> None:
    specs = (Spec("small", 0.5), Spec("mid", 0.7), Spec("big", 0.8))
    async with running_sidecar(*specs) as rig, client_of(rig.grpc) as call:
        assert (await call("complete", "hello", exclude=["big"])).model == "mid"
        silent = await call("complete", "hello", explain="none", session="s-1")
        told = await call("explain", silent.decision.id)
        assert (told.decision.id, told.candidates) == (silent.decision.id, ())
        with pytest.raises(mf.BadRequest, match="QualityBelowLimit"):
            await call("complete", "hello", min_quality=0.999)
        with pytest.raises(mf.BadRequest, match="CostAboveLimit"):
            await call("route", "hello", max_cost_usd=1e-9)
        with pytest.raises(mf.BadRequest) as caught:
            await call("complete", "hello", headers={"x-modelfleet-max-cost-usd": "cheap"})
        assert (caught.value.reason, caught.value.field) == ("InvalidHeader", "x-modelfleet-max-cost-usd")


async def test_a_stream_is_text_and_then_the_bill(client_of: Run) -> None:
    async with running_sidecar(Spec("big")) as rig, client_of(rig.grpc) as call:
        whole = await call("complete", "hello")
        stream = await call("stream", "hello")
        assert stream.decision.model == "big"
        assert stream.usage is None
        texts = await call.read(stream)
        assert len(texts) > 1
        assert "".join(texts) == whole.text
        assert (stream.usage, stream.cost_nano_usd) == (whole.usage, whole.cost_nano_usd)
        assert stream.finish_reason == "stop"
        with_raw = await call.pieces(await call("stream", "hello", raw=True))
        assert all(piece.raw for piece in with_raw)
        await rig.settled()


async def test_a_stream_that_is_left_cancels_the_models_work(client_of: Run) -> None:
    async with running_sidecar(Spec("big", latency=CRAWLING)) as rig, client_of(rig.grpc) as call:
        stream = await call("stream", "hello")
        stream.close()
        await rig.servers["big"].until(lambda server: bool(server.records), timeout=2.0)
        assert rig.servers["big"].records[0].cancelled
        await rig.settled()


async def test_a_stream_that_breaks_is_no_clean_end_and_not_asked_for_again(client_of: Run) -> None:
    async with running_sidecar(Spec("big")) as rig, client_of(rig.grpc) as call:
        rig.servers["big"].set_faults(Fault(FaultKind.CUT_AFTER_FIRST))
        stream = await call("stream", "hello")
        with pytest.raises(mf.Unavailable) as caught:
            await call.read(stream)
        assert caught.value.reason == "UpstreamCut"
        assert caught.value.decision_id == stream.decision.id
        assert len(rig.servers["big"].records) == 1
        await rig.settled()


async def test_a_routed_decision_settles_itself_by_what_was_used(client_of: Run) -> None:
    async with (
        running_sidecar(Spec("big"), money=NanoUsd(10**9)) as rig,
        client_of(rig.grpc) as call,
        aiohttp.ClientSession() as session,
    ):
        decision = await call("route", "hello")
        async with call.settling(decision) as routed:
            asked = {
                "model": decision.served_name,
                "max_tokens": decision.max_output_tokens,
                "messages": [{"role": "user", "content": "hello"}],
            }
            async with session.post(f"{decision.endpoint}/v1/chat/completions", json=asked) as response:
                used = (await response.json())["usage"]
            routed.used(used["prompt_tokens"], used["completion_tokens"])
        (record,) = rig.servers["big"].records
        assert routed.settled == mf.Settled(record.cost_nano_usd, repeated=False, expired=False)
        assert (await call("settle", decision.id)).repeated
        assert rig.lease.holding.idle()


async def test_a_routed_decision_that_came_to_nothing_gives_everything_back(client_of: Run) -> None:
    async with running_sidecar(Spec("big"), money=NanoUsd(10**9)) as rig, client_of(rig.grpc) as call:
        decision = await call("route", "hello")
        with pytest.raises(ZeroDivisionError):
            async with call.settling(decision):
                raise ZeroDivisionError
        assert (await call("settle", decision.id)).cost_nano_usd == 0
        assert rig.lease.holding.idle()


async def test_a_call_of_unknown_cost_is_left_to_cost_its_reserve(client_of: Run) -> None:
    async with running_sidecar(Spec("big"), money=NanoUsd(10**9)) as rig, client_of(rig.grpc) as call:
        decision = await call("route", "hello")
        async with call.settling(decision) as routed:
            routed.lost()
        assert routed.settled is None
        assert not rig.lease.holding.idle()
        await call("settle", decision.id)


async def test_a_batch_keeps_its_order_and_says_who_found_no_place(client_of: Run) -> None:
    async with (
        running_sidecar(Spec("small", slots=2), Spec("big", slots=2)) as rig,
        client_of(rig.grpc) as call,
    ):
        batch = await call("route_batch", ["hello", mf.Chat("hello", model="nope"), *["hello"] * 4])
        assert isinstance(batch.outcomes[0], mf.Decision)
        assert isinstance(batch.outcomes[1], mf.Refusal)
        assert batch.outcomes[1].reason == "ModelNotFound"
        placed = [one for one in batch.outcomes if isinstance(one, mf.Decision)]
        refused = [one for one in batch.outcomes if isinstance(one, mf.Refusal)]
        assert (len(placed), {one.reason for one in refused}) == (4, {"ModelNotFound", "NoFreeSlot"})
        assert batch.certificate is not None
        assert batch.certificate.bound >= batch.certificate.objective
        for decision in placed:
            await call("settle", decision.id)
        assert rig.lease.holding.idle()


async def test_errors_are_classes_with_reason_field_and_advice(client_of: Run) -> None:
    async with running_sidecar(Spec("big"), money=NanoUsd(1000)) as rig, client_of(rig.grpc) as call:
        with pytest.raises(mf.NotFound) as unknown:
            await call("complete", "hello", model="gpt-9")
        assert (unknown.value.reason, unknown.value.field) == ("ModelNotFound", "model")
        with pytest.raises(mf.BadRequest) as bad:
            await call("complete", "hello", parameters={"n": 2})
        assert bad.value.field == "parameters.n"
        with pytest.raises(mf.NotFound, match="no decision"):
            await call("explain", "nothing")
        with pytest.raises(mf.BudgetExhausted) as empty:
            await call("complete", "hello")
        assert empty.value.retry_after is not None
        assert empty.value.retry_after > 1000
        assert (empty.value.limit, unknown.value.limit) == ("budget", "")


async def test_the_callers_time_bounds_all_attempts(client_of: Run) -> None:
    async with running_sidecar(Spec("big", latency=STUCK)) as rig, client_of(rig.grpc) as call:
        with pytest.raises(mf.Late):
            await call("complete", "hello", timeout=0.3)
        await rig.settled()


async def test_the_policys_longest_body_is_too_large(client_of: Run) -> None:
    policy = policy_of(max_body=10_000)
    async with running_sidecar(Spec("big"), policy=policy) as rig, client_of(rig.grpc) as call:
        with pytest.raises(mf.TooLarge):
            await call("complete", "x" * 20_000)


async def test_no_lease_is_tried_again_until_there_is_one(
    client_of: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running_sidecar(Spec("big"), granted=False) as rig:
        async with client_of(rig.grpc, retries=ONCE) as call:
            with pytest.raises(mf.NoLease) as told:
                await call("complete", "hello")
            assert told.value.retry_after == 2.0
        asked = 0

        def pause(self: mf.Retries, *_: object, **__: object) -> float:
            nonlocal asked
            asked += 1
            if asked == 2:
                grant(rig)
            return 0.0

        monkeypatch.setattr(mf.Retries, "pause", pause)
        async with client_of(rig.grpc) as call:
            assert (await call("complete", "hello")).model == "big"
            assert asked == 2


async def test_where_nobody_listens_it_says_so(client_of: Run) -> None:
    async with client_of("127.0.0.1:1") as call:
        with pytest.raises(mf.Unreachable):
            await call("complete", "hello", timeout=5.0)


async def test_it_speaks_over_a_unix_socket(client_of: Run, tmp_path: Path) -> None:
    path = tmp_path / "router.sock"
    async with running_sidecar(Spec("big"), grpc_socket=path), client_of(f"unix:{path}") as call:
        assert (await call("complete", "hello")).model == "big"


def grant(rig: Rig) -> None:
    rig.lease.fleet, rig.lease.policy = fleet_of([Spec("big")]), policy_of()
    rig.lease.grant(rig.slots)
