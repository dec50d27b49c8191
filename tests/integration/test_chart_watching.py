"""Scrapes, alerts, dashboard and network policies of the chart name ports and pods that there are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from modelfleet_operator.injection.sidecar import ADMIN_PORT
from support.charts import NAMESPACE, Helm, Manifest, helm, named, names, pod_templates

pytestmark = pytest.mark.integration

WATCHED: dict[str, object] = {
    "monitoring": {
        "podMonitor": {"enabled": True},
        "prometheusRule": {"enabled": True},
        "dashboard": {"enabled": True},
    },
    "networkPolicy": {"enabled": True},
}


@pytest.fixture
def chart(tmp_path: Path) -> Helm:
    return helm(tmp_path)


def _labels(manifest: Manifest) -> dict[str, str]:
    labels: dict[str, str] = manifest["metadata"]["labels"]
    return labels


def _selected(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    return wanted and all(
        labels.get(rule["key"]) in rule["values"] for rule in selector.get("matchExpressions", [])
    )


def _ports(template: Manifest) -> set[str]:
    return {
        port["name"] for container in template["spec"]["containers"] for port in container.get("ports", [])
    }


def test_nothing_that_needs_other_products_is_installed_unasked(chart: Helm) -> None:
    kinds = {manifest["kind"] for manifest in chart.render()}
    assert kinds & {"PodMonitor", "PrometheusRule", "NetworkPolicy"} == set()


def test_operator_and_injector_are_scraped_at_a_port_they_have_and_test_pods_are_not(chart: Helm) -> None:
    manifests = chart.render(WATCHED)
    spec = named(manifests, "PodMonitor", "modelfleet")["spec"]
    scraped = {
        name: _ports(template)
        for name, template in pod_templates(manifests)
        if _selected(spec["selector"], _labels(template))
    }
    assert set(scraped) == {"modelfleet-operator", "modelfleet-injector"}
    (endpoint,) = spec["podMetricsEndpoints"]
    assert all(endpoint["port"] in ports for ports in scraped.values())
    assert endpoint["honorLabels"] is True  # `namespace` is that of the fleet


def test_sidecars_are_scraped_in_the_namespaces_that_have_them(chart: Helm) -> None:
    spec = named(chart.render(WATCHED), "PodMonitor", "modelfleet-sidecars")["spec"]
    assert spec["namespaceSelector"] == {"any": True}
    assert spec["selector"]["matchLabels"] == {"modelfleet.io/inject": "true"}
    # The injector gives the sidecar's container this port by this name.
    assert (spec["podMetricsEndpoints"][0]["port"], ADMIN_PORT) == ("sidecar-metrics", 19090)
    one = named(chart.render(WATCHED | {"watchNamespace": "models"}), "PodMonitor", "modelfleet-sidecars")
    assert one["spec"]["namespaceSelector"] == {"matchNames": ["models"]}


def test_alerts_look_at_the_own_release_and_lead_to_their_runbooks(chart: Helm) -> None:
    values = WATCHED | {
        "monitoring": {"prometheusRule": {"enabled": True, "runbooks": "https://example.com/observe"}}
    }
    rule = named(chart.render(values), "PrometheusRule", "modelfleet")
    alerts = {alert["alert"]: alert for group in rule["spec"]["groups"] for alert in group["rules"]}
    leader = alerts["ModelfleetNoLeader"]
    assert f'modelfleet_operator_leading{{namespace="{NAMESPACE}"}}' in leader["expr"]
    assert leader["annotations"]["runbook_url"] == "https://example.com/observe#modelfleetnoleader"
    assert "{{ $labels.fleet }}" in alerts["ModelfleetFleetNotReady"]["annotations"]["summary"]
    assert "RELEASE_NAMESPACE" not in json.dumps(rule)


def test_without_an_injector_nothing_alerts_on_its_absence(chart: Helm) -> None:
    rule = named(chart.render(WATCHED | {"injector": {"mode": "none"}}), "PrometheusRule", "modelfleet")
    groups = [group["name"] for group in rule["spec"]["groups"]]
    assert "modelfleet-operator" in groups
    assert "modelfleet-injector" not in groups


def test_the_dashboard_reaches_grafana_as_it_is(chart: Helm) -> None:
    board = named(chart.render(WATCHED), "ConfigMap", "modelfleet-dashboard")
    assert _labels(board)["grafana_dashboard"] == "1"
    assert json.loads(board["data"]["modelfleet.json"])["uid"] == "modelfleet"


def test_network_policies_let_leases_reviews_and_scrapes_in_at_ports_that_there_are(chart: Helm) -> None:
    manifests = chart.render(WATCHED)
    templates = dict(pod_templates(manifests))
    for name, port in (("modelfleet-operator", "capacity"), ("modelfleet-injector", "webhook")):
        spec = named(manifests, "NetworkPolicy", name)["spec"]
        held = [
            pod for pod, template in templates.items() if _selected(spec["podSelector"], _labels(template))
        ]
        assert held == [name]
        opened = [entry["port"] for rule in spec["ingress"] for entry in rule["ports"]]
        assert opened == [port, "http"]
        assert set(opened) <= _ports(templates[name])
        assert spec["policyTypes"] == ["Ingress", "Egress"]
        assert [entry["port"] for rule in spec["egress"] for entry in rule["ports"]] == [53, 53, 443, 6443]
    injector = named(manifests, "NetworkPolicy", "modelfleet-injector")["spec"]["ingress"][0]
    assert "from" not in injector  # the API server is no pod
    assert "NetworkPolicy/modelfleet-injector" not in names(
        chart.render(WATCHED | {"injector": {"mode": "none"}})
    )


def test_only_injected_pods_and_those_of_helm_test_may_ask_for_leases(chart: Helm) -> None:
    manifests = chart.render(WATCHED)
    sources = named(manifests, "NetworkPolicy", "modelfleet-operator")["spec"]["ingress"][0]["from"]
    injected, tests = sources
    assert injected["podSelector"] == {"matchLabels": {"modelfleet.io/inject": "true"}}
    assert injected["namespaceSelector"] == {}
    assert "namespaceSelector" not in tests
    probe = dict(pod_templates(manifests))["modelfleet-test-capacity"]
    assert _selected(tests["podSelector"], _labels(probe))
    one = named(chart.render(WATCHED | {"watchNamespace": "models"}), "NetworkPolicy", "modelfleet-operator")
    assert one["spec"]["ingress"][0]["from"][0]["namespaceSelector"] == {
        "matchLabels": {"kubernetes.io/metadata.name": "models"}
    }


@pytest.mark.parametrize(
    "values",
    [
        {"monitoring": {"podMonitor": {"interval": "soon"}}},
        {"monitoring": {"alerts": True}},
        {"networkPolicy": {"apiServer": {"ports": []}}},
        {"networkPolicy": {"apiServer": {"cidrs": ["everywhere"]}}},
    ],
)
def test_values_that_can_not_be_used_are_refused(values: dict[str, object], chart: Helm) -> None:
    assert "values don't meet the specifications" in chart.refusal(values)
