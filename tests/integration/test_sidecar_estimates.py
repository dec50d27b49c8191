"""What a running sidecar routes by: estimators, what was learned, doubt, chance, measured times."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import pytest
from modelfleet_core.leasing.messages import Document
from modelfleet_core.policy import EstimatorChoice, Learning, Policy, Rule, RuleMatch
from modelfleet_core.values import ModelName, NanoUsd
from modelfleet_lab.model_server.latency import LatencyProfile
from modelfleet_sidecar.lease import NO_DOCUMENT
from support.estimators import POEM, SUM, document, learned_of, poet_and_clerk
from support.sidecars import FAST, Rig, Spec, policy_of, running_sidecar

pytestmark = pytest.mark.integration

CHAT = "/v1/chat/completions"
POET, CLERK = Spec("poet", 0.5), Spec("clerk", 0.5)
A_SUM, A_POEM = SUM.format(50, 3), POEM.format(50, 3)


@asynccontextmanager
async def client_of(rig: Rig) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(rig.http) as session:
        yield session


async def answered(client: aiohttp.ClientSession, text: str, **fields: object) -> aiohttp.ClientResponse:
    body = {"model": "auto", "messages": [{"role": "user", "content": text}], **fields}
    async with client.post(CHAT, json=body) as response:
        await response.read()
        assert response.status == 200
        return response


async def model_for(client: aiohttp.ClientSession, text: str) -> str:
    return (await answered(client, text)).headers["x-modelfleet-model"]


async def explained(client: aiohttp.ClientSession, response: aiohttp.ClientResponse) -> dict[str, object]:
    async with client.get(f"/v1/decisions/{response.headers['x-modelfleet-decision-id']}") as told:
        shown: dict[str, object] = await told.json()
        return shown


async def send(rig: Rig, *, estimator: Document | None = None, learned: Document | None = None) -> None:
    """Let the lease bring documents, and wait until the sidecar has looked at them."""
    rig.lease.estimator = estimator if estimator is not None else rig.lease.estimator
    rig.lease.learned = learned if learned is not None else rig.lease.learned
    await rig.sidecar.estimator.take(rig.lease)


async def scraped(rig: Rig) -> str:
    async with aiohttp.ClientSession() as session, session.get(f"{rig.admin}/metrics") as response:
        return await response.text()


def metric(text: str, name: str) -> float:
    """Return the value of a series, by its name with labels as it is told."""
    (value,) = [line.rpartition(" ")[2] for line in text.splitlines() if line.startswith(f"{name} ")]
    return float(value)


def with_policy(**fields: object) -> Policy:
    return replace(policy_of(), **fields)  # type: ignore[arg-type]


async def test_an_estimator_sends_each_request_to_the_model_that_is_good_at_it() -> None:
    async with running_sidecar(POET, CLERK) as rig, client_of(rig) as client:
        await send(rig, estimator=poet_and_clerk())
        assert await model_for(client, A_POEM) == "poet"
        response = await answered(client, A_SUM)
        assert response.headers["x-modelfleet-model"] == "clerk"
        shown = await explained(client, response)
        assert shown["estimator_version"] == poet_and_clerk().version
        assert shown["learned_version"] == ""
        assert 0.0 < shown["confidence"] <= 1.0  # type: ignore[operator]
        for candidate in shown["candidates"]:  # type: ignore[attr-defined]
            assert candidate["samples"] > 0
            assert candidate["quality_deviation"] > 0


async def test_without_an_estimator_the_manifests_word_counts_and_says_so() -> None:
    async with running_sidecar(Spec("small", 0.5), Spec("big", 0.8)) as rig, client_of(rig) as client:
        shown = await explained(client, await answered(client, A_POEM))
        assert (shown["model"], shown["estimator_version"], shown["confidence"]) == ("big", "", 0.0)
        assert {candidate["samples"] for candidate in shown["candidates"]} == {0.0}  # type: ignore[attr-defined]


async def test_what_was_learned_corrects_its_base_and_no_other() -> None:
    async with running_sidecar(Spec("small", 0.5), Spec("big", 0.8)) as rig, client_of(rig) as client:
        other = learned_of("another base", {"small": 0.4, "big": -0.4})
        await send(rig, learned=other)
        assert await model_for(client, "hello") == "big"
        fitting = learned_of("", {"small": 0.4, "big": -0.4})
        await send(rig, learned=fitting)
        response = await answered(client, "hello")
        assert response.headers["x-modelfleet-model"] == "small"
        shown = await explained(client, response)
        assert shown["learned_version"] == fitting.version
        assert shown["confidence"] == pytest.approx(0.5)
        assert f'learned="{fitting.version}"' in await scraped(rig)
        await send(rig, learned=NO_DOCUMENT)
        assert await model_for(client, "hello") == "big"


@pytest.mark.parametrize("kind", ["estimator", "learned"])
async def test_a_document_that_can_not_be_read_leaves_the_last_good_one_in_force(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with running_sidecar(POET, CLERK) as rig, client_of(rig) as client:
        good = poet_and_clerk()
        await send(rig, estimator=good, learned=learned_of(good.version, {"poet": 0.0, "clerk": 0.0}))
        with caplog.at_level(logging.ERROR):
            await send(rig, **{kind: document(b"PK\x03\x04 but no archive")})
        assert "the last good one stays" in caplog.text
        assert metric(await scraped(rig), f'modelfleet_sidecar_documents_refused_total{{kind="{kind}"}}') == 1
        shown = await explained(client, await answered(client, A_SUM))
        assert (shown["model"], shown["estimator_version"]) == ("clerk", good.version)
        assert shown["learned_version"] != ""


async def test_swapping_estimators_under_load_loses_no_request() -> None:
    async with running_sidecar(POET, CLERK) as rig, client_of(rig) as client:
        stop = asyncio.Event()

        async def swap() -> None:
            while not stop.is_set():
                for estimator in (poet_and_clerk(), NO_DOCUMENT):
                    rig.lease.estimator = estimator
                    rig.lease.change()
                    await asyncio.sleep(0.01)

        swapping = asyncio.create_task(swap())
        asked = [answered(client, form.format(number, 3)) for number in range(60) for form in (SUM, POEM)]
        responses = await asyncio.gather(*asked)
        stop.set()
        await swapping
        assert len(responses) == 120
        await rig.settled()


async def test_where_estimates_are_not_trusted_the_default_model_answers() -> None:
    policy = with_policy(estimator=EstimatorChoice(min_confidence=0.2), default_model=ModelName("small"))
    async with (
        running_sidecar(Spec("small", 0.5), Spec("big", 0.8), policy=policy) as rig,
        client_of(rig) as client,
    ):
        response = await answered(client, "hello")
        assert response.headers["x-modelfleet-model"] == "small"
        assert response.headers["x-modelfleet-reason"] == "LowConfidence"
        shown = await explained(client, response)
        excluded = {one["model"]: one["excluded_by"] for one in shown["candidates"]}  # type: ignore[attr-defined]
        assert excluded == {"small": "", "big": "LowConfidence"}
        pinned = await answered(client, "hello", model="big")
        assert pinned.headers["x-modelfleet-model"] == "big"
        assert metric(await scraped(rig), "modelfleet_sidecar_low_confidence_total") == 1
        await send(rig, learned=learned_of("", {"small": 0.0, "big": 0.0}, samples=1000.0))
        assert await model_for(client, "hello") == "big"


async def test_where_estimates_are_not_trusted_the_rules_models_come_before_the_default() -> None:
    rule = Rule("law", RuleMatch(any_keyword=("contract",)), prefer=frozenset({ModelName("big")}))
    policy = with_policy(
        estimator=EstimatorChoice(min_confidence=0.2), default_model=ModelName("small"), rules=(rule,)
    )
    async with (
        running_sidecar(Spec("small", 0.5), Spec("big", 0.8), policy=policy) as rig,
        client_of(rig) as client,
    ):
        assert await model_for(client, "is this contract valid") == "big"
        assert await model_for(client, "hello") == "small"


async def test_pessimism_prefers_the_model_with_less_doubt() -> None:
    policy = with_policy(estimator=EstimatorChoice(kappa=5.0))
    async with (
        running_sidecar(Spec("known", 0.6), Spec("doubtful", 0.7), policy=policy) as rig,
        client_of(rig) as client,
    ):
        assert await model_for(client, "hello") == "doubtful"
        scores = learned_of("", {"known": 0.0})
        await send(rig, learned=scores)
        shown = await explained(client, await answered(client, "hello"))
        assert shown["model"] == "known"
        deviation = {one["model"]: one["quality_deviation"] for one in shown["candidates"]}  # type: ignore[attr-defined]
        assert deviation["known"] < deviation["doubtful"]


async def test_exploration_tries_what_is_worth_nearly_as_much_and_nothing_else() -> None:
    policy = with_policy(learning=Learning(exploration=0.05))
    specs = (Spec("best", 0.70), Spec("near", 0.68), Spec("far", 0.2))
    async with running_sidecar(*specs, policy=policy, draw=lambda: 0.0) as rig, client_of(rig) as client:
        response = await answered(client, "hello")
        assert response.headers["x-modelfleet-model"] == "near"
        assert response.headers["x-modelfleet-reason"] == "Explored"
        shown = await explained(client, response)
        assert shown["explored"] is True
        pinned = await answered(client, "hello", model="best")
        assert pinned.headers["x-modelfleet-model"] == "best"
        assert (await explained(client, pinned))["explored"] is False


@pytest.mark.parametrize(
    "policy",
    [
        with_policy(learning=Learning(exploration=0.0)),
        with_policy(learning=Learning(enabled=False, exploration=0.05)),
        with_policy(
            learning=Learning(exploration=0.05),
            rules=(Rule("only", RuleMatch(), allow=frozenset({ModelName("best")})),),
        ),
    ],
    ids=["share 0", "learning off", "a rule allows no other"],
)
async def test_exploration_never_goes_where_the_policy_does_not_let_it(policy: Policy) -> None:
    specs = (Spec("best", 0.70), Spec("near", 0.68))
    async with running_sidecar(*specs, policy=policy, draw=lambda: 0.0) as rig, client_of(rig) as client:
        for _ in range(5):
            response = await answered(client, "hello")
            assert response.headers["x-modelfleet-model"] == "best"
            assert (await explained(client, response))["explored"] is False


async def test_exploration_stays_within_the_budget() -> None:
    policy = with_policy(learning=Learning(exploration=0.05))
    dear = replace(Spec("near", 0.68), pricing=replace(FREE.pricing, input_femto=10**13, output_femto=10**13))
    async with running_sidecar(FREE, dear, policy=policy, money=NanoUsd(1000), draw=lambda: 0.0) as rig:
        async with client_of(rig) as client:
            assert await model_for(client, "hello") == "best"
        assert not rig.servers["near"].records


FREE = replace(Spec("best", 0.70), pricing=replace(Spec("best").pricing, input_femto=0, output_femto=0))


async def test_measured_times_replace_the_manifests_word() -> None:
    said = LatencyProfile(ttft=2_000.0, per_token=200.0, load=0.0)
    spec = replace(Spec("big"), declared=said, latency=FAST)
    async with running_sidecar(spec) as rig, client_of(rig) as client:
        before = await explained(client, await answered(client, "hello", max_tokens=20))
        for number in range(30):
            await answered(client, f"hello {number}", max_tokens=20, stream=number % 2 == 0)
        after = await explained(client, await answered(client, "hello", max_tokens=20))
        (first,), (last,) = before["candidates"], after["candidates"]  # type: ignore[misc]
        assert first["service_samples"] == 0
        assert last["service_samples"] > 20
        assert last["service_seconds"] < 0.3 * first["service_seconds"]
