"""The rules of the field, and the router that plays them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import aiohttp
import pytest
from modelfleet_core.manifests import parse_fleet, parse_policy
from modelfleet_lab.baselines import BestSingle, Greedy, Offer, Priced, RoundRobin, Rule
from modelfleet_lab.baselines.calibration import PastRequest, calibrated_price, simulated_spend
from modelfleet_lab.baselines.knowledge import Knowledge, all_to_one, equal_split
from modelfleet_lab.baselines.router import Router
from modelfleet_lab.demo.manifests import fleet_manifest, policy_manifest
from modelfleet_lab.demo.replay import Ending, Progress, replay
from modelfleet_lab.demo.rivals import make_rivals
from modelfleet_lab.demo.scenario import GENERATED_MODELS, LabModel, Request, Scenario, make_scenario
from modelfleet_lab.model_server import (
    Answer,
    Fault,
    FaultKind,
    LatencyProfile,
    ModelServer,
    ServerSettings,
    message_key,
)
from modelfleet_lab.questions import Question

OFFERS = (Offer("cheap", 0.5, 0.001), Offer("good", 0.8, 0.010))
FAST = LatencyProfile(ttft=1.0, per_token=0.1, load=0)


def test_greedy_takes_the_best_free_model_and_waits_when_none_is() -> None:
    assert Greedy().choose(OFFERS, {"cheap": 1, "good": 1}) == "good"
    assert Greedy().choose(OFFERS, {"cheap": 1, "good": 0}) == "cheap"
    assert Greedy().choose(OFFERS, {}) is None


def test_a_price_turns_to_the_cheaper_model_once_the_gain_is_not_worth_it() -> None:
    free = {"cheap": 1, "good": 1}
    assert Priced(0.0).choose(OFFERS, free) == "good"
    assert Priced(40.0).choose(OFFERS, free) == "cheap"
    assert Priced(40.0).choose(OFFERS, {"good": 1}) == "good"


def test_round_robin_takes_turns_and_best_single_stays() -> None:
    rule = RoundRobin()
    assert sorted(rule.choose(OFFERS, {}) or "" for _ in range(4)) == ["cheap", "cheap", "good", "good"]
    assert BestSingle("good").choose(OFFERS, {}) == "good"


def test_the_calibrated_price_spends_the_budget_of_past_traffic() -> None:
    past = [
        PastRequest(
            0.1 * i, (Offer("a", 0.5, 0.001), Offer("b", 0.5 + i / 1000, 0.011)), {"a": 1.0, "b": 1.0}
        )
        for i in range(100)
    ]
    slots = {"a": 20, "b": 20}
    price = calibrated_price(past, slots, 0.6)
    assert 0.55 < simulated_spend(Priced(price), past, slots) <= 0.6
    assert calibrated_price(past, slots, 10.0) == 0.0


def test_calibration_knows_that_a_full_favourite_sends_requests_elsewhere() -> None:
    offers = (Offer("cheap", 0.9, 0.001), Offer("dear", 0.8, 0.010))
    burst = [PastRequest(0.0, offers, {"cheap": 1.0, "dear": 1.0}) for _ in range(10)]
    assert simulated_spend(Greedy(), burst, {"cheap": 10, "dear": 10}) == pytest.approx(0.010)
    assert simulated_spend(Greedy(), burst, {"cheap": 4, "dear": 6}) == pytest.approx(0.064)
    assert simulated_spend(Greedy(), burst, {"cheap": 4, "dear": 0}) == pytest.approx(0.010)


def test_replicas_of_baselines_use_the_gpus_and_no_more() -> None:
    for gpus in range(1, 9):
        split = equal_split(GENERATED_MODELS, gpus)
        used = sum(split[model.name] * model.gpus for model in GENERATED_MODELS)
        assert used == gpus
    assert equal_split(GENERATED_MODELS, 6) == {"swift-3b": 2, "coder-8b": 2, "sage-32b": 1, "frontier": 1}
    assert all_to_one(GENERATED_MODELS, 6, "sage-32b")["sage-32b"] == 3
    assert all_to_one(GENERATED_MODELS, 6, "frontier") == {
        "swift-3b": 0,
        "coder-8b": 0,
        "sage-32b": 0,
        "frontier": 1,
    }


@pytest.fixture(scope="module")
def scenario() -> Scenario:
    return make_scenario(seed=4, duration=4.0, rate=30.0)


def test_the_same_seed_makes_the_same_scenario_and_another_one_differs(scenario: Scenario) -> None:
    assert make_scenario(seed=4, duration=4.0, rate=30.0) == scenario
    assert make_scenario(seed=5, duration=4.0, rate=30.0).requests != scenario.requests


def test_the_manifests_are_accepted_and_state_what_past_traffic_showed(scenario: Scenario) -> None:
    knowledge = Knowledge(scenario)
    fleet = parse_fleet(fleet_manifest(scenario, knowledge, {"frontier": "http://127.0.0.1:9"}))
    assert [model.name for model in fleet.models] == [model.name for model in scenario.models]
    assert fleet.models[0].quality.prior == pytest.approx(scenario.past.quality("swift-3b"), abs=1e-3)
    assert fleet.models[0].quality.prior != scenario.asked.quality("swift-3b")
    policy = parse_policy(policy_manifest(scenario, scenario.limit))
    assert policy.budget is not None
    assert policy.budget.limit == round(scenario.limit * 1e9)


def test_every_baseline_has_an_offer_for_every_request(scenario: Scenario) -> None:
    knowledge = Knowledge(scenario)
    fleet = parse_fleet(fleet_manifest(scenario, knowledge, {"frontier": "http://127.0.0.1:9"}))
    rivals = make_rivals(scenario, knowledge, fleet, 0.01)
    assert len(rivals) == 4
    for rival in rivals:
        assert set(rival.offers) == {request.question.question_id for request in scenario.requests}


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as made:
        yield made


def requests(count: int, gap: float = 0.0) -> tuple[Request, ...]:
    return tuple(
        Request(i * gap, Question(f"q{i}", "math", f"{i} + 1?", str(i + 1), 0.1), 0) for i in range(count)
    )


async def server_of(asked: tuple[Request, ...], *, concurrency: int) -> ModelServer:
    answers = {
        message_key(r.question.prompt): Answer(
            f"Answer: {r.question.reference}", 4, r.question.question_id, True
        )
        for r in asked
    }
    server = ModelServer(
        ServerSettings(model="m", concurrency=concurrency, latency=FAST, answers=answers, chunk_seconds=0.0)
    )
    await server.start()
    return server


def router_of(
    rule: Rule, server: ModelServer, asked: tuple[Request, ...], session: aiohttp.ClientSession, **more: float
) -> Router:
    model = LabModel("m", 1, server.settings.concurrency, FAST, "10", "10")
    return Router(
        rule=rule,
        models=[model],
        servers={"m": [server.url]},
        offers={r.question.question_id: (Offer("m", 0.9, 0.0001),) for r in asked},
        budget=more.get("budget", 1.0),
        deadline=more.get("deadline", 5.0),
        max_tokens=64,
        session=session,
    )


async def test_a_rule_that_sees_slots_never_asks_a_full_server(session: aiohttp.ClientSession) -> None:
    asked = requests(30)
    server = await server_of(asked, concurrency=3)
    progress = Progress(len(asked))
    await replay(asked, router_of(Greedy(), server, asked, session).ask, progress)
    await server.stop()
    assert progress.right() == 30
    assert not any(record.over_concurrency for record in server.records)


async def test_a_rule_that_does_not_leaves_the_queue_to_the_server(session: aiohttp.ClientSession) -> None:
    asked = requests(30)
    server = await server_of(asked, concurrency=3)
    progress = Progress(len(asked))
    await replay(asked, router_of(BestSingle("m"), server, asked, session).ask, progress)
    await server.stop()
    assert progress.right() == 30
    assert any(record.over_concurrency for record in server.records)


async def test_sending_stops_once_the_answers_cost_the_budget(session: aiohttp.ClientSession) -> None:
    asked = requests(20)
    server = await server_of(asked, concurrency=1)
    router = router_of(Greedy(), server, asked, session, budget=0.0004)
    progress = Progress(len(asked))
    await replay(asked, router.ask, progress)
    await server.stop()
    assert router.spent == pytest.approx(sum(r.input_tokens + r.output_tokens for r in server.records) * 1e-5)
    assert 0.0004 <= router.spent < 0.0006
    assert progress.count(Ending.REFUSED) == 20 - len(server.records)
    assert {o.detail for o in progress.outcomes if o.ending is Ending.REFUSED} == {"the budget is spent"}


async def test_requests_that_wait_past_the_deadline_are_refused(session: aiohttp.ClientSession) -> None:
    asked = requests(3)
    server = await server_of(asked, concurrency=1)
    server.set_faults(Fault(FaultKind.STALL, seconds=60))
    progress = Progress(len(asked))
    await asyncio.wait_for(
        replay(asked, router_of(Greedy(), server, asked, session, deadline=0.2).ask, progress), 5
    )
    await server.until(lambda server: server.slots.in_flight == 0)
    await server.stop()
    assert progress.count(Ending.REFUSED) == 3
    assert all(record.cancelled for record in server.records)
