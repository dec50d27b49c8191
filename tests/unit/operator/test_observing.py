"""Raw objects become exactly what decisions need, and only what matters wakes them."""

from __future__ import annotations

import asyncio
import copy

import pytest
from modelfleet_core.values import ModelName, ObjectKey, VariantKey
from modelfleet_operator.observe import EPOCH_ANNOTATION, workload_of
from modelfleet_operator.ownership import foreign_owner
from support.manifests import Manifest, fleet_manifest
from support.snapshots import (
    deployment_object,
    event,
    node_object,
    observed,
    pod_object,
    slice_object,
    view_of,
)

LARGE = VariantKey(ModelName("large"), "h100")


def test_pending_and_terminating_pods_count_as_occupied() -> None:
    key = ObjectKey("ml", "large")
    workload = workload_of(
        key, deployment_object("large", replicas=2, readyReplicas=1, terminatingReplicas=1)
    )
    assert (workload.replicas, workload.ready, workload.occupied) == (2, 1, 3)


def test_surge_pods_of_a_rollout_count_as_occupied() -> None:
    manifest = deployment_object("large", replicas=2)
    manifest["status"] = {"replicas": 3, "readyReplicas": 2}
    assert workload_of(ObjectKey("ml", "large"), manifest).occupied == 3


def test_a_deployment_without_replicas_asks_for_one() -> None:
    manifest = deployment_object("large")
    del manifest["spec"]["replicas"]
    assert workload_of(ObjectKey("ml", "large"), manifest).replicas == 1


def test_ready_endpoints_become_urls_with_the_slots_of_a_replica() -> None:
    view = view_of(observed(fleet_manifest(), slice_object("large", "10.0.0.1", "10.0.0.2")))
    assert view.endpoints[LARGE] == {"http://10.0.0.1:8000": 8, "http://10.0.0.2:8000": 8}


def test_endpoints_that_are_not_ready_or_terminate_have_no_slots() -> None:
    slice_ = slice_object("large", "10.0.0.1", "10.0.0.2", "10.0.0.3")
    slice_["endpoints"][0]["conditions"] = {"ready": False}
    slice_["endpoints"][1]["conditions"] = {"ready": True, "terminating": True}
    slice_["endpoints"][2]["conditions"] = {}
    assert view_of(observed(fleet_manifest(), slice_)).endpoints[LARGE] == {}


def test_a_pod_with_two_address_families_has_its_slots_once() -> None:
    observer = observed(
        fleet_manifest(),
        slice_object("large", "10.0.0.1", name="v4"),
        slice_object("large", "fd00::1", name="v6", family="IPv6"),
    )
    assert view_of(observer).endpoints[LARGE] == {"http://10.0.0.1:8000": 8}


def test_an_ipv6_pod_has_a_bracketed_url() -> None:
    view = view_of(observed(fleet_manifest(), slice_object("large", "fd00::1", family="IPv6")))
    assert list(view.endpoints[LARGE]) == ["http://[fd00::1]:8000"]


def test_slices_of_other_services_namespaces_and_kinds_do_not_count() -> None:
    observer = observed(
        fleet_manifest(),
        slice_object("other", "10.0.0.1"),
        slice_object("large", "10.0.0.2", namespace="elsewhere"),
        slice_object("large", "name.example", family="FQDN"),
    )
    assert view_of(observer).endpoints[LARGE] == {}


def test_an_external_endpoint_is_always_live() -> None:
    view = view_of(observed(fleet_manifest()))
    endpoints = view.endpoints[VariantKey(ModelName("frontier"), "api")]
    assert endpoints == {"https://api.example.com#frontier/api": 16}


def test_models_of_one_external_api_are_leased_apart() -> None:
    manifest = fleet_manifest()
    second = copy.deepcopy(manifest["spec"]["models"][1]) | {"name": "frontier-mini"}
    second["variants"][0]["concurrency"] = 3
    manifest["spec"]["models"].append(second)
    endpoints = view_of(observed(manifest)).endpoints
    assert endpoints[VariantKey(ModelName("frontier"), "api")] == {"https://api.example.com#frontier/api": 16}
    assert endpoints[VariantKey(ModelName("frontier-mini"), "api")] == {
        "https://api.example.com#frontier-mini/api": 3
    }


def test_the_stock_is_what_selected_nodes_offer_to_pods() -> None:
    observer = observed(
        fleet_manifest(),
        node_object("a", gpus=4),
        node_object("b", gpus=2),
        node_object("other-type", gpus=8, labels={"gpu": "l4"}),
        node_object("cordoned", gpus=8, unschedulable=True),
    )
    assert view_of(observer).stock == {"h100": 6}


def test_where_nodes_are_not_read_the_stock_of_a_pool_is_its_limit() -> None:
    view = view_of(observed(fleet_manifest(), nodes=False))
    assert view.stock == {pool.name: pool.limit for pool in view.fleet.pools}
    assert sum(view.stock.values()) > 0
    assert not view.stock_known


def test_gpus_that_another_fleet_holds_are_not_in_stock() -> None:
    other = fleet_manifest("other")
    variant = other["spec"]["models"][0]["variants"][0]
    variant["scaleTargetRef"]["name"] = variant["service"]["name"] = "others"
    observer = observed(
        fleet_manifest(), other, node_object("a", gpus=8), deployment_object("others", replicas=3)
    )
    assert view_of(observer).stock == {"h100": 2}


def test_two_pools_never_count_one_node_twice() -> None:
    manifest = fleet_manifest()
    manifest["spec"]["pools"].append(manifest["spec"]["pools"][0] | {"name": "same-nodes"})
    assert view_of(observed(manifest, node_object("a", gpus=8))).stock == {"h100": 8, "same-nodes": 0}


def test_the_highest_epoch_that_deployments_carry_is_known() -> None:
    assert observed().highest_epoch() == 0
    stamped = deployment_object("large")
    stamped["metadata"]["annotations"] = {EPOCH_ANNOTATION: "7"}
    assert observed(stamped, deployment_object("small")).highest_epoch() == 7


def test_the_epoch_in_a_fleets_status_is_known_until_the_fleet_is_gone() -> None:
    fleet = fleet_manifest() | {"status": {"capacity": {"epoch": 9}}}
    observer = observed(fleet)
    assert observer.highest_epoch() == 9
    observer.apply(event(fleet, deleted=True))
    assert observer.highest_epoch() == 0


def test_a_change_that_no_decision_looks_at_wakes_nobody() -> None:
    fleet, node = fleet_manifest(), node_object("a", gpus=4)
    observer = observed(fleet, node)
    version = observer.version
    fleet["metadata"]["resourceVersion"] = "99"
    fleet["status"] = {"sidecars": 3}
    node["status"]["conditions"] = [{"type": "Ready", "lastHeartbeatTime": "now"}]
    assert not observer.apply(event(fleet))
    assert not observer.apply(event(node))
    assert observer.version == version
    assert observer.snapshot().fleets[ObjectKey("ml", "chat")].status == {"sidecars": 3}


async def test_a_change_wakes_everyone_who_waits() -> None:
    observer = observed(fleet_manifest())
    waiting = [asyncio.create_task(observer.change(observer.version)) for _ in range(3)]
    await asyncio.sleep(0)
    observer.apply(event(pod_object("assistant-0")))
    async with asyncio.timeout(5):
        assert await asyncio.gather(*waiting) == [observer.version] * 3


def test_our_own_patch_counts_before_the_cluster_shows_it() -> None:
    observer = observed(fleet_manifest(), deployment_object("large", replicas=1))
    observer.scaled(ObjectKey("ml", "large"), 3)
    assert view_of(observer).current()[LARGE] == 3


def test_a_pod_that_has_finished_is_no_sidecar_any_more() -> None:
    pod = pod_object("assistant-0")
    observer = observed(pod)
    pod["status"] = {"phase": "Succeeded"}
    observer.apply(event(pod))
    assert observer.snapshot().pods == {}


def _managed(manager: str, operation: str, subresource: str = "") -> Manifest:
    manifest = deployment_object("large")
    entry = {"manager": manager, "operation": operation, "fieldsV1": {"f:spec": {"f:replicas": {}}}}
    manifest["metadata"]["managedFields"] = [entry | ({"subresource": subresource} if subresource else {})]
    return manifest


def _applied(recorded: str) -> Manifest:
    manifest = deployment_object("large")
    manifest["metadata"]["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": recorded}
    return manifest


@pytest.mark.parametrize(
    ("manifest", "says"),
    [
        (_managed("kube-controller-manager", "Update", "scale"), "HorizontalPodAutoscaler"),
        (_managed("argocd-controller", "Apply"), "argocd-controller applies spec.replicas"),
        (_applied('{"spec": {"replicas": 2}}'), "kubectl apply sets spec.replicas"),
    ],
)
def test_whoever_else_sets_replicas_is_named_with_the_way_out(manifest: Manifest, says: str) -> None:
    assert says in foreign_owner(manifest)


@pytest.mark.parametrize(
    "manifest",
    [
        deployment_object("large"),
        _managed("modelfleet-operator", "Update", "scale"),
        _managed("kubectl", "Update", "scale"),  # a person, once
        _managed("kubectl-client-side-apply", "Update"),  # lists defaulted fields too
        _managed("kube-controller-manager", "Update", "status"),
        _applied('{"spec": {"template": {}}}'),
        _applied("not json"),
        _applied("[" * 100_000),
    ],
)
def test_nobody_else_is_seen_where_nobody_is(manifest: Manifest) -> None:
    assert foreign_owner(manifest) == ""
