"""Stage spec: what was declared, checked against everything else that was declared.

In: a `Snapshot`. Out: `Resolution`: the fleets and policies in force, a condition for each object, and which
policy a sidecar follows. Next: `views` and `reconcile`, `publishing`, `status`. One bad object never stops
the others: it is left out, with a condition that says what to do.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from modelfleet_core.catalog import Fleet, PoolPlacement, Variant
from modelfleet_core.leasing.holders import Follows
from modelfleet_core.leasing.messages import Document
from modelfleet_core.policy import Policy
from modelfleet_core.references import named_in_vain
from modelfleet_core.values import ObjectKey, VariantKey

from modelfleet_operator.conditions import Condition, no, unknown, yes
from modelfleet_operator.declarations import Declared
from modelfleet_operator.observe import SidecarPod, Snapshot

ACCEPTED, RESOLVED_REFS = "Accepted", "ResolvedRefs"


@dataclass(frozen=True, slots=True)
class ResolvedFleet:
    """A fleet as the rest of the operator sees it; `fleet` is None while it is not in force."""

    fleet: Fleet | None
    document: Document | None
    accepted: Condition
    resolved_refs: Condition
    kept_out: Mapping[VariantKey, str]
    """Variants whose Deployment someone else scales, and what to do about it."""


@dataclass(frozen=True, slots=True)
class ResolvedPolicy:
    """A policy and whether it and its fleet are in force."""

    policy: Policy | None
    document: Document | None
    accepted: Condition
    resolved_refs: Condition

    @property
    def in_force(self) -> bool:
        return self.policy is not None and self.resolved_refs.holds


@dataclass(frozen=True, slots=True)
class Resolution:
    fleets: Mapping[ObjectKey, ResolvedFleet]
    policies: Mapping[ObjectKey, ResolvedPolicy]
    selection: Mapping[ObjectKey, Follows | str]
    """Of every sidecar's pod; a text says why none."""

    def fleets_in_force(self) -> Iterator[Fleet]:
        return (resolved.fleet for resolved in self.fleets.values() if resolved.fleet is not None)

    def policies_of(self, fleet: ObjectKey) -> tuple[Policy, ...]:
        return tuple(
            resolved.policy
            for resolved in self.policies.values()
            if resolved.policy is not None and resolved.in_force and resolved.policy.fleet == fleet
        )


def resolve(snapshot: Snapshot) -> Resolution:
    fleets = _fleets(snapshot)
    losers = _conflicts(snapshot)
    policies = {
        key: _policy(declared, fleets, losers.get(key)) for key, declared in snapshot.policies.items()
    }
    selection = {key: _selected(pod, snapshot, policies) for key, pod in snapshot.pods.items()}
    return Resolution(fleets, policies, selection)


def _fleets(snapshot: Snapshot) -> dict[ObjectKey, ResolvedFleet]:
    """Resolve from the oldest to the youngest: a workload belongs to the first that names it."""
    owners: dict[tuple[str, ObjectKey], ObjectKey] = {}
    resolved: dict[ObjectKey, ResolvedFleet] = {}
    for declared in sorted(snapshot.fleets.values(), key=lambda found: found.age_order):
        resolved[declared.key] = _fleet(declared, snapshot, owners)
    return resolved


def _fleet(
    declared: Declared[Fleet], snapshot: Snapshot, owners: dict[tuple[str, ObjectKey], ObjectKey]
) -> ResolvedFleet:
    fleet = declared.value
    if fleet is None:
        refused = _invalid(declared)
        return ResolvedFleet(None, None, refused, unknown(RESOLVED_REFS, refused.reason, refused.message), {})
    claims = [
        (what, ObjectKey(fleet.key.namespace, name))
        for variant in fleet.variants()
        for what, name in _claims(variant)
    ]
    for claim in claims:
        if claim in owners:
            what, target = claim
            message = (
                f"{what} {target.name} belongs to the older fleet {owners[claim].name}: "
                "name another one here or remove it there"
            )
            conflicted = no(ACCEPTED, "Conflicted", message)
            refs = unknown(RESOLVED_REFS, "Conflicted", message)
            return ResolvedFleet(None, None, conflicted, refs, {})
    owners.update((claim, fleet.key) for claim in claims)
    accepted = _invalid(declared) if declared.error else _accepted(declared)
    refs, kept_out = _targets(fleet, snapshot)
    return ResolvedFleet(fleet, declared.document, accepted, refs, kept_out)


def _claims(variant: Variant) -> Iterator[tuple[str, str]]:
    if isinstance(variant.placement, PoolPlacement):
        yield "Deployment", variant.placement.target.name
        yield "Service", variant.placement.service.name


def _targets(fleet: Fleet, snapshot: Snapshot) -> tuple[Condition, Mapping[VariantKey, str]]:
    """Return whether every target is there, and those that someone else scales."""
    missing: list[str] = []
    kept_out: dict[VariantKey, str] = {}
    for variant in fleet.variants():
        if not isinstance(variant.placement, PoolPlacement):
            continue
        name = variant.placement.target.name
        workload = snapshot.workloads.get(ObjectKey(fleet.key.namespace, name))
        if workload is None:
            missing.append(name)
        elif workload.owner:
            kept_out[variant.key] = f"Deployment {name}: {workload.owner}"
    if missing:
        message = f"no Deployment {', '.join(sorted(missing))} in namespace {fleet.key.namespace}: create it"
        return no(RESOLVED_REFS, "TargetNotFound", message), kept_out
    if kept_out:
        return no(RESOLVED_REFS, "ReplicasOwnedElsewhere", "; ".join(kept_out.values())), kept_out
    return yes(RESOLVED_REFS, "Resolved", "every Deployment is there"), kept_out


def _policy(
    declared: Declared[Policy], fleets: Mapping[ObjectKey, ResolvedFleet], conflict: str | None
) -> ResolvedPolicy:
    policy = declared.value
    if policy is None:
        refused = _invalid(declared)
        return ResolvedPolicy(None, None, refused, unknown(RESOLVED_REFS, refused.reason, refused.message))
    if declared.error:
        accepted = _invalid(declared)
    elif conflict:
        accepted = no(ACCEPTED, "Conflicted", conflict)
    else:
        accepted = _accepted(declared)
    fleet = fleets.get(policy.fleet)
    if fleet is None:
        message = f"no ModelFleet {policy.fleet.name} in namespace {policy.fleet.namespace}: create it"
        refs = no(RESOLVED_REFS, "FleetNotFound", message)
    elif fleet.fleet is None:
        message = f"ModelFleet {policy.fleet.name} is not accepted: {fleet.accepted.message}"
        refs = no(RESOLVED_REFS, "FleetNotAccepted", message)
    else:
        refs = _resolved(policy, fleet.fleet)
    return ResolvedPolicy(policy, declared.document, accepted, refs)


def _resolved(policy: Policy, fleet: Fleet) -> Condition:
    """Say that the fleet is there, and which models the policy names in vain: it is in force all the same."""
    said = named_in_vain(policy, fleet)
    if said:
        message = f"in force; but ModelFleet {fleet.key.name} {'; '.join(said[:8])}: correct the names"
        return yes(RESOLVED_REFS, "UnknownModels", message)
    return yes(RESOLVED_REFS, "Resolved", f"ModelFleet {fleet.key.name} is in force")


def _invalid(declared: Declared[Fleet] | Declared[Policy]) -> Condition:
    kept = "" if declared.value is None else "; the last spec that was accepted stays in force"
    return no(ACCEPTED, "Invalid", declared.error + kept)


def _accepted(declared: Declared[Fleet] | Declared[Policy]) -> Condition:
    if declared.unknown:
        message = f"in force; ignored, because no one knows them: {', '.join(declared.unknown[:8])}"
        return yes(ACCEPTED, "UnknownFields", message)
    return yes(ACCEPTED, "Accepted", "the spec is in force")


def _candidates(pod: SidecarPod, snapshot: Snapshot) -> list[Declared[Policy]]:
    """Return the policies that select the pod, the oldest first."""
    found = [
        declared
        for declared in snapshot.policies.values()
        if declared.value is not None
        and declared.key.namespace == pod.key.namespace
        and declared.value.pod_selector.selects(pod.labels)
    ]
    return sorted(found, key=lambda declared: declared.age_order)


def _conflicts(snapshot: Snapshot) -> dict[ObjectKey, str]:
    """Return the policies that lose a pod to an older one, with what to do."""
    losers: dict[ObjectKey, str] = {}
    for pod in snapshot.pods.values():
        candidates = [] if pod.policy else _candidates(pod, snapshot)
        for loser in candidates[1:]:
            losers[loser.key] = (
                f"pod {pod.key.name} follows the older policy {candidates[0].key.name}: narrow a "
                "podSelector, or name the policy in the pod's annotation modelfleet.io/policy"
            )
    return losers


def _no_policy(pod: SidecarPod, snapshot: Snapshot) -> str:
    """Say that no policy selects the pod; one that can not be read may be the one that was meant to."""
    said = f"no RoutingPolicy in namespace {pod.key.namespace} selects pod {pod.key.name}: "
    refused = sorted(
        f"RoutingPolicy {declared.key.name} is not accepted: {declared.error}"
        for declared in snapshot.policies.values()
        if declared.value is None and declared.key.namespace == pod.key.namespace
    )
    if refused:
        return said + "; ".join(refused[:3])
    return said + (
        "create one whose podSelector matches its labels, or name one in its annotation modelfleet.io/policy"
    )


def _selected(
    pod: SidecarPod, snapshot: Snapshot, policies: Mapping[ObjectKey, ResolvedPolicy]
) -> Follows | str:
    if pod.policy:
        key = ObjectKey(pod.key.namespace, pod.policy)
        if key not in policies:
            return (
                f"the pod's annotation modelfleet.io/policy names {pod.policy}, but there is no such "
                f"RoutingPolicy in namespace {pod.key.namespace}: create it or correct the annotation"
            )
    else:
        candidates = _candidates(pod, snapshot)
        if not candidates:
            return _no_policy(pod, snapshot)
        key = candidates[0].key
    resolved = policies[key]
    if resolved.policy is None:
        return f"RoutingPolicy {key.name} is not accepted: {resolved.accepted.message}"
    if not resolved.in_force:
        return f"RoutingPolicy {key.name}: {resolved.resolved_refs.message}"
    return Follows(key, resolved.policy.fleet)
