"""Knows, for each pod, which API keys its sidecar may need: those of the fleets that it may come to follow.

In: `ObjectEvent`s of fleets and policies. Out: for a pod, `KeyReference`s and what is worth a warning. Next:
`patch` turns them into an optional volume that the kubelet fills, so that nobody here ever reads a Secret.
Manifests are read leniently: whether they are accepted is for the operator to say.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

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
        # By namespace, since a pod is admitted while its creator waits, and there may be many namespaces.
        self._fleets: defaultdict[str, dict[str, frozenset[KeyReference]]] = defaultdict(dict)
        self._policies: defaultdict[str, dict[str, _Policy]] = defaultdict(dict)

    def take(self, event: ObjectEvent) -> None:
        """Note one object as it is now."""
        spec = mapping(event.manifest, "spec")
        if event.kind is Kind.FLEET:
            fleets = self._fleets[event.key.namespace]
            fleets.pop(event.key.name, None)
            if not event.deleted:
                fleets[event.key.name] = _keys_of(spec)
        elif event.kind is Kind.POLICY:
            policies = self._policies[event.key.namespace]
            policies.pop(event.key.name, None)
            if not event.deleted:
                labels = texts(mapping(spec, "podSelector"), "matchLabels")
                policies[event.key.name] = _Policy(text(mapping(spec, "fleetRef"), "name"), labels)

    def keys(
        self, namespace: str, labels: Mapping[str, object], annotations: Mapping[str, object]
    ) -> tuple[tuple[KeyReference, ...], tuple[str, ...]]:
        """Return the keys that the pod's sidecar may need, in order, and warnings.

        While no policy is known that the pod will follow, it may come to follow any fleet of its namespace.
        """
        named = annotations.get(POLICY_ANNOTATION)
        policies = self._policies.get(namespace, {})
        if named:
            chosen = [policies[named]] if isinstance(named, str) and named in policies else []
            missing = f"no RoutingPolicy {named} (annotation {POLICY_ANNOTATION})"
        else:
            chosen = [found for found in policies.values() if found.match_labels.items() <= labels.items()]
            missing = "no RoutingPolicy that selects this pod"
        fleets = {policy.fleet for policy in chosen}
        keys = {
            reference
            for name, references in self._fleets.get(namespace, {}).items()
            if not chosen or name in fleets
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
