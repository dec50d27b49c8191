"""A running sidecar has a share of its answers scored, after their callers have them and at nobody's cost."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace

import aiohttp
import pytest
from modelfleet_core.estimation.experience import Figure
from modelfleet_core.estimation.learning import ExperienceLog
from modelfleet_core.leasing.accounts import BUDGET, JUDGE
from modelfleet_core.policy import Judge, Policy
from modelfleet_core.values import ModelName, NanoUsd, account_id
from modelfleet_lab.model_server.answers import NEUTRAL, Answer, message_key
from modelfleet_sidecar import judge as judging
from modelfleet_sidecar import plugins
from support.sidecars import PERIOD, STUCK, Rig, Spec, policy_of, running_sidecar

pytestmark = pytest.mark.integration

CHAT = "/v1/chat/completions"
QUESTION = "What is the colour of the zebra called Wanda?"
SMALL = Spec("small", 0.5)
SEEN = json.dumps({"question": QUESTION, "answer": NEUTRAL})
"""All that a judge may be shown of a question and its answer."""
PLENTY = 10**12


def jury(verdict: str = "7", seen: str = SEEN) -> Spec:
    """Return a model that says `verdict` to exactly this message, and else an ordinary text."""
    return Spec("jury", 0.1, answers={message_key(seen): Answer(verdict, 1)})


def judged_by(judge: Judge) -> Policy:
    return replace(policy_of(budget=NanoUsd(PLENTY)), judge=judge)


BY_MODEL = judged_by(Judge(0.5, model=ModelName("jury"), limit=NanoUsd(PLENTY)))
BY_PLUGIN = judged_by(Judge(0.5, plugin="mine"))


@asynccontextmanager
async def judged(
    *specs: Spec, policy: Policy = BY_MODEL, account: int = PLENTY, draw: float = 0.49
) -> AsyncIterator[tuple[Rig, aiohttp.ClientSession]]:
    async with (
        running_sidecar(*specs, policy=policy, money=NanoUsd(PLENTY), draw=lambda: draw) as rig,
        aiohttp.ClientSession(rig.http) as client,
    ):
        rig.lease.grant(rig.slots, money=NanoUsd(PLENTY), requests={JUDGE: account})
        yield rig, client


async def ask(client: aiohttp.ClientSession, model: str = "small", **fields: object) -> str:
    """Return the id of the decision on QUESTION, whose answer came whole."""
    body = {"model": model, "messages": [{"role": "user", "content": QUESTION}], **fields}
    async with client.post(CHAT, json=body) as response:
        await response.read()
        assert response.status == 200
        return response.headers["x-modelfleet-decision-id"]


async def told(rig: Rig, line: str) -> str:
    """Return all metrics, once they hold this line."""
    async with asyncio.timeout(10.0), aiohttp.ClientSession() as session:
        while True:
            async with session.get(f"{rig.admin}/metrics") as response:
                text = await response.text()
            if line in text.splitlines():
                return text
            await asyncio.sleep(0.01)


def outcome(name: str, count: int = 1) -> str:
    return f'modelfleet_sidecar_judged_answers_total{{outcome="{name}"}} {count}.0'


def counted(rig: Rig) -> Mapping[Figure, float]:
    """Return the sums of all cells that the next report would tell of."""
    assert isinstance(rig.lease.evidence, ExperienceLog)
    cells = rig.lease.evidence.changes().cells
    return {figure: sum(float(cell.sums[figure]) for cell in cells) for figure in Figure}


def spent(rig: Rig, account: str) -> int:
    state = rig.lease.holding.account(account_id(PERIOD, account))  # type: ignore[arg-type]
    assert state is not None
    assert state.reserved == 0
    return state.spent


@pytest.mark.parametrize("stream", [False, True])
async def test_an_answer_is_scored_from_its_texts_alone_and_on_the_judges_own_account(stream: bool) -> None:
    async with judged(SMALL, jury()) as (rig, client):
        await ask(client, stream=stream)
        shown = await told(rig, outcome("Scored"))
        (answered,) = rig.servers["small"].records
        (asked,) = rig.servers["jury"].records
        assert spent(rig, BUDGET) == answered.cost_nano_usd > 0
        assert spent(rig, JUDGE) == asked.cost_nano_usd > 0
        assert asked.output_tokens == 1
        assert f"modelfleet_sidecar_judge_cost_usd_total {asked.cost_nano_usd / 1e9}" in shown
        sums = counted(rig)
        assert (sums[Figure.JUDGED], sums[Figure.JUDGED_SCORE]) == (1.0, 0.7)
        assert (sums[Figure.REQUESTS], sums[Figure.SCORES]) == (1.0, 0.0)
        assert len(rig.lease.demand) == 1  # the judge's request is no demand of users


async def test_only_the_drawn_share_is_scored() -> None:
    async with judged(SMALL, jury(), draw=0.51) as (rig, client):
        await ask(client)
        await rig.settled()
        assert not rig.servers["jury"].records


async def test_the_judges_own_answers_are_not_scored_by_it() -> None:
    async with judged(SMALL, jury()) as (rig, client):
        await ask(client, "jury")
        await told(rig, outcome("OwnModel"))
        assert counted(rig)[Figure.JUDGED] == 0.0


async def test_what_is_no_number_is_counted_and_not_guessed() -> None:
    async with judged(SMALL, jury("I give it 7 of 10")) as (rig, client):
        await ask(client)
        await told(rig, outcome("Unparsable"))
        assert counted(rig)[Figure.JUDGED] == 0.0
        assert spent(rig, JUDGE) > 0


@pytest.mark.parametrize("user_first", [False, True])
async def test_agreement_with_users_is_counted_whoever_scores_first(user_first: bool) -> None:
    async with judged(SMALL, jury("9"), account=0 if user_first else PLENTY) as (rig, client):
        decision = await ask(client)
        if not user_first:
            await told(rig, outcome("Scored"))
        async with client.post("/v1/feedback", json={"decision_id": decision, "score": 1}) as response:
            assert response.status == 200
        if user_first:
            rig.lease.grant(rig.slots, money=NanoUsd(PLENTY), requests={JUDGE: PLENTY})
            await told(rig, outcome("Scored"))
        sums = counted(rig)
        assert [sums[figure] for figure in (Figure.BOTH, Figure.AGREED)] == [1.0, 1.0]
        assert [sums[figure] for figure in (Figure.BOTH_USER_GOOD, Figure.BOTH_JUDGE_GOOD)] == [1.0, 1.0]


async def test_without_money_of_its_own_the_judge_asks_the_operator_for_it_and_gives_up() -> None:
    async with judged(SMALL, jury(), account=0) as (rig, client):
        await ask(client)
        async with asyncio.timeout(5.0):
            while JUDGE not in rig.lease.needs:  # noqa: ASYNC110 - nothing tells of it
                await asyncio.sleep(0.01)
        assert BUDGET not in rig.lease.needs
        rig.lease.policy = replace(BY_MODEL, judge=None)  # it is switched off meanwhile
        rig.lease.change()
        await told(rig, outcome("NoCapacity"))
        async with asyncio.timeout(5.0):
            while JUDGE in rig.lease.needs:  # noqa: ASYNC110 - it is told a moment later
                await asyncio.sleep(0.01)
        assert not rig.servers["jury"].records


async def test_users_get_the_slots_that_the_judge_would_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judging, "PATIENCE", 0.0)
    async with judged(SMALL, replace(jury(), slots=1, latency=STUCK)) as (rig, client):
        taken = asyncio.create_task(ask(client, "jury"))
        await rig.servers["jury"].until(lambda server: server.slots.in_flight == 1)
        await ask(client)
        await told(rig, outcome("NoCapacity"))
        taken.cancel()
        await asyncio.wait((taken,))


async def test_a_judge_that_fails_fails_nobody_else() -> None:
    async with judged(SMALL, jury()) as (rig, client):
        await rig.servers["jury"].stop()
        await ask(client)
        await told(rig, outcome("Failed"))
        assert spent(rig, JUDGE) == 0
        await ask(client)


async def test_a_drain_does_not_wait_for_the_judge() -> None:
    async with judged(SMALL, replace(jury(), latency=STUCK)) as (rig, client):
        await ask(client)
        await rig.servers["jury"].until(lambda server: server.slots.in_flight == 1)
        async with asyncio.timeout(5.0):
            assert await rig.sidecar.router.drain(5.0)
            await rig.sidecar.router.close()
        assert not rig.lease.holding.in_flight()
        assert rig.lease.holding.idle()


class Mine:
    """A plug-in that says what the test tells it."""

    said: object = 0.25

    def score(self, question: str, answer: str) -> float | None:
        assert (question, answer) == (QUESTION, NEUTRAL)
        if isinstance(Mine.said, Exception):
            raise Mine.said
        return Mine.said  # type: ignore[return-value]


class Point:
    name = "mine"

    @staticmethod
    def load() -> type[Mine]:
        return Mine


@pytest.mark.parametrize(
    ("said", "becomes"),
    [
        (0.25, "Scored"),
        (None, "NoScore"),
        (1.5, "NoScore"),
        (float("nan"), "NoScore"),
        (True, "NoScore"),
        (ValueError("it quotes Wanda"), "Failed"),
        (StopIteration("Wanda"), "Failed"),
    ],
)
async def test_a_plug_in_scores_without_any_account(
    said: object, becomes: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(plugins, "entry_points", lambda *, group: [Point] if group == plugins.JUDGES else [])
    monkeypatch.setattr(Mine, "said", said)
    async with judged(SMALL, policy=BY_PLUGIN, account=0) as (rig, client):
        await ask(client)
        await told(rig, outcome(becomes))
        assert counted(rig)[Figure.JUDGED_SCORE] == (0.25 if becomes == "Scored" else 0.0)
    assert "Wanda" not in caplog.text


async def test_a_plug_in_that_hangs_keeps_neither_callers_nor_the_drain(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    began, over = threading.Event(), threading.Event()

    def hang(_self: Mine, _question: str, _answer: str) -> float:
        began.set()
        over.wait(30.0)
        return 1.0

    monkeypatch.setattr(plugins, "entry_points", lambda *, group: [Point] if group == plugins.JUDGES else [])
    monkeypatch.setattr(Mine, "score", hang)
    monkeypatch.setattr(judging, "LONGEST", 0.05)
    try:
        async with judged(SMALL, policy=BY_PLUGIN) as (rig, client):
            await ask(client)
            await told(rig, outcome("Failed"))
            assert began.is_set()
            await ask(client)
            await told(rig, outcome("NoCapacity"))
            async with asyncio.timeout(5.0):
                assert await rig.sidecar.router.drain(5.0)
    finally:
        over.set()


async def test_a_plug_in_that_is_not_there_is_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with judged(SMALL, policy=BY_PLUGIN) as (rig, client):
        await ask(client)
        await told(rig, outcome("Failed"))
    assert "'mine' is not installed here" in caplog.text


@pytest.mark.parametrize("verdict", ["7", "Wanda is striped"])
async def test_no_text_is_in_logs_metrics_reports_or_explanations(
    verdict: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        async with judged(SMALL, jury(verdict)) as (rig, client):
            decision = await ask(client)
            metrics = await told(rig, outcome("Scored" if verdict == "7" else "Unparsable"))
            async with client.get(f"/v1/decisions/{decision}") as response:
                explained = await response.text()
            assert isinstance(rig.lease.evidence, ExperienceLog)
            reported = repr(rig.lease.evidence.changes())
    for text in (caplog.text, metrics, explained, reported):
        assert "Wanda" not in text
        assert "simulated answer" not in text
