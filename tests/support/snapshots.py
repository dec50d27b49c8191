"""Builders of what the operator observes: raw objects, and an observer that was told of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelfleet_core.values import ObjectKey
from modelfleet_operator.cluster import Kind, ObjectEvent
from modelfleet_operator.observe import Observer
from modelfleet_operator.spec import resolve
from modelfleet_operator.views import FleetView, fleet_view

from support.manifests import Manifest

KINDS = {kind.value: kind for kind in Kind}


def deployment_object(name: str, *, replicas: int = 1, namespace: str = "ml", **status: int) -> Manifest:
    return {
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace, "resourceVersion": "7"},
        "spec": {"replicas": replicas},
        "status": status,
    }


def slice_object(
    service: str, *addresses: str, name: str = "", namespace: str = "ml", family: str = "IPv4", **extra: Any
) -> Manifest:
    """Return an EndpointSlice with a ready endpoint for each address; its pod is named like its last part."""
    return {
        "kind": "EndpointSlice",
        "metadata": {
            "name": name or f"{service}-1",
            "namespace": namespace,
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": family,
        "ports": [{"name": "http", "port": 8000}],
        "endpoints": [
            {
                "addresses": [address],
                "conditions": {"ready": True},
                "targetRef": {"uid": f"pod-{address.replace(':', '.').rsplit('.', 1)[-1]}"},
            }
            for address in addresses
        ],
    } | extra


def node_object(name: str, *, gpus: int, labels: Mapping[str, str] | None = None, **spec: Any) -> Manifest:
    return {
        "kind": "Node",
        "metadata": {"name": name, "labels": dict(labels or {"gpu": "h100"})},
        "spec": spec,
        "status": {"allocatable": {"nvidia.com/gpu": str(gpus), "cpu": "8", "memory": "64Gi"}},
    }


def pod_object(name: str, *, namespace: str = "ml", policy: str = "", **labels: str) -> Manifest:
    annotations = {"modelfleet.io/policy": policy} if policy else {}
    return {
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "uid": f"uid-{name}",
            "labels": labels or {"app": "assistant"},
            "annotations": annotations,
        },
    }


def event(manifest: Manifest, *, deleted: bool = False) -> ObjectEvent:
    metadata = manifest["metadata"]
    key = ObjectKey(metadata.get("namespace", ""), metadata["name"])
    return ObjectEvent(KINDS[manifest["kind"]], key, deleted, manifest)


def observed(*manifests: Manifest, nodes: bool = True) -> Observer:
    observer = Observer(nodes=nodes)
    for manifest in manifests:
        observer.apply(event(manifest))
    return observer


def view_of(observer: Observer, name: str = "chat", namespace: str = "ml") -> FleetView:
    """Return the view of a fleet that must be in force."""
    snapshot = observer.snapshot()
    resolution = resolve(snapshot)
    fleet = resolution.fleets[ObjectKey(namespace, name)].fleet
    assert fleet is not None
    return fleet_view(fleet, snapshot, resolution)
