"""A status is written once for each thing it says, over any other writer, and never for an older spec."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
from modelfleet_core.catalog import Fleet
from modelfleet_core.values import ObjectKey
from modelfleet_operator.cluster import Kind
from modelfleet_operator.cluster.embedded import EmbeddedCluster
from modelfleet_operator.conditions import Condition, no, yes
from modelfleet_operator.declarations import Declared, declared_fleet
from modelfleet_operator.fleet_status import decimal
from modelfleet_operator.status import REFRESH, StatusWriter
from support.manifests import fleet_manifest

CHAT = ObjectKey("ml", "chat")
READY = yes("Ready", "Ready", "every replica is ready")
STARTING = no("Ready", "StartingReplicas", "one is not ready yet")


class _Desk:
    """A fleet in a cluster, a writer of its status and a clock that a test moves."""

    def __init__(self) -> None:
        self.cluster = EmbeddedCluster([fleet_manifest()])
        self.now = 0.0
        self.writes = 0
        self.writer: StatusWriter[Fleet] = StatusWriter(
            self.cluster,
            Kind.FLEET,
            clock=lambda: self.now,
            wall_clock=lambda: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.now),
        )

    async def declared(self) -> Declared[Fleet]:
        return declared_fleet(CHAT, await self.cluster.get(Kind.FLEET, CHAT), None)

    async def status(self) -> Mapping[str, object]:
        return (await self.declared()).status

    async def write(
        self, body: Mapping[str, object], *conditions: Condition, declared: Declared[Fleet] | None = None
    ) -> bool:
        return await self.writer.write(declared or await self.declared(), body, conditions)


def _condition(status: Mapping[str, object]) -> Mapping[str, object]:
    conditions = status["conditions"]
    assert isinstance(conditions, list)
    found: Mapping[str, object] = conditions[0]
    return found


async def test_the_same_status_is_written_once() -> None:
    desk = _Desk()
    assert await desk.write({"sidecars": 1}, READY)
    desk.now = 3600
    assert not await desk.write({"sidecars": 1}, READY)


async def test_a_condition_keeps_its_transition_time_while_its_verdict_stays() -> None:
    desk = _Desk()
    await desk.write({}, STARTING)
    desk.now = 60
    await desk.write({}, no("Ready", "Scaling", "another reason"))
    kept = _condition(await desk.status())
    assert (kept["reason"], kept["lastTransitionTime"]) == ("Scaling", "2026-01-01T00:00:00Z")
    desk.now = 120
    await desk.write({}, READY)
    assert _condition(await desk.status())["lastTransitionTime"] == "2026-01-01T00:02:00Z"


async def test_fleeting_figures_are_written_now_and_then_and_decisions_at_once() -> None:
    desk = _Desk()
    await desk.write({"plan": {"gap": "0.1%", "gpus": "2/8"}}, READY)
    assert not await desk.write({"plan": {"gap": "0.2%", "gpus": "2/8"}}, READY)
    assert await desk.write({"plan": {"gap": "0.2%", "gpus": "4/8"}}, READY)
    desk.now += REFRESH
    assert await desk.write({"plan": {"gap": "0.3%", "gpus": "4/8"}}, READY)


async def test_a_stale_version_is_read_again() -> None:
    desk = _Desk()
    stale = await desk.declared()
    await desk.write({"sidecars": 1}, READY)
    assert await desk.write({"sidecars": 2}, READY, declared=stale)
    assert (await desk.status())["sidecars"] == 2


async def test_a_verdict_about_an_older_spec_is_not_written() -> None:
    desk = _Desk()
    stale = await desk.declared()
    edited = fleet_manifest()
    edited["spec"]["budget"]["hourly"] = "61"
    desk.cluster.apply(edited)
    assert not await desk.write({}, READY, declared=stale)
    assert await desk.status() == {}


async def test_the_status_of_a_deleted_object_is_no_error() -> None:
    desk = _Desk()
    declared = await desk.declared()
    desk.cluster.delete("ModelFleet", CHAT)
    assert not await desk.write({}, READY, declared=declared)


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.0, "0"), (1.0, "1"), (0.123456, "0.1235"), (1e-7, "0.0000001"), (-0.5, "-0.5"), (123456.0, "123500")],
)
def test_figures_are_plain_decimals(number: float, text: str) -> None:
    assert decimal(number) == text


async def test_what_is_wrong_with_a_spec_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    desk = _Desk()
    ignored = yes("Accepted", "UnknownFields", "in force; ignored, because no one knows them: spec.poools")
    missing = no("ResolvedRefs", "TargetNotFound", "no Deployment large: create it")
    for _ in range(3):
        await desk.write({}, ignored, missing, STARTING)
    assert [record.getMessage() for record in caplog.records] == [
        f"ModelFleet ml/chat: {condition.message}" for condition in (ignored, missing)
    ]
    caplog.clear()
    await desk.write({}, yes("Accepted", "Accepted", "the spec is in force"), READY)
    assert caplog.records == []
    await desk.write({}, missing, READY)
    assert [record.getMessage() for record in caplog.records] == [f"ModelFleet ml/chat: {missing.message}"]
