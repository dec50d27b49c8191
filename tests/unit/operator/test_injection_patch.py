"""What the sidecar adds to a pod, what it leaves alone, and when it stays out."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from modelfleet_operator.injection.patch import Injection, MalformedPod, Outcome, applied, inject
from modelfleet_operator.injection.sidecar import CONTAINER, KeyReference
from support.injection import TEMPLATE, pod

TOKEN = KeyReference("frontier", "token")


def _inject(manifest: dict[str, Any], *keys: KeyReference) -> tuple[Injection, dict[str, Any]]:
    before = deepcopy(manifest)
    injection = inject(manifest, TEMPLATE, keys)
    assert manifest == before, "the pod that was given is not to be changed"
    return injection, applied(manifest, injection.operations)


def _env(container: dict[str, Any]) -> list[tuple[str, str]]:
    return [(variable["name"], variable.get("value", "")) for variable in container["env"]]


OURS = [
    ("OPENAI_BASE_URL", "http://127.0.0.1:18080/v1"),
    ("OPENAI_API_KEY", "modelfleet"),
    ("MODELFLEET_ADDRESS", "127.0.0.1:17070"),
]


def test_the_sidecar_is_the_first_init_container_and_never_ends_by_itself() -> None:
    injection, result = _inject(pod(initContainers=[{"name": "migrate", "image": "m"}]))
    assert injection.outcome is Outcome.INJECTED
    assert injection.warnings == ()
    first, second = result["spec"]["initContainers"]
    assert (first["name"], first["restartPolicy"], second["name"]) == (CONTAINER, "Always", "migrate")
    assert first["startupProbe"]["httpGet"] == {"path": "/readyz", "port": 19090}


def test_every_other_container_finds_the_sidecar() -> None:
    containers = [{"name": "app", "image": "a"}, {"name": "log", "image": "l", "env": []}]
    starting = [{"name": "migrate", "image": "m"}, {"name": "proxy", "image": "p", "restartPolicy": "Always"}]
    _, result = _inject(pod(containers=containers, initContainers=starting))
    others = [*result["spec"]["initContainers"][1:], *result["spec"]["containers"]]
    assert [_env(container) for container in others] == [OURS] * 4


def test_what_a_container_sets_itself_stays_and_may_refer_to_the_rest() -> None:
    own = [
        {"name": "OPENAI_API_KEY", "valueFrom": {"secretKeyRef": {"name": "mine", "key": "k"}}},
        {"name": "URL", "value": "$(OPENAI_BASE_URL)/chat"},
    ]
    _, result = _inject(pod(containers=[{"name": "app", "image": "a", "env": own}]))
    env = result["spec"]["containers"][0]["env"]
    assert env == [
        {"name": "OPENAI_BASE_URL", "value": "http://127.0.0.1:18080/v1"},
        {"name": "MODELFLEET_ADDRESS", "value": "127.0.0.1:17070"},
        *own,
    ]


def test_a_container_that_sets_everything_is_left_as_it_is() -> None:
    own = [{"name": name, "value": "x"} for name, _ in OURS]
    _, result = _inject(pod(containers=[{"name": "app", "image": "a", "env": own}]))
    assert result["spec"]["containers"] == [{"name": "app", "image": "a", "env": own}]


def test_it_runs_without_any_privilege() -> None:
    _, result = _inject(pod())
    assert result["spec"]["initContainers"][0]["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
        "runAsNonRoot": True,
        "runAsUser": 65532,
        "runAsGroup": 65532,
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def test_it_mounts_its_token_and_journal_and_no_keys_where_there_are_none() -> None:
    _, result = _inject(pod(volumes=[{"name": "data", "emptyDir": {}}]))
    names = [volume["name"] for volume in result["spec"]["volumes"]]
    assert names == ["data", "modelfleet-token", "modelfleet-journal"]
    token = result["spec"]["volumes"][1]["projected"]["sources"][0]["serviceAccountToken"]
    assert token == {"audience": "modelfleet", "expirationSeconds": 3600, "path": "token"}
    sidecar = result["spec"]["initContainers"][0]
    assert "MODELFLEET_KEYS" not in dict(_env(sidecar))
    mounted = {mount["name"] for mount in sidecar["volumeMounts"]}
    assert mounted == {"modelfleet-token", "modelfleet-journal"}


def test_api_keys_are_optional_and_reach_the_sidecar_only() -> None:
    keys = (
        KeyReference("b", "y"),
        KeyReference("a", "token"),
        KeyReference("b", "x"),
        KeyReference("b", "x"),
    )
    _, result = _inject(pod(), *keys)
    volume = result["spec"]["volumes"][-1]
    assert volume["name"] == "modelfleet-keys"
    assert volume["projected"]["sources"] == [
        {"secret": {"name": "a", "items": [{"key": "token", "path": "a/token"}], "optional": True}},
        {
            "secret": {
                "name": "b",
                "items": [{"key": "x", "path": "b/x"}, {"key": "y", "path": "b/y"}],
                "optional": True,
            }
        },
    ]
    sidecar = result["spec"]["initContainers"][0]
    assert dict(_env(sidecar))["MODELFLEET_KEYS"] == "/var/run/secrets/modelfleet-keys"
    assert "volumeMounts" not in result["spec"]["containers"][0]


def test_the_sidecar_knows_its_pod_and_how_to_reach_the_operator() -> None:
    _, result = _inject(pod())
    env = {variable["name"]: variable for variable in result["spec"]["initContainers"][0]["env"]}
    assert env["MODELFLEET_POD_UID"]["valueFrom"] == {"fieldRef": {"fieldPath": "metadata.uid"}}
    assert env["MODELFLEET_OPERATOR_CA"]["value"] == TEMPLATE.authority
    assert env["MODELFLEET_OPERATOR_TOKEN"]["value"] == "/var/run/secrets/modelfleet/token"
    assert env["MODELFLEET_OPERATOR"]["value"] == TEMPLATE.operator


@pytest.mark.parametrize("value", ["false", "True", "yes", ""])
def test_a_label_with_another_value_leaves_the_pod_alone(value: str) -> None:
    injection, _ = _inject(pod(labels={"modelfleet.io/inject": value}))
    assert injection == Injection(Outcome.UNASKED)


def test_a_pod_without_labels_is_left_alone() -> None:
    assert inject({"metadata": {}, "spec": {}}, TEMPLATE, ()).outcome is Outcome.UNASKED
    assert inject({"metadata": {"labels": None}}, TEMPLATE, ()).outcome is Outcome.UNASKED


def test_injecting_twice_changes_nothing_more() -> None:
    _, once = _inject(pod(), TOKEN)
    injection, twice = _inject(once, TOKEN)
    assert injection == Injection(Outcome.PRESENT)
    assert twice == once


@pytest.mark.parametrize("empty", [None, []])
def test_empty_and_missing_lists_are_the_same(empty: object) -> None:
    _, expected = _inject(pod())
    given = pod(initContainers=empty, volumes=empty)
    given["spec"]["containers"][0]["env"] = empty
    assert _inject(given)[1] == expected


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"containers": [{"name": CONTAINER, "image": "a"}]}, "a container has its name"),
        ({"volumes": [{"name": "modelfleet-token"}]}, "a volume has the name modelfleet-token"),
        ({"volumes": [{"name": "modelfleet-keys"}]}, "a volume has the name modelfleet-keys"),
        ({"containers": [{"name": "app", "ports": [{"containerPort": 18080}]}]}, "app has port 18080"),
        ({"initContainers": [{"name": "i", "ports": [{"containerPort": 17070}]}]}, "i has port 17070"),
        ({"os": {"name": "windows"}}, "this pod is for Windows"),
        ({"annotations": {"kubernetes.io/config.mirror": "x"}}, "mirrors a static pod"),
    ],
)
def test_a_pod_that_would_break_stays_as_it_is_and_says_why(changes: dict[str, Any], why: str) -> None:
    injection, result = _inject(given := pod(**changes), TOKEN)
    assert injection.outcome is Outcome.REFUSED
    assert result == given
    (warning,) = injection.warnings
    assert warning.startswith("modelfleet sidecar not injected: ")
    assert why in warning


def test_a_volume_for_keys_is_no_clash_where_there_are_no_keys() -> None:
    injection, _ = _inject(pod(volumes=[{"name": "modelfleet-keys", "emptyDir": {}}]))
    assert injection.outcome is Outcome.INJECTED


def test_another_protocol_is_no_clash_of_ports() -> None:
    ports = [{"containerPort": 18080, "protocol": "UDP"}]
    injection, _ = _inject(pod(containers=[{"name": "app", "image": "a", "ports": ports}]))
    assert injection.outcome is Outcome.INJECTED


def test_a_pod_on_the_nodes_network_is_warned() -> None:
    injection, _ = _inject(pod(hostNetwork=True))
    assert injection.outcome is Outcome.INJECTED
    assert "a node holds one such pod" in injection.warnings[0]


def test_variables_from_elsewhere_are_overridden_with_a_warning() -> None:
    container = {"name": "app", "image": "a", "envFrom": [{"secretRef": {"name": "openai"}}]}
    injection, result = _inject(pod(containers=[container]))
    assert _env(result["spec"]["containers"][0]) == OURS
    assert "envFrom of container app" in injection.warnings[0]


def _resources(**arguments: Any) -> tuple[dict[str, Any], tuple[str, ...]]:
    injection, result = _inject(pod(**arguments))
    return result["spec"]["initContainers"][0]["resources"], injection.warnings


def test_annotations_size_the_sidecar() -> None:
    annotations = {"modelfleet.io/sidecar-cpu": "200m", "modelfleet.io/sidecar-memory": "512Mi"}
    assert _resources(annotations=annotations) == (
        {"requests": {"cpu": "200m", "memory": "512Mi"}, "limits": {"memory": "512Mi"}},
        (),
    )


@pytest.mark.parametrize("value", ["lots", "0", "-1", "1e3", "", "1Ti5"])
def test_a_size_that_is_none_is_ignored_with_a_warning(value: str) -> None:
    resources, warnings = _resources(annotations={"modelfleet.io/sidecar-memory": value})
    assert resources == TEMPLATE.resources
    assert "annotation modelfleet.io/sidecar-memory is ignored" in warnings[0]


def test_the_sidecar_takes_part_in_resources_of_the_whole_pod() -> None:
    assert _resources(resources={"requests": {"cpu": "1"}}) == ({}, ())
    annotations = {"modelfleet.io/sidecar-cpu": "2"}
    assert _resources(resources={"limits": {"cpu": "4"}}, annotations=annotations)[0] == {
        "requests": {"cpu": "2"}
    }


def test_warnings_are_short_enough_to_be_shown_whole() -> None:
    """An API server cuts warnings of more than 256 characters."""
    long = "x" * 300
    for manifest in (
        pod(containers=[{"name": long, "ports": [{"containerPort": 18080}]}]),
        pod(containers=[{"name": long, "envFrom": [{}]}], hostNetwork=True),
        pod(annotations={"modelfleet.io/sidecar-memory": long, "modelfleet.io/sidecar-cpu": long}),
        pod(containers=[{"name": CONTAINER}]),
        pod(volumes=[{"name": "modelfleet-journal"}]),
        pod(os={"name": "windows"}),
    ):
        warnings = _inject(manifest)[0].warnings
        assert warnings
        assert all(len(warning) <= 256 for warning in warnings), warnings


@pytest.mark.parametrize(
    "changes",
    [
        {"containers": [{"name": ["a"], "env": [{"name": ["b"]}], "ports": [{"containerPort": []}]}]},
        {"volumes": [{"name": {"a": 1}}]},
    ],
)
def test_values_of_a_wrong_type_are_left_to_the_api_server(changes: dict[str, Any]) -> None:
    given = pod()
    given["spec"].update(changes)
    assert inject(given, TEMPLATE, ()).outcome is Outcome.INJECTED


@pytest.mark.parametrize(
    "changes",
    [
        {"containers": "none"},
        {"containers": [1]},
        {"initContainers": {"a": 1}},
        {"volumes": [[]]},
        {"resources": 3},
        {"os": "linux"},
    ],
)
def test_an_object_that_is_no_pod_is_named(changes: dict[str, Any]) -> None:
    given = pod()
    given["spec"].update(changes)
    with pytest.raises(MalformedPod, match=f"{next(iter(changes))} is not"):
        inject(given, TEMPLATE, ())
