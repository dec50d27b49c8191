"""The two objects that the operator owns, as Kubernetes manifests: records (ConfigMap) and its Lease.

In come values of `cluster`, out go manifests for either adapter, and back again.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from modelfleet_core.values import ObjectKey

from modelfleet_operator.cluster import LeaderLease, Record
from modelfleet_operator.cluster.fields import integer, mapping, text, texts

_MICRO_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"
_TERMS_ANNOTATION = "modelfleet.io/lease-terms"


def config_map(record: Record) -> Mapping[str, object]:
    """Return the record as a ConfigMap."""
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": _metadata(record.key, record.resource_version, record.labels),
        "data": dict(record.data),
    }


def record_of(config_map: Mapping[str, object]) -> Record:
    """Return the ConfigMap as a record."""
    metadata = mapping(config_map, "metadata")
    return Record(
        key=_key(metadata),
        data=texts(config_map, "data"),
        labels=texts(metadata, "labels"),
        resource_version=text(metadata, "resourceVersion"),
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
