"""The product on a real node as a user has it: a Helm release, simulated models that ask for GPUs, and apps.

All of it lies in two namespaces: the release's own, and `APPS` with fleet, policy, models and applications.
"""

from __future__ import annotations

import http.client
import json
import subprocess
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from modelfleet_lab.cluster.access import GPU, GPU_PRODUCT, Cluster

from support.cluster_node import RESTRICTED, service

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "modelfleet"
RELEASE, SYSTEM, APPS = "modelfleet", "modelfleet-system", "apps"
OPERATOR, INJECTOR = "deployment/modelfleet-operator", "deployment/modelfleet-injector"
API = "modelfleet.io/v1alpha1"
PRODUCT = "NVIDIA-H100-80GB-HBM3"
GPUS = 4
"""Of the node and of the pool: all models at their most would ask for twice as many."""
MODELS = {"small": 1, "large": 2}
"""Simulated models and the GPUs that each replica asks for."""
CONCURRENCY = 4
BUDGET_USD = 5
TEAM = {"team": "assistant"}
"""Labels by which the policy selects pods."""
_VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
_RECORDS = "/var/log/records"


def image(name: str) -> str:
    return f"modelfleet/{name}:{_VERSION}"


def records(cluster: Cluster) -> Path:
    """Return the folder of this machine in which models and applications write down every request."""
    folder = cluster.folder / "records"
    folder.mkdir(exist_ok=True)
    folder.chmod(0o777)  # containers write there as nobody
    return folder


def helm(cluster: Cluster, verb: str, *arguments: str) -> str:
    """Install or upgrade the release from the chart, with the images that the node has."""
    return cluster.helm(
        verb, RELEASE, str(CHART), f"--namespace={SYSTEM}", "--set=image.pullPolicy=Never", *arguments
    )


def rolled_out(cluster: Cluster, workload: str, namespace: str = SYSTEM) -> None:
    """Wait until every pod of a Deployment is Ready and of its newest template."""
    cluster.kubectl("rollout", "status", workload, f"--namespace={namespace}", "--timeout=120s")


def kill(cluster: Cluster, pod: str, namespace: str) -> None:
    """Kill the process of a pod's only container on the spot: it gets no signal to end by."""
    (status,) = cluster.get("pod", pod, f"--namespace={namespace}")["status"]["containerStatuses"]
    task = status["containerID"].removeprefix("containerd://")
    done = subprocess.run(
        ["ctr", "tasks", "kill", "--signal=SIGKILL", task],
        env=cluster.environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def play_faults(cluster: Cluster, pod: str, *faults: Mapping[str, object]) -> None:
    """Have a simulated model server show these faults from now on, instead of those before."""
    address = cluster.get("pod", pod, f"--namespace={APPS}")["status"]["podIP"]
    server = http.client.HTTPConnection(address, 8000, timeout=10)
    server.request("POST", "/admin/faults", json.dumps({"faults": faults}))
    answer = server.getresponse()
    said = answer.read()
    server.close()
    assert answer.status == 200, said


def fleet(replicas: Mapping[str, tuple[int, int]]) -> Mapping[str, object]:
    """Return the ModelFleet; `replicas` has least and most of each model."""
    return {
        "apiVersion": API,
        "kind": "ModelFleet",
        "metadata": {"name": "chat"},
        "spec": {
            "pools": [
                {
                    "name": "h100",
                    "nodeSelector": {GPU_PRODUCT: PRODUCT},
                    "limit": GPUS,
                    "hourlyCost": "2.90",
                }
            ],
            "models": [_model(name, *bounds) for name, bounds in replicas.items()],
            "scaling": {"interval": "2s", "scaleDownStabilization": "5s", "solveTimeout": "1s"},
        },
    }


def _model(name: str, least: int, most: int) -> Mapping[str, object]:
    return {
        "name": name,
        "servedName": f"sim-{name}",
        "quality": {"prior": "0.80" if name == "large" else "0.60"},
        "pricing": {"inputPerMTok": "0.20", "outputPerMTok": "0.40"},
        "variants": [
            {
                "name": "h100",
                "pool": "h100",
                "gpus": MODELS[name],
                "scaleTargetRef": {"name": name},
                "service": {"name": name, "port": "http"},
                "concurrency": CONCURRENCY,
                "latency": {"timeToFirstToken": "100ms", "perOutputToken": "30ms"},
                "replicas": {"min": least, "max": most},
                "startup": "2s",
            }
        ],
    }


def policy() -> Mapping[str, object]:
    return {
        "apiVersion": API,
        "kind": "RoutingPolicy",
        "metadata": {"name": "assistant"},
        "spec": {
            "podSelector": {"matchLabels": TEAM},
            "fleetRef": {"name": "chat"},
            "budget": {"limit": str(BUDGET_USD), "period": "Day", "enforcement": "Hard"},
            "limits": {"maxOutputTokens": 256, "maxRequest": "30s"},
            "tiers": [{"name": "standard", "weight": 1, "floor": 1}],
            "staleness": {"maxAge": "30s", "then": "Floor"},
        },
    }


def models(cluster: Cluster) -> list[Mapping[str, object]]:
    """Return Deployment and Service of each simulated model, as a user writes them."""
    return [
        manifest
        for name, gpus in MODELS.items()
        for manifest in (_deployment_of_model(cluster, name, gpus), _named_port(service(name, target=8000)))
    ]


def _named_port(manifest: Mapping[str, Any]) -> Mapping[str, object]:
    spec = manifest["spec"]
    return {**manifest, "spec": {**spec, "ports": [{**port, "name": "http"} for port in spec["ports"]]}}


def _deployment_of_model(cluster: Cluster, name: str, gpus: int) -> Mapping[str, object]:
    server = {
        "name": "server",
        "image": image("model-server"),
        "imagePullPolicy": "Never",
        "args": [
            f"--model=sim-{name}",
            f"--concurrency={CONCURRENCY}",
            "--latency=ttft=100,per_token=30",
            "--pricing=0.20,0.40",
            "--startup=2",
            f"--log={_RECORDS}",
        ],
        "env": [_field("POD_IP", "status.podIP"), _field("POD_NAME", "metadata.name")],
        "ports": [{"name": "http", "containerPort": 8000}],
        "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 1},
        "resources": {"limits": {GPU: gpus}, "requests": _cpu("150m")},
        "securityContext": RESTRICTED,
        "volumeMounts": [{"name": "records", "mountPath": _RECORDS}],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "nodeSelector": {GPU_PRODUCT: PRODUCT},
                    "terminationGracePeriodSeconds": 30,
                    "containers": [server],
                    "volumes": [_volume(cluster)],
                },
            },
        },
    }


def application(cluster: Cluster, name: str, client: str, **environment: str) -> Mapping[str, object]:
    """Return a Deployment that asks for a sidecar and sends requests with `client` until it is deleted."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "selector": {"matchLabels": {"app": name}},
            "template": _application(cluster, name, client, "Always", environment),
        },
    }


def burst(cluster: Cluster, name: str, client: str, **environment: str) -> Mapping[str, object]:
    """Return a Job that asks for a sidecar, sends its requests at once, and ends."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {
            "backoffLimit": 0,
            "template": _application(cluster, name, client, "Never", environment),
        },
    }


def _application(
    cluster: Cluster, name: str, client: str, restart: str, environment: Mapping[str, str]
) -> Mapping[str, object]:
    variables = {"CLIENT": client, "OUTCOMES": _RECORDS, **environment}
    app = {
        "name": "app",
        "image": image("client-app"),
        "imagePullPolicy": "Never",
        "env": [{"name": key, "value": value} for key, value in variables.items()],
        "resources": {"requests": _cpu("50m")},
        "securityContext": RESTRICTED,
        "volumeMounts": [{"name": "records", "mountPath": _RECORDS}],
    }
    return {
        "metadata": {"labels": {"app": name, "modelfleet.io/inject": "true", **TEAM}},
        "spec": {
            "restartPolicy": restart,
            "terminationGracePeriodSeconds": 45,
            "containers": [app],
            "volumes": [_volume(cluster)],
        },
    }


def _cpu(request: str) -> Mapping[str, str]:
    """Return a request without which every pod that starts would starve this one on a small machine."""
    return {"cpu": request}


def _field(name: str, path: str) -> Mapping[str, object]:
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def _volume(cluster: Cluster) -> Mapping[str, object]:
    return {"name": "records", "hostPath": {"path": str(records(cluster)), "type": "Directory"}}
