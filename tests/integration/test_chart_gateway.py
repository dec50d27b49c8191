"""The chart's gateway: a Deployment that other pods call by TLS, with the one right to review tokens."""

from __future__ import annotations

from pathlib import Path

import pytest
from modelfleet_sidecar.settings import Settings, read_settings
from support.charts import Helm, Manifest, helm, named, names

pytestmark = pytest.mark.integration

NAME = "modelfleet-gateway"
FIELDS = {"metadata.namespace": "models", "metadata.name": "gateway-0", "metadata.uid": "uid-0"}


@pytest.fixture
def chart(tmp_path: Path) -> Helm:
    return helm(tmp_path)


def pod_of(manifests: list[Manifest]) -> Manifest:
    template: Manifest = named(manifests, "Deployment", NAME)["spec"]["template"]
    return template


def settings_of(manifests: list[Manifest]) -> Settings:
    """Return the settings as the program reads them in the gateway's pod."""
    (container,) = pod_of(manifests)["spec"]["containers"]
    environ = {
        entry["name"]: entry["value"]
        if "value" in entry
        else FIELDS[entry["valueFrom"]["fieldRef"]["fieldPath"]]
        for entry in container["env"]
    }
    return read_settings([], environ)


def test_without_it_nothing_of_a_gateway_is_there(chart: Helm) -> None:
    assert not [name for name in names(chart.render()) if "gateway" in name]


def test_its_settings_are_those_that_the_sidecar_takes(chart: Helm) -> None:
    settings = settings_of(chart.render({"gateway": {"enabled": True}}))
    assert str(settings.http_listen) == "0.0.0.0:18080"
    assert settings.tls == Path("/var/run/secrets/modelfleet-gateway")
    assert (settings.auth_audience, settings.auth_keys) == ("modelfleet-gateway", None)
    assert settings.auth_namespaces == {"models"}
    values = {
        "enabled": True,
        "auth": {"audience": "", "keysSecret": "callers"},
        "apiKeys": [{"name": "a", "key": "b"}],
    }
    settings = settings_of(chart.render({"gateway": values}))
    assert (settings.auth_audience, settings.auth_keys) == ("", Path("/var/run/secrets/modelfleet-callers"))
    assert settings.keys == Path("/var/run/secrets/modelfleet-keys")
    upstream = {"caSecret": "authorities", "clientSecret": "client"}
    settings = settings_of(chart.render({"gateway": {"enabled": True, "upstream": upstream}}))
    assert settings.upstream_ca == "/var/run/secrets/modelfleet-upstream-ca/ca.crt"
    assert settings.upstream_tls == Path("/var/run/secrets/modelfleet-upstream-tls")
    everybody = chart.render({"gateway": {"enabled": True, "auth": {"namespaces": ["*"]}}})
    assert settings_of(everybody).auth_namespaces is None


def test_it_runs_without_privileges_and_mounts_only_what_it_needs(chart: Helm) -> None:
    pod = pod_of(chart.render({"gateway": {"enabled": True}}))["spec"]
    (container,) = pod["containers"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounts = {mount["name"] for mount in container["volumeMounts"]}
    assert mounts == {volume["name"] for volume in pod["volumes"]}
    assert mounts == {"modelfleet-token", "modelfleet-journal", "gateway-tls"}


def test_its_one_right_is_to_review_tokens_and_goes_with_them(chart: Helm) -> None:
    values = {"enabled": True, "namespace": "models"}
    manifests = chart.render({"gateway": values})
    role = named(manifests, "ClusterRole", NAME)
    assert role["rules"] == [
        {"apiGroups": ["authentication.k8s.io"], "resources": ["tokenreviews"], "verbs": ["create"]}
    ]
    (subject,) = named(manifests, "ClusterRoleBinding", NAME)["subjects"]
    assert (subject["name"], subject["namespace"]) == (NAME, "models")
    assert pod_of(manifests)["spec"]["automountServiceAccountToken"] is True
    without = chart.render({"gateway": values | {"auth": {"audience": "", "keysSecret": "callers"}}})
    assert not [m for m in without if m["kind"] == "ClusterRole" and "gateway" in m["metadata"]["name"]]
    assert pod_of(without)["spec"]["automountServiceAccountToken"] is False


def test_the_operator_leases_to_its_pods_and_the_injector_leaves_them_alone(chart: Helm) -> None:
    for mode, kind in (("webhook", "MutatingWebhookConfiguration"), ("policy", "MutatingAdmissionPolicy")):
        values = {"enabled": True, "policy": "assistant", "podLabels": {"app": "gateway"}}
        manifests = chart.render({"gateway": values, "injector": {"mode": mode}})
        pod = pod_of(manifests)["metadata"]
        assert pod["labels"]["modelfleet.io/inject"] == "true"
        assert pod["labels"]["app"] == "gateway"
        assert pod["annotations"]["modelfleet.io/policy"] == "assistant"
        found = named(manifests, kind, "modelfleet-injector")
        selector = found["webhooks"][0] if mode == "webhook" else found["spec"]["matchConstraints"]
        assert selector["objectSelector"]["matchExpressions"] == [
            {"key": "modelfleet.io/gateway", "operator": "DoesNotExist"}
        ]


def test_its_certificate_is_for_its_service_where_it_runs(chart: Helm) -> None:
    manifests = chart.render({"gateway": {"enabled": True, "namespace": "models"}})
    service = named(manifests, "Service", NAME)
    assert service["metadata"]["namespace"] == "models"
    secret = named(manifests, "Secret", "modelfleet-gateway-tls")
    assert secret["metadata"]["namespace"] == "models"
    assert secret["data"]["ca.crt"] == named(manifests, "Secret", "modelfleet-ca")["data"]["tls.crt"]
    values = {"gateway": {"enabled": True}, "tls": {"source": "certManager"}}
    certificate = named(chart.render(values), "Certificate", NAME)["spec"]
    assert certificate["secretName"] == "modelfleet-gateway-tls"
    assert certificate["dnsNames"][0].startswith("modelfleet-gateway.")


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"gateway": {"enabled": True, "auth": {"audience": ""}}}, "nobody could call: set gateway.auth"),
        (
            {"gateway": {"enabled": True, "namespace": "models"}, "tls": {"source": "certManager"}},
            "set tls.certManager.issuerRef to a ClusterIssuer",
        ),
        ({"gateway": {"auth": {"namespaces": ["a,b"]}}}, "at '/gateway/auth/namespaces/0'"),
    ],
)
def test_values_that_can_not_be_used_are_refused_in_words(
    values: dict[str, object], told: str, chart: Helm
) -> None:
    assert told in chart.refusal(values)
