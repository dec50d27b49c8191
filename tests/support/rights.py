"""The rights that the chart grants against those that its programs used, by the API server's audit log."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.charts import Manifest

_DECISION = "authorization.k8s.io/decision"


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """What an account may do, or did. An empty namespace: in all, or outside any; an empty name: any."""

    verb: str
    group: str
    resource: str
    namespace: str
    name: str

    def covers(self, use: Right) -> bool:
        return (
            (self.verb, self.group, self.resource) == (use.verb, use.group, use.resource)
            and self.namespace in ("", use.namespace)
            and self.name in ("", use.name)
        )


def granted(manifests: Iterable[Manifest], account: str) -> set[Right]:
    """Return what the roles that are bound to the account grant."""
    found = list(manifests)
    roles = {(m["kind"], m["metadata"]["name"]): m for m in found if m["kind"] in ("Role", "ClusterRole")}
    rights: set[Right] = set()
    for binding in found:
        if binding["kind"] not in ("RoleBinding", "ClusterRoleBinding"):
            continue
        if account in [subject["name"] for subject in binding["subjects"]]:
            role = roles[binding["roleRef"]["kind"], binding["roleRef"]["name"]]
            for rule in role["rules"]:
                rights.update(_rights(rule, binding["metadata"].get("namespace", "")))
    return rights


def _rights(rule: Manifest, namespace: str) -> Iterator[Right]:
    for group in rule["apiGroups"]:
        for resource in rule["resources"]:
            for verb in rule["verbs"]:
                for name in rule.get("resourceNames", [""]):
                    yield Right(verb, group, resource, namespace, name)


def used(audit_log: Path, namespace: str, account: str) -> tuple[set[Right], set[Right]]:
    """Return what the account did, and what it was denied."""
    user = f"system:serviceaccount:{namespace}:{account}"
    allowed: set[Right] = set()
    denied: set[Right] = set()
    for line in audit_log.read_text().splitlines():
        record = json.loads(line)
        reference: dict[str, Any] = record.get("objectRef", {})
        if record["user"]["username"] != user or "resource" not in reference:
            continue
        subresource = reference.get("subresource")
        right = Right(
            record["verb"],
            reference.get("apiGroup", ""),
            f"{reference['resource']}/{subresource}" if subresource else reference["resource"],
            reference.get("namespace", ""),
            reference.get("name", ""),
        )
        forbidden = record.get("annotations", {}).get(_DECISION) == "forbid"
        (denied if forbidden else allowed).add(right)
    return allowed, denied


def unused(rights: Iterable[Right], uses: Iterable[Right]) -> list[Right]:
    """Return the rights of which no use was made."""
    made = list(uses)
    return sorted(right for right in rights if not any(right.covers(use) for use in made))
