"""What callers of one sidecar say of its answers changes the estimates of others, through the operator.

Operator, sidecars and a model server run in the test's loop, on the embedded cluster.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from modelfleet_core.values import ObjectKey
from modelfleet_lab.model_server.server import ModelServer, ServerSettings
from modelfleet_operator import estimators, learning
from modelfleet_operator.cluster import Kind
from modelfleet_operator.estimators import FILE
from modelfleet_operator.learned_records import record_key
from modelfleet_operator.settings import Address
from modelfleet_sidecar.app import assemble
from modelfleet_sidecar.settings import Address as SidecarAddress
from support.clusters import PATIENCE, field
from support.manifests import Manifest
from support.operators import NAMESPACE, WatchedCluster, fleet, policy, running_operator
from support.scored_answers import estimator
from support.sidecars import FAST, settings_for
from support.snapshots import pod_object

pytestmark = pytest.mark.integration

PODS = ("assistant-0", "assistant-1", "assistant-2")
QUESTION = "What is the sum of 17 and 25?"
SCORES = 40


@pytest_asyncio.fixture
async def cluster(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WatchedCluster]:
    monkeypatch.setattr(learning, "TELL_EVERY", 0.5)
    monkeypatch.setattr(estimators, "POLL", 0.5)
    labels = {"app": "assistant", "modelfleet.io/inject": "true"}
    pods = [pod_object(name, namespace=NAMESPACE, **labels) for name in PODS]
    server = ModelServer(ServerSettings(model="org/large", concurrency=8, latency=FAST))
    await server.start()
    try:
        made = WatchedCluster([_fleet(server.url), policy(), *pods])
        async with made.living():
            yield made
    finally:
        await server.stop()


def _fleet(url: str) -> Manifest:
    """Return a fleet of one external model, so that nothing need start."""
    manifest = fleet()
    spec = manifest["spec"]
    model = spec["models"][0]
    model["variants"] = [{"name": "api", "external": {"url": url}, "concurrency": 8}]
    del spec["pools"]
    return manifest


class Caller:
    """An application beside one sidecar."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http

    async def ask(self) -> Mapping[str, Any]:
        """Return the explanation of an answer's decision; waits until there is a lease."""
        body = {"model": "auto", "max_tokens": 5, "messages": [{"role": "user", "content": QUESTION}]}
        async with asyncio.timeout(PATIENCE):
            while True:
                async with self._http.post("/v1/chat/completions", json=body) as response:
                    await response.read()
                    if response.status == 200:
                        decision = response.headers["x-modelfleet-decision-id"]
                        break
                    assert response.status == 503, response.status
                await asyncio.sleep(0.05)
        async with self._http.get(f"/v1/decisions/{decision}") as response:
            found: Mapping[str, Any] = await response.json()
            return {"decision_id": decision, **found}

    async def complain(self) -> None:
        """Ask, and say that the answer was of no use."""
        decision = (await self.ask())["decision_id"]
        async with self._http.post("/v1/feedback", json={"decision_id": decision, "score": 0}) as response:
            assert response.status == 200

    async def until(self, name: str, value: str | None) -> Mapping[str, Any]:
        """Ask until the explanation's field has this value; None: any but the empty one."""
        async with asyncio.timeout(PATIENCE):
            while True:
                seen = await self.ask()
                if (seen[name] == value) if value is not None else seen[name]:
                    return seen
                await asyncio.sleep(0.1)


@asynccontextmanager
async def caller(capacity: Address, pod: str) -> AsyncIterator[Caller]:
    settings = replace(
        settings_for(SidecarAddress(capacity.host, capacity.port)),
        namespace=NAMESPACE,
        pod_name=pod,
        pod_uid=f"uid-{pod}",
    )
    sidecar = assemble(settings)
    await sidecar.start()
    try:
        async with aiohttp.ClientSession(f"http://{sidecar.http_address}") as http:
            yield Caller(http)
    finally:
        await sidecar.drain()


def _quality(explained: Mapping[str, Any]) -> float:
    (candidate,) = explained["candidates"]
    quality: float = candidate["quality"]
    return quality


def _config_map(content: bytes) -> Mapping[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "chat-estimator", "namespace": NAMESPACE},
        "binaryData": {FILE: base64.b64encode(content).decode()},
    }


async def test_feedback_to_one_sidecar_changes_anothers_estimates_and_outlives_the_operator(
    cluster: WatchedCluster,
) -> None:
    async with running_operator(cluster) as (capacity, _), caller(capacity, PODS[0]) as one:
        async with caller(capacity, PODS[1]) as other:
            before = await other.until("learned_version", "")
            for _ in range(SCORES):
                await one.complain()
            after = await other.until("learned_version", None)
            assert _quality(after) < _quality(before) - 0.1
        await cluster.condition_becomes(Kind.POLICY, "assistant", "EstimatorReady", "Learned")

        def told() -> list[Any]:
            found = field(cluster.log.state(Kind.POLICY, "assistant"), "status", "traffic")
            return found if isinstance(found, list) else []

        await cluster.log.until(lambda: bool(told()) and told()[0]["qualityFrom"] == "Feedback", "traffic")
        (traffic,) = told()
        assert (traffic["model"], traffic["meanQuality"]) == ("large", "0.000")
    kept = await cluster.read_record(record_key(ObjectKey(NAMESPACE, "assistant")))
    assert kept is not None, "a clean end keeps what was learned"
    for pod in PODS[:2]:  # so that the next leader need not wait for them
        cluster.delete("Pod", ObjectKey(NAMESPACE, pod))
    async with running_operator(cluster) as (capacity, _), caller(capacity, PODS[2]) as newcomer:
        learned = await newcomer.until("learned_version", None)
        assert _quality(learned) < _quality(before) - 0.1


async def test_a_trained_estimator_reaches_sidecars_and_a_corrupt_one_harms_nobody(
    cluster: WatchedCluster,
) -> None:
    good = estimator(("large", "other"))
    cluster.apply(_config_map(good))
    named = policy()
    named["spec"]["estimator"] = {"ref": {"name": "chat-estimator"}}
    cluster.apply(named)
    version = hashlib.sha256(good).hexdigest()
    async with running_operator(cluster) as (capacity, _), caller(capacity, PODS[0]) as one:
        await one.until("estimator_version", version)
        await cluster.condition_becomes(Kind.POLICY, "assistant", "EstimatorReady", "Loaded")
        cluster.apply(_config_map(good[: len(good) // 2]))
        message = await cluster.condition_becomes(Kind.POLICY, "assistant", "EstimatorReady", "Invalid")
        assert "the one that was read before stays in force" in message
        assert (await one.ask())["estimator_version"] == version
        async with caller(capacity, PODS[1]) as newcomer:
            await newcomer.until("estimator_version", version)
        cluster.apply(_config_map(good))
        await cluster.condition_becomes(Kind.POLICY, "assistant", "EstimatorReady", "Loaded")
    told = [event["reason"] for event in cluster.events()]
    assert "Invalid" in told
