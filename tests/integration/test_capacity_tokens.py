"""G18 with a real API server: which ServiceAccount tokens the capacity service takes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
import pytest_asyncio
from modelfleet_operator.cluster.kubernetes import KubernetesCluster
from modelfleet_operator.identity import AdmissionError, Caller
from modelfleet_operator.tokens import TokenAdmission
from support.control_plane import Plane

pytestmark = pytest.mark.integration
AUDIENCE = "modelfleet"


@pytest_asyncio.fixture
async def cluster(plane: Plane) -> AsyncIterator[KubernetesCluster]:
    connected = await KubernetesCluster.connect(kubeconfig=str(plane.control_plane.kubeconfig))
    yield connected
    await connected.close()


def _pod(plane: Plane, namespace: str, name: str) -> str:
    """Create a pod that runs nowhere and return its UID."""
    pod: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"nodeName": "elsewhere", "containers": [{"name": "app", "image": "none"}]},
    }
    plane.kubectl("create", "-f", "-", given=json.dumps(pod))
    return plane.kubectl("get", "pod", name, f"--namespace={namespace}", "-o=jsonpath={.metadata.uid}")


def _token(plane: Plane, namespace: str, *options: str) -> str:
    return plane.kubectl("create", "token", "default", f"--namespace={namespace}", *options).strip()


async def _admit(cluster: KubernetesCluster, token: str) -> Caller:
    admission = TokenAdmission(cluster, AUDIENCE)
    try:
        return await admission.admit((("authorization", f"Bearer {token}"),))
    finally:
        await admission.close()


async def _refusal(cluster: KubernetesCluster, token: str) -> AdmissionError:
    with pytest.raises(AdmissionError) as refused:
        await _admit(cluster, token)
    assert token not in str(refused.value)
    return refused.value


async def test_a_token_bound_to_a_pod_tells_which_pod_calls(plane: Plane, cluster: KubernetesCluster) -> None:
    namespace = await asyncio.to_thread(plane.new_namespace)
    uid = _pod(plane, namespace, "app")
    bound = ("--bound-object-kind=Pod", "--bound-object-name=app")
    token = _token(plane, namespace, f"--audience={AUDIENCE}", *bound)
    assert await _admit(cluster, token) == Caller(namespace, "app", uid)
    refused = await _refusal(cluster, _token(plane, namespace, "--audience=other", *bound))
    assert refused.reason in ("BadToken", "OtherAudience")
    assert AUDIENCE in refused.message
    both = _token(plane, namespace, f"--audience={AUDIENCE}", "--audience=other", *bound)
    assert (await _admit(cluster, both)).pod == "app"


async def test_the_token_of_a_pod_that_is_gone_is_refused(plane: Plane, cluster: KubernetesCluster) -> None:
    namespace = await asyncio.to_thread(plane.new_namespace)
    _pod(plane, namespace, "app")
    bound = ("--bound-object-kind=Pod", "--bound-object-name=app")
    token = _token(plane, namespace, f"--audience={AUDIENCE}", *bound)
    plane.kubectl("delete", "pod", "app", f"--namespace={namespace}", "--grace-period=0", "--force")
    assert (await _refusal(cluster, token)).reason == "BadToken"


async def test_a_token_that_is_bound_to_no_pod_is_refused(plane: Plane, cluster: KubernetesCluster) -> None:
    namespace = await asyncio.to_thread(plane.new_namespace)
    assert (await _refusal(cluster, _token(plane, namespace, f"--audience={AUDIENCE}"))).reason == "NotBound"
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "bound", "namespace": namespace},
    }
    plane.kubectl("create", "-f", "-", given=json.dumps(secret))
    bound = ("--bound-object-kind=Secret", "--bound-object-name=bound")
    refused = await _refusal(cluster, _token(plane, namespace, f"--audience={AUDIENCE}", *bound))
    assert refused.reason == "NotBound"
    assert "projected volume" in refused.message


async def test_what_the_api_server_did_not_sign_is_refused(plane: Plane, cluster: KubernetesCluster) -> None:
    namespace = await asyncio.to_thread(plane.new_namespace)
    _pod(plane, namespace, "app")
    token = _token(
        plane,
        namespace,
        f"--audience={AUDIENCE}",
        "--bound-object-kind=Pod",
        "--bound-object-name=app",
    )
    head, claims, signature = token.split(".")
    for forged in ("garbage", f"{head}.{claims}.", f"{head}.{claims}.{signature[::-1]}", "a" * 10_000):
        assert (await _refusal(cluster, forged)).reason == "BadToken"


async def test_the_token_of_a_user_is_refused(plane: Plane, cluster: KubernetesCluster) -> None:
    config = json.loads(plane.control_plane.kubeconfig.read_text())
    refused = await _refusal(cluster, config["users"][0]["user"]["token"])
    assert refused.reason in ("NoServiceAccount", "OtherAudience", "BadToken")
