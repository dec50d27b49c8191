"""Pods for tests of a real node: a static program in a container that may do as little as possible."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from modelfleet_lab.cluster import archives

IMAGE = "localhost/modelfleet-tests/answerer:1"
SOURCE = Path(__file__).parent / "answerer" / "main.go"
RESTRICTED = {
    "runAsNonRoot": True,
    "readOnlyRootFilesystem": True,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def build_answerer(folder: Path) -> Path:
    """Build the image of the answerer; return its archive."""
    program = folder / "answerer"
    subprocess.run(
        ["go", "build", "-trimpath", "-ldflags=-s -w", f"-o={program}", str(SOURCE)],
        check=True,
        cwd=folder,
        env={**os.environ, "CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOPROXY": "off"},
    )
    archives.write(folder / "answerer.tar", IMAGE, program)
    return folder / "answerer.tar"


def container(name: str, *arguments: str, **more: object) -> Mapping[str, object]:
    """Return a container that runs the answerer with these arguments."""
    return {
        "name": name,
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "args": list(arguments),
        "securityContext": RESTRICTED,
        **more,
    }


def server(name: str, answer: str, port: int = 8080, **more: object) -> Mapping[str, object]:
    """Return a container that answers every request with `answer`, and is ready once it does."""
    probe = {"httpGet": {"port": port, "path": "/ready"}, "periodSeconds": 1}
    return container(name, "serve", f":{port}", answer, **{"readinessProbe": probe, **more})


def deployment(
    name: str, containers: Sequence[Mapping[str, object]], replicas: int = 1
) -> Mapping[str, object]:
    """Return a Deployment of pods that have the label `app` of its name."""
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": list(containers)}},
        },
    }


def job(name: str, **pod: object) -> Mapping[str, object]:
    """Return a Job of one pod that gets one chance."""
    template = {"metadata": {"labels": {"app": name}}, "spec": {"restartPolicy": "Never", **pod}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name},
        "spec": {"backoffLimit": 0, "template": template},
    }


def service(name: str, port: int = 80, target: int = 8080) -> Mapping[str, object]:
    """Return a Service in front of the pods with the label `app` of its name."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": port, "targetPort": target}]},
    }
