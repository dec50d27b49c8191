"""The operator's metrics as a scrape finds them: of everything there is, and of nothing that is gone."""

from __future__ import annotations

import asyncio

import aiohttp
import pytest
from modelfleet_core.values import ObjectKey
from modelfleet_operator.cluster import Kind
from modelfleet_operator.settings import Address
from prometheus_client.parser import text_string_to_metric_families
from support.clusters import PATIENCE
from support.operators import NAMESPACE, WatchedCluster, fleet, objects, running_operator

pytestmark = pytest.mark.integration

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


async def _scraped(http: Address) -> Samples:
    async with aiohttp.ClientSession() as session, session.get(f"http://{http}/metrics") as response:
        text = await response.text()
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def _of_fleet(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset({"namespace": NAMESPACE, "fleet": "chat", **labels}.items())


async def test_figures_tell_what_status_tells_until_the_fleet_is_gone() -> None:
    cluster = WatchedCluster(objects())
    async with cluster.living(), running_operator(cluster) as (_, http):
        cluster.apply(fleet(least=3))
        await cluster.log.until(lambda: len(cluster.log.ready_urls("large")) == 3, "3 ready pods")
        await cluster.condition_becomes(Kind.FLEET, "chat", "Ready", "Ready")
        found = await _scraped(http)
        large = {"model": "large", "variant": "h100"}
        for state, count in {"current": 3, "desired": 3, "ready": 3, "draining": 0, "terminating": 0}.items():
            assert found[_of_fleet("modelfleet_replicas", state=state, **large)] == count
        assert found[_of_fleet("modelfleet_slots", state="over", **large)] == 0
        assert found[_of_fleet("modelfleet_fleet_condition", condition="Ready")] == 1
        assert found[_of_fleet("modelfleet_fleet_condition", condition="Stalled")] == 0
        bases = {
            b: found[_of_fleet("modelfleet_plan_basis", basis=b)] for b in ("Reported", "Held", "Assumed")
        }
        assert bases == {"Reported": 0, "Held": 0, "Assumed": 1}
        assert found[_of_fleet("modelfleet_scale_patches_total", outcome="Done")] >= 1
        assert found[_of_fleet("modelfleet_scale_patches_total", outcome="Refused")] == 0
        assert found["modelfleet_told_events_total", frozenset({("outcome", "posted")})] >= 3
        cluster.delete("ModelFleet", ObjectKey(NAMESPACE, "chat"))
        left = found
        async with asyncio.timeout(PATIENCE):
            while left:
                await asyncio.sleep(0.05)
                left = {name: 0.0 for name in await _scraped(http) if ("fleet", "chat") in name[1]}


async def test_a_fleet_that_is_refused_shows_it() -> None:
    refused = fleet()
    refused["spec"]["models"][0]["variants"][0]["pool"] = "none"
    cluster = WatchedCluster([*objects()[:1], refused, *objects()[2:]])
    async with cluster.living(), running_operator(cluster) as (_, http):
        await cluster.condition_becomes(Kind.FLEET, "chat", "Ready", "Invalid")
        found = await _scraped(http)
        assert found[_of_fleet("modelfleet_fleet_condition", condition="Accepted")] == 0
        assert found[_of_fleet("modelfleet_fleet_condition", condition="Stalled")] == 1
