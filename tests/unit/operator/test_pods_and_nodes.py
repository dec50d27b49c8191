"""Where a pod goes, and what its container runs."""

from __future__ import annotations

from typing import Any

import pytest
from modelfleet_operator.cluster.pods import place, requested, unscheduled_status
from modelfleet_operator.cluster.processes import ContainerError, container_of
from support.clusters import GPU, HOSTNAME, node


def pod(gpus: int = 0, *, on: str = "", phase: str = "Running", **spec: object) -> dict[str, Any]:
    resources = {"limits": {GPU: str(gpus), "cpu": "500m", "memory": "1Gi"}} if gpus else {}
    return {
        "metadata": {"name": "a", "namespace": "ml", "uid": "u"},
        "spec": {"containers": [{"name": "c", "resources": resources}], "nodeName": on, **spec},
        "status": {"phase": phase},
    }


def test_pods_fill_the_nodes_in_order_and_then_wait() -> None:
    nodes, pods = [node("b", 4), node("a", 2)], []
    for expected in ("a", "b", "b", None):
        assert place(pod(2), nodes, pods) == expected
        if expected:
            pods.append(pod(2, on=expected))


def test_terminating_pods_hold_their_gpus_and_finished_ones_do_not() -> None:
    nodes = [node("a", 2)]
    terminating = pod(2, on="a")
    terminating["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert place(pod(2), nodes, [terminating]) is None
    assert place(pod(2), nodes, [pod(2, on="a", phase="Failed")]) == "a"


def test_a_pod_goes_only_where_its_selector_points_and_never_to_a_cordoned_node() -> None:
    nodes = [node("a", 2), node("b", 2), node("c", 2) | {"spec": {"unschedulable": True}}]
    assert place(pod(2, nodeSelector={HOSTNAME: "b"}), nodes, []) == "b"
    assert place(pod(2, nodeSelector={HOSTNAME: "c"}), nodes, []) is None
    assert place(pod(2, nodeSelector={"zone": "x"}), nodes, []) is None


def test_a_pod_without_gpus_fits_a_full_node() -> None:
    assert place(pod(), [node("a", 2)], [pod(2, on="a")]) == "a"
    assert place(pod(), [], []) is None


def test_limits_count_as_requests_and_only_extended_resources_count() -> None:
    assert requested(pod(3)) == {GPU: 3}


def test_a_pod_that_waits_says_for_what() -> None:
    status = unscheduled_status(pod(8), nodes=2)
    assert "0/2 nodes" in str(status)
    assert f"8 {GPU}" in str(status)


def container(**fields: object) -> dict[str, Any]:
    return pod() | {"spec": {"nodeName": "n", "containers": [{"name": "c", **fields}]}}


def test_variables_and_pod_fields_reach_the_command() -> None:
    environment = [
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "WHO", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "LISTEN", "value": "$(POD_IP):$(PORT)"},
    ]
    made = container_of(
        container(command=["serve", "--listen=$(LISTEN)"], args=["$(WHO)", "$(UNKNOWN)"], env=environment),
        address="10.244.1.1",
        port=8000,
    )
    assert made.command == ("serve", "--listen=10.244.1.1:8000", "a", "$(UNKNOWN)")
    assert made.environment["LISTEN"] == "10.244.1.1:8000"


def test_probe_and_grace_have_the_defaults_of_kubernetes() -> None:
    made = container_of(container(command=["serve"]), address="127.0.0.1", port=1)
    assert (made.probe_path, made.probe_period, made.probe_failures, made.grace) == ("/health", 10.0, 3, 30.0)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"args": ["x"]}, "no command"),
        ({"command": ["x"], "env": [{"name": "K", "valueFrom": {"secretKeyRef": {}}}]}, "env K"),
    ],
)
def test_a_container_that_can_not_run_here_says_why(fields: dict[str, object], says: str) -> None:
    with pytest.raises(ContainerError, match=says):
        container_of(container(**fields), address="127.0.0.1", port=1)
