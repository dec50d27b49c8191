"""Every object of the chart against the real API server's own schemas, by dry run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from modelfleet_lab.controlplane.start import ControlPlane
from support.charts import NAMESPACE, helm
from support.foreign_crds import crds

pytestmark = pytest.mark.integration

CASES: dict[str, dict[str, object]] = {
    "defaults": {},
    "one namespace": {"watchNamespace": "models", "nodes": {"read": False}},
    "without a webhook": {"injector": {"mode": "none"}},
    "a policy of the API server injects": {"injector": {"mode": "policy"}},
    "cert-manager": {"tls": {"source": "certManager"}},
    "an issuer of the user's": {
        "tls": {
            "source": "certManager",
            "certManager": {
                "issuerRef": {"name": "company", "kind": "ClusterIssuer", "group": "cert-manager.io"},
                "duration": "720h",
                "renewBefore": "240h",
            },
        }
    },
    "watched by Prometheus and Grafana": {
        "monitoring": {
            "podMonitor": {"enabled": True, "interval": "1m", "labels": {"release": "stack"}},
            "prometheusRule": {
                "enabled": True,
                "labels": {"release": "stack"},
                "runbooks": "https://example.com/observe",
            },
            "dashboard": {"enabled": True, "annotations": {"grafana_folder": "Inference"}},
        },
    },
    "watched in one namespace": {
        "watchNamespace": "models",
        "injector": {"mode": "none"},
        "monitoring": {
            "podMonitor": {"enabled": True},
            "prometheusRule": {"enabled": True},
            "dashboard": {"enabled": True},
        },
        "networkPolicy": {"enabled": True},
    },
    "behind network policies": {
        "networkPolicy": {
            "enabled": True,
            "sidecarNamespaces": {"matchLabels": {"team": "inference"}},
            "monitoringNamespaces": {
                "matchExpressions": [
                    {"key": "kubernetes.io/metadata.name", "operator": "In", "values": ["monitoring"]}
                ]
            },
            "apiServer": {"ports": [6443], "cidrs": ["192.0.2.1/32", "2001:db8::/64"]},
        },
    },
    "a gateway": {
        "gateway": {
            "enabled": True,
            "namespace": "models",
            "policy": "assistant",
            "auth": {"namespaces": ["*"], "keysSecret": "callers"},
            "apiKeys": [{"name": "frontier", "key": "token"}],
            "env": {"HTTPS_PROXY": "http://proxy.example.com:3128", "NO_PROXY": "10.0.0.0/8"},
            "upstream": {"caSecret": "authorities", "clientSecret": "client"},
        },
        "networkPolicy": {"enabled": True},
    },
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


@pytest.fixture(scope="module")
def api_server(bare_plane: ControlPlane) -> Iterator[ControlPlane]:
    """The API server, which also knows the kinds that the chart has objects of."""
    files = crds(
        "github.com/cert-manager/cert-manager",
        "deploy/crds/cert-manager.io_certificates.yaml",
        "deploy/crds/cert-manager.io_issuers.yaml",
    )
    files += crds(
        "github.com/prometheus-operator/prometheus-operator",
        "example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml",
        "example/prometheus-operator-crd/monitoring.coreos.com_prometheusrules.yaml",
    )
    given = [f"--filename={file}" for file in files]
    created = bare_plane.run_kubectl("create", *given)
    assert created.returncode == 0, created.stderr
    for namespace in (NAMESPACE, "models"):
        bare_plane.run_kubectl("create", "namespace", namespace)
    bare_plane.run_kubectl("wait", "--for=condition=Established", "--timeout=30s", *given)
    yield bare_plane
    bare_plane.run_kubectl("delete", "namespace", NAMESPACE, "models")
    bare_plane.run_kubectl("delete", *given)


@pytest.mark.parametrize("case", CASES)
def test_the_api_server_takes_every_object(case: str, api_server: ControlPlane, tmp_path: Path) -> None:
    manifests = helm(tmp_path).render(CASES[case])
    assert manifests
    given = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
    done = api_server.run_kubectl(
        "apply", "--dry-run=server", "--server-side", "--validate=strict", "-f", "-", given=given
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # not even a warning
    assert len(done.stdout.splitlines()) == len(manifests)


@pytest.mark.parametrize("kind", ["Certificate", "Deployment", "MutatingWebhookConfiguration"])
def test_the_check_sees_a_field_that_does_not_exist(
    kind: str, api_server: ControlPlane, tmp_path: Path
) -> None:
    manifests = helm(tmp_path).render({"tls": {"source": "certManager"}})
    wrong = next(manifest for manifest in manifests if manifest["kind"] == kind)
    wrong["invented"] = True
    refused = api_server.run_kubectl(
        "apply", "--dry-run=server", "--server-side", "--validate=strict", "-f", "-", given=json.dumps(wrong)
    )
    assert refused.returncode != 0
    assert "invented" in refused.stderr
