"""Stage spec, without an operator: one YAML file becomes a fleet and a policy, or one clear error.

In: the bytes of a file with a ModelFleet and a RoutingPolicy, the same kinds and fields as in a cluster. Out:
typed values and the documents that a lease carries. Next: `leader`.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from modelfleet_core.catalog import ExternalPlacement, Fleet
from modelfleet_core.errors import SpecError
from modelfleet_core.leasing.messages import Document
from modelfleet_core.manifest_fields import Fields
from modelfleet_core.manifests import document, read_fleet, read_policy, unknown_fields
from modelfleet_core.policy import Policy

MOST_BYTES = 1 << 20
MOST_DEPTH = 32
MOST_NODES = 100_000
API_VERSION = "modelfleet.io/v1alpha1"
FLEET, POLICY = "ModelFleet", "RoutingPolicy"


class ManifestError(ValueError):
    """The file can not be used; says where and what to do."""


@dataclass(frozen=True, slots=True)
class Declared:
    """What the file says."""

    fleet: Fleet
    policy: Policy
    fleet_document: Document
    policy_document: Document
    unknown: tuple[str, ...]
    """Fields that no one knows, such as misspelt ones."""


def read_manifests(data: bytes) -> Declared:
    """Return what a file declares. Raises ManifestError."""
    fleets: list[Mapping[str, object]] = []
    policies: list[Mapping[str, object]] = []
    for place, manifest in enumerate(_documents(data), 1):
        if manifest is None:
            continue  # an empty document, as after a last ---
        kind = manifest.get("kind") if isinstance(manifest, dict) else None
        version = manifest.get("apiVersion") if isinstance(manifest, dict) else None
        if version != API_VERSION or kind not in (FLEET, POLICY):
            raise ManifestError(
                f"document {place} is no ModelFleet and no RoutingPolicy: write apiVersion: {API_VERSION} "
                "and kind: ModelFleet or kind: RoutingPolicy; documents are separated by a line ---"
            )
        (fleets if kind == FLEET else policies).append(manifest)
    if len(fleets) != 1 or len(policies) != 1:
        raise ManifestError(
            f"it holds {len(fleets)} ModelFleets and {len(policies)} RoutingPolicies: write one of each"
        )
    return _declared(fleets[0], policies[0])


def _declared(fleet_manifest: Mapping[str, object], policy_manifest: Mapping[str, object]) -> Declared:
    fleet_fields, policy_fields = Fields(fleet_manifest, ""), Fields(policy_manifest, "")
    try:
        fleet = read_fleet(fleet_fields)
        fleet_document = document(fleet_manifest)
    except SpecError as error:
        raise ManifestError(f"{FLEET}: {error}") from error
    try:
        policy = read_policy(policy_fields)
        policy_document = document(policy_manifest)
    except SpecError as error:
        raise ManifestError(f"{POLICY}: {error}") from error
    if policy.fleet != fleet.key:
        raise ManifestError(
            f"{POLICY}: spec.fleetRef names {policy.fleet}, but the file has {fleet.key}: write that name "
            "and the same namespace, or none, in both"
        )
    for variant in fleet.variants():
        if not isinstance(variant.placement, ExternalPlacement):
            raise ManifestError(
                f"{FLEET}: variant {variant.key} runs on a pool, which needs a cluster: give it external: "
                "{url: http://HOST:PORT/v1} and limits: {inFlight: N} instead of scaleTargetRef and service"
            )
    unknown = (
        *(f"{FLEET} {path}" for path in unknown_fields(fleet_fields)),
        *(f"{POLICY} {path}" for path in unknown_fields(policy_fields)),
    )
    return Declared(fleet, policy, fleet_document, policy_document, unknown)


def _documents(data: bytes) -> Iterator[Any]:
    if len(data) > MOST_BYTES:
        raise ManifestError(f"it is over {MOST_BYTES} bytes: leave out what is no manifest")
    try:
        text = data.decode()
        _bound(text)
        yield from yaml.load_all(text, Loader=_Loader)
    except ManifestError:
        raise
    except UnicodeDecodeError as error:
        raise ManifestError("it is no UTF-8 text") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ManifestError(f"it is no YAML: {' '.join(str(error).split())[:300]}") from error


def _bound(text: str) -> None:
    """Refuse what would grow or nest without end: an alias of an alias doubles with each line."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=_Loader)):
        if isinstance(event, yaml.AliasEvent):
            raise ManifestError(f"{_line(event)} refers to an anchor (*{event.anchor}): write it out")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MOST_DEPTH or count > MOST_NODES:
            raise ManifestError(f"at {_line(event)} it nests too deep or is too long: leave out what is idle")


def _line(place: yaml.Event | yaml.Node) -> str:
    mark = place.start_mark
    return f"line {mark.line + 1}" if mark is not None else "some line"


class _Loader(yaml.SafeLoader):
    """Builds plain values only, and refuses a field that is there twice, of which the first would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if isinstance(name, Hashable) and name in seen:
                raise ManifestError(f"{_line(key)} has the field {name!r} a second time: keep one")
            if isinstance(name, Hashable):
                seen.add(name)
        return super().construct_mapping(node, deep)
