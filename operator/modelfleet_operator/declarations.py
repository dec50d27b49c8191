"""Stage spec: one applied ModelFleet or RoutingPolicy, parsed once when it arrives.

In: raw manifests from `observe`. Out: `Declared` values: the last content that could be parsed, and what is
wrong with the present one. Next: `spec` checks them against each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from modelfleet_core.catalog import Fleet
from modelfleet_core.errors import SpecError
from modelfleet_core.leasing.messages import Document
from modelfleet_core.manifest_fields import Fields
from modelfleet_core.manifests import document, read_fleet, read_policy, unknown_fields
from modelfleet_core.policy import Policy
from modelfleet_core.values import ObjectKey

from modelfleet_operator.cluster.fields import integer, mapping, text

T = TypeVar("T", Fleet, Policy)


@dataclass(frozen=True, slots=True)
class Declared(Generic[T]):
    """An object as applied. A bad edit leaves the last good `value` in force and says so in `error`."""

    key: ObjectKey
    uid: str
    generation: int
    created: str
    """RFC 3339, so that texts sort by age."""
    value: T | None
    document: Document | None
    """Of the same content as `value`."""
    error: str
    unknown: tuple[str, ...]
    """Fields that no one knows and that do nothing."""
    resource_version: str = field(compare=False)
    status: Mapping[str, object] = field(compare=False)
    """As the object has it now; `status` compares its own with it."""

    @property
    def age_order(self) -> tuple[str, str]:
        """Return what sorts objects from the oldest to the youngest."""
        return (self.created, self.uid)


def declared_fleet(
    key: ObjectKey, manifest: Mapping[str, object], before: Declared[Fleet] | None
) -> Declared[Fleet]:
    """Return the fleet of `manifest`; `before` is what was known of the object."""
    return _declared(key, manifest, before, read_fleet)


def declared_policy(
    key: ObjectKey, manifest: Mapping[str, object], before: Declared[Policy] | None
) -> Declared[Policy]:
    """Return the policy of `manifest`; `before` is what was known of the object."""
    return _declared(key, manifest, before, read_policy)


def _declared(
    key: ObjectKey,
    manifest: Mapping[str, object],
    before: Declared[T] | None,
    read: Callable[[Fields], T],
) -> Declared[T]:
    metadata = mapping(manifest, "metadata")
    uid, generation = text(metadata, "uid"), integer(metadata, "generation")
    last = before if before is not None and before.uid == uid else None
    if last is not None and last.generation == generation:  # only status or metadata changed
        value, content, error, unknown = last.value, last.document, last.error, last.unknown
    else:
        value, content, error, unknown = _parsed(manifest, read)
        if value is None and last is not None:
            value, content = last.value, last.document
    return Declared(
        key=key,
        uid=uid,
        generation=generation,
        created=text(metadata, "creationTimestamp"),
        value=value,
        document=content,
        error=error,
        unknown=unknown,
        resource_version=text(metadata, "resourceVersion"),
        status=mapping(manifest, "status"),
    )


def _parsed(
    manifest: Mapping[str, object], read: Callable[[Fields], T]
) -> tuple[T | None, Document | None, str, tuple[str, ...]]:
    root = Fields(manifest, "")
    try:
        return read(root), document(manifest), "", unknown_fields(root)
    except SpecError as error:
        return None, None, str(error), ()
