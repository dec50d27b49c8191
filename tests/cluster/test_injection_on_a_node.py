"""Injection on a real node: what the kubelet makes of a pod with a sidecar, and how injected pods come to be.

The tests share one release, and each leaves it as it found it; the last two install it in another mode.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from modelfleet_lab.cluster.access import Cluster
from support import cluster_injection as pods
from support.cluster_api import Api
from support.cluster_injection import ALONE, ASKING, KEY, LABEL, SIDECAR, asked, names
from support.cluster_product import INJECTOR, OPERATOR, SYSTEM, image, rolled_out

pytestmark = pytest.mark.cluster
HERE = f"--namespace={ASKING}"


@pytest.fixture(scope="module", autouse=True)
def _release(cluster: Cluster) -> Iterator[None]:
    with pods.released(cluster):
        yield


def status_of(pod: dict[str, Any], container: str) -> dict[str, Any]:
    """Return the status of one container, whichever kind it is."""
    found = [*pod["status"].get("initContainerStatuses", ()), *pod["status"]["containerStatuses"]]
    return next(status for status in found if status["name"] == container)


def when(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_the_pods_of_a_job_are_answered_from_their_first_request_on_and_the_job_completes(
    cluster: Cluster,
) -> None:
    cluster.apply(pods.job("once", 4, REQUESTS="1"), namespace=ASKING)
    cluster.kubectl("wait", "--for=condition=Complete", "job/once", HERE, "--timeout=60s")
    found = cluster.get("pods", HERE, "--selector=app=once")["items"]
    assert len(found) == 4
    for pod in found:
        (request,) = asked(cluster, pod["metadata"]["name"])
        assert request["status"] == 200, request
        app, sidecar = status_of(pod, "app"), status_of(pod, SIDECAR)
        assert app["state"]["terminated"]["exitCode"] == 0
        assert when(sidecar["state"]["terminated"]["startedAt"]) <= when(
            app["state"]["terminated"]["startedAt"]
        )
        assert sidecar["state"]["terminated"]["exitCode"] == 0
        assert (app["restartCount"], sidecar["restartCount"]) == (0, 0)
    cluster.kubectl("delete", "job/once", HERE)


def test_a_sidecar_answers_until_its_application_has_ended_and_both_end_within_the_grace(
    cluster: Cluster,
) -> None:
    given = pods.application("leaving", LAST="4")
    given["metadata"]["finalizers"] = ["modelfleet.io/test"]  # so that the end of its containers can be read
    pod = pods.ready(cluster, given)
    command = [str(cluster.state / "bin" / "kubectl"), "logs", "leaving", HERE, "--container=app", "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=cluster.environment()) as following:
        deleted = time.time()
        cluster.kubectl("delete", "pod/leaving", HERE, "--wait=false")
        log, _ = following.communicate(timeout=pods.PATIENCE)
    ended = "--for=jsonpath={.status.initContainerStatuses[0].state.terminated.finishedAt}"
    cluster.kubectl("wait", ended, "pod/leaving", HERE, "--timeout=60s")
    pod = cluster.get("pod", "leaving", HERE)
    cluster.kubectl("patch", "pod/leaving", HERE, "--type=merge", '--patch={"metadata":{"finalizers":null}}')
    last = [request for request in pods.requests(log) if request["leaving"]]
    assert len(last) > 5
    assert {request["status"] for request in last} == {200}, last
    app = status_of(pod, "app")["state"]["terminated"]
    sidecar = status_of(pod, SIDECAR)["state"]["terminated"]
    assert (app["exitCode"], sidecar["exitCode"]) == (0, 0)
    assert when(app["finishedAt"]) <= when(sidecar["finishedAt"])
    assert when(sidecar["finishedAt"]) - deleted < pod["spec"]["terminationGracePeriodSeconds"]


def test_while_no_operator_runs_a_pod_starts_and_is_told_when_to_come_back(cluster: Cluster) -> None:
    cluster.kubectl("scale", OPERATOR, "--replicas=0", f"--namespace={SYSTEM}")
    try:
        operators = "--selector=app.kubernetes.io/component=operator"
        cluster.kubectl("wait", "--for=delete", "pod", operators, f"--namespace={SYSTEM}", "--timeout=60s")
        pods.ready(cluster, pods.application("early"))
        first = asked(cluster, "early")[0]
        assert (first["status"], first["x-modelfleet-reason"]) == (503, "NoLease"), first
        assert 1 <= int(first["retry-after"]) <= 60
    finally:
        cluster.kubectl("scale", OPERATOR, "--replicas=2", f"--namespace={SYSTEM}")
    requests = asked(cluster, "early", until=200)
    assert {request["status"] for request in requests} == {503, 200}, requests
    rolled_out(cluster, OPERATOR)
    cluster.kubectl("delete", "pod/early", HERE, "--wait=false")


@pytest.mark.parametrize("how", ["a restart", "an upgrade"])
def test_no_pod_is_refused_or_missed_while_the_injector_is_rolled_by(cluster: Cluster, how: str) -> None:
    selector = ("--selector=app.kubernetes.io/component=injector", f"--namespace={SYSTEM}")
    before = {pod["metadata"]["name"] for pod in cluster.get("pods", *selector)["items"]}
    with pods.creating(cluster) as became:
        if how == "a restart":
            cluster.kubectl("rollout", "restart", INJECTOR, f"--namespace={SYSTEM}")
        else:
            pods.upgrade(cluster, "--set=sidecar.logFormat=text")
        rolled_out(cluster, INJECTOR)
        for name in before:  # they drain for some seconds more
            cluster.kubectl("wait", "--for=delete", f"pod/{name}", selector[1], "--timeout=60s")
    missed = [told for told in became if told != SIDECAR]
    assert not missed, f"{len(missed)} of {len(became)} pods, such as: {missed[0]}"
    assert len(became) > 100


def test_an_api_key_reaches_the_model_and_not_the_application(cluster: Cluster) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with pytest.raises(urllib.error.HTTPError, match="401"):
        direct.open(f"http://frontier.{ASKING}.svc.cluster.local/v1/chat/completions", b"{}", timeout=10)
    pod = pods.ready(cluster, pods.application("keyless"))
    assert asked(cluster, "keyless")[0]["status"] == 200

    def look(container: str) -> dict[str, Any]:
        program = (
            "import json, os, pathlib\n"
            "files = [str(f) for f in pathlib.Path('/var/run/secrets').rglob('*') if f.is_file()]\n"
            "held = [open(f).read() for f in files]\n"
            "print(json.dumps({'held': held, 'env': list(os.environ.values())}))\n"
        )
        exec_ = ("exec", "keyless", HERE, f"--container={container}", "--", "python3", "-c", program)
        return dict(json.loads(cluster.kubectl(*exec_)))

    assert KEY in look(SIDECAR)["held"]
    of_app = look("app")
    assert KEY not in of_app["held"]
    assert KEY not in of_app["env"]
    (app,) = pod["spec"]["containers"]
    assert not [mount for mount in app["volumeMounts"] if mount["name"].startswith("modelfleet-")]
    cluster.kubectl("delete", "pod/keyless", HERE, "--wait=false")


def test_pods_that_do_not_ask_for_it_or_must_not_have_it_get_no_sidecar(cluster: Cluster) -> None:
    given = pods.application("plain")
    with Api(cluster) as api:
        for namespace, labels, sidecars in (
            (ASKING, LABEL, [SIDECAR]),
            (ASKING, {"modelfleet.io/inject": "false"}, []),
            (ASKING, {}, []),
            (ALONE, LABEL, []),
            (SYSTEM, LABEL, []),
        ):
            given["metadata"]["labels"] = labels
            stored, _ = api.rehearse_pod(namespace, given)
            assert names(stored, "initContainers") == sidecars, (namespace, labels)
            variables = {variable["name"] for variable in stored["spec"]["containers"][0].get("env", ())}
            assert ("OPENAI_BASE_URL" in variables) == bool(sidecars)


def test_the_api_server_asks_the_injector_once_for_each_pod(cluster: Cluster) -> None:
    with Api(cluster) as api:
        api.rehearse_pod(ASKING, pods.application("first"))  # then there is a count
        before = pods.histogram(cluster)["count"]
        for number in range(5):
            stored, _ = api.rehearse_pod(ASKING, pods.application(f"counted-{number}"))
            assert names(stored, "initContainers") == [SIDECAR]
    assert pods.histogram(cluster)["count"] - before == 5


def test_an_admission_policy_gives_pods_a_sidecar_without_an_injector(cluster: Cluster) -> None:
    keys = '--set-json=injector.policy.apiKeys=[{"name":"frontier","key":"token"}]'
    pods.upgrade(cluster, "--set=injector.mode=policy", keys)
    kinds = "deployments,mutatingwebhookconfigurations"
    left = cluster.kubectl("get", kinds, "--all-namespaces", "--output=name")
    assert "injector" not in left
    given = pods.application("by-policy")
    deadline = time.monotonic() + pods.PATIENCE
    with Api(cluster) as api:  # the API server takes a new policy up after a moment
        while not names(api.rehearse_pod(ASKING, given)[0], "initContainers"):
            assert time.monotonic() < deadline, "the policy adds no sidecar"
            time.sleep(0.2)
    assert names(pods.ready(cluster, given), "initContainers") == [SIDECAR]
    assert asked(cluster, "by-policy")[0]["status"] == 200
    cluster.kubectl("delete", "pod/by-policy", HERE, "--wait=false")


def test_a_printed_sidecar_works_without_anything_that_injects(cluster: Cluster, tmp_path: Path) -> None:
    pods.upgrade(cluster, "--set=injector.mode=none")
    secret = cluster.get("secret", "modelfleet-capacity-tls", f"--namespace={SYSTEM}")
    authority = tmp_path / "ca.crt"
    authority.write_bytes(base64.b64decode(secret["data"]["ca.crt"]))
    deadline = time.monotonic() + pods.PATIENCE
    given = pods.application("by-hand")
    with Api(cluster) as api:  # a policy that was removed holds for a moment more
        while names(api.rehearse_pod(ASKING, given)[0], "initContainers"):
            assert time.monotonic() < deadline, "something still adds sidecars"
            time.sleep(0.2)
    options = [f"--sidecar-image={image('sidecar')}", f"--operator-ca={authority}", "--keys=frontier/token"]
    printed = subprocess.run(
        [sys.executable, "-m", "modelfleet_operator.injection", "print", *options, "--pod=-"],
        input=json.dumps(given),
        capture_output=True,
        text=True,
        check=True,
    )
    cluster.kubectl("apply", HERE, "--filename=-", given=printed.stdout)
    cluster.kubectl("wait", "--for=condition=Ready", "pod/by-hand", HERE, "--timeout=60s")
    assert names(cluster.get("pod", "by-hand", HERE), "initContainers") == [SIDECAR]
    assert asked(cluster, "by-hand")[0]["status"] == 200
