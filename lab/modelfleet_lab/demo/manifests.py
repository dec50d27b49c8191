"""What a user would apply for this scenario: fleet, policy, Deployments, Services, a GPU node, applications'
pods.

In: `Scenario` and past knowledge. Out: Kubernetes objects, and the command line of each model's server.
Next: the operator reads them; `baselines` start servers by the same command lines.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from modelfleet_lab.baselines.knowledge import Knowledge
from modelfleet_lab.demo.programs import AppPod
from modelfleet_lab.demo.scenario import DEADLINE, SHARES, LabModel, Scenario

NAMESPACE = "demo"
API = "modelfleet.io/v1alpha1"
STARTUP = 1.0
"""Seconds that a replica loads its model."""
INJECT_LABEL = "modelfleet.io/inject"

IDLE = [sys.executable, "-c", "import signal; signal.pause()"]
"""What the applications' containers run: the demo itself sends their requests."""

Manifest = Mapping[str, object]


def server_arguments(model: LabModel, *, answers: Path, log: Path) -> list[str]:
    """Return the command line of one replica of `model`; its address comes from the environment."""
    profile = model.latency
    return [
        sys.executable,
        "-m",
        "modelfleet_lab.model_server",
        f"--model={model.name}",
        f"--concurrency={model.concurrency}",
        f"--latency=ttft={profile.ttft:g},per_token={profile.per_token:g},load={profile.load:g}",
        f"--pricing={model.input_price},{model.output_price}",
        f"--answers={answers}",
        f"--startup={0 if model.external else STARTUP:g}",
        f"--log={log}",
    ]


def object_name(model: LabModel) -> str:
    """Return the name of the model's Deployment and Service."""
    return model.name.lower().replace(".", "-")


def fleet_manifest(scenario: Scenario, knowledge: Knowledge, external: Mapping[str, str]) -> Manifest:
    """Return the ModelFleet; `external` holds the base URL of each external model's endpoint."""
    return {
        "apiVersion": API,
        "kind": "ModelFleet",
        "metadata": {"name": "demo", "namespace": NAMESPACE},
        "spec": {
            "pools": [
                {"name": "gpu", "resource": "nvidia.com/gpu", "limit": scenario.gpus, "hourlyCost": "2.90"}
            ],
            "models": [_model(model, scenario, knowledge, external) for model in scenario.models],
            "scaling": {"interval": "1s", "scaleDownStabilization": "15s", "solveTimeout": "1s"},
        },
    }


def _model(
    model: LabModel, scenario: Scenario, knowledge: Knowledge, external: Mapping[str, str]
) -> Manifest:
    tasks = scenario.past.tasks()
    variant: dict[str, object] = {
        "name": "api" if model.external else "gpu",
        "concurrency": model.concurrency,
        "latency": {
            # What a full server takes, since slots are planned to be full.
            "timeToFirstToken": _milliseconds(model.latency.first_token(model.concurrency, 0)),
            "perOutputToken": _milliseconds(model.latency.next_token(model.concurrency)),
        },
    }
    if model.external:
        variant["external"] = {"url": f"{external[model.name]}/v1"}
    else:
        variant |= {
            "pool": "gpu",
            "gpus": model.gpus,
            "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": object_name(model)},
            "service": {"name": object_name(model), "port": "http"},
            "replicas": {"min": 0, "max": scenario.gpus // model.gpus},
            "startup": f"{STARTUP:g}s",
        }
    return {
        "name": model.name,
        "quality": {
            "prior": f"{scenario.past.quality(model.name):.3f}",
            "byTask": {task: f"{knowledge.expectation(model, task).quality:.3f}" for task in tasks},
        },
        "pricing": {"inputPerMTok": model.input_price, "outputPerMTok": model.output_price},
        "variants": [variant],
    }


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3f}ms"


def policy_manifest(scenario: Scenario, limit: float) -> Manifest:
    """Return the RoutingPolicy with a hard limit of `limit` USD an hour."""
    return {
        "apiVersion": API,
        "kind": "RoutingPolicy",
        "metadata": {"name": "demo", "namespace": NAMESPACE},
        "spec": {
            "fleetRef": {"name": "demo"},
            "podSelector": {"matchLabels": {"app": "demo"}},
            "limits": {"maxOutputTokens": scenario.max_output_tokens, "maxRequest": f"{DEADLINE:g}s"},
            "batching": {"maxSize": 64, "maxWait": "20ms"},
            "budget": {"limit": f"{limit:.6f}", "period": "Hour"},
            "tiers": [{"name": "standard", "weight": 1}],
            "shedPenalty": "0.5",
        },
    }


def workload_manifests(scenario: Scenario, answers: Mapping[str, Path], log: Path) -> list[Manifest]:
    """Return Deployment and Service of each model that runs in the cluster."""
    manifests: list[Manifest] = []
    for model in scenario.models:
        if model.external:
            continue
        name = object_name(model)
        words = server_arguments(model, answers=answers[model.name], log=log)
        container = {
            "name": "server",
            "image": "modelfleet/model-server",
            "command": words[:3],
            "args": words[3:],
            "ports": [{"name": "http", "containerPort": 8000}],
            "readinessProbe": {"httpGet": {"path": "/health", "port": "http"}, "periodSeconds": 1},
            "resources": {"limits": {"nvidia.com/gpu": str(model.gpus)}},
        }
        labels = {"app": name}
        manifests += [
            {
                "apiVersion": "apps/v1",
                "kind": "Deployment",
                "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
                "spec": {
                    "selector": {"matchLabels": labels},
                    "strategy": {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}},
                    "template": {
                        "metadata": {"labels": labels},
                        "spec": {"containers": [container], "terminationGracePeriodSeconds": 10},
                    },
                },
            },
            {
                "apiVersion": "v1",
                "kind": "Service",
                "metadata": {"name": name, "namespace": NAMESPACE, "labels": labels},
                "spec": {"selector": labels, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
            },
        ]
    return manifests


def node_manifest(scenario: Scenario) -> Manifest:
    """Return the node that offers the GPUs."""
    offered = {"nvidia.com/gpu": str(scenario.gpus), "cpu": "64", "memory": "256Gi", "pods": "110"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "gpu-node"},
        "status": {
            "capacity": offered,
            "allocatable": offered,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def application_pods() -> list[Manifest]:
    """Return the pods of the applications, each with a sidecar."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": pod.name,
                "namespace": pod.namespace,
                "uid": pod.uid,
                "labels": {"app": "demo", INJECT_LABEL: "true"},
            },
            "spec": {"containers": [{"name": "app", "image": "demo/app", "command": IDLE}]},
        }
        for pod in applications()
    ]


def applications() -> list[AppPod]:
    """Return the applications' pods with the UIDs that they ask for; a real API server gives its own."""
    return [
        AppPod(NAMESPACE, f"app-{index}", f"00000000-0000-4000-9000-{index:012d}")
        for index in range(len(SHARES))
    ]


def all_manifests(
    scenario: Scenario,
    knowledge: Knowledge,
    *,
    limit: float,
    answers: Mapping[str, Path],
    log: Path,
    external: Mapping[str, str],
) -> Sequence[Manifest]:
    """Return every object, in the order to apply them."""
    return [
        node_manifest(scenario),
        *workload_manifests(scenario, answers, log),
        *application_pods(),
        fleet_manifest(scenario, knowledge, external),
        policy_manifest(scenario, limit),
    ]
