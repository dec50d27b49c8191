"""The objects that the operator owns, as Kubernetes manifests: records (ConfigMap), its Lease, and Events.

In come values of `cluster`, out go manifests for either adapter, and back again.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import UTC, datetime

from modelfleet_core.values import ObjectKey

from modelfleet_operator.cluster import Event, LeaderLease, Record, Rejected
from modelfleet_operator.cluster.fields import integer, mapping, text, texts

EVENTS_COMPONENT = "modelfleet-operator"
_TIME = "%Y-%m-%dT%H:%M:%SZ"
_MICRO_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"
_TERMS_ANNOTATION = "modelfleet.io/lease-terms"


def config_map(record: Record) -> Mapping[str, object]:
    """Return the record as a ConfigMap."""
    manifest: dict[str, object] = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(record.key, record.resource_version, record.labels),
        "data": dict(record.data),
    }
    if record.binary:
        manifest["binaryData"] = {
            name: base64.b64encode(content).decode() for name, content in record.binary.items()
        }
    return manifest


def record_of(config_map: Mapping[str, object]) -> Record:
    """Return the ConfigMap as a record. Raises `Rejected` for bytes that no API server would have."""
    metadata = mapping(config_map, "metadata")
    binary: dict[str, bytes] = {}
    for name, content in texts(config_map, "binaryData").items():
        try:
            binary[name] = base64.b64decode(content, validate=True)
        except ValueError as error:
            raise Rejected(f"binaryData[{name}] of ConfigMap {_key(metadata)} is not base64") from error
    return Record(
        key=_key(metadata),
        data=texts(config_map, "data"),
        labels=texts(metadata, "labels"),
        resource_version=text(metadata, "resourceVersion"),
        binary=binary,
    )


def lease_object(lease: LeaderLease) -> Mapping[str, object]:
    """Return the value as a `coordination.k8s.io/v1` Lease."""
    metadata = dict(_metadata(lease.key, lease.resource_version, {}))
    if lease.terms:
        metadata["annotations"] = {_TERMS_ANNOTATION: lease.terms}
    return {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": metadata,
        "spec": {
            "holderIdentity": lease.holder,
            "acquireTime": lease.acquired.astimezone(UTC).strftime(_MICRO_TIME),
            "renewTime": lease.renewed.astimezone(UTC).strftime(_MICRO_TIME),
            "leaseDurationSeconds": lease.duration_seconds,
            "leaseTransitions": lease.transitions,
        },
    }


def lease_of(lease: Mapping[str, object]) -> LeaderLease:
    """Return the Lease as a value; times that were never written count as the epoch, that is as expired."""
    metadata, spec = mapping(lease, "metadata"), mapping(lease, "spec")
    return LeaderLease(
        key=_key(metadata),
        holder=text(spec, "holderIdentity"),
        acquired=_moment(text(spec, "acquireTime")),
        renewed=_moment(text(spec, "renewTime")),
        duration_seconds=integer(spec, "leaseDurationSeconds"),
        transitions=integer(spec, "leaseTransitions"),
        terms=texts(metadata, "annotations").get(_TERMS_ANNOTATION, ""),
        resource_version=text(metadata, "resourceVersion"),
    )


def event_object(event: Event, *, count: int) -> Mapping[str, object]:
    """Return a core Event, which `kubectl describe` finds by the object that it involves."""
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": event.name, "namespace": event.key.namespace},
        "involvedObject": {
            "apiVersion": "modelfleet.io/v1alpha1",
            "kind": event.kind.value,
            "namespace": event.key.namespace,
            "name": event.key.name,
            "uid": event.uid,
        },
        "reason": event.reason,
        "message": event.message,
        "type": "Warning" if event.warning else "Normal",
        "source": {"component": EVENTS_COMPONENT},
        "reportingComponent": EVENTS_COMPONENT,
        "reportingInstance": event.reporter,
        "firstTimestamp": event.first.astimezone(UTC).strftime(_TIME),
        "lastTimestamp": event.last.astimezone(UTC).strftime(_TIME),
        "count": count,
    }


def event_again(event: Event) -> Mapping[str, object]:
    """Return what changes in an Event that happened again, but for its count."""
    whole = event_object(event, count=0)
    return {name: whole[name] for name in ("lastTimestamp", "reportingInstance")}


def _key(metadata: Mapping[str, object]) -> ObjectKey:
    return ObjectKey(text(metadata, "namespace"), text(metadata, "name"))


def _metadata(
    key: ObjectKey, resource_version: str | None, labels: Mapping[str, str]
) -> Mapping[str, object]:
    metadata: dict[str, object] = {"name": key.name, "namespace": key.namespace}
    if labels:
        metadata["labels"] = dict(labels)
    if resource_version is not None:
        metadata["resourceVersion"] = resource_version
    return metadata


def _moment(written: str) -> datetime:
    return datetime.fromisoformat(written) if written else datetime.fromtimestamp(0, UTC)
