"""The cluster in memory: the same `Cluster` without Kubernetes, for the demo and for fast tests.

In come manifests as a user would apply them (fleets, policies, Deployments, Services, Nodes, and Pods with a
sidecar); out go the events and writes that a real API server would show. Pods run as local processes.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import yaml
from modelfleet_core.values import ObjectKey

from modelfleet_operator.cluster import (
    DELETION_COST,
    INJECT_LABEL,
    Event,
    Kind,
    LeaderEndpoint,
    LeaderLease,
    ObjectEvent,
    Record,
    Rejected,
    TokenReview,
)
from modelfleet_operator.cluster.fields import integer, mapping, texts
from modelfleet_operator.cluster.objects import (
    config_map,
    event_object,
    lease_object,
    lease_of,
    record_of,
)
from modelfleet_operator.cluster.serving import endpoint_of, slice_key, slice_object
from modelfleet_operator.cluster.store import ObjectId, ObjectStore, id_of
from modelfleet_operator.cluster.workloads import Workloads

_KINDS = {kind.value: kind for kind in Kind}
_MOST_EVENTS = 500
"""Events that are kept; a real API server forgets them after an hour."""
_LARGEST_RECORD = 1 << 20
"""Bytes of a ConfigMap's values."""
_RECORD_FIELD = re.compile(r"[-._a-zA-Z0-9]+")


def read_manifests(paths: Iterable[Path]) -> list[Mapping[str, object]]:
    """Return every object in the YAML files, and in the `*.yaml` files of folders, in order.

    Raises `OSError`, and `ValueError` naming the file for text that is no YAML or no Kubernetes object.
    """
    manifests: list[Mapping[str, object]] = []
    for path in paths:
        if not path.exists():
            raise ValueError(
                f"{path}: there is no such file or folder; --manifests names YAML files and folders"
            )
        for file in sorted(path.glob("*.yaml")) if path.is_dir() else [path]:
            try:
                documents = list(yaml.safe_load_all(file.read_text()))
            except yaml.YAMLError as error:
                raise ValueError(f"{file} is not valid YAML: {error}") from error
            for document in documents:
                if document is None:
                    continue
                if (
                    not isinstance(document, Mapping)
                    or not id_of(document).kind
                    or not id_of(document).key.name
                ):
                    raise ValueError(f"{file}: every document needs kind and metadata.name")
                manifests.append(document)
    return manifests


class EmbeddedCluster:
    """A `Cluster` whose objects start as `manifests`; pods' output goes to files in `logs`, if given."""

    def __init__(self, manifests: Iterable[Mapping[str, object]] = (), *, logs: Path | None = None) -> None:
        self._store = ObjectStore()
        self._workloads = Workloads(self._store, logs=logs)
        for manifest in manifests:
            self.apply(manifest)

    def apply(self, manifest: Mapping[str, object]) -> None:
        """Create or change an object as `kubectl apply` does: status and replicas left out stay."""
        before = self._store.find(id_of(manifest))
        after = dict(manifest)
        if before is not None:
            after["status"] = mapping(before, "status")
            if id_of(manifest).kind == "Deployment" and "replicas" not in mapping(manifest, "spec"):
                replicas = integer(mapping(before, "spec"), "replicas", 1)
                after["spec"] = {**mapping(manifest, "spec"), "replicas": replicas}
        self._store.put(after)

    def delete(self, kind: str, key: ObjectKey) -> None:
        """Delete an object as `kubectl delete` does; one that does not exist is fine."""
        self._store.delete(ObjectId(kind, key))

    async def run(self, sink: Callable[[ObjectEvent], None], synced: asyncio.Event) -> None:
        told: set[ObjectId] = set()

        def tell(name: ObjectId, deleted: bool, manifest: Mapping[str, object]) -> None:
            if name.kind not in _KINDS:
                return
            kind, labels = _KINDS[name.kind], texts(mapping(manifest, "metadata"), "labels")
            # As with a label selector on a real API server, a pod that loses its label is told as deleted.
            wanted = not deleted and (kind is not Kind.POD or labels.get(INJECT_LABEL) == "true")
            if wanted or name in told:
                sink(ObjectEvent(kind, name.key, not wanted, manifest))
            (told.add if wanted else told.discard)(name)

        for kind in Kind:
            for manifest in self._store.objects(kind.value):
                tell(id_of(manifest), False, manifest)
        end_listening = self._store.listen(tell)
        synced.set()
        try:
            await self._workloads.run()
        finally:
            end_listening()

    async def get(self, kind: Kind, key: ObjectKey) -> Mapping[str, object]:
        return self._store.get(ObjectId(kind.value, key))

    async def scale(self, target: ObjectKey, replicas: int, resource_version: str) -> None:
        if replicas < 0:
            raise Rejected(f"spec.replicas: Invalid value: {replicas}: must be greater than or equal to 0")
        deployment = self._store.get(ObjectId(Kind.DEPLOYMENT.value, target))
        spec = {**mapping(deployment, "spec"), "replicas": replicas}
        self._store.put({**deployment, "spec": spec}, resource_version=resource_version)

    async def annotate(self, target: ObjectKey, annotations: Mapping[str, str], resource_version: str) -> str:
        deployment = self._store.get(ObjectId(Kind.DEPLOYMENT.value, target))
        metadata = mapping(deployment, "metadata")
        noted = {**metadata, "annotations": {**texts(metadata, "annotations"), **annotations}}
        after = self._store.put({**deployment, "metadata": noted}, resource_version=resource_version)
        return self._store.version(after)

    async def mark_pod(self, pod: ObjectKey, cost: int | None) -> None:
        marked = self._store.get(ObjectId(Kind.POD.value, pod))
        metadata = mapping(marked, "metadata")
        annotations = {k: v for k, v in texts(metadata, "annotations").items() if k != DELETION_COST}
        if cost is not None:
            annotations[DELETION_COST] = str(cost)
        self._store.put({**marked, "metadata": {**metadata, "annotations": annotations}})

    async def write_status(
        self, kind: Kind, key: ObjectKey, resource_version: str, status: Mapping[str, object]
    ) -> None:
        manifest = self._store.get(ObjectId(kind.value, key))
        self._store.put({**manifest, "status": status}, resource_version=resource_version)

    async def read_record(self, key: ObjectKey) -> Record | None:
        manifest = self._store.find(ObjectId("ConfigMap", key))
        return None if manifest is None else record_of(manifest)

    async def record_version(self, key: ObjectKey) -> str | None:
        manifest = self._store.find(ObjectId("ConfigMap", key))
        return None if manifest is None else self._store.version(manifest)

    async def write_record(self, record: Record) -> Record:
        size = sum(len(content.encode()) for content in record.data.values())
        if size + sum(len(content) for content in record.binary.values()) > _LARGEST_RECORD:
            raise Rejected(f"ConfigMap {record.key}: Too long: may not be more than {_LARGEST_RECORD} bytes")
        for name in (*record.data, *record.binary):
            if not _RECORD_FIELD.fullmatch(name):
                raise Rejected(
                    f"data[{name}]: Invalid value: {name!r}: a valid config key must consist of "
                    "alphanumeric characters, '-', '_' or '.'"
                )
        return record_of(self._write(config_map(record), record.resource_version))

    async def delete_record(self, key: ObjectKey) -> None:
        self._store.delete(ObjectId("ConfigMap", key))

    async def read_lease(self, key: ObjectKey) -> LeaderLease | None:
        manifest = self._store.find(ObjectId("Lease", key))
        return None if manifest is None else lease_of(manifest)

    async def write_lease(self, lease: LeaderLease) -> LeaderLease:
        return lease_of(self._write(lease_object(lease), lease.resource_version))

    async def post(self, event: Event) -> None:
        name = ObjectId("Event", ObjectKey(event.key.namespace, event.name))
        before = self._store.find(name)
        manifest = {**event_object(event, count=event.times)}
        if before is not None:
            manifest["firstTimestamp"] = before["firstTimestamp"]
            manifest["count"] = integer(before, "count") + event.times
        self._store.put(manifest)
        kept = list(self._store.objects("Event"))
        for oldest in kept[: max(0, len(kept) - _MOST_EVENTS)]:
            self._store.delete(id_of(oldest))

    def events(self) -> list[Mapping[str, object]]:
        """Return the Events that were posted, as `kubectl get events --all-namespaces` lists them."""
        return list(self._store.objects("Event"))

    async def read_endpoint(self, service: ObjectKey) -> LeaderEndpoint:
        owner = self._store.get(ObjectId("Service", service))
        return endpoint_of(owner, self._store.find(ObjectId("EndpointSlice", slice_key(service))))

    async def write_endpoint(self, endpoint: LeaderEndpoint) -> LeaderEndpoint:
        written = self._write(slice_object(endpoint), endpoint.resource_version)
        return replace(endpoint, resource_version=self._store.version(written))

    async def review_token(self, token: str, audience: str) -> TokenReview:
        """There are no ServiceAccounts in memory, so nobody is known by a token."""
        return TokenReview(authenticated=False, error="the embedded cluster issues no tokens")

    def _write(self, manifest: Mapping[str, object], resource_version: str | None) -> Mapping[str, object]:
        if resource_version is None:
            return self._store.put(manifest, create=True)
        return self._store.put(manifest, resource_version=resource_version)

    async def close(self) -> None:
        """Nothing is left to free: `run` ends the pods it started when it is cancelled."""
