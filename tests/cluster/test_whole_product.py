"""The whole product on a real node, in the order of a user's first day; each step rests on those before it.

Two applications send requests from the second step on, without retries of their own. Every step counts what
became of the requests that were sent since it began.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
from modelfleet_lab.cluster.access import Cluster
from support import cluster_gateway as gateway
from support import cluster_product as product
from support.cluster_api import Api, GpuWatch, memory_of, watching_gpus
from support.cluster_product import APPS, INJECTOR, OPERATOR, SYSTEM, rolled_out
from support.cluster_traffic import PATIENCE, Traffic, all_answered, summary
from support.rights import used

pytestmark = pytest.mark.cluster

FULL = {"small": (2, 4), "large": (1, 2)}
"""Least and most replicas: at their least the models fill the pool, at their most they need twice as much."""
SMALLER = {"small": (1, 1), "large": (1, 1)}
SIDECARS = "modelfleet.io/inject"
SLOTS = 3 * product.CONCURRENCY
"""Of the replicas that fill the pool."""
CLIENTS = {"with-openai": "openai", "with-grpc": "grpc"}
ADMISSIONS = 400


@dataclass(slots=True)
class Day:
    """What the steps hand on to each other."""

    cluster: Cluster
    traffic: Traffic
    gpus: GpuWatch
    figures: dict[str, Any] = field(default_factory=dict)
    installed: float = 0.0
    """When `helm install` was typed, seconds since 1970."""


@pytest.fixture(scope="module")
def day(cluster: Cluster, pytestconfig: pytest.Config) -> Iterator[Day]:
    """A node with GPUs and two empty namespaces; the figures of the day are printed at its end."""
    cluster.set_gpus(product.GPUS, product.PRODUCT)
    cluster.kubectl("create", "namespace", APPS)
    cluster.kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={APPS}", "--timeout=30s")
    traffic = Traffic(product.records(cluster))
    with watching_gpus(cluster, APPS) as gpus:
        day = Day(cluster, traffic, gpus)
        yield day
    cluster.run("helm", "uninstall", product.RELEASE, f"--namespace={SYSTEM}", "--ignore-not-found", "--wait")
    cluster.kubectl("delete", "namespace", APPS, SYSTEM, "--ignore-not-found", "--timeout=120s")
    cluster.kubectl(
        "delete", "crd", "modelfleets.modelfleet.io", "routingpolicies.modelfleet.io", "--ignore-not-found"
    )
    written = product.ROOT / "out" / "whole-product.json"
    written.parent.mkdir(exist_ok=True)
    written.write_text(json.dumps(day.figures, indent=2) + "\n")
    terminal = pytestconfig.pluginmanager.get_plugin("terminalreporter")
    terminal.write_line("")
    for name, value in day.figures.items():
        terminal.write_line(f"  {name}: {value}")


def until(what: str, holds: Any, *, seconds: float = PATIENCE) -> float:
    """Wait until `holds()` is true; return the seconds that it took."""
    started = time.monotonic()
    while not holds():
        assert time.monotonic() - started < seconds, f"{what}: not within {seconds:.0f} s"
        time.sleep(0.25)
    return time.monotonic() - started


def replicas(cluster: Cluster) -> dict[str, tuple[int, int]]:
    """Return asked and ready replicas of each model."""
    found = {}
    for name in product.MODELS:
        deployment = cluster.get("deployment", name, f"--namespace={APPS}")
        found[name] = (deployment["spec"]["replicas"], deployment["status"].get("readyReplicas", 0))
    return found


def leader(cluster: Cluster) -> str:
    """Return the identity of the operator's process that leads: its pod, and what tells its starts apart."""
    lease = cluster.get("lease", "modelfleet-operator", f"--namespace={SYSTEM}")
    return str(lease["spec"]["holderIdentity"])


def busy(day: Day, model: str) -> bool:
    """Return whether a model has just answered while it had another request."""
    newest = [record for record in day.traffic.records() if record.model == model][-1:]
    return any(time.time() - record.end < 0.5 and record.in_flight_at_arrival for record in newest)


def bare_pod(name: str, labels: Mapping[str, str]) -> Mapping[str, object]:
    """Return a pod that is only rehearsed."""
    spec = {"containers": [{"name": "app", "image": product.image("client-app")}]}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}


def traffic_of_both(day: Day, *, since: float, count: int = 12) -> None:
    """Wait until each application got so many answers since then."""
    for name in CLIENTS:
        day.traffic.until_answered(count, pod=name, since=since)


def test_helm_install_makes_every_part_ready(day: Day) -> None:
    day.cluster.apply(*product.models(day.cluster), namespace=APPS)
    day.installed = time.time()
    product.helm(day.cluster, "install", "--create-namespace")
    for workload in (OPERATOR, INJECTOR):
        rolled_out(day.cluster, workload)
    pods = day.cluster.get("pods", f"--namespace={SYSTEM}")["items"]
    assert len(pods) == 4
    restarted = [s["name"] for pod in pods for s in pod["status"]["containerStatuses"] if s["restartCount"]]
    assert restarted == []


def test_labelled_pods_get_streamed_answers_with_openai_and_with_grpc(day: Day) -> None:
    day.cluster.apply(product.fleet(FULL), product.policy(), namespace=APPS)
    apps = [
        product.application(day.cluster, name, client, WORKERS="4", PAUSE="0.3")
        for name, client in CLIENTS.items()
    ]
    day.cluster.apply(*apps, namespace=APPS)
    for name in CLIENTS:
        rolled_out(day.cluster, f"deployment/{name}", APPS)
        first = next(o for o in day.traffic.until_answered(1, pod=name) if o.ending == "answered")
        day.figures[f"seconds from helm install to the first answer ({name})"] = round(
            first.end - day.installed, 1
        )
    for pod in day.cluster.get("pods", f"--namespace={APPS}", "--selector=modelfleet.io/inject")["items"]:
        assert [c["name"] for c in pod["spec"]["initContainers"]] == ["modelfleet-sidecar"]
    traffic_of_both(day, since=0)
    all_answered(day.traffic.outcomes())


def test_models_are_scaled_to_the_pool_and_not_beyond(day: Day) -> None:
    until("the models fill the pool", lambda: replicas(day.cluster) == {"small": (2, 2), "large": (1, 1)})
    policy = day.cluster.get("routingpolicy", "assistant", f"--namespace={APPS}")
    fleet = day.cluster.get("modelfleet", "chat", f"--namespace={APPS}")
    for manifest in (fleet, policy):
        conditions = {c["type"]: c["status"] for c in manifest["status"]["conditions"]}
        assert conditions["Ready"] == "True", manifest["status"]["conditions"]


def test_pods_without_a_sidecar_are_answered_by_a_gateway_within_the_same_slots(
    day: Day, namespace: str
) -> None:
    since = time.time()
    notes = product.helm(day.cluster, "upgrade", *gateway.SETTINGS)
    assert f"https://{gateway.HOST}/v1" in notes
    rolled_out(day.cluster, gateway.WORKLOAD, APPS)
    day.figures["seconds from helm upgrade to a gateway that is ready"] = round(time.time() - since, 1)
    day.cluster.apply(gateway.caller(day.cluster, "guest", WORKERS="8", REQUESTS="2"), namespace=APPS)
    until("the gateway has slots", lambda: gateway.leased(day.cluster, "modelfleet.io/gateway") > 0)
    until("no more are leased than there are", lambda: gateway.leased(day.cluster, SIDECARS) <= SLOTS)
    refused = (401, "NotAuthenticated")
    assert gateway.ask(day.cluster, "") == refused
    foreign = gateway.token_of(day.cluster, namespace)
    assert gateway.ask(day.cluster, foreign) == refused
    for_others = gateway.token_of(day.cluster, APPS, audience="modelfleet")
    assert gateway.ask(day.cluster, for_others) == refused
    assert gateway.ask(day.cluster, gateway.token_of(day.cluster, APPS))[0] == 200
    day.cluster.kubectl(
        "wait", "--for=condition=Complete", "job/guest", f"--namespace={APPS}", "--timeout=60s"
    )
    assert len(day.traffic.outcomes("guest")) == 16
    all_answered(day.traffic.outcomes(since=since))
    assert not [record for record in day.traffic.records() if record.over_concurrency]
    done, denied = used(day.cluster.audit_log, APPS, gateway.NAME, since=since)
    assert {(right.verb, right.resource) for right in done} == {("create", "tokenreviews")}
    assert not denied


def test_the_programs_keep_to_their_memory(day: Day) -> None:
    def largest(selector: str, namespace: str, container: str) -> float:
        pods = day.cluster.get("pods", f"--namespace={namespace}", f"--selector={selector}")["items"]
        names = [pod["metadata"]["name"] for pod in pods]
        return max(memory_of(day.cluster, name, namespace, container) for name in names) / 2**20

    system = "app.kubernetes.io/component={}"
    found = {
        "operator": largest(system.format("operator"), SYSTEM, "operator"),
        "injector": largest(system.format("injector"), SYSTEM, "injector"),
        "sidecar": largest("modelfleet.io/inject,!modelfleet.io/gateway", APPS, "modelfleet-sidecar"),
        "gateway": largest("modelfleet.io/gateway", APPS, "modelfleet-sidecar"),
    }
    day.figures["resident memory, MiB"] = {name: round(size) for name, size in found.items()}
    assert found["operator"] <= 180
    assert max(found["sidecar"], found["gateway"]) <= 110


def test_a_burst_of_a_job_is_answered_within_the_pool_and_the_job_ends(day: Day) -> None:
    since = time.time()
    day.cluster.apply(
        product.burst(day.cluster, "burst", "openai", WORKERS="24", REQUESTS="2"), namespace=APPS
    )
    day.cluster.kubectl(
        "wait", "--for=condition=Complete", "job/burst", f"--namespace={APPS}", "--timeout=120s"
    )
    assert len(day.traffic.outcomes("burst")) == 48
    all_answered(day.traffic.outcomes(since=since))
    assert not [record for record in day.traffic.records() if record.over_concurrency]
    assert day.gpus.peak <= product.GPUS, day.gpus.most
    assert not day.gpus.unschedulable


def test_injection_adds_little_to_the_admission_of_a_pod(day: Day) -> None:
    taken: dict[str, list[float]] = {"with": [], "without": []}
    with Api(day.cluster) as api:
        for number in range(ADMISSIONS):
            for kind, labels in (("with", {"modelfleet.io/inject": "true"}), ("without", {})):
                stored, seconds = api.rehearse_pod(APPS, bare_pod(f"admitted-{number}", labels))
                assert bool(stored["spec"].get("initContainers")) == (kind == "with")
                taken[kind].append(seconds)
    for share in (0.5, 0.99):
        at = {kind: sorted(seconds)[math.ceil(share * ADMISSIONS) - 1] for kind, seconds in taken.items()}
        day.figures[f"admission of a pod, p{share:.0%}, ms"] = {
            **{kind: round(seconds * 1e3, 1) for kind, seconds in at.items()},
            "added": round((at["with"] - at["without"]) * 1e3, 1),
        }


def test_no_request_is_lost_when_the_leader_is_killed(day: Day) -> None:
    since, killed = time.time(), leader(day.cluster)
    product.kill(day.cluster, killed.rsplit("-", 2)[0], SYSTEM)
    took = until("another operator leads", lambda: leader(day.cluster) not in ("", killed))
    day.figures["seconds from the kill of the leader to the next one"] = round(took, 1)
    rolled_out(day.cluster, OPERATOR)
    traffic_of_both(day, since=time.time())
    all_answered(day.traffic.outcomes(since=since))


def test_no_request_is_lost_when_a_pod_of_a_model_is_killed(day: Day) -> None:
    (best,) = day.cluster.get("pods", f"--namespace={APPS}", "--selector=app=large")["items"]
    until("the best model answers", lambda: busy(day, "sim-large"))
    since = time.time()
    product.kill(day.cluster, best["metadata"]["name"], APPS)
    traffic_of_both(day, since=time.time())
    ended = [outcome for outcome in day.traffic.outcomes() if outcome.end >= since]
    # A stream that had begun can not be told again: it ends in one clear error.
    cut = [outcome for outcome in ended if outcome.ending == "cut"]
    day.figures["streams cut by the kill of a model's pod"] = len(cut)
    assert len(cut) <= product.CONCURRENCY
    all_answered([outcome for outcome in ended if outcome.ending != "cut"])
    rolled_out(day.cluster, "deployment/large", APPS)


def test_a_stream_that_breaks_off_ends_in_one_clear_error_for_every_client(day: Day) -> None:
    (best,) = day.cluster.get("pods", f"--namespace={APPS}", "--selector=app=large")["items"]
    since = time.time()

    def cut() -> dict[str, list[str]]:
        ended = day.traffic.outcomes(since=since)
        return {
            name: [one.detail for one in ended if one.ending == "cut" and one.pod.startswith(name)]
            for name in CLIENTS
        }

    product.play_faults(day.cluster, best["metadata"]["name"], {"kind": "cut_after_first"})
    try:
        until("a stream of each client is cut", lambda: all(cut().values()))
    finally:
        product.play_faults(day.cluster, best["metadata"]["name"])
    traffic_of_both(day, since=time.time())
    found = cut()
    day.figures["streams cut by a model that breaks off"] = {name: len(told) for name, told in found.items()}
    assert {told.partition(":")[0] for told in found["with-openai"]} == {"UpstreamCut"}
    assert {told.partition(":")[0] for told in found["with-grpc"]} == {"UNAVAILABLE"}
    all_answered([outcome for outcome in day.traffic.outcomes(since=since) if outcome.ending != "cut"])


def test_no_request_is_cut_when_a_model_is_scaled_down(day: Day) -> None:
    since = time.time()
    day.cluster.apply(product.fleet(SMALLER), namespace=APPS)
    until("one replica of each model is left", lambda: set(replicas(day.cluster).values()) == {(1, 1)})
    until(
        "the replica's pod is gone",
        lambda: len(day.cluster.get("pods", f"--namespace={APPS}", "--selector=app=small")["items"]) == 1,
    )
    traffic_of_both(day, since=time.time())
    all_answered(day.traffic.outcomes(since=since))
    day.cluster.apply(product.fleet(FULL), namespace=APPS)
    until("the models fill the pool again", lambda: replicas(day.cluster)["small"] == (2, 2))


def test_no_request_is_lost_when_an_upgrade_rolls_the_operator(day: Day) -> None:
    since = time.time()
    product.helm(day.cluster, "upgrade", "--set=operator.podAnnotations.rolled=once")
    rolled_out(day.cluster, OPERATOR)
    traffic_of_both(day, since=time.time())
    all_answered(day.traffic.outcomes(since=since))


def test_every_pod_is_injected_while_an_upgrade_rolls_the_injector(day: Day) -> None:
    since, stop = time.time(), threading.Event()
    seen: list[list[str]] = []

    def create() -> None:
        with Api(day.cluster) as api:
            while not stop.wait(0.05):
                stored, _ = api.rehearse_pod(APPS, bare_pod("new", {"modelfleet.io/inject": "true"}))
                seen.append([c["name"] for c in stored["spec"].get("initContainers", ())])

    creating = threading.Thread(target=create)
    creating.start()
    try:
        product.helm(
            day.cluster,
            "upgrade",
            "--set=operator.podAnnotations.rolled=once",
            "--set=injector.podAnnotations.rolled=once",
        )
        rolled_out(day.cluster, INJECTOR)
    finally:
        stop.set()
        creating.join()
    missed = sum(names != ["modelfleet-sidecar"] for names in seen)
    assert missed == 0, f"{missed} of {len(seen)} pods got no sidecar"
    assert len(seen) > 20
    all_answered(day.traffic.outcomes(since=since))


def test_operator_and_injector_were_denied_nothing_that_they_asked_for(day: Day) -> None:
    for account in ("modelfleet-operator", "modelfleet-injector"):
        done, denied = used(day.cluster.audit_log, SYSTEM, account, since=day.installed)
        assert done
        assert sorted(str(right) for right in denied) == []


def test_uninstalling_breaks_no_request_and_leaves_the_users_own_things(day: Day) -> None:
    since = time.time()
    before = {name: asked for name, (asked, _) in replicas(day.cluster).items()}
    day.cluster.helm("uninstall", product.RELEASE, f"--namespace={SYSTEM}", "--wait")
    assert {name: asked for name, (asked, _) in replicas(day.cluster).items()} == before
    traffic_of_both(day, since=time.time())
    all_answered(day.traffic.outcomes(since=since))
    kept = day.cluster.kubectl("get", "modelfleets,routingpolicies", f"--namespace={APPS}", "--output=name")
    assert sorted(kept.split()) == ["modelfleet.modelfleet.io/chat", "routingpolicy.modelfleet.io/assistant"]
    kinds = "clusterroles,clusterrolebindings,mutatingwebhookconfigurations,validatingadmissionpolicies"
    left = day.cluster.kubectl("get", kinds, "--output=name")
    assert [name for name in left.split() if "modelfleet" in name] == []
    until(
        "the release's pods are gone",
        lambda: not day.cluster.get("pods", f"--namespace={SYSTEM}")["items"],
    )
    own = "deployments,services,serviceaccounts,secrets,configmaps,roles,rolebindings,endpointslices,leases"
    found = day.cluster.kubectl("get", own, f"--namespace={SYSTEM}", "--output=name").split()
    assert set(found) - {"serviceaccount/default", "configmap/kube-root-ca.crt"} == {
        "secret/modelfleet-ca",
        "configmap/modelfleet-epoch",
        "lease.coordination.k8s.io/modelfleet-operator",
    }
    (ledger,) = day.cluster.get("configmaps", f"--namespace={APPS}", "--selector=modelfleet.io/ledger")[
        "items"
    ]
    assert "assistant" in ledger["metadata"]["name"]


def test_no_request_of_the_whole_day_was_lost_or_answered_twice(day: Day) -> None:
    for name in CLIENTS:
        day.cluster.kubectl("delete", "deployment", name, f"--namespace={APPS}")
    until(
        "the applications have ended",
        lambda: (
            not day.cluster.get("pods", f"--namespace={APPS}", "--selector=modelfleet.io/inject,!job-name")[
                "items"
            ]
        ),
    )
    outcomes, records = day.traffic.outcomes(), day.traffic.records()
    assert {outcome.ending for outcome in outcomes} <= {"answered", "cut"}, summary(outcomes)
    served = [record.request_id for record in records if record.status == 200 and not record.cancelled]
    assert len(served) == len(set(served))
    answered = {outcome.decision for outcome in outcomes if outcome.ending == "answered"}
    assert answered <= set(served), "answers that no model's log has"
    assert not [record for record in records if record.over_concurrency]
    billed = sum(record.cost_nano_usd for record in records) / 1e9
    assert 0 < billed <= product.BUDGET_USD
    assert day.gpus.peak <= product.GPUS, day.gpus.most
    day.figures["requests"] = {
        "sent": len(outcomes),
        "answered": len(answered),
        "cut after the first byte": len(outcomes) - len(answered),
        "tried again elsewhere": len({r.request_id for r in records} - answered),
    }
