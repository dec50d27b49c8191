"""What users find with `kubectl describe` and in the log: Events, counted, and one line for each decision."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from modelfleet_operator.cluster import Event, Kind
from support.clusters import PATIENCE, ClusterUnderTest, field, fleet, node, service
from support.control_plane import KubernetesUnderTest, Plane
from support.fleet_on_nodes import host, managed_deployment, small_fleet
from support.operators import WatchedCluster, objects, policy, running_operator
from support.programs import operator_on

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]


async def test_an_event_is_found_by_its_object_and_counted_when_it_comes_again(
    subject: ClusterUnderTest,
) -> None:
    await subject.apply(fleet(subject.namespace))
    manifest = await subject.cluster.get(Kind.FLEET, subject.key("chat"))
    at = datetime(2026, 11, 22, 10, 30, tzinfo=UTC)
    event = Event(
        name="chat.0123456789abcdef",
        kind=Kind.FLEET,
        key=subject.key("chat"),
        uid=str(field(manifest, "metadata", "uid")),
        reason="PoolBinds",
        message="large/h100: the pool is full",
        warning=True,
        reporter="operator-0",
        first=at,
        last=at,
        times=2,
    )
    await subject.cluster.post(event)
    later = at + timedelta(minutes=5)
    await subject.cluster.post(replace(event, first=later, last=later, times=1, reporter="operator-1"))
    (told,) = await subject.events()
    assert field(told, "involvedObject", "uid") == event.uid
    assert {name: told[name] for name in ("type", "reason", "message", "count")} == {
        "type": "Warning",
        "reason": "PoolBinds",
        "message": "large/h100: the pool is full",
        "count": 3,
    }
    assert told["firstTimestamp"] == "2026-11-22T10:30:00Z"
    assert told["lastTimestamp"] == "2026-11-22T10:35:00Z"
    assert told["reportingInstance"] == "operator-1"


@pytest_asyncio.fixture
async def user(plane: Plane) -> AsyncIterator[KubernetesUnderTest]:
    """A user's hands in a namespace with a node of 6 GPUs, and a watch on what happens there."""
    made = await KubernetesUnderTest.make(plane)
    await made.apply(node(host(made.namespace), gpus=6))
    await made.watch()
    yield made
    await made.close()


async def _told(user: KubernetesUnderTest, *reasons: str) -> dict[str, Mapping[str, object]]:
    """Wait until there is an Event of each reason; return all Events by name."""
    events: list[Mapping[str, object]] = []
    try:
        async with asyncio.timeout(PATIENCE):
            while not set(reasons) <= {str(event["reason"]) for event in events}:
                await asyncio.sleep(0.2)
                events = await user.events()
    except TimeoutError:
        seen = [(event["reason"], event["message"], event["count"]) for event in events]
        raise AssertionError(f"no event of each of {reasons} within {PATIENCE} s, but {seen}") from None
    return {str(field(event, "metadata", "name")): event for event in events}


async def test_kubectl_describe_tells_what_the_operator_did_once_over_a_failover(
    plane: Plane, user: KubernetesUnderTest, tmp_path: Path
) -> None:
    kubeconfig = plane.control_plane.kubeconfig
    await user.apply(managed_deployment(user.namespace))
    await user.apply(service(user.namespace, "large"))
    async with operator_on(kubeconfig, user.namespace, tmp_path) as (operator, _):
        await user.apply(small_fleet(user.namespace))
        first = await _told(user, "Accepted", "PlanChanged", "Scaled", "Ready")
        await operator.kill()
    described = await user.describe("modelfleet", "chat")
    assert "Events:" in described
    assert "PlanChanged" in described
    assert "large/h100 0 -> 2 (AtMin)" in described
    assert "modelfleet-operator" in described
    epoch = field(user.log.state(Kind.FLEET, "chat"), "status", "capacity", "epoch")
    async with operator_on(kubeconfig, user.namespace, tmp_path) as (operator, _):
        await user.log.until(
            lambda: field(user.log.state(Kind.FLEET, "chat"), "status", "capacity", "epoch") != epoch,
            "the new epoch in the status",
        )
        await user.delete("Service", "large")
        lost = await _told(user, "NoEndpoints")
        await operator.stop()
    assert {name: lost[name]["count"] for name in first} == {name: first[name]["count"] for name in first}
    (warning,) = (event for event in lost.values() if event["reason"] == "NoEndpoints")
    assert warning["type"] == "Warning"
    assert "create the Service" in str(warning["message"])


async def test_a_policy_tells_when_it_is_refused_and_when_it_is_mended() -> None:
    cluster = WatchedCluster(objects())
    told = cluster.events

    async def reasons(*wanted: str) -> list[str]:
        async with asyncio.timeout(PATIENCE):
            while True:
                found = [
                    str(e["reason"]) for e in told() if field(e, "involvedObject", "name") == "assistant"
                ]
                if set(wanted) <= set(found):
                    return found
                await asyncio.sleep(0.05)

    async with cluster.living(), running_operator(cluster):
        assert await reasons("Accepted") == ["Accepted"]
        await cluster.condition_becomes(Kind.POLICY, "assistant", "Ready", "Ready")
        lost = policy()
        lost["spec"]["fleetRef"]["name"] = "none"
        cluster.apply(lost)
        assert await reasons("FleetNotFound") == [
            "Accepted",
            "FleetNotFound",
        ]  # once, though Ready says it too
        cluster.apply(policy())
        await reasons("Resolved")
    warned = {str(e["reason"]) for e in told() if e["type"] == "Warning"}
    assert warned == {"FleetNotFound"}


async def test_each_decision_is_one_line_of_the_log_with_documented_fields(
    plane: Plane, user: KubernetesUnderTest, tmp_path: Path
) -> None:
    await user.apply(managed_deployment(user.namespace))
    await user.apply(service(user.namespace, "large"))
    async with operator_on(plane.control_plane.kubeconfig, user.namespace, tmp_path) as (operator, _):
        await user.apply(small_fleet(user.namespace))
        await _told(user, "Ready")
        await operator.stop()
    lines = [json.loads(line) for line in operator.log.read_text().splitlines() if line.startswith("{")]
    decisions = [line for line in lines if line["message"] == f"fleet {user.namespace}/chat planned"]
    assert decisions
    last = decisions[-1]
    assert last["reasons"] == {"large/h100": "AtMin"}
    assert last["replicas"] == {"large/h100": 2}
    assert last["pools"]["h100"]["planned"] == 4
    assert last["conditions"]["Ready"] == "Ready"
    assert any(line["scaled"] == ["large 1->2 Done"] for line in decisions)
    text = (ROOT / "docs/observe.md").read_text(encoding="utf-8")
    assert [name for name in last if f"`{name}`" not in text] == []
