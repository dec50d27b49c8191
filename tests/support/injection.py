"""Builders of pods, templates and reviews for tests of the injector."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import trustme
from modelfleet_core.values import ObjectKey
from modelfleet_operator.cluster import Kind, ObjectEvent
from modelfleet_operator.injection.followed import Followed
from modelfleet_operator.injection.server import Webhook
from modelfleet_operator.injection.sidecar import Template
from modelfleet_operator.injection.telemetry import Telemetry

TEMPLATE = Template(
    image="modelfleet/sidecar:test",
    pull_policy="IfNotPresent",
    resources={"requests": {"cpu": "50m", "memory": "96Mi"}, "limits": {"memory": "192Mi"}},
    operator="modelfleet-capacity.modelfleet-system.svc:7443",
    authority="-----BEGIN CERTIFICATE-----\n(the authority)\n-----END CERTIFICATE-----\n",
)


def pod(
    *,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    containers: list[dict[str, Any]] | None = None,
    **spec: object,
) -> dict[str, Any]:
    """Return a pod that asks for the sidecar; `spec` is added to its spec."""
    metadata: dict[str, Any] = {
        "name": "assistant",
        "labels": {"modelfleet.io/inject": "true", **(labels or {})},
    }
    if annotations is not None:
        metadata["annotations"] = dict(annotations)
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": containers or [{"name": "app", "image": "app:1"}], **spec},
    }


def review(manifest: object, *, namespace: str = "ml", **request: object) -> dict[str, Any]:
    """Return what an API server asks about the creation of a pod."""
    return {
        "apiVersion": "admission.k8s.io/v1",
        "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5",
            "kind": {"group": "", "version": "v1", "kind": "Pod"},
            "resource": {"group": "", "version": "v1", "resource": "pods"},
            "namespace": namespace,
            "operation": "CREATE",
            "object": manifest,
            "dryRun": False,
            **request,
        },
    }


def body(manifest: object, **request: Any) -> bytes:
    return json.dumps(review(manifest, **request)).encode()


def policy_event(name: str, fleet: str, *, namespace: str = "ml", **labels: str) -> ObjectEvent:
    """Return a RoutingPolicy that selects pods with the labels."""
    spec = {"fleetRef": {"name": fleet}, "podSelector": {"matchLabels": labels}}
    return ObjectEvent(Kind.POLICY, ObjectKey(namespace, name), False, {"spec": spec})


def fleet_event(name: str, *keys: tuple[str, str], namespace: str = "ml") -> ObjectEvent:
    """Return a ModelFleet with one external variant for each (secret, key)."""
    models = [
        {"name": f"m{number}", "variants": [{"name": "api", "external": {"apiKeySecretRef": reference}}]}
        for number, reference in enumerate({"name": secret, "key": key} for secret, key in keys)
    ]
    return ObjectEvent(Kind.FLEET, ObjectKey(namespace, name), False, {"spec": {"models": models}})


def webhook(*events: ObjectEvent, namespace: str = "", telemetry: Telemetry | None = None) -> Webhook:
    """Return a webhook that knows the fleets and policies."""
    followed = Followed()
    for event in events:
        followed.take(event)
    return Webhook(
        template=lambda: TEMPLATE,
        followed=lambda: followed,
        namespace=namespace,
        telemetry=telemetry or Telemetry(),
    )


def write_certificate(folder: Path, authority: trustme.CA, *names: str) -> None:
    """Write a webhook's `tls.crt` and `tls.key`, and `ca.crt`, for the names."""
    folder.mkdir(exist_ok=True)
    issued = authority.issue_cert(*(names or ("127.0.0.1", "localhost")))
    (folder / "tls.crt").write_bytes(b"".join(part.bytes() for part in issued.cert_chain_pems))
    (folder / "tls.key").write_bytes(issued.private_key_pem.bytes())
    (folder / "ca.crt").write_bytes(authority.cert_pem.bytes())
