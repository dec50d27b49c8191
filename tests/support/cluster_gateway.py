"""The gateway on a real node, and who calls it: a pod without a sidecar, and this process with any secret."""

from __future__ import annotations

import base64
import http.client
import json
import re
import ssl
import urllib.request
from collections.abc import Mapping
from typing import Any

from modelfleet_lab.cluster.access import Cluster

from support import cluster_product as product
from support.cluster_product import APPS, RELEASE

AUDIENCE = "modelfleet-gateway"
NAME = f"{RELEASE}-gateway"
WORKLOAD = f"deployment/{NAME}"
HOST = f"{NAME}.{APPS}.svc"
SETTINGS = (
    "--set=gateway.enabled=true",
    f"--set=gateway.namespace={APPS}",
    *(f"--set=gateway.podLabels.{name}={value}" for name, value in product.TEAM.items()),
    "--set=gateway.resources.requests.cpu=100m",
    "--set=networkPolicy.enabled=true",
)
_CERTIFICATE = f"{NAME}-tls"
_SECRETS = "/var/run/secrets/gateway"
_SLOTS = re.compile(r'^modelfleet_sidecar_slots\{state="(?:free|in_flight)"\} (\S+)$', re.MULTILINE)


def caller(cluster: Cluster, name: str, **environment: str) -> Mapping[str, object]:
    """Return a Job without a sidecar, whose plain openai client calls the gateway with the pod's token."""
    job: dict[str, Any] = json.loads(json.dumps(product.burst(cluster, name, "openai", **environment)))
    template = job["spec"]["template"]
    del template["metadata"]["labels"]["modelfleet.io/inject"]
    token = {"audience": AUDIENCE, "expirationSeconds": 3600, "path": "token"}
    sources = [
        {"serviceAccountToken": token},
        {"secret": {"name": _CERTIFICATE, "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
    ]
    template["spec"]["volumes"].append({"name": "gateway", "projected": {"sources": sources}})
    (app,) = template["spec"]["containers"]
    app["volumeMounts"].append({"name": "gateway", "mountPath": _SECRETS})
    app["env"] += [
        {"name": "OPENAI_BASE_URL", "value": f"https://{HOST}/v1"},
        {"name": "TOKEN", "value": f"{_SECRETS}/token"},
        {"name": "SSL_CERT_FILE", "value": f"{_SECRETS}/ca.crt"},
    ]
    return job


def token_of(cluster: Cluster, namespace: str, audience: str = AUDIENCE) -> str:
    """Return a token of the namespace's default ServiceAccount."""
    return cluster.kubectl(
        "create", "token", "default", f"--namespace={namespace}", f"--audience={audience}"
    ).strip()


def ask(cluster: Cluster, secret: str) -> tuple[int, str]:
    """Ask from outside any pod; return the status, and the reason that is told."""
    data = cluster.get("secret", _CERTIFICATE, f"--namespace={APPS}")["data"]
    context = ssl.create_default_context(cadata=base64.b64decode(data["ca.crt"]).decode())
    connection = http.client.HTTPSConnection(HOST, 443, context=context, timeout=30)
    body = {"model": "auto", "messages": [{"role": "user", "content": "How are you?"}]}
    headers = {"content-type": "application/json"}
    if secret:
        headers["authorization"] = f"Bearer {secret}"
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status, answer.headers.get("x-modelfleet-reason", "")
    finally:
        connection.close()


def leased(cluster: Cluster, selector: str) -> float:
    """Return how many slots the sidecars in these pods hold, of all models together."""
    pods = cluster.get("pods", f"--namespace={APPS}", f"--selector={selector}")["items"]
    running = [pod["status"]["podIP"] for pod in pods if pod["status"]["phase"] == "Running"]
    return sum(float(found) for address in running for found in _SLOTS.findall(_metrics(address)))


def _metrics(address: str) -> str:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(f"http://{address}:19090/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
    return text
