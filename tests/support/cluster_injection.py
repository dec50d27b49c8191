"""One installed release, a model elsewhere that asks for an API key, and pods that ask for a sidecar."""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelfleet_lab.cluster.access import Cluster

from support.cluster_api import Api
from support.cluster_node import RESTRICTED, service
from support.cluster_product import API, INJECTOR, OPERATOR, RELEASE, SYSTEM, helm, image, rolled_out

ASKING, ALONE = "asking", "left-alone"
"""Namespaces: with fleet, policy and applications; one whose pods the release leaves alone."""
LABEL = {"modelfleet.io/inject": "true"}
SIDECAR = "modelfleet-sidecar"
KEY = "sesame"
SETTINGS = ("--set=injector.failurePolicy=Fail", f"--set=injector.excludedNamespaces={{{ALONE}}}")
PATIENCE = 60.0
_HISTOGRAM = re.compile(
    r"apiserver_admission_webhook_admission_duration_seconds_(bucket|sum|count)"
    r'\{name="inject\.modelfleet\.io",operation="CREATE",rejected="false",type="admit"'
    r'(?:,le="([^"]+)")?\} (\S+)'
)
_PROGRAM = Path(__file__).with_name("asking_app.py").read_text(encoding="utf-8")


@contextmanager
def released(cluster: Cluster) -> Iterator[None]:
    """Install the release, the model, its key, a fleet and a policy; remove all of it at the end."""
    for namespace in (ASKING, ALONE):
        cluster.kubectl("create", "namespace", namespace)
        cluster.kubectl(
            "wait", "--for=create", "serviceaccount/default", f"--namespace={namespace}", "--timeout=30s"
        )
    try:
        helm(cluster, "install", "--create-namespace", *SETTINGS)
        cluster.apply(*_model(), _secret(), _fleet(), _policy(), namespace=ASKING)
        for workload in (OPERATOR, INJECTOR):
            rolled_out(cluster, workload)
        rolled_out(cluster, "deployment/frontier", ASKING)
        cluster.kubectl(
            "wait", "--for=condition=Ready", "routingpolicy/all", f"--namespace={ASKING}", "--timeout=60s"
        )
        yield
    finally:
        cluster.run("helm", "uninstall", RELEASE, f"--namespace={SYSTEM}", "--ignore-not-found", "--wait")
        gone = (ASKING, ALONE, SYSTEM)
        cluster.kubectl("delete", "namespace", *gone, "--ignore-not-found", "--timeout=120s")
        kinds = ("modelfleets.modelfleet.io", "routingpolicies.modelfleet.io")
        cluster.kubectl("delete", "crd", *kinds, "--ignore-not-found")


def upgrade(cluster: Cluster, *settings: str) -> None:
    """Upgrade the release to exactly these settings besides the usual ones."""
    helm(cluster, "upgrade", *SETTINGS, *settings)


def application(name: str, **environment: str) -> dict[str, Any]:
    """Return a pod that asks for a sidecar and runs `asking_app` with this environment."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name, **LABEL}},
        "spec": {
            "terminationGracePeriodSeconds": 20,
            "containers": [
                {
                    "name": "app",
                    "image": image("model-server"),
                    "imagePullPolicy": "Never",
                    "command": ["python3", "-c", _PROGRAM],
                    "env": [{"name": key, "value": value} for key, value in environment.items()],
                    "securityContext": RESTRICTED,
                }
            ],
        },
    }


def job(name: str, pods: int, **environment: str) -> dict[str, Any]:
    """Return a Job of such pods at once, each of which gets one chance."""
    pod = application(name, **environment)
    template = {
        "metadata": {"labels": pod["metadata"]["labels"]},
        "spec": {**pod["spec"], "restartPolicy": "Never"},
    }
    counts = {"completions": pods, "parallelism": pods, "backoffLimit": 0}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {**counts, "template": template},
    }


def ready(cluster: Cluster, pod: Mapping[str, Any]) -> dict[str, Any]:
    """Create the pod and wait until it is Ready; return it as it was stored."""
    cluster.apply(pod, namespace=ASKING)
    name = f"pod/{pod['metadata']['name']}"
    cluster.kubectl("wait", "--for=condition=Ready", name, f"--namespace={ASKING}", "--timeout=60s")
    return dict(cluster.get(name, f"--namespace={ASKING}"))


def requests(log: str) -> list[dict[str, Any]]:
    """Return what the program printed of each request."""
    return [json.loads(line) for line in log.splitlines()]


def asked(cluster: Cluster, pod: str, *, until: int = 0) -> list[dict[str, Any]]:
    """Return the requests of a pod so far, once one had the status `until` (0: once there is any)."""
    deadline = time.monotonic() + PATIENCE
    while True:
        found = requests(cluster.kubectl("logs", pod, f"--namespace={ASKING}", "--container=app"))
        if any(until in (0, request["status"]) for request in found):
            return found
        assert time.monotonic() < deadline, f"no status {until} within {PATIENCE:.0f} s: {found[-3:]}"
        time.sleep(0.2)


@contextmanager
def creating(cluster: Cluster, clients: int = 3) -> Iterator[list[str]]:
    """Rehearse the creation of pods without a pause between them; yield what became of each.

    The names of the init containers, or why the API server refused the pod.
    """
    stop, became = threading.Event(), []

    def create(number: int) -> None:
        with Api(cluster) as api:
            while not stop.wait(0.02):
                try:
                    stored, _ = api.rehearse_pod(ASKING, application(f"new-{number}"))
                    became.append(" ".join(names(stored, "initContainers")))
                except AssertionError as error:
                    became.append(str(error))

    threads = [threading.Thread(target=create, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield became
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def histogram(cluster: Cluster) -> dict[str, float]:
    """Return how long the API server's calls of the webhook took, in s: `sum`, `count`, counts by bound."""
    found = _HISTOGRAM.finditer(cluster.kubectl("get", "--raw", "/metrics"))
    return {match[2] or match[1]: float(match[3]) for match in found}


def names(pod: Mapping[str, Any], kind: str) -> Sequence[str]:
    """Return the names of the pod's containers, or of what else its spec lists."""
    return [found["name"] for found in pod["spec"].get(kind, ())]


def _model() -> list[Mapping[str, object]]:
    server = {
        "name": "server",
        "image": image("model-server"),
        "imagePullPolicy": "Never",
        "args": ["--model=frontier", f"--api-key={KEY}", "--latency=ttft=5,per_token=0.1"],
        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "readinessProbe": {"httpGet": {"path": "/health", "port": 8000}, "periodSeconds": 1},
        "securityContext": RESTRICTED,
    }
    template = {"metadata": {"labels": {"app": "frontier"}}, "spec": {"containers": [server]}}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "frontier"},
        "spec": {"selector": {"matchLabels": {"app": "frontier"}}, "template": template},
    }
    return [deployment, service("frontier", target=8000)]


def _secret() -> Mapping[str, object]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "frontier"},
        "stringData": {"token": KEY},
    }


def _fleet() -> Mapping[str, object]:
    variant = {
        "name": "api",
        "external": {
            "url": f"http://frontier.{ASKING}.svc.cluster.local/v1",
            "apiKeySecretRef": {"name": "frontier", "key": "token"},
        },
        "limits": {"inFlight": 16},
    }
    model = {
        "name": "frontier",
        "quality": {"prior": "0.9"},
        "pricing": {"inputPerMTok": "1", "outputPerMTok": "2"},
        "variants": [variant],
    }
    return {
        "apiVersion": API,
        "kind": "ModelFleet",
        "metadata": {"name": "chat"},
        "spec": {"models": [model]},
    }


def _policy() -> Mapping[str, object]:
    return {
        "apiVersion": API,
        "kind": "RoutingPolicy",
        "metadata": {"name": "all"},
        "spec": {
            "fleetRef": {"name": "chat"},
            "budget": {"limit": "5", "period": "Day", "enforcement": "Hard"},
            "limits": {"maxOutputTokens": 256, "maxRequest": "30s"},
            "tiers": [{"name": "standard"}],
        },
    }
