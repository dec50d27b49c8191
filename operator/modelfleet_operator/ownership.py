"""Stage observe: who else sets a Deployment's replicas.

In: a raw Deployment. Out: the other owner in words, or nothing. Next: `spec` makes a condition of it, and the
operator stays out: two owners of one number undo each other's work for ever.

What shows an owner: a server-side apply whose manifest has `spec.replicas`; a client-side `kubectl apply`
whose recorded manifest has it (managedFields can not tell, since it lists defaulted fields too); and an
autoscaler, which writes through `/scale` as the controller manager.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from modelfleet_operator.cluster.fields import items, mapping, text, texts

FIELD_MANAGER = "modelfleet-operator"
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
_AUTOSCALER = "kube-controller-manager"


def foreign_owner(deployment: Mapping[str, object]) -> str:
    """Return who else sets `spec.replicas` and what to do about it; empty: no one."""
    metadata = mapping(deployment, "metadata")
    for entry in items(metadata, "managedFields"):
        if "f:replicas" not in mapping(mapping(entry, "fieldsV1"), "f:spec"):
            continue
        manager, through_scale = text(entry, "manager"), text(entry, "subresource") == "scale"
        if through_scale and manager == _AUTOSCALER:
            return (
                "a HorizontalPodAutoscaler set its replicas: delete the autoscaler, "
                "then run kubectl scale once to take the number back"
            )
        if text(entry, "operation") == "Apply" and not through_scale and manager != FIELD_MANAGER:
            return f"{manager} applies spec.replicas: remove the field from its manifest"
    if _applied_replicas(texts(metadata, "annotations").get(_LAST_APPLIED, "")):
        return "kubectl apply sets spec.replicas: remove the field from the manifest and apply it again"
    return ""


def _applied_replicas(recorded: str) -> bool:
    try:
        manifest = json.loads(recorded or "{}")
    except (ValueError, RecursionError):
        return False  # not kubectl's: its own record is JSON
    return isinstance(manifest, Mapping) and "replicas" in mapping(manifest, "spec")
