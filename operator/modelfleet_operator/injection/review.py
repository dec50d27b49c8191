"""Speaks AdmissionReview v1: what the API server asks about one pod, and the answer.

In: the body of a request. Out: `Review`, or `ReviewError` with what is wrong; for a review, the response's
body. Next: `patch` decides. Only what is needed is looked at, so a newer API server's fields do no harm.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass

from modelfleet_operator.injection.patch import Injection

API_VERSION, KIND = "admission.k8s.io/v1", "AdmissionReview"
MAX_BYTES = 3 * 2**20
"""Of a request's body, which is what the API server itself takes for one object."""


class ReviewError(ValueError):
    """The body is no AdmissionReview that can be answered; the message says why."""


@dataclass(frozen=True, slots=True)
class Review:
    """What is asked. `pod` is None when it is about anything but the creation of a pod."""

    uid: str
    namespace: str
    name: str
    """Of the pod, or what its name will begin with."""
    pod: Mapping[str, object] | None


def parse_review(body: bytes) -> Review:
    """Return the review. Raises `ReviewError`."""
    try:
        document = json.loads(body)
    except RecursionError as error:
        raise ReviewError("the body is nested too deep") from error
    except ValueError as error:
        raise ReviewError(f"the body is no JSON: {str(error)[:100]}") from error
    if not isinstance(document, dict):
        raise ReviewError("the body is no JSON object")
    version, kind = document.get("apiVersion"), document.get("kind")
    if (version, kind) != (API_VERSION, KIND):
        raise ReviewError(f"expected {API_VERSION} {KIND}, got {str(version)[:60]} {str(kind)[:60]}")
    request = document.get("request")
    if not isinstance(request, dict):
        raise ReviewError("request is no object")
    uid = request.get("uid")
    if not isinstance(uid, str) or not 0 < len(uid) <= 128:
        raise ReviewError("request.uid is no text of 1 to 128 characters")
    namespace = request.get("namespace", "")
    if not isinstance(namespace, str):
        raise ReviewError("request.namespace is no text")
    if not _creates_a_pod(request):
        return Review(uid, namespace, "", None)
    pod = request.get("object")
    if not isinstance(pod, dict):
        raise ReviewError("request.object is no object")
    return Review(uid, namespace, _name(pod), pod)


def answer(uid: str, injection: Injection) -> bytes:
    """Return the body of the answer: allowed in every case."""
    response: dict[str, object] = {
        "uid": uid,
        "allowed": True,
        "auditAnnotations": {"outcome": injection.outcome.value},
    }
    if injection.warnings:
        response["warnings"] = list(injection.warnings)
    if injection.operations:
        operations = json.dumps([operation.as_json() for operation in injection.operations])
        response["patchType"] = "JSONPatch"
        response["patch"] = base64.b64encode(operations.encode()).decode()
    return json.dumps({"apiVersion": API_VERSION, "kind": KIND, "response": response}).encode()


def _creates_a_pod(request: Mapping[str, object]) -> bool:
    resource = request.get("resource")
    return (
        isinstance(resource, Mapping)
        and (resource.get("group"), resource.get("resource")) == ("", "pods")
        and not request.get("subResource")
        and request.get("operation") == "CREATE"
    )


def _name(pod: Mapping[str, object]) -> str:
    metadata = pod.get("metadata")
    if not isinstance(metadata, Mapping):
        return ""
    return str(metadata.get("name") or metadata.get("generateName") or "")[:253]
