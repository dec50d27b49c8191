"""A fleet of one model on the GPUs of one node, as a user applies it to a real API server."""

from __future__ import annotations

import json

from support.clusters import HOSTNAME, deployment, fleet
from support.manifests import Manifest

CONCURRENCY = 8


def host(namespace: str) -> str:
    """Return the name of the node that the namespace's fleet has to itself."""
    return f"host-{namespace}"


def small_fleet(namespace: str, *, replicas: int = 2) -> Manifest:
    """Return the fleet `chat`, which keeps `replicas` of the model `large` with 2 GPUs each."""
    manifest = fleet(namespace)
    spec = manifest["spec"]
    spec["pools"][0]["nodeSelector"] = {HOSTNAME: host(namespace)}
    spec["scaling"]["interval"] = "1s"
    spec["models"] = spec["models"][:1]
    variant = spec["models"][0]["variants"][0]
    variant |= {"concurrency": CONCURRENCY, "replicas": {"min": replicas, "max": 3}}
    return manifest


def managed_deployment(namespace: str) -> Manifest:
    """Return the model's Deployment as users write it: without a number of replicas."""
    made = deployment(namespace, "large", replicas=0, gpus=2, node_selector={HOSTNAME: host(namespace)})
    manifest: Manifest = json.loads(json.dumps(made))
    del manifest["spec"]["replicas"]
    return manifest


def app_pod(namespace: str) -> Manifest:
    """Return a pod of the policy's application; its containers run nowhere, its sidecar is the caller's."""
    labels = {"app": "assistant", "modelfleet.io/inject": "true"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "assistant-0", "namespace": namespace, "labels": labels},
        "spec": {"nodeName": "elsewhere", "containers": [{"name": "app", "image": "none"}]},
    }
