"""The whole operator in one loop on the embedded cluster, its model servers as real processes."""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator
from dataclasses import replace

import aiohttp
import pytest
import pytest_asyncio
from modelfleet_core.leasing.messages import SidecarId, Want
from modelfleet_core.leasing.reservations import Reservation
from modelfleet_core.values import EndpointUrl, ModelName, NanoUsd, ObjectKey, VariantKey
from modelfleet_operator.app import Operator
from modelfleet_operator.cluster import Kind
from modelfleet_operator.fencing import NotLeadingError
from modelfleet_operator.health import Health
from modelfleet_operator.leader import LEASE_NAME
from modelfleet_operator.lease_terms import inherited_terms
from modelfleet_sidecar.lease import LeaseClient
from support.clusters import PATIENCE, field
from support.operators import NAMESPACE, SETTINGS, WatchedCluster, fleet, objects, policy, running_operator
from support.snapshots import pod_object

pytestmark = pytest.mark.integration

LARGE = VariantKey(ModelName("large"), "h100")


@pytest_asyncio.fixture
async def cluster() -> AsyncIterator[WatchedCluster]:
    made = WatchedCluster(objects())
    async with made.living():
        yield made


async def test_an_applied_fleet_is_planned_scaled_and_told(cluster: WatchedCluster) -> None:
    async with running_operator(cluster) as (_, http):
        cluster.apply(fleet(least=3))
        await cluster.log.until(lambda: cluster.replicas("large") == 3, "3 replicas")
        await cluster.log.until(lambda: len(cluster.log.ready_urls("large")) == 3, "3 ready pods")
        await cluster.condition_becomes(Kind.FLEET, "chat", "Ready", "Ready")
        assert await cluster.condition_becomes(Kind.FLEET, "chat", "Solved", "NoDemandYet")
        await cluster.condition_becomes(Kind.POLICY, "assistant", "Ready", "Ready")
        status = cluster.log.state(Kind.FLEET, "chat")
        assert field(status, "status", "plan", "gpus") == "6/8"
        async with aiohttp.ClientSession() as session:
            for path in ("/healthz", "/readyz"):
                async with session.get(f"http://{http}{path}") as response:
                    assert response.status == 200


async def test_an_advisory_fleet_is_planned_and_told_but_not_scaled(cluster: WatchedCluster) -> None:
    advisory = fleet(least=3)
    advisory["spec"]["mode"] = "Advisory"
    cluster.apply(advisory)
    async with running_operator(cluster):
        message = await cluster.condition_becomes(Kind.FLEET, "chat", "Programmed", "Advisory")
        assert "planned 3" in message
        before = cluster.replicas("large")
        advisory["spec"]["scaling"]["interval"] = "2s"  # one more pass, and nothing is scaled by it either
        cluster.apply(advisory)
        await cluster.condition_becomes(Kind.POLICY, "assistant", "Ready", "Ready")
        assert cluster.replicas("large") == before != 3
        cluster.apply(fleet(least=3))
        await cluster.log.until(lambda: cluster.replicas("large") == 3, "3 replicas once it is Active")


async def test_every_loop_has_a_heartbeat(cluster: WatchedCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[str] = set()
    beat = Health.beat

    def counted(self: Health, loop: str, *, within: float) -> None:
        seen.add(loop)
        beat(self, loop, within=within)

    monkeypatch.setattr(Health, "beat", counted)
    async with running_operator(cluster):
        await cluster.condition_becomes(Kind.FLEET, "chat", "Solved", "NoDemandYet")
        await cluster.condition_becomes(Kind.POLICY, "assistant", "Ready", "Ready")
        learning = {"estimators", "learning", "learning kept"}
        assert seen == {"leader", "leases", "prices", "policies", f"fleet {NAMESPACE}/chat"} | learning


async def test_a_lost_pod_is_out_of_the_lease_and_its_successor_in_it(cluster: WatchedCluster) -> None:
    labels = {"app": "assistant", "modelfleet.io/inject": "true"}
    cluster.apply(pod_object("assistant-0", namespace=NAMESPACE, **labels))
    cluster.apply(fleet(least=2))
    async with running_operator(cluster) as (capacity, _):
        client = LeaseClient(str(capacity), SidecarId(NAMESPACE, "assistant-0", "uid-assistant-0", "boot"))
        client.want({LARGE: Want(100)}, {})
        running = asyncio.create_task(client.run())
        try:
            await _slots_become(client, 16)
            assert client.policy is not None
            before = cluster.log.ready_urls("large")
            victim = sorted(before)[0]
            with contextlib.suppress(aiohttp.ClientError):  # it exits without an answer
                async with aiohttp.ClientSession() as session:
                    await session.post(f"{victim}/exit")
            await _slots_become(client, 8)
            assert {url for url, free in client.holding.free(client.now()).items() if free} < before
            await _slots_become(client, 16)
        finally:
            running.cancel()
            await asyncio.wait({running})


async def test_a_replica_goes_once_its_last_request_ended_and_meanwhile_gets_no_new_one(
    cluster: WatchedCluster,
) -> None:
    labels = {"app": "assistant", "modelfleet.io/inject": "true"}
    cluster.apply(pod_object("assistant-0", namespace=NAMESPACE, **labels))
    cluster.apply(fleet(least=3))
    async with running_operator(cluster) as (capacity, _):
        client = LeaseClient(str(capacity), SidecarId(NAMESPACE, "assistant-0", "uid-assistant-0", "boot"))
        client.want({LARGE: Want(100)}, {})
        running = asyncio.create_task(client.run())
        try:
            await _slots_become(client, 24)
            first, second, idle = sorted(cluster.log.ready_urls("large"))
            requests = {url: _begin(client, url) for url in (first, second)}
            client.give_back()  # tells of them now
            cluster.apply(fleet(least=2))
            await cluster.log.until(lambda: idle not in cluster.log.ready_urls("large"), "the idle one's end")
            assert cluster.log.ready_urls("large") == {first, second}
            cluster.apply(fleet(least=1))
            message = await cluster.condition_becomes(Kind.FLEET, "chat", "Programmed", "Draining")
            assert "1 leaving" in message
            await _slots_become(client, 7)
            (staying,) = {url for url, free in client.holding.free(client.now()).items() if free}
            (leaving,) = {first, second} - {staying}
            assert cluster.replicas("large") == 2, "a request runs on the one that is to go"
            client.holding.settle(requests[leaving], NanoUsd(0), client.now())
            client.give_back()
            await cluster.log.until(lambda: cluster.replicas("large") == 1, "1 replica")
            await cluster.log.until(lambda: cluster.log.ready_urls("large") == {staying}, "the other stays")
            await cluster.condition_becomes(Kind.FLEET, "chat", "Programmed", "Programmed")
        finally:
            running.cancel()
            await asyncio.wait({running})


async def test_a_drain_ends_when_the_replica_is_wanted_again(cluster: WatchedCluster) -> None:
    labels = {"app": "assistant", "modelfleet.io/inject": "true"}
    cluster.apply(pod_object("assistant-0", namespace=NAMESPACE, **labels))
    cluster.apply(fleet(least=2))
    async with running_operator(cluster) as (capacity, _):
        client = LeaseClient(str(capacity), SidecarId(NAMESPACE, "assistant-0", "uid-assistant-0", "boot"))
        client.want({LARGE: Want(100)}, {})
        running = asyncio.create_task(client.run())
        try:
            await _slots_become(client, 16)
            for url in sorted(cluster.log.ready_urls("large")):
                _begin(client, url)
            cluster.apply(fleet(least=1))
            await cluster.condition_becomes(Kind.FLEET, "chat", "Programmed", "Draining")
            await _slots_become(client, 7)
            cluster.apply(fleet(least=2))
            await _slots_become(client, 14)
            assert cluster.replicas("large") == 2
            await cluster.condition_becomes(Kind.FLEET, "chat", "Programmed", "Programmed")
        finally:
            running.cancel()
            await asyncio.wait({running})


def _begin(client: LeaseClient, url: str) -> int:
    """Begin a request at an endpoint; return its reservation."""
    now = client.now()
    begun = client.holding.reserve(now, EndpointUrl(url), NanoUsd(0), now + 600, charges={})
    assert isinstance(begun, Reservation)
    return begun.id


async def _slots_become(client: LeaseClient, number: int) -> None:
    async with asyncio.timeout(PATIENCE):
        while sum(client.holding.free(client.now()).values()) != number:
            await client.wait_change(1.0)


async def test_a_fleet_that_can_not_be_parsed_stops_no_other(cluster: WatchedCluster) -> None:
    bad = fleet("bad", target="other")
    bad["spec"]["pools"][0]["limit"] = "many"
    cluster.apply(bad)
    async with running_operator(cluster):
        message = await cluster.condition_becomes(Kind.FLEET, "bad", "Accepted", "Invalid")
        assert "spec.pools[0].limit" in message
        cluster.apply(fleet(least=2))
        await cluster.log.until(lambda: cluster.replicas("large") == 2, "2 replicas")
        cluster.apply(fleet("bad", target="other"))
        await cluster.condition_becomes(Kind.FLEET, "bad", "ResolvedRefs", "TargetNotFound")


async def test_a_second_fleet_on_a_deployment_stays_out_while_the_first_is_there(
    cluster: WatchedCluster,
) -> None:
    younger = fleet("younger", least=4)
    younger["metadata"]["creationTimestamp"] = "2099-01-01T00:00:00Z"
    cluster.apply(fleet(least=2))
    cluster.apply(younger)
    async with running_operator(cluster):
        await cluster.condition_becomes(Kind.FLEET, "younger", "Accepted", "Conflicted")
        await cluster.log.until(lambda: cluster.replicas("large") == 2, "2 replicas")
        cluster.delete("ModelFleet", ObjectKey(NAMESPACE, "chat"))
        await cluster.log.until(lambda: cluster.replicas("large") == 4, "4 replicas")


async def test_a_deployment_with_an_autoscaler_is_left_alone(cluster: WatchedCluster) -> None:
    workload = dict(cluster.log.state(Kind.DEPLOYMENT, "large")) or dict(objects()[2])
    metadata = workload["metadata"]
    assert isinstance(metadata, dict)
    managed: list[object] = [
        {
            "manager": "kube-controller-manager",
            "subresource": "scale",
            "fieldsV1": {"f:spec": {"f:replicas": {}}},
        }
    ]
    cluster.apply(workload | {"metadata": metadata | {"managedFields": managed}})
    cluster.apply(fleet(least=3))
    async with running_operator(cluster):
        reason = "ReplicasOwnedElsewhere"
        message = await cluster.condition_becomes(Kind.FLEET, "chat", "ResolvedRefs", reason)
        assert "HorizontalPodAutoscaler" in message
        await cluster.condition_becomes(Kind.FLEET, "chat", "Ready", reason)
        assert cluster.replicas("large") == 1


async def test_an_operator_that_finds_another_leading_ends_and_says_that_it_no_longer_leads(
    cluster: WatchedCluster,
) -> None:
    cluster.apply(fleet(least=1))
    running = asyncio.create_task(Operator(SETTINGS, cluster).run(asyncio.Event()))
    await cluster.condition_becomes(Kind.FLEET, "chat", "Ready", "Ready")
    lease = await cluster.read_lease(ObjectKey(NAMESPACE, LEASE_NAME))
    assert lease is not None
    await cluster.write_lease(replace(lease, holder="another"))
    async with asyncio.timeout(PATIENCE):
        with pytest.raises(NotLeadingError, match="another operator took the Lease"):
            await running


async def test_deleting_a_fleet_leaves_its_deployment_as_it_is(cluster: WatchedCluster) -> None:
    cluster.apply(fleet(least=2))
    async with running_operator(cluster):
        await cluster.condition_becomes(Kind.FLEET, "chat", "Ready", "Ready")
        cluster.delete("ModelFleet", ObjectKey(NAMESPACE, "chat"))
        await cluster.condition_becomes(Kind.POLICY, "assistant", "ResolvedRefs", "FleetNotFound")
        assert cluster.replicas("large") == 2
    assert cluster.replicas("large") == 2


async def test_an_operator_that_comes_back_keeps_the_plan_under_a_new_epoch(cluster: WatchedCluster) -> None:
    async with running_operator(cluster):
        cluster.apply(fleet(least=2))
        await cluster.condition_becomes(Kind.FLEET, "chat", "Ready", "Ready")
    cluster.apply(fleet())  # nothing is demanded, so only the plan keeps the second replica
    await _forget_that_demand_was_assumed(cluster)
    async with running_operator(cluster):
        await cluster.log.until(lambda: _epoch(cluster) == 2, "the second epoch")
        assert await cluster.condition_becomes(Kind.FLEET, "chat", "Solved", "DemandMissing")
        assert cluster.replicas("large") == 2


async def _forget_that_demand_was_assumed(cluster: WatchedCluster) -> None:
    """Leave a status as after a plan for reported demand."""
    key = ObjectKey(NAMESPACE, "chat")
    manifest = await cluster.get(Kind.FLEET, key)
    status = manifest["status"]
    assert isinstance(status, dict)
    told = {name: value for name, value in status.items() if name != "conditions"}
    await cluster.write_status(Kind.FLEET, key, str(field(manifest, "metadata", "resourceVersion")), told)


async def test_a_standby_takes_over_when_the_leader_stops(cluster: WatchedCluster) -> None:
    cluster.apply(fleet(least=1))
    async with running_operator(cluster):
        await cluster.log.until(lambda: _epoch(cluster) == 1, "the first epoch")
        standby = asyncio.create_task(_run_until_epoch(cluster, 2))
        cluster.apply(fleet(least=2))
        await cluster.log.until(lambda: cluster.replicas("large") == 2, "2 replicas")
        assert _epoch(cluster) == 1
    await standby
    assert cluster.replicas("large") == 2


async def test_a_leader_inherits_the_terms_of_leases_granted_before_their_policy_was_lowered(
    cluster: WatchedCluster,
) -> None:
    lowered = policy()
    lowered["spec"]["staleness"] = {"then": "Reject"}
    wider = policy()
    wider["spec"]["staleness"] = {"then": "Hold", "maxAge": "90s"}
    cluster.apply(wider)
    async with running_operator(cluster):
        await cluster.log.until(lambda: _epoch(cluster) == 1, "the first epoch")
    cluster.apply(lowered)
    await _run_until_epoch(cluster, 2)
    left = await cluster.read_lease(ObjectKey(NAMESPACE, LEASE_NAME))
    assert left is not None
    terms = inherited_terms(left.terms)
    assert (terms.lease, terms.floor) == (90.0, math.inf)


async def _run_until_epoch(cluster: WatchedCluster, epoch: int) -> None:
    async with running_operator(cluster):
        await cluster.log.until(lambda: _epoch(cluster) == epoch, f"epoch {epoch}")


def _epoch(cluster: WatchedCluster) -> object:
    return field(cluster.log.state(Kind.FLEET, "chat"), "status", "capacity", "epoch")
