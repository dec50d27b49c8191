"""One contract for every adapter: what passes here on memory passes here on a real API server."""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import aiohttp
import pytest
from modelfleet_operator.cluster import Conflict, Kind, LeaderLease, NotFound, Record, Rejected
from support.clusters import (
    GPU,
    HOSTNAME,
    ClusterUnderTest,
    EventLog,
    deployment,
    field,
    fleet,
    node,
    policy,
    service,
    version,
)

pytestmark = pytest.mark.integration


async def test_every_existing_object_is_told_before_the_watch_has_synced(subject: ClusterUnderTest) -> None:
    await subject.apply(fleet(subject.namespace))
    await subject.apply(policy(subject.namespace))
    await subject.apply(deployment(subject.namespace, "large", replicas=0))
    await subject.watch()
    known = set(subject.log.objects)
    assert known >= {(Kind.FLEET, "chat"), (Kind.POLICY, "assistant"), (Kind.DEPLOYMENT, "large")}


async def test_creation_change_and_deletion_are_told_in_order(subject: ClusterUnderTest) -> None:
    await subject.watch()
    log = subject.log
    await subject.apply(fleet(subject.namespace))
    await log.until(lambda: (Kind.FLEET, "chat") in log.objects, "creation")
    first = log.state(Kind.FLEET, "chat")
    changed = fleet(subject.namespace)
    changed["spec"]["budget"]["hourly"] = "17"
    await subject.apply(changed)
    await log.until(
        lambda: field(log.state(Kind.FLEET, "chat"), "spec", "budget", "hourly") == "17", "change"
    )
    assert version(log.state(Kind.FLEET, "chat")) != version(first)
    assert field(log.state(Kind.FLEET, "chat"), "metadata", "uid") == field(first, "metadata", "uid")
    await subject.delete("ModelFleet", "chat")
    await log.until(lambda: (Kind.FLEET, "chat") not in log.objects, "deletion")


async def test_only_pods_with_a_sidecar_are_told(subject: ClusterUnderTest) -> None:
    await subject.watch()
    log = subject.log
    for name, label in (("without", "false"), ("with", "true")):
        labels = {"modelfleet.io/inject": label, "app": name}
        await subject.apply(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name, "namespace": subject.namespace, "labels": labels},
                "spec": {"nodeName": "elsewhere", "containers": [{"name": "app", "image": "none"}]},
            }
        )
    await log.until(lambda: (Kind.POD, "with") in log.objects, "the pod with a sidecar")
    assert (Kind.POD, "without") not in log.objects
    assert field(log.state(Kind.POD, "with"), "metadata", "uid")
    await subject.delete("Pod", "with")
    await log.until(lambda: (Kind.POD, "with") not in log.objects, "deletion of the pod")


async def test_a_pod_that_loses_its_label_is_told_as_gone(subject: ClusterUnderTest) -> None:
    await subject.watch()
    log = subject.log
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "app",
            "namespace": subject.namespace,
            "labels": {"modelfleet.io/inject": "true"},
        },
        "spec": {"nodeName": "elsewhere", "containers": [{"name": "app", "image": "none"}]},
    }
    await subject.apply(pod)
    await log.until(lambda: (Kind.POD, "app") in log.objects, "the pod")
    pod["metadata"]["labels"] = {"modelfleet.io/inject": "false"}
    await subject.apply(pod)
    await log.until(lambda: (Kind.POD, "app") not in log.objects, "the pod's end")


async def test_scaling_changes_only_the_replicas(subject: ClusterUnderTest) -> None:
    target = subject.key("large")
    await subject.apply(deployment(subject.namespace, "large", replicas=0))
    before = await subject.cluster.get(Kind.DEPLOYMENT, target)
    assert field(before, "spec", "replicas") == 0
    await subject.scale("large", 2)
    after = await subject.cluster.get(Kind.DEPLOYMENT, target)
    assert field(after, "spec", "replicas") == 2
    assert field(after, "spec", "template") == field(before, "spec", "template")


async def test_scaling_by_a_stale_version_is_a_conflict(subject: ClusterUnderTest) -> None:
    target = subject.key("large")
    await subject.apply(deployment(subject.namespace, "large", replicas=0))
    stale = version(await subject.cluster.get(Kind.DEPLOYMENT, target))
    await subject.scale("large", 1)
    with pytest.raises(Conflict):
        await subject.cluster.scale(target, 5, stale)
    now = await subject.cluster.get(Kind.DEPLOYMENT, target)
    assert field(now, "spec", "replicas") == 1


async def test_an_annotation_changes_the_version_and_neither_spec_nor_pods(subject: ClusterUnderTest) -> None:
    target = subject.key("large")
    await subject.apply(deployment(subject.namespace, "large", replicas=0))
    while True:
        before = await subject.cluster.get(Kind.DEPLOYMENT, target)
        try:
            told = await subject.cluster.annotate(target, {"modelfleet.io/epoch": "3"}, version(before))
            break
        except Conflict:  # a controller wrote the status in between
            continue
    kept = field(before, "metadata", "annotations") or {}
    assert isinstance(kept, dict)
    after = await subject.cluster.get(Kind.DEPLOYMENT, target)
    annotations = field(after, "metadata", "annotations")
    assert isinstance(annotations, dict)
    assert annotations.items() >= {"modelfleet.io/epoch": "3"}.items()
    assert annotations.keys() >= kept.keys()
    assert after["spec"] == before["spec"]
    assert told != version(before)
    with pytest.raises(Conflict):
        await subject.cluster.scale(target, 5, version(before))
    with pytest.raises(Conflict):
        await subject.cluster.annotate(target, {"modelfleet.io/epoch": "2"}, version(before))
    with pytest.raises(NotFound):
        await subject.cluster.annotate(subject.key("nothing"), {"modelfleet.io/epoch": "3"}, "1")
    await subject.scale("large", 1)
    assert field(await subject.cluster.get(Kind.DEPLOYMENT, target), "spec", "replicas") == 1


async def test_scaling_below_zero_is_rejected_with_the_reason(subject: ClusterUnderTest) -> None:
    await subject.apply(deployment(subject.namespace, "large", replicas=0))
    with pytest.raises(Rejected, match="must be greater than or equal to 0"):
        await subject.scale("large", -1)


async def test_what_does_not_exist_is_not_found(subject: ClusterUnderTest) -> None:
    nothing = subject.key("nothing")
    with pytest.raises(NotFound):
        await subject.cluster.get(Kind.FLEET, nothing)
    with pytest.raises(NotFound):
        await subject.cluster.scale(nothing, 1, "1")
    with pytest.raises(NotFound):
        await subject.cluster.write_status(Kind.FLEET, nothing, "1", {})


async def test_a_status_is_replaced_whole_and_leaves_the_rest(subject: ClusterUnderTest) -> None:
    key = subject.key("chat")
    await subject.apply(fleet(subject.namespace))
    before = await subject.cluster.get(Kind.FLEET, key)
    await subject.cluster.write_status(
        Kind.FLEET, key, version(before), {"observedGeneration": 1, "sidecars": 3}
    )
    between = await subject.cluster.get(Kind.FLEET, key)
    assert between["status"] == {"observedGeneration": 1, "sidecars": 3}
    await subject.cluster.write_status(Kind.FLEET, key, version(between), {"observedGeneration": 1})
    after = await subject.cluster.get(Kind.FLEET, key)
    assert after["status"] == {"observedGeneration": 1}
    assert after["spec"] == before["spec"]
    assert field(after, "metadata", "generation") == field(before, "metadata", "generation")


async def test_a_status_by_a_stale_version_is_a_conflict(subject: ClusterUnderTest) -> None:
    key = subject.key("chat")
    await subject.apply(fleet(subject.namespace))
    stale = version(await subject.cluster.get(Kind.FLEET, key))
    await subject.cluster.write_status(Kind.FLEET, key, stale, {"sidecars": 1})
    with pytest.raises(Conflict):
        await subject.cluster.write_status(Kind.FLEET, key, stale, {"sidecars": 2})
    assert field(await subject.cluster.get(Kind.FLEET, key), "status", "sidecars") == 1


async def test_an_equal_status_changes_no_version(subject: ClusterUnderTest) -> None:
    key = subject.key("chat")
    await subject.apply(fleet(subject.namespace))
    before = await subject.cluster.get(Kind.FLEET, key)
    await subject.cluster.write_status(Kind.FLEET, key, version(before), {"sidecars": 1})
    once = version(await subject.cluster.get(Kind.FLEET, key))
    await subject.cluster.write_status(Kind.FLEET, key, once, {"sidecars": 1})
    assert version(await subject.cluster.get(Kind.FLEET, key)) == once


async def test_a_record_is_written_by_compare_and_swap(subject: ClusterUnderTest) -> None:
    key = subject.key("ledger")
    assert await subject.cluster.read_record(key) is None
    record = Record(key, {"state": "1"}, {"modelfleet.io/policy": "assistant"})
    created = await subject.cluster.write_record(record)
    assert created.resource_version
    assert await subject.cluster.read_record(key) == created
    with pytest.raises(Conflict):
        await subject.cluster.write_record(record)
    updated = await subject.cluster.write_record(dataclasses.replace(created, data={"state": "2"}))
    assert updated.data == {"state": "2"}
    assert updated.labels == record.labels
    with pytest.raises(Conflict):
        await subject.cluster.write_record(dataclasses.replace(created, data={"state": "3"}))
    assert await subject.cluster.read_record(key) == updated
    await subject.cluster.delete_record(key)
    await subject.cluster.delete_record(key)
    assert await subject.cluster.read_record(key) is None


async def test_a_record_that_was_deleted_is_not_brought_back_by_an_update(subject: ClusterUnderTest) -> None:
    created = await subject.cluster.write_record(Record(subject.key("ledger"), {"state": "1"}, {}))
    await subject.cluster.delete_record(created.key)
    with pytest.raises((NotFound, Conflict)):
        await subject.cluster.write_record(dataclasses.replace(created, data={"state": "2"}))
    assert await subject.cluster.read_record(created.key) is None


async def test_a_records_bytes_and_its_version_are_as_they_were_written(subject: ClusterUnderTest) -> None:
    key = subject.key("chat-estimator")
    assert await subject.cluster.record_version(key) is None
    content = bytes(range(256)) * 1000
    created = await subject.cluster.write_record(Record(key, {}, {}, binary={"estimator.npz": content}))
    found = await subject.cluster.read_record(key)
    assert found == created
    assert found.binary == {"estimator.npz": content}
    assert await subject.cluster.record_version(key) == created.resource_version
    again = dataclasses.replace(created, binary={"estimator.npz": b""}, data={"epoch": "1"})
    updated = await subject.cluster.write_record(again)
    assert (updated.binary, updated.data) == ({"estimator.npz": b""}, {"epoch": "1"})
    assert await subject.cluster.record_version(key) == updated.resource_version != created.resource_version


async def test_a_config_map_that_a_user_made_is_read_with_its_bytes(subject: ClusterUnderTest) -> None:
    await subject.apply(
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "chat-estimator", "namespace": subject.namespace},
            "binaryData": {"estimator.npz": "UEsDBA=="},
        }
    )
    found = await subject.cluster.read_record(subject.key("chat-estimator"))
    assert found is not None
    assert found.binary == {"estimator.npz": b"PK\x03\x04"}


@pytest.mark.filterwarnings("ignore:Sending a large body:ResourceWarning")  # which the operator never does
async def test_a_record_that_is_too_large_is_rejected_with_the_limit(subject: ClusterUnderTest) -> None:
    record = Record(subject.key("learned"), {"epoch": "1"}, {}, binary={"state": bytes(1 << 20)})
    with pytest.raises(Rejected, match="1048576"):
        await subject.cluster.write_record(record)


async def test_a_record_with_a_bad_field_name_is_rejected_with_the_reason(subject: ClusterUnderTest) -> None:
    with pytest.raises(Rejected, match="a valid config key must consist of"):
        await subject.cluster.write_record(Record(subject.key("ledger"), {"no spaces": "1"}, {}))


async def test_only_one_of_two_writers_of_a_lease_wins(subject: ClusterUnderTest) -> None:
    key = subject.key("leader")
    assert await subject.cluster.read_lease(key) is None
    since = datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
    lease = LeaderLease(key, "a", since, since, duration_seconds=10, transitions=0, terms='{"floor": 2}')
    created = await subject.cluster.write_lease(lease)
    assert created == dataclasses.replace(lease, resource_version=created.resource_version)
    assert await subject.cluster.read_lease(key) == created
    attempts = await asyncio.gather(
        *(
            subject.cluster.write_lease(dataclasses.replace(created, holder=holder, transitions=1))
            for holder in "bc"
        ),
        return_exceptions=True,
    )
    assert sorted(type(outcome) for outcome in attempts if isinstance(outcome, Conflict)) == [Conflict]
    held = await subject.cluster.read_lease(key)
    assert held in attempts


async def test_replicas_become_ready_endpoints_and_leave_again(subject: ClusterUnderTest) -> None:
    await subject.watch()
    log, target = subject.log, subject.key("large")
    await subject.apply(service(subject.namespace, "large"))
    await subject.apply(deployment(subject.namespace, "large", replicas=2))
    await log.until(lambda: len(log.ready_urls("large")) == 2, "two ready endpoints")
    await log.until(
        lambda: field(log.state(Kind.DEPLOYMENT, "large"), "status", "readyReplicas") == 2,
        "two ready replicas",
    )
    async with aiohttp.ClientSession() as http:
        for url in log.ready_urls("large"):
            async with http.get(f"{url}/health") as response:
                assert response.status == 200
    await subject.scale("large", 1)
    await log.until(lambda: len(log.ready_urls("large")) == 1, "one ready endpoint")
    await log.until(
        lambda: field(log.state(Kind.DEPLOYMENT, "large"), "status", "replicas") == 1, "one replica"
    )
    assert field(await subject.cluster.get(Kind.DEPLOYMENT, target), "status", "readyReplicas") == 1


def _pods_of(log: EventLog, service_name: str) -> dict[str, str]:
    """Return the pod of each ready endpoint by its URL."""
    pods: dict[str, str] = {}
    for (kind, _), slice_ in log.objects.items():
        if kind is not Kind.ENDPOINT_SLICE:
            continue
        if field(slice_, "metadata", "labels", "kubernetes.io/service-name") != service_name:
            continue
        ports, endpoints = slice_.get("ports") or [], slice_.get("endpoints") or []
        assert isinstance(ports, list)
        assert isinstance(endpoints, list)
        for endpoint in endpoints:
            if field(endpoint, "conditions", "ready"):
                for port in ports:
                    name = str(field(endpoint, "targetRef", "name"))
                    pods[f"http://{endpoint['addresses'][0]}:{port['port']}"] = name
    return pods


async def test_of_ready_replicas_the_marked_one_goes(subject: ClusterUnderTest) -> None:
    await subject.watch()
    log = subject.log
    await subject.apply(service(subject.namespace, "large"))
    await subject.apply(deployment(subject.namespace, "large", replicas=3))
    await log.until(lambda: len(log.ready_urls("large")) == 3, "three ready endpoints")
    await log.until(
        lambda: field(log.state(Kind.DEPLOYMENT, "large"), "status", "readyReplicas") == 3,
        "three ready replicas",
    )
    pods = _pods_of(log, "large")
    assert all(name.startswith("large-") for name in pods.values())
    # Without a mark the youngest goes, which in memory is the last by name.
    marked, *_, spared = sorted(pods, key=lambda url: pods[url])
    await subject.cluster.mark_pod(subject.key(pods[spared]), -7)
    await subject.cluster.mark_pod(subject.key(pods[spared]), None)
    await subject.cluster.mark_pod(subject.key(pods[marked]), -7)
    await subject.scale("large", 2)
    await log.until(lambda: len(log.ready_urls("large")) == 2, "two ready endpoints")
    assert log.ready_urls("large") == pods.keys() - {marked}


async def test_a_pod_that_does_not_exist_can_not_be_marked(subject: ClusterUnderTest) -> None:
    with pytest.raises(NotFound):
        await subject.cluster.mark_pod(subject.key("nothing"), -1)


async def test_a_server_that_dies_leaves_the_endpoints_until_it_is_back(subject: ClusterUnderTest) -> None:
    await subject.watch()
    log = subject.log
    await subject.apply(service(subject.namespace, "large"))
    await subject.apply(deployment(subject.namespace, "large", replicas=1))
    await log.until(lambda: len(log.ready_urls("large")) == 1, "a ready endpoint")
    (url,) = log.ready_urls("large")
    async with aiohttp.ClientSession() as http:
        with pytest.raises(aiohttp.ClientError):
            await http.post(f"{url}/exit")
    await log.until(lambda: not log.ready_urls("large"), "the endpoint's end")
    await log.until(lambda: len(log.ready_urls("large")) == 1, "the endpoint's return")


async def test_a_server_that_fails_its_probe_leaves_the_endpoints(subject: ClusterUnderTest) -> None:
    await subject.watch()
    log = subject.log
    await subject.apply(service(subject.namespace, "large"))
    await subject.apply(deployment(subject.namespace, "large", replicas=1))
    await log.until(lambda: len(log.ready_urls("large")) == 1, "a ready endpoint")
    (url,) = log.ready_urls("large")
    async with aiohttp.ClientSession() as http:
        await http.post(f"{url}/unready")
        await log.until(lambda: not log.ready_urls("large"), "the endpoint's end")
        await http.post(f"{url}/ready")
        await log.until(lambda: log.ready_urls("large") == {url}, "the endpoint's return")


async def test_a_replica_that_ends_slowly_counts_as_terminating_and_holds_its_gpus(
    subject: ClusterUnderTest,
) -> None:
    await subject.watch()
    log, host = subject.log, f"host-{subject.namespace}"
    await subject.apply(node(host, gpus=2))
    selector = {HOSTNAME: host}
    await subject.apply(
        deployment(subject.namespace, "slow", replicas=1, gpus=2, node_selector=selector, stubborn=True)
    )
    await log.until(
        lambda: field(log.state(Kind.DEPLOYMENT, "slow"), "status", "readyReplicas") == 1, "ready"
    )
    await subject.scale("slow", 0)
    await log.until(
        lambda: field(log.state(Kind.DEPLOYMENT, "slow"), "status", "terminatingReplicas") == 1, "terminating"
    )
    assert not field(log.state(Kind.DEPLOYMENT, "slow"), "status", "replicas")
    await subject.apply(deployment(subject.namespace, "next", replicas=1, gpus=2, node_selector=selector))
    await log.until(
        lambda: field(log.state(Kind.DEPLOYMENT, "next"), "status", "unavailableReplicas") == 1, "waiting"
    )
    assert field(log.state(Kind.DEPLOYMENT, "slow"), "status", "terminatingReplicas") == 1
    await log.until(lambda: field(log.state(Kind.DEPLOYMENT, "next"), "status", "readyReplicas") == 1, "room")
    assert not field(log.state(Kind.DEPLOYMENT, "slow"), "status", "terminatingReplicas")


async def test_replicas_beyond_the_nodes_gpus_stay_pending(subject: ClusterUnderTest) -> None:
    await subject.watch()
    log, host = subject.log, f"host-{subject.namespace}"
    await subject.apply(node(host, gpus=4))
    await subject.apply(service(subject.namespace, "large"))
    await subject.apply(
        deployment(subject.namespace, "large", replicas=3, gpus=2, node_selector={HOSTNAME: host})
    )
    await log.until(lambda: len(log.ready_urls("large")) == 2, "two ready endpoints")
    await log.until(
        lambda: field(log.state(Kind.DEPLOYMENT, "large"), "status", "readyReplicas") == 2,
        "two ready replicas",
    )
    status = log.state(Kind.DEPLOYMENT, "large")["status"]
    assert field(status, "replicas") == 3
    assert field(status, "unavailableReplicas") == 1
    assert field(log.state(Kind.NODE, host), "status", "allocatable", GPU) == "4"
    # A pod that goes makes room for the one that waits.
    await subject.apply(
        deployment(subject.namespace, "small", replicas=1, gpus=2, node_selector={HOSTNAME: host})
    )
    await subject.scale("large", 1)
    await log.until(
        lambda: field(log.state(Kind.DEPLOYMENT, "small"), "status", "readyReplicas") == 1, "room"
    )


async def test_deleting_a_fleet_takes_effect_at_once_and_leaves_deployments(
    subject: ClusterUnderTest,
) -> None:
    await subject.watch()
    log = subject.log
    await subject.apply(fleet(subject.namespace))
    await subject.apply(deployment(subject.namespace, "large", replicas=0))
    await log.until(
        lambda: len(log.objects.keys() & {(Kind.FLEET, "chat"), (Kind.DEPLOYMENT, "large")}) == 2, "both"
    )
    assert field(log.state(Kind.FLEET, "chat"), "metadata", "finalizers") is None
    await subject.delete("ModelFleet", "chat")
    with pytest.raises(NotFound):
        await subject.cluster.get(Kind.FLEET, subject.key("chat"))
    await subject.cluster.get(Kind.DEPLOYMENT, subject.key("large"))


def _without_selector(namespace: str, name: str) -> dict[str, Any]:
    ports = [{"name": "capacity", "port": 7443, "protocol": "TCP"}]
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": {"ports": ports}}


async def test_a_service_leads_where_its_slice_says(subject: ClusterUnderTest) -> None:
    key = subject.key("capacity")
    with pytest.raises(NotFound):
        await subject.cluster.read_endpoint(key)
    await subject.apply(_without_selector(subject.namespace, "capacity"))
    empty = await subject.cluster.read_endpoint(key)
    assert (empty.addresses, empty.port_name, empty.epoch, empty.resource_version) == (
        (),
        "capacity",
        0,
        None,
    )
    assert empty.service_uid
    here = dataclasses.replace(empty, addresses=("10.1.2.3",), ready=True, port=7443, epoch=4)
    written = await subject.cluster.write_endpoint(here)
    assert await subject.cluster.read_endpoint(key) == written
    assert written == dataclasses.replace(here, resource_version=written.resource_version)
    gone = await subject.cluster.write_endpoint(dataclasses.replace(written, ready=False, epoch=5))
    assert await subject.cluster.read_endpoint(key) == gone
    assert gone.resource_version != written.resource_version


async def test_where_a_service_leads_is_written_by_one_of_two(subject: ClusterUnderTest) -> None:
    key = subject.key("capacity")
    await subject.apply(_without_selector(subject.namespace, "capacity"))
    empty = await subject.cluster.read_endpoint(key)
    first = await subject.cluster.write_endpoint(
        dataclasses.replace(empty, addresses=("10.1.2.3",), ready=True, port=1, epoch=1)
    )
    with pytest.raises(Conflict):
        await subject.cluster.write_endpoint(
            dataclasses.replace(empty, addresses=("10.1.2.4",), ready=True, port=1, epoch=2)
        )
    second = await subject.cluster.write_endpoint(
        dataclasses.replace(first, addresses=("10.1.2.4",), epoch=2)
    )
    with pytest.raises(Conflict):
        await subject.cluster.write_endpoint(dataclasses.replace(first, addresses=("10.1.2.3",)))
    assert await subject.cluster.read_endpoint(key) == second


async def test_a_slice_that_someone_changed_is_not_as_it_was_written(subject: ClusterUnderTest) -> None:
    key = subject.key("capacity")
    await subject.apply(_without_selector(subject.namespace, "capacity"))
    await subject.watch()
    empty = await subject.cluster.read_endpoint(key)
    written = await subject.cluster.write_endpoint(
        dataclasses.replace(empty, addresses=("fd00::1",), ready=True, port=7443, epoch=1)
    )
    name = (Kind.ENDPOINT_SLICE, "capacity-leader")
    await subject.log.until(lambda: name in subject.log.objects, "the slice")
    stored = dict(subject.log.objects[name])
    metadata: Any = stored["metadata"]
    assert stored["addressType"] == "IPv6"
    assert metadata["ownerReferences"][0]["uid"] == empty.service_uid
    clean = {k: metadata[k] for k in ("name", "namespace", "labels", "annotations", "ownerReferences")}
    ports: Any = stored["ports"]
    endpoints: Any = stored["endpoints"]
    changes: list[dict[str, Any]] = [
        {"metadata": clean | {"labels": {"kubernetes.io/service-name": "other"}}},
        {"ports": [{"name": "other", "port": 7443, "protocol": "TCP"}]},
        {"ports": [*ports, {"name": "more", "port": 1, "protocol": "TCP"}]},
        {"endpoints": [*endpoints, {"addresses": ["fd00::2"], "conditions": {"ready": True}}]},
        {"endpoints": [{"addresses": ["fd00::1"], "conditions": {"ready": False}}]},
    ]
    for change in changes:
        await subject.apply({**stored, "metadata": clean, **change})
        found = await subject.cluster.read_endpoint(key)
        assert dataclasses.replace(found, resource_version=None) != dataclasses.replace(
            written, resource_version=None
        ), change
        mended = await subject.cluster.write_endpoint(
            dataclasses.replace(written, resource_version=found.resource_version)
        )
        assert await subject.cluster.read_endpoint(key) == mended


async def test_a_token_that_nobody_issued_is_nobodys(subject: ClusterUnderTest) -> None:
    found = await subject.cluster.review_token("a.b.c", "modelfleet")
    assert not found.authenticated
    assert found.user == ""
    assert found.error


def test_both_adapters_run_the_same_contract(request: pytest.FixtureRequest) -> None:
    ran = Counter(
        item.callspec.params["subject"]
        for item in request.session.items
        if isinstance(item, pytest.Function) and item.path == request.path and hasattr(item, "callspec")
    )
    assert ran["embedded"] == ran["kubernetes"] > 0
