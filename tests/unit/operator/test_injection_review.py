"""The AdmissionReview protocol: every body gets a clear answer."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Mapping
from typing import Any

import pytest
from modelfleet_operator.injection import server
from modelfleet_operator.injection.patch import Operation, applied, inject
from modelfleet_operator.injection.review import ReviewError
from modelfleet_operator.injection.telemetry import Telemetry
from support.injection import TEMPLATE, body, fleet_event, pod, policy_event, review, webhook


def _response(given: bytes, **options: Any) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(webhook(**options).review(given))
    assert (answer["apiVersion"], answer["kind"]) == ("admission.k8s.io/v1", "AdmissionReview")
    response: dict[str, Any] = answer["response"]
    assert (response["uid"], response["allowed"]) == ("705ab4f5", True)
    return response


def _operations(response: Mapping[str, Any]) -> list[Operation]:
    assert response["patchType"] == "JSONPatch"
    operations = json.loads(base64.b64decode(response["patch"]))
    assert all(operation["op"] == "add" for operation in operations)
    return [Operation(operation["path"], operation["value"]) for operation in operations]


def test_a_pod_that_asks_gets_the_patch_of_the_core() -> None:
    given = pod(labels={"app": "assistant"})
    known = (fleet_event("chat", ("frontier", "token")), policy_event("a", "chat", app="assistant"))
    response = json.loads(webhook(*known).review(body(given)))["response"]
    keys = webhook(*known)._followed().keys("ml", {"app": "assistant"}, {})[0]
    assert applied(given, _operations(response)) == applied(given, inject(given, TEMPLATE, keys).operations)
    assert "frontier/token" in base64.b64decode(response["patch"]).decode()
    assert "warnings" not in response
    assert response["auditAnnotations"] == {"outcome": "injected"}


def test_a_dry_run_is_answered_like_any_other() -> None:
    assert _response(body(pod(), dryRun=True)) == _response(body(pod()))


def test_warnings_reach_the_user() -> None:
    response = _response(body(pod(volumes=[{"name": "modelfleet-token"}])))
    assert "patch" not in response
    assert "a volume has the name" in response["warnings"][0]


@pytest.mark.parametrize(
    "request_",
    [
        {"operation": "UPDATE"},
        {"operation": "DELETE", "object": None},
        {"subResource": "ephemeralcontainers"},
        {"resource": {"group": "apps", "version": "v1", "resource": "deployments"}},
        {"resource": None},
    ],
)
def test_anything_but_the_creation_of_a_pod_is_let_through(request_: dict[str, Any]) -> None:
    assert "patch" not in _response(body(pod(), **request_))


def test_pods_of_other_namespaces_than_the_watched_one_are_let_through() -> None:
    assert "patch" in _response(body(pod()), namespace="ml")
    assert "patch" not in _response(body(pod()), namespace="other")


@pytest.mark.parametrize(
    ("given", "why"),
    [
        (b"", "the body is no JSON"),
        (b"\xff\xfe", "the body is no JSON"),
        (b"[]", "the body is no JSON object"),
        (b"[" * 100_000, "nested too deep"),
        (b'{"request": ' * 100_000, "nested too deep"),
        (b"{}", "expected admission.k8s.io/v1 AdmissionReview, got None None"),
        (
            json.dumps({**review(pod()), "apiVersion": "admission.k8s.io/v1beta1"}).encode(),
            "got admission.k8s.io/v1beta1",
        ),
        (json.dumps({**review(pod()), "request": None}).encode(), "request is no object"),
        (body(pod(), uid=""), "request.uid"),
        (body(pod(), uid=3), "request.uid"),
        (body(pod(), uid="x" * 129), "request.uid"),
        (body(pod(), namespace=[]), "request.namespace"),
        (body(None), "request.object is no object"),
        (body({"metadata": 1}), "metadata is not an object"),
        (body({"metadata": {"labels": []}}), "labels is not an object"),
        (body({**pod(), "spec": []}), "spec is not an object"),
    ],
)
def test_a_body_that_can_not_be_answered_is_refused_in_words(given: bytes, why: str) -> None:
    telemetry = Telemetry()
    with pytest.raises(ReviewError, match=why):
        webhook(telemetry=telemetry).review(given)
    assert _count(telemetry, "malformed") == 1


def _count(telemetry: Telemetry, outcome: str) -> float | None:
    return telemetry.registry.get_sample_value("modelfleet_injector_admissions_total", {"outcome": outcome})


def test_a_fault_of_ours_lets_the_pod_through_and_does_not_tell_of_it_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("hunter2")

    monkeypatch.setattr(server, "inject", broken)
    telemetry = Telemetry()
    response = _response(body(pod()), telemetry=telemetry)
    assert "patch" not in response
    assert "the injector failed" in response["warnings"][0]
    assert _count(telemetry, "failed") == 1
    assert "hunter2" not in str([vars(record) for record in caplog.records])


def test_the_log_names_the_pod_and_nothing_that_it_holds(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret = pod(
        containers=[{"name": "app", "image": "a", "env": [{"name": "PASSWORD", "value": "hunter2"}]}]
    )
    webhook().review(body(secret))
    (record,) = caplog.records
    assert (vars(record)["namespace"], vars(record)["pod"], record.message) == ("ml", "assistant", "injected")
    assert "hunter2" not in str(vars(record))


def test_a_pod_of_a_controller_is_logged_by_what_its_name_begins_with(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    given = pod()
    given["metadata"] = {"generateName": "assistant-6f-", "labels": given["metadata"]["labels"]}
    webhook().review(body(given))
    assert vars(caplog.records[0])["pod"] == "assistant-6f-"


def test_a_pod_that_is_asked_about_again_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    given = pod()
    response = json.loads(webhook().review(body(given)))["response"]
    webhook().review(body(applied(given, _operations(response))))
    assert [record.message for record in caplog.records] == ["injected"]


def test_a_pod_without_what_it_asked_for_is_logged_as_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    policy = policy_event("a", "chat")
    webhook(fleet_event("chat"), policy).review(body(pod()))
    webhook(fleet_event("chat"), policy).review(body(pod(os={"name": "windows"})))
    webhook().review(body(pod()))  # no policy selects it
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("INFO", "injected"),
        ("WARNING", "refused"),
        ("WARNING", "injected"),
    ]


def test_outcomes_are_counted() -> None:
    telemetry = Telemetry()
    hook = webhook(telemetry=telemetry)
    hook.review(body(pod()))
    hook.review(body(pod(labels={"modelfleet.io/inject": "false"})))
    hook.review(body(pod(initContainers=[{"name": "modelfleet-sidecar"}])))
    hook.review(body(pod(os={"name": "windows"})))
    counts = {name: _count(telemetry, name) for name in ("injected", "unasked", "present", "refused")}
    assert counts == {"injected": 1, "unasked": 1, "present": 1, "refused": 1}
