"""The node of the cluster tier is a real one: what the product rests on works there as on any other."""

from __future__ import annotations

import json
import shutil
import urllib.request
from collections.abc import Mapping

import pytest
from modelfleet_lab.cluster import evidence
from modelfleet_lab.cluster.access import Cluster
from support import cluster_node as pods

pytestmark = pytest.mark.cluster
WAIT = "--timeout=60s"


@pytest.fixture(scope="module", autouse=True)
def _image(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> None:
    cluster.load_image(pods.build_answerer(tmp_path_factory.mktemp("answerer")))


@pytest.fixture
def web(cluster: Cluster, namespace: str) -> str:
    """A namespace with a Deployment and a Service `web` that answers `hello`."""
    cluster.apply(
        pods.deployment("web", [pods.server("web", "hello")]), pods.service("web"), namespace=namespace
    )
    cluster.kubectl("rollout", "status", "deployment/web", f"--namespace={namespace}", WAIT)
    return namespace


def test_a_pod_with_no_rights_and_a_read_only_root_becomes_ready(cluster: Cluster, web: str) -> None:
    (pod,) = cluster.get("pods", f"--namespace={web}")["items"]
    assert pod["spec"]["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is True
    assert {condition["type"]: condition["status"] for condition in pod["status"]["conditions"]}[
        "Ready"
    ] == "True"
    status = cluster.kubectl(
        "exec", "deployment/web", f"--namespace={web}", "--", "/answerer", "show", "/proc/1/status"
    )
    facts = dict(line.split(":\t") for line in status.splitlines() if ":\t" in line)
    assert facts["Seccomp"] == "2", "a filter of system calls is in force"
    assert facts["CapBnd"] == "0" * 16
    assert facts["Uid"].split() == ["65532"] * 4
    refused = cluster.run(
        "kubectl", "exec", "deployment/web", f"--namespace={web}", "--", "/answerer", "write", "/file"
    )
    assert "read-only file system" in refused.stderr


def test_a_service_is_found_by_name_from_pods_and_from_tests(cluster: Cluster, web: str) -> None:
    name = f"http://web.{web}.svc.cluster.local/"
    cluster.apply(pods.job("ask", containers=[pods.container("ask", "poll", "http://web/")]), namespace=web)
    cluster.kubectl("wait", "--for=condition=Complete", "job/ask", f"--namespace={web}", WAIT)
    assert cluster.kubectl("logs", "job/ask", f"--namespace={web}") == "hello"
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(name, timeout=10) as answer:
        assert answer.read() == b"hello"


def test_a_pod_reaches_itself_through_its_service(cluster: Cluster, web: str) -> None:
    asked = cluster.kubectl(
        "exec", "deployment/web", f"--namespace={web}", "--", "/answerer", "poll", "http://web/me"
    )
    assert asked == "hello"
    assert "asked for /me" in cluster.kubectl("logs", "deployment/web", f"--namespace={web}")


def test_pods_that_ask_for_more_gpus_than_the_node_has_stay_pending(cluster: Cluster, namespace: str) -> None:
    cluster.set_gpus(3)
    limits = {"limits": {"nvidia.com/gpu": 2}}
    cluster.apply(
        pods.deployment("model", [pods.server("model", "hello", resources=limits)], replicas=2),
        namespace=namespace,
    )
    cluster.kubectl(
        "wait",
        "--for=jsonpath={.status.readyReplicas}=1",
        "deployment/model",
        f"--namespace={namespace}",
        WAIT,
    )
    cluster.kubectl(
        "wait",
        "--for=jsonpath={.status.conditions[0].reason}=Unschedulable",
        "pods",
        "--field-selector=status.phase=Pending",
        f"--namespace={namespace}",
        WAIT,
    )
    (waiting,) = cluster.get("pods", "--field-selector=status.phase=Pending", f"--namespace={namespace}")[
        "items"
    ]
    assert "Insufficient nvidia.com/gpu" in waiting["status"]["conditions"][0]["message"]
    cluster.set_gpus(4)
    cluster.kubectl("rollout", "status", "deployment/model", f"--namespace={namespace}", WAIT)


def test_the_review_of_a_pods_token_names_the_pod(cluster: Cluster, namespace: str) -> None:
    source = {"serviceAccountToken": {"audience": "modelfleet", "expirationSeconds": 3600, "path": "token"}}
    cluster.apply(
        pods.job(
            "token",
            containers=[
                pods.container(
                    "show",
                    "show",
                    "/secrets/token",
                    volumeMounts=[{"name": "token", "mountPath": "/secrets"}],
                )
            ],
            volumes=[{"name": "token", "projected": {"sources": [source]}}],
            securityContext={"fsGroup": 65532},
        ),
        namespace=namespace,
    )
    cluster.kubectl("wait", "--for=condition=Complete", "job/token", f"--namespace={namespace}", WAIT)
    token = cluster.kubectl("logs", "job/token", f"--namespace={namespace}")
    (pod,) = cluster.get("pods", f"--namespace={namespace}")["items"]
    review = _reviewed(cluster, token, "modelfleet")
    assert review["authenticated"] is True
    extra = review["user"]["extra"]
    assert extra["authentication.kubernetes.io/pod-name"] == [pod["metadata"]["name"]]
    assert extra["authentication.kubernetes.io/pod-uid"] == [pod["metadata"]["uid"]]
    assert not _reviewed(cluster, token, "another").get("authenticated")


def test_a_native_sidecar_is_up_before_the_app_and_lets_a_job_finish(
    cluster: Cluster, namespace: str
) -> None:
    sidecar = pods.server(
        "sidecar",
        "from the sidecar",
        9090,
        restartPolicy="Always",
        startupProbe={"httpGet": {"port": 9090, "path": "/started"}, "periodSeconds": 1},
    )
    app = pods.container("app", "get", "http://127.0.0.1:9090/")
    cluster.apply(pods.job("app", initContainers=[sidecar], containers=[app]), namespace=namespace)
    cluster.kubectl("wait", "--for=condition=Complete", "job/app", f"--namespace={namespace}", WAIT)
    assert (
        cluster.kubectl("logs", "job/app", "--container=app", f"--namespace={namespace}")
        == "from the sidecar"
    )
    told = cluster.kubectl("logs", "job/app", "--container=sidecar", f"--namespace={namespace}")
    assert "asked for /started" in told.splitlines()[0]


def test_requests_of_service_accounts_are_recorded(cluster: Cluster, namespace: str) -> None:
    account = f"system:serviceaccount:{namespace}:default"
    refused = cluster.run("kubectl", "get", "pods", f"--as={account}", "--as-group=system:serviceaccounts")
    assert "forbidden" in refused.stderr
    token = cluster.kubectl("create", "token", "default", f"--namespace={namespace}").strip()
    server = cluster.kubectl("config", "view", "--minify", "--output=jsonpath={.clusters[0].cluster.server}")
    asked = cluster.run(
        "kubectl",
        "--kubeconfig=/dev/null",
        f"--server={server}",
        f"--token={token}",
        "--insecure-skip-tls-verify",
        "get",
        "pods",
    )
    assert "forbidden" in asked.stderr
    records = [json.loads(line) for line in cluster.audit_log.read_text().splitlines()]
    verbs = {
        (record["verb"], record["objectRef"]["resource"])
        for record in records
        if record["user"]["username"] == account and "objectRef" in record
    }
    assert ("list", "pods") in verbs


def test_what_is_known_of_a_failure_is_kept(cluster: Cluster, web: str) -> None:
    folder = evidence.collect(cluster, "shown-by-a-test")
    assert "deployment.apps/web" in (folder / "objects.txt").read_text()
    assert "Name:             web-" in (folder / "described-pods.txt").read_text()
    assert "Scaled up replica set web-" in (folder / "events.txt").read_text()
    logs = {path.name: path for path in (folder / "logs").iterdir()}
    assert {"kubelet.log", "containerd.log", "kube-scheduler.log", "control-plane-kube-apiserver.log"} <= set(
        logs
    )
    (of_pod,) = [path for name, path in logs.items() if name.startswith(f"pods-{web}_web-")]
    assert "asked for /ready" in of_pod.read_text()
    shutil.rmtree(folder)  # of a run without failures nothing is kept


def _reviewed(cluster: Cluster, token: str, audience: str) -> Mapping[str, object]:
    review = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": [audience]},
    }
    return json.loads(cluster.kubectl("create", "--filename=-", "--output=json", given=json.dumps(review)))[
        "status"
    ]
