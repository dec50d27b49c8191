"""Knows, for each pod, which API keys its sidecar may need: those of the fleets that it may come to follow.

In: `ObjectEvent`s of fleets and policies. Out: for a pod, `KeyReference`s and what is worth a warning. Next:
`patch` turns them into an optional volume that the kubelet fills, so that nobody here ever reads a Secret.
Manifests are read leniently: whether they are accepted is for the operator to say.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from modelfleet_core.values import ObjectKey

from modelfleet_operator.cluster import POLICY_ANNOTATION, Kind, ObjectEvent
from modelfleet_operator.cluster.fields import items, mapping, text, texts
from modelfleet_operator.injection.sidecar import KeyReference

_SECRET = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_KEY = re.compile(r"(?!\.\.)[-._a-zA-Z0-9]{1,253}")


@dataclass(frozen=True, slots=True)
class _Policy:
    fleet: str
    match_labels: Mapping[str, str]


class Followed:
    """The fleets' keys and the policies' selectors; small, whatever else the objects hold."""

    def __init__(self) -> None:
        self._fleets: dict[ObjectKey, frozenset[KeyReference]] = {}
        self._policies: dict[ObjectKey, _Policy] = {}

    def take(self, event: ObjectEvent) -> None:
        """Note one object as it is now."""
        spec = mapping(event.manifest, "spec")
        if event.kind is Kind.FLEET:
            self._fleets.pop(event.key, None)
            if not event.deleted:
                self._fleets[event.key] = _keys_of(spec)
        elif event.kind is Kind.POLICY:
            self._policies.pop(event.key, None)
            if not event.deleted:
                labels = texts(mapping(spec, "podSelector"), "matchLabels")
                self._policies[event.key] = _Policy(text(mapping(spec, "fleetRef"), "name"), labels)

    def keys(
        self, namespace: str, labels: Mapping[str, object], annotations: Mapping[str, object]
    ) -> tuple[tuple[KeyReference, ...], tuple[str, ...]]:
        """Return the keys that the pod's sidecar may need, in order, and warnings.

        While no policy is known that the pod will follow, it may come to follow any fleet of its namespace.
        """
        named = annotations.get(POLICY_ANNOTATION)
        policies = {key.name: found for key, found in self._policies.items() if key.namespace == namespace}
        if named:
            chosen = [policies[named]] if isinstance(named, str) and named in policies else []
            missing = f"no RoutingPolicy {named} (annotation {POLICY_ANNOTATION})"
        else:
            chosen = [found for found in policies.values() if found.match_labels.items() <= labels.items()]
            missing = "no RoutingPolicy that selects this pod"
        fleets = {policy.fleet for policy in chosen}
        keys = {
            reference
            for key, references in self._fleets.items()
            if key.namespace == namespace and (not chosen or key.name in fleets)
            for reference in references
        }
        if chosen:
            return tuple(sorted(keys)), ()
        warning = (
            f"{missing[:120]} in namespace {namespace} yet: the sidecar refuses requests until there is one"
        )
        return tuple(sorted(keys)), (warning,)


def _keys_of(spec: Mapping[str, object]) -> frozenset[KeyReference]:
    """Return the keys of the fleet's external variants; a name that no Secret can have would stop the pod."""
    references = (
        mapping(mapping(variant, "external"), "apiKeySecretRef")
        for model in items(spec, "models")
        for variant in items(model, "variants")
    )
    named = (KeyReference(text(found, "name"), text(found, "key")) for found in references)
    return frozenset(
        found for found in named if _SECRET.fullmatch(found.secret) and _KEY.fullmatch(found.key)
    )
