"""Probes tell a hung operator from a busy one, and figures of deleted objects vanish."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio
from modelfleet_core.values import ModelName, ObjectKey, PoolName, VariantKey
from modelfleet_operator.cluster import Kind
from modelfleet_operator.conditions import no, yes
from modelfleet_operator.figures import FleetFigures, PolicyFigures, PoolFigures, VariantFigures
from modelfleet_operator.health import Health
from modelfleet_operator.logs import JsonFormatter, log_as_json
from modelfleet_operator.probes import Probes
from modelfleet_operator.settings import Address
from modelfleet_operator.telemetry import Telemetry

CHAT = ObjectKey("ml", "chat")


class _Rig:
    def __init__(self) -> None:
        self.now = 0.0
        self.telemetry = Telemetry()
        self.health = Health(clock=lambda: self.now, awaited=("the cluster is observed",))
        self.probes = Probes(self.telemetry.registry, self.health)
        self.base = ""

    async def get(self, path: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as http, http.get(f"{self.base}{path}") as response:
            return response.status, await response.text()


@pytest_asyncio.fixture
async def rig() -> AsyncIterator[_Rig]:
    made = _Rig()
    made.base = f"http://{await made.probes.start(Address('127.0.0.1', 0))}"
    yield made
    await made.probes.stop()


async def test_a_loop_that_misses_its_beat_makes_the_program_unhealthy(rig: _Rig) -> None:
    rig.health.beat("fleet ml/chat", within=30)
    rig.now = 30
    assert await rig.get("/healthz") == (200, "ok\n")
    rig.now = 31
    assert await rig.get("/healthz") == (503, "late: fleet ml/chat\n")
    rig.health.beat("fleet ml/chat", within=30)
    assert (await rig.get("/healthz"))[0] == 200


async def test_a_loop_that_ended_owes_no_beat(rig: _Rig) -> None:
    rig.health.beat("fleet ml/chat", within=30)
    rig.health.end("fleet ml/chat")
    rig.now = 1000
    assert (await rig.get("/healthz"))[0] == 200


async def test_readiness_waits_for_what_is_awaited(rig: _Rig) -> None:
    assert await rig.get("/readyz") == (503, "not yet: the cluster is observed\n")
    rig.health.done("the cluster is observed")
    assert await rig.get("/readyz") == (200, "ok\n")


async def test_metrics_tell_of_every_fleet_and_policy_until_it_is_gone(rig: _Rig) -> None:
    rig.telemetry.figures.fleets[CHAT] = FleetFigures(
        variants={VariantKey(ModelName("large"), "h100"): VariantFigures(current=1, desired=2)},
        pools={PoolName("h100"): PoolFigures(planned=4, occupied=2, limit=8, stock=8, price=0.5)},
        hourly_cost=5.8,
        hourly_budget=None,
        gap=0.01,
        solve_seconds=0.2,
        demand=3.0,
        sidecars=1,
        silent=0,
        basis="Held",
        ready=False,
    )
    conditions = (yes("Accepted", "Accepted", "in force"), no("Ready", "NoEndpoints", "none"))
    rig.telemetry.figures.stand(Kind.FLEET, CHAT, conditions)
    rig.telemetry.figures.policies[CHAT] = PolicyFigures(60.0, 1.0, 0.5, 1, True)
    text = (await rig.get("/metrics"))[1]
    labels = 'fleet="chat",model="large",namespace="ml",state="desired",variant="h100"'
    assert f"modelfleet_replicas{{{labels}}} 2.0" in text
    assert 'modelfleet_pool_gpus{fleet="chat",namespace="ml",pool="h100",state="occupied"} 2.0' in text
    assert 'modelfleet_budget_spent_usd{namespace="ml",policy="chat"} 0.5' in text
    assert "modelfleet_hourly_budget_usd{" not in text
    assert 'modelfleet_plan_basis{basis="Held",fleet="chat",namespace="ml"} 1.0' in text
    assert 'modelfleet_fleet_condition{condition="Accepted",fleet="chat",namespace="ml"} 1.0' in text
    assert 'modelfleet_fleet_condition{condition="Ready",fleet="chat",namespace="ml"} 0.0' in text
    rig.telemetry.figures.fleets.clear()
    rig.telemetry.figures.stand(Kind.FLEET, CHAT, ())
    rig.telemetry.figures.policies.clear()
    assert 'namespace="ml"' not in (await rig.get("/metrics"))[1]


async def test_every_metric_has_a_help_text(rig: _Rig) -> None:
    lines = (await rig.get("/metrics"))[1].splitlines()
    helped = {line.split()[2] for line in lines if line.startswith("# HELP") and len(line.split()) > 3}
    typed = {line.split()[2] for line in lines if line.startswith("# TYPE")}
    assert len(typed) > 15
    assert typed <= helped


def test_a_log_line_is_one_json_object_with_its_figures() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.Logger("modelfleet_operator.test")
    logger.addHandler(handler)
    logger.info("fleet %s planned", "ml/chat", extra={"gap": 0.01, "fleet": CHAT})
    try:
        raise ValueError("two\nlines")
    except ValueError:
        logger.exception("a fault")
    first, second = (json.loads(line) for line in stream.getvalue().splitlines())
    assert (first["message"], first["gap"], first["fleet"]) == ("fleet ml/chat planned", 0.01, "ml/chat")
    assert "two\nlines" in second["error"]


def test_what_a_library_attaches_to_its_records_is_left_out() -> None:
    record = logging.makeLogRecord({"name": "kopf.objects", "msg": "Handler failed", "settings": object()})
    assert set(json.loads(JsonFormatter().format(record))) == {"time", "level", "logger", "message"}


def test_a_watched_event_is_no_line_of_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    root, library = logging.getLogger(), logging.getLogger("kopf.objects")
    before = root.handlers[:], root.level, library.level
    try:
        log_as_json()
        library.info("Handler 'watch-pods' succeeded.")
        library.warning("Handler 'watch-pods' failed.")
        logging.getLogger("modelfleet_operator.test").info("said")
    finally:
        root.handlers[:], root.level = before[0], before[1]
        library.setLevel(before[2])
    lines = [json.loads(line)["message"] for line in capsys.readouterr().err.splitlines()]
    assert lines == ["Handler 'watch-pods' failed.", "said"]
