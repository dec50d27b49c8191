"""The rights that the chart grants against those that its programs used, by the API server's audit log."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
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
    """With its subresource, as `pods/status`; the path of a request that is for no resource."""
    namespace: str
    name: str

    def __str__(self) -> str:
        resource = f"{self.resource}.{self.group}" if self.group else self.resource
        where = f" in {self.namespace}" if self.namespace else ""
        return f"{self.verb} {resource}{' ' if self.name else ''}{self.name}{where}"

    def covers(self, use: Right) -> bool:
        return (
            (self.verb, self.group, self.resource) == (use.verb, use.group, use.resource)
            and self.namespace in ("", use.namespace)
            and self.name in ("", use.name)
        )

    def breadth(self) -> tuple[bool, bool]:
        return (not self.namespace, not self.name)


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


def used(
    audit_log: Path, namespace: str, account: str, *, since: float = 0.0
) -> tuple[set[Right], set[Right]]:
    """Return what the account did, and what it was denied; `since` is seconds of Unix time."""
    user = f"system:serviceaccount:{namespace}:{account}"
    allowed: set[Right] = set()
    denied: set[Right] = set()
    for record in _records(audit_log):
        if record["user"]["username"] == user and _received(record) >= since:
            forbidden = record.get("annotations", {}).get(_DECISION) == "forbid"
            (denied if forbidden else allowed).add(_use(record))
    return allowed, denied


def _records(audit_log: Path) -> Iterator[dict[str, Any]]:
    with audit_log.open() as lines:
        for line in lines:
            if line.endswith("\n"):  # the API server may be in the middle of one
                yield json.loads(line)


def _received(record: dict[str, Any]) -> float:
    return datetime.fromisoformat(record["requestReceivedTimestamp"]).timestamp()


def _use(record: dict[str, Any]) -> Right:
    reference: dict[str, str] = record.get("objectRef", {})
    resource, subresource = reference.get("resource", ""), reference.get("subresource", "")
    return Right(
        record["verb"],
        reference.get("apiGroup", ""),
        "/".join(filter(None, (resource, subresource))) or record["requestURI"].partition("?")[0],
        reference.get("namespace", ""),
        reference.get("name", ""),
    )


def unused(rights: Collection[Right], uses: Iterable[Right]) -> list[Right]:
    """Return the rights that no use needed: each needs the narrowest one that covers it."""
    needed = {
        min(covering, key=Right.breadth)
        for use in uses
        if (covering := [right for right in rights if right.covers(use)])
    }
    return sorted(set(rights) - needed)


def difference(manifests: Iterable[Manifest], audit_log: Path, namespace: str, account: str) -> list[str]:
    """Return every way, in words, in which the rights of an account are not just those that it used."""
    rights = granted(manifests, account)
    done, denied = used(audit_log, namespace, account)
    # What kinds there are may be read by everybody.
    foreign = {
        use
        for use in done
        if not use.resource.startswith("/") and not any(right.covers(use) for right in rights)
    }
    return [
        *(f"granted, not used: {right}" for right in unused(rights, done)),
        *(f"denied: {use}" for use in sorted(denied)),
        *(f"allowed by a role that is not the chart's: {use}" for use in sorted(foreign)),
    ]
