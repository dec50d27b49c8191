"""Reads the fleet and the policies that a plan is for from manifests, as the operator would read them.

In: paths of YAML files. Out: `Declared`. Next: `demand` and `study`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from modelfleet_core.catalog import Fleet
from modelfleet_core.manifest_fields import Fields
from modelfleet_core.manifests import read_fleet, read_policy, unknown_fields
from modelfleet_core.policy import Policy


@dataclass(frozen=True, slots=True)
class Declared:
    fleet: Fleet
    policies: tuple[Policy, ...]
    """Of the fleet; none: requests count once, and no policy limits what they spend."""
    notes: tuple[str, ...]
    """What users should know: fields that nobody knows."""


def read_declared(paths: Sequence[Path]) -> Declared:
    """Return the one ModelFleet of `paths` and its RoutingPolicies; raise ValueError or OSError otherwise.

    Other kinds are passed over, so that a folder's manifests can be given as they are.
    """
    fleets: list[Fleet] = []
    policies: list[Policy] = []
    notes: list[str] = []
    for path in paths:
        for manifest in _documents(path):
            root = Fields(manifest, "")
            try:
                if manifest.get("kind") == "ModelFleet":
                    fleets.append(read_fleet(root))
                elif manifest.get("kind") == "RoutingPolicy":
                    policies.append(read_policy(root))
                else:
                    continue
            except ValueError as error:
                raise ValueError(f"{path}: {error}") from error
            notes += [
                f"{path}: {field} is not known and counts for nothing" for field in unknown_fields(root)
            ]
    if len(fleets) != 1:
        files = ", ".join(str(path) for path in paths)
        raise ValueError(f"{files}: {len(fleets)} manifests of kind ModelFleet; give exactly one with -f")
    followed = tuple(policy for policy in policies if policy.fleet == fleets[0].key)
    notes += [
        f"RoutingPolicy {policy.key} is for fleet {policy.fleet}, not {fleets[0].key}: left out"
        for policy in policies
        if policy.fleet != fleets[0].key
    ]
    return Declared(fleets[0], followed, tuple(notes))


def _documents(path: Path) -> list[Mapping[str, object]]:
    try:
        documents = [found for found in yaml.safe_load_all(path.read_text(encoding="utf-8")) if found]
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    for document in documents:
        if not isinstance(document, dict):
            message = f"{path}: a document is no manifest; write apiVersion, kind, metadata and spec"
            raise ValueError(message)  # noqa: TRY004 the type of a file's content, not of an argument
    return documents
