"""The objects of the embedded cluster: an API server's storage in memory.

In come whole manifests and status updates; out go versioned manifests and, to each listener, every change.
`workloads` acts on it as controllers do, `embedded` serves it to the operator.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from typing import NamedTuple

from modelfleet_core.values import ObjectKey

from modelfleet_operator.cluster import Conflict, NotFound
from modelfleet_operator.cluster.fields import integer, mapping, text
from modelfleet_operator.cluster.pods import timestamp


class ObjectId(NamedTuple):
    """A kind's Kubernetes name and the object's key."""

    kind: str
    key: ObjectKey


Listener = Callable[[ObjectId, bool, Mapping[str, object]], None]
"""Called with the object's id, whether it was deleted, and its manifest."""

_CLUSTER_SCOPED = frozenset({"Node"})


def id_of(manifest: Mapping[str, object]) -> ObjectId:
    """Return what the manifest names; no namespace means `default`."""
    kind, metadata = text(manifest, "kind"), mapping(manifest, "metadata")
    namespace = "" if kind in _CLUSTER_SCOPED else text(metadata, "namespace") or "default"
    return ObjectId(kind, ObjectKey(namespace, text(metadata, "name")))


class ObjectStore:
    """Objects with `uid`, `generation` and `resourceVersion` that move as on a real API server.

    A stored manifest is never changed in place, so readers may keep what they got.
    """

    def __init__(self) -> None:
        self._objects: dict[ObjectId, Mapping[str, object]] = {}
        self._listeners: list[Listener] = []
        self._version = 0

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Call `listener` with every later change; return what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def objects(self, kind: str) -> Iterator[Mapping[str, object]]:
        """Return the objects of a kind, oldest first."""
        return iter([manifest for name, manifest in self._objects.items() if name.kind == kind])

    def find(self, name: ObjectId) -> Mapping[str, object] | None:
        """Return the object, or `None`."""
        return self._objects.get(name)

    def get(self, name: ObjectId) -> Mapping[str, object]:
        """Return the object. Raises `NotFound`."""
        manifest = self._objects.get(name)
        if manifest is None:
            raise NotFound(f"{name.kind} {name.key} does not exist")
        return manifest

    def put(
        self, manifest: Mapping[str, object], *, resource_version: str | None = None, create: bool = False
    ) -> Mapping[str, object]:
        """Store the object as it is given and return it with its new version; equal content changes nothing.

        Raises `Conflict` if `resource_version` is given and not the current one, or if `create` and it
        exists; `NotFound` if `resource_version` is given and there is no such object.
        """
        name = id_of(manifest)
        before = self._objects.get(name)
        if create and before is not None:
            raise Conflict(f"{name.kind} {name.key} exists already")
        if resource_version is not None and self.version(self.get(name)) != resource_version:
            raise Conflict(f"{name.kind} {name.key} was changed since version {resource_version}")
        after = copy.deepcopy(dict(manifest))
        metadata = self._metadata(name, after, before)
        after["metadata"] = metadata
        if before is not None and _content(after) == _content(before):
            return before
        self._version += 1
        metadata["resourceVersion"] = str(self._version)
        self._objects[name] = after
        self._tell(name, False, after)
        return after

    def delete(self, name: ObjectId) -> None:
        """Remove the object; one that does not exist is fine."""
        manifest = self._objects.pop(name, None)
        if manifest is not None:
            self._version += 1
            self._tell(name, True, manifest)

    @staticmethod
    def version(manifest: Mapping[str, object]) -> str:
        """Return the object's `resourceVersion`."""
        return text(mapping(manifest, "metadata"), "resourceVersion")

    def _metadata(
        self, name: ObjectId, after: Mapping[str, object], before: Mapping[str, object] | None
    ) -> dict[str, object]:
        metadata = {**mapping(after, "metadata"), "name": name.key.name, "namespace": name.key.namespace}
        if not name.key.namespace:
            del metadata["namespace"]
        if before is None:
            metadata.setdefault("uid", f"00000000-0000-4000-8000-{self._version + 1:012d}")
            metadata.setdefault("creationTimestamp", timestamp(datetime.now(UTC)))
            metadata["generation"] = 1
            return metadata
        old = mapping(before, "metadata")
        metadata |= {"uid": text(old, "uid"), "creationTimestamp": text(old, "creationTimestamp")}
        metadata["generation"] = integer(old, "generation") + (after.get("spec") != before.get("spec"))
        return metadata

    def _tell(self, name: ObjectId, deleted: bool, manifest: Mapping[str, object]) -> None:
        for listener in tuple(self._listeners):
            listener(name, deleted, manifest)


def _content(manifest: Mapping[str, object]) -> Mapping[str, object]:
    """Return what a version counts: everything but the version itself."""
    metadata = {k: v for k, v in mapping(manifest, "metadata").items() if k != "resourceVersion"}
    return {**manifest, "metadata": metadata}
