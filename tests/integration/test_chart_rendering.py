"""What the chart renders: for each way to install it the objects that it needs, and no more rights."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.charts import CHART, NAMESPACE, Helm, Manifest, helm, named, names, pod_templates

pytestmark = pytest.mark.integration

PEM = "-----BEGIN CERTIFICATE-----\nbm8=\n-----END CERTIFICATE-----\n"
EXISTING: dict[str, object] = {
    "tls": {
        "source": "existing",
        "caBundle": PEM,
        "existing": {"capacitySecret": "capacity-of-ours", "injectorSecret": "injector-of-ours"},
    }
}
"""The source with which every rendering is the same."""


@pytest.fixture
def chart(tmp_path: Path) -> Helm:
    return helm(tmp_path)


def merged(base: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for key, value in more.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def rules(manifests: list[Manifest]) -> Iterator[tuple[str, Manifest]]:
    for manifest in manifests:
        if manifest["kind"] in ("Role", "ClusterRole"):
            for rule in manifest["rules"]:
                yield manifest["kind"], rule


def test_every_pod_runs_without_privileges(chart: Helm) -> None:
    pods = list(pod_templates(chart.render()))
    assert len(pods) == 4
    for name, pod in pods:
        security = pod["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] == 65532, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        for container in pod["spec"]["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert container["resources"]["limits"]["memory"], name
            assert container["resources"]["requests"]["cpu"], name


def test_operator_and_injector_are_two_pods_each_spread_and_kept_from_going_at_once(chart: Helm) -> None:
    manifests = chart.render()
    for name in ("modelfleet-operator", "modelfleet-injector"):
        deployment = named(manifests, "Deployment", name)["spec"]
        assert deployment["replicas"] == 2
        labels = deployment["template"]["metadata"]["labels"].items()
        spread = deployment["template"]["spec"]["topologySpreadConstraints"]
        assert [s["topologyKey"] for s in spread] == ["kubernetes.io/hostname", "topology.kubernetes.io/zone"]
        budget = named(manifests, "PodDisruptionBudget", name)["spec"]
        assert budget["maxUnavailable"] == 1
        for selector in (deployment["selector"], budget["selector"], *(s["labelSelector"] for s in spread)):
            assert selector["matchLabels"].items() <= labels
        assert deployment["template"]["spec"]["serviceAccountName"] == name
        assert named(manifests, "ServiceAccount", name)


def test_the_capacity_service_leads_to_whom_the_leader_says(chart: Helm) -> None:
    manifests = chart.render()
    capacity = named(manifests, "Service", "modelfleet-capacity")["spec"]
    assert "selector" not in capacity
    injector = named(manifests, "Service", "modelfleet-injector")["spec"]
    pod = named(manifests, "Deployment", "modelfleet-injector")["spec"]["template"]
    assert injector["selector"].items() <= pod["metadata"]["labels"].items()
    ports = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
    assert {port["targetPort"] for port in injector["ports"]} <= ports


def test_a_release_has_no_custom_resources_and_nothing_that_hangs(chart: Helm) -> None:
    for manifest in chart.render():
        assert "finalizers" not in manifest["metadata"]
        assert not manifest["apiVersion"].startswith("modelfleet.io/")
        if "helm.sh/hook" in manifest["metadata"].get("annotations", {}):
            assert manifest["metadata"]["annotations"]["helm.sh/hook"] == "test"


def test_the_custom_resource_definitions_stay_and_can_be_left_out(chart: Helm) -> None:
    def crds(**values: object) -> list[Manifest]:
        return [m for m in chart.render(values) if m["kind"] == "CustomResourceDefinition"]

    found = crds()
    assert {crd["spec"]["names"]["kind"] for crd in found} == {"ModelFleet", "RoutingPolicy"}
    for crd in found:
        assert crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert crds(crds={"install": False}) == []


def test_nobody_may_read_secrets_or_do_everything(chart: Helm) -> None:
    for values in ({}, {"watchNamespace": "models"}):
        for _, rule in rules(chart.render(values)):
            assert not {"secrets", "*"} & {*rule["resources"], *rule["verbs"], *rule["apiGroups"]}
            assert not {"escalate", "bind", "impersonate", "deletecollection"} & set(rule["verbs"])


def test_for_one_namespace_only_tokens_and_nodes_are_read_outside_it(chart: Helm) -> None:
    manifests = chart.render({"watchNamespace": "models"})
    outside = [rule for kind, rule in rules(manifests) if kind == "ClusterRole"]
    assert [(rule["resources"], rule["verbs"]) for rule in outside] == [
        (["tokenreviews"], ["create"]),
        (["nodes"], ["list", "watch"]),
    ]
    places = {m["metadata"]["namespace"] for m in manifests if m["kind"] in ("Role", "RoleBinding")}
    assert places == {NAMESPACE, "models"}
    webhook = named(manifests, "MutatingWebhookConfiguration", f"modelfleet-{NAMESPACE}-injector")
    (selector, *_) = webhook["webhooks"][0]["namespaceSelector"]["matchExpressions"]
    assert (selector["operator"], selector["values"]) == ("In", ["models"])


def test_nodes_are_not_read_when_that_is_switched_off(chart: Helm) -> None:
    manifests = chart.render({"watchNamespace": "models", "nodes": {"read": False}})
    assert all("nodes" not in rule["resources"] for _, rule in rules(manifests))
    operator = named(manifests, "Deployment", "modelfleet-operator")
    settings = operator["spec"]["template"]["spec"]["containers"][0]["env"]
    assert {"name": "MODELFLEET_WATCH_NODES", "value": "false"} in settings


def test_every_binding_is_of_a_role_and_an_account_that_exist(chart: Helm) -> None:
    for values in ({}, {"watchNamespace": "models"}, {"injector": {"mode": "none"}}):
        manifests = chart.render(values)
        bindings = [m for m in manifests if m["kind"].endswith("RoleBinding")]
        bound = set()
        for binding in bindings:
            role = named(manifests, binding["roleRef"]["kind"], binding["roleRef"]["name"])
            assert role["metadata"].get("namespace") == binding["metadata"].get("namespace")
            for subject in binding["subjects"]:
                account = named(manifests, "ServiceAccount", subject["name"])
                assert account["metadata"]["namespace"] == subject["namespace"] == NAMESPACE
            bound.add((binding["roleRef"]["kind"], binding["roleRef"]["name"]))
        assert {(m["kind"], m["metadata"]["name"]) for m in manifests if m["kind"].endswith("Role")} == bound


def test_releases_for_single_namespaces_stand_side_by_side(chart: Helm) -> None:
    def outside(namespace: str) -> set[str]:
        values = {"watchNamespace": namespace, "crds": {"install": False}}
        manifests = chart.render(values, namespace=namespace)
        return names([m for m in manifests if "namespace" not in m["metadata"]])

    assert outside("one")
    assert not outside("one") & outside("two")


def test_without_roles_no_role_is_created(chart: Helm) -> None:
    assert not [m for m in chart.render({"rbac": {"create": False}}) if "Role" in m["kind"]]


def test_only_labelled_pods_outside_the_excluded_namespaces_are_shown_to_the_injector(chart: Helm) -> None:
    manifests = chart.render({"injector": {"excludedNamespaces": ["payments", "kube-system"]}})
    (webhook,) = named(manifests, "MutatingWebhookConfiguration", "modelfleet-injector")["webhooks"]
    assert webhook["objectSelector"] == {"matchLabels": {"modelfleet.io/inject": "true"}}
    (expression,) = webhook["namespaceSelector"]["matchExpressions"]
    assert expression["operator"] == "NotIn"
    assert sorted(expression["values"]) == ["kube-system", NAMESPACE, "payments"]
    assert webhook["failurePolicy"] == "Ignore"
    assert webhook["sideEffects"] == "None"
    assert webhook["reinvocationPolicy"] == "IfNeeded"
    assert webhook["timeoutSeconds"] == 5
    service = webhook["clientConfig"]["service"]
    assert named(manifests, "Service", service["name"])["metadata"]["namespace"] == service["namespace"]


def test_a_release_that_looks_after_its_own_namespace_injects_there(chart: Helm) -> None:
    manifests = chart.render({"watchNamespace": NAMESPACE})
    webhook = named(manifests, "MutatingWebhookConfiguration", f"modelfleet-{NAMESPACE}-injector")
    expressions = webhook["webhooks"][0]["namespaceSelector"]["matchExpressions"]
    assert all(NAMESPACE not in e["values"] for e in expressions if e["operator"] == "NotIn")


@pytest.mark.parametrize("mode", ["policy", "none"])
def test_without_the_webhook_nothing_of_the_injector_is_there(mode: str, chart: Helm) -> None:
    manifests = chart.render({"injector": {"mode": mode}})
    kinds = (
        "Deployment",
        "Service",
        "Secret",
        "ServiceAccount",
        "PodDisruptionBudget",
        "Role",
        "ClusterRole",
    )
    found = {
        m["metadata"]["name"] for m in manifests if m["kind"] in (*kinds, "MutatingWebhookConfiguration")
    }
    assert not [name for name in found if "inject" in name]


def test_the_certificates_that_helm_makes_are_those_that_are_trusted(chart: Helm) -> None:
    manifests = chart.render()
    authority = named(manifests, "Secret", "modelfleet-ca")
    assert authority["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    for secret in ("modelfleet-capacity-tls", "modelfleet-injector-tls"):
        assert named(manifests, "Secret", secret)["data"]["ca.crt"] == authority["data"]["tls.crt"]
    (webhook,) = named(manifests, "MutatingWebhookConfiguration", "modelfleet-injector")["webhooks"]
    assert webhook["clientConfig"]["caBundle"] == authority["data"]["tls.crt"]


def test_cert_manager_makes_the_secrets_and_fills_in_the_authority(chart: Helm) -> None:
    manifests = chart.render({"tls": {"source": "certManager"}})
    assert not [m for m in manifests if m["kind"] == "Secret"]
    for service in ("capacity", "injector"):
        certificate = named(manifests, "Certificate", f"modelfleet-{service}")["spec"]
        assert certificate["secretName"] == f"modelfleet-{service}-tls"
        assert f"modelfleet-{service}.{NAMESPACE}.svc" in certificate["dnsNames"]
        assert named(manifests, certificate["issuerRef"]["kind"], certificate["issuerRef"]["name"])
    webhook = named(manifests, "MutatingWebhookConfiguration", "modelfleet-injector")
    assert webhook["metadata"]["annotations"] == {
        "cert-manager.io/inject-ca-from": f"{NAMESPACE}/modelfleet-injector"
    }
    assert "caBundle" not in webhook["webhooks"][0]["clientConfig"]


def test_an_issuer_of_the_user_signs_without_an_authority_of_the_chart(chart: Helm) -> None:
    reference = {"name": "company", "kind": "ClusterIssuer", "group": "cert-manager.io"}
    manifests = chart.render({"tls": {"source": "certManager", "certManager": {"issuerRef": reference}}})
    assert not [m for m in manifests if m["kind"] == "Issuer"]
    certificates = [m["spec"]["issuerRef"] for m in manifests if m["kind"] == "Certificate"]
    assert certificates == [reference, reference]


def test_secrets_of_the_user_are_mounted_and_no_other_is_made(chart: Helm) -> None:
    manifests = chart.render(EXISTING)
    assert not [m for m in manifests if m["kind"] in ("Secret", "Certificate", "Issuer")]
    mounted = {
        name: [v["secret"]["secretName"] for v in pod["spec"]["volumes"]]
        for name, pod in pod_templates(manifests)
    }
    assert mounted["modelfleet-operator"] == ["capacity-of-ours"]
    assert mounted["modelfleet-injector"] == ["injector-of-ours", "capacity-of-ours"]
    (webhook,) = named(manifests, "MutatingWebhookConfiguration", "modelfleet-injector")["webhooks"]
    assert base64.b64decode(webhook["clientConfig"]["caBundle"]).decode() == PEM


def test_the_injector_sees_the_authority_but_not_the_key_of_the_capacity_service(chart: Helm) -> None:
    injector = named(chart.render(), "Deployment", "modelfleet-injector")["spec"]["template"]["spec"]
    (capacity,) = [v for v in injector["volumes"] if v["secret"]["secretName"] == "modelfleet-capacity-tls"]
    assert capacity["secret"]["items"] == [{"key": "ca.crt", "path": "ca.crt"}]


def test_labels_and_annotations_of_the_user_are_on_every_object_and_never_in_the_way(chart: Helm) -> None:
    values = {
        "commonLabels": {"team": "inference", "app.kubernetes.io/component": "wrong"},
        "commonAnnotations": {"example.com/owner": "us"},
        "operator": {"podLabels": {"tier": "control", "app.kubernetes.io/name": "wrong"}},
    }
    manifests = chart.render(values)
    for manifest in manifests:
        assert manifest["metadata"]["labels"]["team"] == "inference", names([manifest])
        assert manifest["metadata"]["labels"]["app.kubernetes.io/component"] != "wrong"
        assert manifest["metadata"]["annotations"]["example.com/owner"] == "us", names([manifest])
    operator = named(manifests, "Deployment", "modelfleet-operator")["spec"]
    labels = operator["template"]["metadata"]["labels"]
    assert labels["tier"] == "control"
    assert operator["selector"]["matchLabels"].items() <= labels.items()


def test_images_come_from_the_registry_and_the_tag_of_the_user(chart: Helm) -> None:
    values = {"image": {"registry": "registry.example.com:5000/team", "tag": "1.2.3"}}
    manifests = chart.render(values)
    images = {c["image"] for _, pod in pod_templates(manifests) for c in pod["spec"]["containers"]}
    assert images == {
        "registry.example.com:5000/team/modelfleet/operator:1.2.3",
        "registry.example.com:5000/team/modelfleet/injector:1.2.3",
    }
    injector = named(manifests, "Deployment", "modelfleet-injector")["spec"]["template"]["spec"]
    settings = {e["name"]: e["value"] for e in injector["containers"][0]["env"]}
    assert settings["MODELFLEET_SIDECAR_IMAGE"] == "registry.example.com:5000/team/modelfleet/sidecar:1.2.3"
    assert json.loads(settings["MODELFLEET_SIDECAR_RESOURCES"])["requests"]["cpu"] == "100m"


def test_a_new_version_of_the_chart_alone_leaves_the_pods_alone(chart: Helm, tmp_path: Path) -> None:
    copied = tmp_path / "chart"
    for source in CHART.rglob("*"):
        if source.is_file():
            target = copied / source.relative_to(CHART)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(source.read_bytes())
    description = copied / "Chart.yaml"
    changed = yaml.safe_load(description.read_text()) | {"version": "9.9.9"}
    description.write_text(yaml.safe_dump(changed))
    file = tmp_path / "existing.json"
    file.write_text(json.dumps(EXISTING))
    text = chart.must("template", "modelfleet", str(copied), f"--namespace={NAMESPACE}", f"--values={file}")
    newer = [manifest for manifest in yaml.safe_load_all(text) if manifest]
    assert "modelfleet-9.9.9" in text
    assert list(pod_templates(newer))[:2] == list(pod_templates(chart.render(EXISTING)))[:2]


REFUSED: tuple[tuple[dict[str, object], str], ...] = (
    ({"operater": {}}, "additional properties 'operater' not allowed"),
    ({"operator": {"replica": 3}}, "at '/operator': additional properties 'replica' not allowed"),
    ({"operator": {"replicas": 0}}, "at '/operator/replicas': minimum: got 0, want 1"),
    ({"operator": {"resources": {"limit": {}}}}, "additional properties 'limit' not allowed"),
    (
        {"injector": {"mode": "sidecar"}},
        "at '/injector/mode': value must be one of 'webhook', 'policy', 'none'",
    ),
    ({"injector": {"failurePolicy": "ignore"}}, "value must be one of 'Ignore', 'Fail'"),
    ({"injector": {"excludedNamespaces": ["Payments"]}}, "at '/injector/excludedNamespaces/0'"),
    ({"tls": {"source": "cert-manager"}}, "value must be one of 'helm', 'certManager', 'existing'"),
    ({"tls": {"caBundle": "no certificate"}}, "at '/tls/caBundle'"),
    ({"tls": {"certManager": {"duration": "90d"}}}, "at '/tls/certManager/duration'"),
    ({"watchNamespace": "a,b"}, "at '/watchNamespace'"),
    ({"image": {"registry": "https://registry.example.com"}}, "at '/image/registry'"),
    ({"image": {"tag": "modelfleet:1"}}, "at '/image/tag'"),
    ({"nodes": {"read": "yes"}}, "at '/nodes/read': got string, want boolean"),
    ({"commonLabels": {"team": 7}}, "at '/commonLabels/team': got number, want string"),
    ({"sidecar": {"env": {"MODELFLEET_JOURNAL": "/journal"}}}, "MODELFLEET_JOURNAL"),
    ({"sidecar": {"logFormat": "xml"}}, "value must be one of 'json', 'text'"),
    ({"tls": {"source": "existing"}}, "tls.source is existing: set tls.existing."),
    (
        {"tls": {"source": "existing", "existing": {"capacitySecret": "c", "injectorSecret": "i"}}},
        "set tls.caBundle to the PEM of the authority",
    ),
)


@pytest.mark.parametrize(("values", "told"), REFUSED, ids=[told[:60] for _, told in REFUSED])
def test_values_that_can_not_be_used_are_refused_in_words(
    values: dict[str, object], told: str, chart: Helm
) -> None:
    assert told in chart.refusal(values)


CHANGED: tuple[dict[str, Any], ...] = (
    {"image": {"pullPolicy": "Never"}},
    {"image": {"pullSecrets": [{"name": "pull"}]}},
    {"operator": {"image": "modelfleet/operator-fips"}},
    {"operator": {"replicas": 3}},
    {"operator": {"logLevel": "debug"}},
    {"operator": {"resources": {"limits": {"memory": "2Gi"}}}},
    {"operator": {"serviceAccountAnnotations": {"example.com/role": "a"}}},
    {"operator": {"podLabels": {"a": "b"}}},
    {"operator": {"podAnnotations": {"a": "b"}}},
    {"operator": {"nodeSelector": {"a": "b"}}},
    {"operator": {"tolerations": [{"operator": "Exists"}]}},
    {"operator": {"affinity": {"nodeAffinity": {}}}},
    {"injector": {"image": "modelfleet/injector-fips"}},
    {"injector": {"replicas": 3}},
    {"injector": {"failurePolicy": "Fail"}},
    {"injector": {"resources": {"limits": {"memory": "2Gi"}}}},
    {"injector": {"serviceAccountAnnotations": {"example.com/role": "a"}}},
    {"injector": {"podLabels": {"a": "b"}}},
    {"injector": {"podAnnotations": {"a": "b"}}},
    {"injector": {"nodeSelector": {"a": "b"}}},
    {"injector": {"tolerations": [{"operator": "Exists"}]}},
    {"injector": {"affinity": {"nodeAffinity": {}}}},
    {"sidecar": {"image": "modelfleet/sidecar-fips"}},
    {"sidecar": {"env": {"HTTPS_PROXY": "http://proxy.example.com:3128"}}},
    {"sidecar": {"resources": {"requests": {"cpu": "1"}}}},
    {"tls": {"source": "certManager", "certManager": {"duration": "720h"}}},
    {"tls": {"source": "certManager", "certManager": {"renewBefore": "24h"}}},
    {"clusterDomain": "example.org", "tls": {"source": "certManager"}},
    {"sidecar": {"logFormat": "text"}},
    {"operator": {"logLevel": "debug"}},
    {"priorityClassName": "system-cluster-critical"},
    {"listenAddress": "::"},
    {"referenceWarnings": {"enabled": False}},
    {"monitoring": {"podMonitor": {"enabled": True}}},
    {"monitoring": {"prometheusRule": {"enabled": True}}},
    {"monitoring": {"dashboard": {"enabled": True}}},
    {"networkPolicy": {"enabled": True}},
)


SWITCHED_ON: dict[str, Any] = {
    "injector": {"mode": "policy"},
    "monitoring": {part: {"enabled": True} for part in ("podMonitor", "prometheusRule", "dashboard")},
    "networkPolicy": {"enabled": True},
    "gateway": {"enabled": True},
    "tls": {"existing": {"gatewaySecret": "gateway"}},
}
CHANGED_ONCE_SWITCHED_ON: tuple[dict[str, Any], ...] = (
    {"injector": {"policy": {"apiKeys": [{"name": "frontier", "key": "token"}]}}},
    {"monitoring": {"podMonitor": {"interval": "5s"}}},
    {"monitoring": {"podMonitor": {"labels": {"a": "b"}}}},
    {"monitoring": {"prometheusRule": {"labels": {"a": "b"}}}},
    {"monitoring": {"prometheusRule": {"runbooks": "https://example.com/observe"}}},
    {"monitoring": {"dashboard": {"labels": {"a": "b"}}}},
    {"monitoring": {"dashboard": {"annotations": {"a": "b"}}}},
    {"networkPolicy": {"sidecarNamespaces": {"matchLabels": {"a": "b"}}}},
    {"networkPolicy": {"monitoringNamespaces": {"matchLabels": {"a": "b"}}}},
    {"networkPolicy": {"apiServer": {"ports": [6443]}}},
    {"networkPolicy": {"apiServer": {"cidrs": ["10.96.0.1/32"]}}},
    {"gateway": {"namespace": "models"}},
    {"gateway": {"policy": "assistant"}},
    {"gateway": {"replicas": 3}},
    {"gateway": {"auth": {"audience": "another"}}},
    {"gateway": {"auth": {"namespaces": ["models"]}}},
    {"gateway": {"auth": {"keysSecret": "callers"}}},
    {"gateway": {"env": {"HTTPS_PROXY": "http://proxy.example.com:3128"}}},
    {"gateway": {"upstream": {"caSecret": "authorities"}}},
    {"gateway": {"upstream": {"clientSecret": "client"}}},
    {"gateway": {"apiKeys": [{"name": "frontier", "key": "token"}]}},
    {"gateway": {"resources": {"limits": {"memory": "2Gi"}}}},
    {"gateway": {"serviceAccountAnnotations": {"example.com/role": "a"}}},
    {"gateway": {"podLabels": {"a": "b"}}},
    {"gateway": {"podAnnotations": {"a": "b"}}},
    {"gateway": {"nodeSelector": {"a": "b"}}},
    {"gateway": {"tolerations": [{"operator": "Exists"}]}},
    {"gateway": {"affinity": {"nodeAffinity": {}}}},
    {"tls": {"existing": {"gatewaySecret": "another"}}},
)
SHOWN_ELSEWHERE = frozenset(
    [
        "image.registry",
        "image.tag",
        "watchNamespace",
        "nodes.read",
        "crds.install",
        "rbac.create",
        "injector.mode",
        "gateway.enabled",
        "injector.excludedNamespaces",
        "tls.source",
        "tls.caBundle",
        "tls.certManager.issuerRef",
        "tls.existing.capacitySecret",
        "tls.existing.injectorSecret",
        "commonLabels",
        "commonAnnotations",
    ]
)
"""Values whose effect a test of their own shows."""


@pytest.mark.parametrize("values", CHANGED, ids=[json.dumps(values) for values in CHANGED])
def test_every_value_has_an_effect(values: dict[str, Any], chart: Helm) -> None:
    base = merged(
        EXISTING,
        {"tls": {"source": values.get("tls", {}).get("source", "existing")}, "crds": {"install": False}},
    )
    assert chart.render(merged(base, values)) != chart.render(base)


@pytest.mark.parametrize(
    "values", CHANGED_ONCE_SWITCHED_ON, ids=[json.dumps(v) for v in CHANGED_ONCE_SWITCHED_ON]
)
def test_every_value_of_what_is_switched_off_has_an_effect_once_it_is_on(
    values: dict[str, Any], chart: Helm
) -> None:
    base = merged(merged(EXISTING, {"crds": {"install": False}}), SWITCHED_ON)
    assert chart.render(merged(base, values)) != chart.render(base)


def test_no_value_is_left_out_of_these_tests() -> None:
    def paths(values: Mapping[str, Any], above: str = "") -> Iterator[str]:
        for key, value in values.items():
            yield above + key
            if isinstance(value, Mapping):
                yield from paths(value, f"{above}{key}.")

    changed = {
        path for values in (*CHANGED, *CHANGED_ONCE_SWITCHED_ON) for path in paths(values)
    } | SHOWN_ELSEWHERE
    table = (CHART / "README.md").read_text().partition("<!-- values -->")[2]
    documented = set(re.findall(r"^\| `([A-Za-z.]+)` \|", table, re.MULTILINE))
    assert len(documented) > 50
    assert sorted(documented - changed) == []
