"""Every object of the chart against the real API server's own schemas, by dry run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from modelfleet_lab.controlplane.start import ControlPlane
from support.charts import NAMESPACE, helm

pytestmark = pytest.mark.integration

CASES: dict[str, dict[str, object]] = {
    "defaults": {},
    "one namespace": {"watchNamespace": "models", "nodes": {"read": False}},
    "without a webhook": {"injector": {"mode": "none"}},
    "a policy of the API server injects": {"injector": {"mode": "policy"}},
    "everything that a pod can be told": {
        "priorityClassName": "system-cluster-critical",
        "commonLabels": {"team": "inference", "app.kubernetes.io/name": "not-this"},
        "commonAnnotations": {"example.com/owner": "inference"},
        "image": {"registry": "registry.example.com:5000/team", "pullSecrets": [{"name": "pull"}]},
        "operator": {
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "tolerations": [{"key": "control", "operator": "Exists"}],
            "affinity": {"podAntiAffinity": {}},
            "podLabels": {"team": "other"},
            "podAnnotations": {"example.com/scrape": "true"},
            "serviceAccountAnnotations": {"example.com/role": "reader"},
        },
    },
}


@pytest.mark.parametrize("case", CASES)
def test_the_api_server_takes_every_object(case: str, bare_plane: ControlPlane, tmp_path: Path) -> None:
    for namespace in (NAMESPACE, "models"):
        bare_plane.run_kubectl("create", "namespace", namespace)
    manifests = helm(tmp_path).render(CASES[case])
    assert manifests
    given = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
    done = bare_plane.run_kubectl(
        "apply", "--dry-run=server", "--server-side", "--validate=strict", "-f", "-", given=given
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # not even a warning
    assert len(done.stdout.splitlines()) == len(manifests)
