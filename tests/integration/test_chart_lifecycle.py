"""Install, upgrade, roll back, uninstall and install again with the real Helm on a real API server.

No node is there, so no pod runs; what these tests look at is what becomes of the objects.
"""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from modelfleet_lab.controlplane.start import ControlPlane
from support.charts import CHART, NAMESPACE, RELEASE, ROOT, Helm, Manifest, helm, names

pytestmark = pytest.mark.integration

EARLIER = "668f5ae"
"""The commit whose chart users may have installed."""
KEPT = {
    "customresourcedefinition.apiextensions.k8s.io/modelfleets.modelfleet.io",
    "customresourcedefinition.apiextensions.k8s.io/routingpolicies.modelfleet.io",
    "secret/modelfleet-ca",
}
"""What README.md and NOTES.txt say that an uninstalled release leaves."""
FLEET = {
    "apiVersion": "modelfleet.io/v1alpha1",
    "kind": "ModelFleet",
    "metadata": {"name": "chat", "namespace": "models"},
    "spec": {
        "models": [
            {
                "name": "small",
                "pricing": {"inputPerMTok": "0", "outputPerMTok": "0"},
                "variants": [
                    {"name": "api", "concurrency": 4, "external": {"url": "http://api.example.com/v1"}}
                ],
            }
        ]
    },
}
POLICY = {
    "apiVersion": "modelfleet.io/v1alpha1",
    "kind": "RoutingPolicy",
    "metadata": {"name": "chat", "namespace": "models"},
    "spec": {"fleetRef": {"name": "chat"}, "quotas": [{"models": ["smal"], "requests": 5}]},
}
WORKLOAD = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "vllm", "namespace": "models"},
    "spec": {
        "selector": {"matchLabels": {"app": "vllm"}},
        "template": {
            "metadata": {"labels": {"app": "vllm"}},
            "spec": {"containers": [{"name": "vllm", "image": "vllm"}]},
        },
    },
}
_WITHIN = f"--namespace={NAMESPACE}"
_OF_USERS = ("modelfleets/chat", "routingpolicies/chat", "deployments/vllm")
_SECRETS = ("modelfleet-ca", "modelfleet-capacity-tls", "modelfleet-injector-tls")


class Cluster:
    """A cluster with Helm at hand."""

    def __init__(self, control_plane: ControlPlane, helm: Helm) -> None:
        self.control_plane = control_plane
        self.helm = helm

    def kubectl(self, *arguments: str) -> str:
        done = self.control_plane.run_kubectl(*arguments)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def get(self, what: str) -> Manifest:
        found: Manifest = json.loads(self.kubectl("get", what, _WITHIN, "--output=json"))
        return found

    def apply(self, *manifests: Manifest) -> str:
        """Apply; return the warnings."""
        given = json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests})
        done = self.control_plane.run_kubectl("apply", "-f", "-", given=given)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def install(self, chart: Path = CHART, *flags: str, values: Manifest | None = None) -> str:
        self.helm.must("install", RELEASE, str(chart), _WITHIN, "--create-namespace", *flags, values=values)
        return self.helm.must("get", "notes", RELEASE, _WITHIN)

    def upgrade(self, values: Manifest | None = None) -> None:
        self.helm.must("upgrade", RELEASE, str(CHART), _WITHIN, values=values)

    def uninstall(self) -> str:
        return self.helm.must("uninstall", RELEASE, _WITHIN, "--wait", "--cascade=foreground")

    def belongings(self) -> set[str]:
        """Return every object that carries the release's label, whatever its kind."""
        kinds = ",".join(self.kubectl("api-resources", "--verbs=list,delete", "--output=name").split())
        label = f"--selector=app.kubernetes.io/instance={RELEASE}"
        return set(self.kubectl("get", kinds, "--all-namespaces", "--output=name", label).split())

    def of_users(self) -> dict[str, str]:
        """Return the UIDs of what is not the release's."""
        listed = json.loads(self.kubectl("get", *_OF_USERS, "--namespace=models", "--output=json"))
        return {manifest["kind"]: manifest["metadata"]["uid"] for manifest in listed["items"]}

    def certificates(self) -> dict[str, dict[str, str]]:
        return {name: self.get(f"secret/{name}")["data"] for name in _SECRETS}

    def trusted_by_the_api_server(self) -> str:
        webhook = self.get("mutatingwebhookconfiguration/modelfleet-injector")["webhooks"][0]
        authority: str = webhook["clientConfig"]["caBundle"]
        return authority

    def await_kinds(self) -> None:
        """Wait until fleets are served, which takes a moment once their definition is there."""
        for _ in range(300):
            listed = self.control_plane.run_kubectl("get", "modelfleets,routingpolicies", "--all-namespaces")
            if listed.returncode == 0:
                return
            time.sleep(0.1)
        raise AssertionError(f"the API server does not serve the project's kinds: {listed.stderr}")


@pytest.fixture
def cluster(bare_plane: ControlPlane, tmp_path: Path) -> Iterator[Cluster]:
    """A cluster on which the chart was never installed, with a namespace for models."""
    found = Cluster(bare_plane, helm(tmp_path, bare_plane.kubeconfig))
    found.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "models"}})
    yield found
    for release in json.loads(found.helm.must("list", "--all-namespaces", "--output=json")):
        found.helm.must("uninstall", release["name"], f"--namespace={release['namespace']}", "--wait")
    found.kubectl("delete", "customresourcedefinitions", "--all")
    found.kubectl("delete", "deployments", "--all", "--namespace=models")
    found.kubectl("delete", "secret", "--all", _WITHIN)


@pytest.fixture
def earlier(tmp_path: Path) -> Path:
    """The chart as of the earlier commit, with CRDs that lack a short name."""
    archive = tmp_path / "charts.tar"
    git = ["git", "-C", str(ROOT), "archive", f"--output={archive}", EARLIER, "charts"]
    subprocess.run(git, check=True)
    subprocess.run(["tar", "-xf", str(archive), "-C", str(tmp_path)], check=True)
    crd = tmp_path / "charts" / "modelfleet" / "files" / "crds" / "routingpolicies.yaml"
    crd.write_text(crd.read_text().replace("shortNames: [rp]", "shortNames: []"))
    return tmp_path / "charts" / "modelfleet"


def certificate(data: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate(base64.b64decode(data))


def test_what_belongs_to_users_outlives_every_step_of_a_release(cluster: Cluster, earlier: Path) -> None:
    cluster.install(earlier)
    cluster.await_kinds()
    cluster.apply(FLEET, POLICY, WORKLOAD)
    theirs = cluster.of_users()
    assert len(theirs) == 3
    made = cluster.certificates()

    def short_names() -> list[str]:
        names: Manifest = cluster.get("crd/routingpolicies.modelfleet.io")["spec"]["names"]
        return list(names.get("shortNames", []))

    assert short_names() == []
    cluster.upgrade({"operator": {"replicas": 3}})
    assert short_names() == ["rp"]
    assert cluster.get("deployment/modelfleet-operator")["spec"]["replicas"] == 3
    assert cluster.of_users() == theirs
    assert cluster.certificates() == made
    assert cluster.trusted_by_the_api_server() == made["modelfleet-ca"]["tls.crt"]

    cluster.helm.must("rollback", RELEASE, _WITHIN)
    assert cluster.get("deployment/modelfleet-operator")["spec"]["replicas"] == 2
    assert cluster.of_users() == theirs
    assert cluster.certificates() == made

    assert "[Secret] modelfleet-ca" in cluster.uninstall()
    assert cluster.belongings() == KEPT
    assert cluster.of_users() == theirs

    notes = cluster.install()
    assert cluster.of_users() == theirs
    assert "--take-ownership" in notes
    again = cluster.certificates()
    assert again["modelfleet-ca"] == made["modelfleet-ca"]  # pods with a sidecar trust it still
    assert cluster.trusted_by_the_api_server() == made["modelfleet-ca"]["tls.crt"]


def test_certificates_verify_by_the_names_in_use_and_only_what_no_longer_does_is_made_anew(
    cluster: Cluster,
) -> None:
    cluster.install()
    made = cluster.certificates()
    authority = certificate(made["modelfleet-ca"]["tls.crt"])
    for service in ("capacity", "injector"):
        data = made[f"modelfleet-{service}-tls"]
        assert certificate(data["ca.crt"]) == authority
        leaf = certificate(data["tls.crt"])
        leaf.verify_directly_issued_by(authority)
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        host = f"modelfleet-{service}.{NAMESPACE}.svc"
        assert found.get_values_for_type(x509.DNSName) == [
            host,
            f"{host}.cluster.local",
            f"modelfleet-{service}",
        ]
        assert (leaf.not_valid_after_utc - leaf.not_valid_before_utc).days >= 3650

    cluster.kubectl("delete", "secret/modelfleet-injector-tls", _WITHIN)
    cluster.upgrade()
    restored = cluster.certificates()
    assert restored["modelfleet-capacity-tls"] == made["modelfleet-capacity-tls"]
    assert restored["modelfleet-injector-tls"]["tls.crt"] != made["modelfleet-injector-tls"]["tls.crt"]
    cluster.upgrade({"clusterDomain": "example.org"})
    renamed = cluster.certificates()
    assert renamed["modelfleet-capacity-tls"]["tls.crt"] != made["modelfleet-capacity-tls"]["tls.crt"]
    for certificates in (restored, renamed):
        assert certificates["modelfleet-ca"] == made["modelfleet-ca"]
        for secret in _SECRETS[1:]:
            certificate(certificates[secret]["tls.crt"]).verify_directly_issued_by(authority)


def test_a_policy_that_names_an_unknown_model_is_taken_with_a_warning(cluster: Cluster) -> None:
    cluster.install(values={"watchNamespace": "models"})
    cluster.await_kinds()

    def told(**spec: object) -> str:
        return cluster.apply({**POLICY, "spec": {"fleetRef": {"name": "chat"}, **spec}})

    unknown = {"quotas": [{"models": ["tiny"], "requests": 5}]}
    assert told(**unknown) == ""  # its fleet is not there yet
    cluster.apply(FLEET)
    assert told(quotas=[{"models": ["small"], "requests": 5}]) == ""
    assert "spec.quotas: ModelFleet chat has no model tiny" in told(**unknown)
    shares = [{"models": ["tiny"], "max": "5%"}, {"models": ["small", "vast"], "max": "5%"}]
    warned = told(budget={"limit": "5", "shares": shares})
    assert "spec.budget.shares: ModelFleet chat has no model tiny, vast" in warned

    cluster.uninstall()
    assert cluster.belongings() == KEPT


def test_another_release_takes_over_the_definitions_that_stayed_once_told_to(cluster: Cluster) -> None:
    cluster.install()
    cluster.await_kinds()
    cluster.apply(FLEET)
    cluster.uninstall()
    elsewhere = ("install", "second", str(CHART), "--namespace=elsewhere", "--create-namespace")
    refused = cluster.helm.run(*elsewhere)
    assert refused.returncode != 0
    assert "invalid ownership metadata" in refused.stderr
    cluster.helm.must(*elsewhere, "--take-ownership")
    assert cluster.kubectl("get", "modelfleets/chat", "--namespace=models", "--output=name")


def test_every_object_of_a_release_carries_its_label(cluster: Cluster) -> None:
    cluster.install()
    installed = {name.split("/")[1] for name in cluster.belongings()}
    for name in names(cluster.helm.render()):
        assert "-test-" in name or name.split("/")[1] in installed
