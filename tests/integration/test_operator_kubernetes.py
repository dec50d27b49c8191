"""The operator as a process on a real API server: what a user applies, and what happens then."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from modelfleet_core.estimation.drift import Standing, Verdict
from modelfleet_core.leasing.accounts import BUDGET
from modelfleet_core.leasing.estimators import NO_DOCUMENT
from modelfleet_core.leasing.messages import Need, SidecarId, Want
from modelfleet_core.leasing.reservations import Reservation
from modelfleet_core.manifests import parse_fleet, parse_policy
from modelfleet_core.policy import Groups
from modelfleet_core.values import EndpointUrl, ModelName, NanoUsd, VariantKey
from modelfleet_operator.cluster import Kind
from modelfleet_operator.estimators import Base
from modelfleet_operator.insight import suggestions_body
from modelfleet_operator.learning import LearningView
from modelfleet_operator.policies import policy_body
from modelfleet_sidecar.lease import LeaseClient
from support.clusters import field, fleet, node, policy, service
from support.control_plane import KubernetesUnderTest, Plane
from support.fleet_on_nodes import CONCURRENCY, app_pod, host, managed_deployment, small_fleet
from support.manifests import Manifest, fleet_manifest
from support.programs import operator_on, sidecar_of
from support.scored_answers import log_of

pytestmark = pytest.mark.integration

LARGE = VariantKey(ModelName("large"), "h100")
BARRED = "every variant's pool must be the name of one of spec.pools"


@pytest_asyncio.fixture
async def user(plane: Plane) -> AsyncIterator[KubernetesUnderTest]:
    """A user's hands in a namespace with a node of 6 GPUs, and a watch on what happens there."""
    made = await KubernetesUnderTest.make(plane)
    await made.apply(node(host(made.namespace), gpus=6))
    await made.watch()
    yield made
    await made.close()


async def _replicas_become(user: KubernetesUnderTest, number: int) -> None:
    await user.log.until(
        lambda: field(user.log.state(Kind.DEPLOYMENT, "large"), "spec", "replicas") == number,
        f"{number} replicas asked for",
    )


def _condition(manifest: Mapping[str, object], name: str) -> tuple[object, object]:
    conditions = field(manifest, "status", "conditions")
    for condition in conditions if isinstance(conditions, list) else []:
        if condition["type"] == name:
            return condition["status"], condition["reason"]
    return None, None


def _set(path: str, value: object) -> Callable[[Manifest], None]:
    def change(manifest: Manifest) -> None:
        *parents, last = path.split(".")
        target: Any = manifest["spec"]
        for step in parents:
            target = target[int(step) if step.isdigit() else step]
        target[int(last) if last.isdigit() else last] = value

    return change


def _same_url_twice(manifest: Manifest) -> None:
    variants = manifest["spec"]["models"][1]["variants"]
    variants.append(variants[0] | {"name": "again"})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_set("models.0.variants.0.pool", "none"), BARRED),
        (
            _set("models.0.variants.0.replicas", {"min": 3, "max": 1}),
            "replicas.min must not exceed replicas.max",
        ),
        (_set("models.0.name", "auto"), "a model can not be named auto"),
        (_set("models.0.variants.0.latency.timeToFirstToken", "7d"), "(days and weeks are none: 7d is 168h)"),
        (_set("models.0.variants.0.replicas", {"min": 5, "max": 5}), "the minimal replicas need more GPUs"),
        (_set("pools.0.hourlyCost", 2.9), "spec.pools[0].hourlyCost"),
        (_set("models.1.variants.0.gpus", 1), "an external variant has no pool, gpus"),
        (_set("models.1.pricing", None), "a model with an external variant needs pricing"),
        (_set("models.0.variants.0.external", {"url": "https://x.example/v1"}), "set exactly one of"),
        (_same_url_twice, "two variants of a model have the same external URL"),
        (
            _set("models.1.variants.0.limits", {"inFlight": 4}),
            "exactly one of limits.inFlight and concurrency",
        ),
        (_set("models.0.variants.0.limits", {"inFlight": 4}), "needs concurrency and has no limits"),
    ],
)
def test_a_fleet_that_can_not_work_is_refused_in_words(
    plane: Plane, change: Callable[[Manifest], None], says: str
) -> None:
    manifest = fleet("default")
    change(manifest)
    assert says in plane.refusal(manifest)


def _floor_that_does_nothing(manifest: Manifest) -> None:
    manifest["spec"]["staleness"] = {"then": "Hold"}
    manifest["spec"]["tiers"][0]["floor"] = 1


def _tenants_without_budget(manifest: Manifest) -> None:
    manifest["spec"]["tenants"] = {"header": "x-tenant", "declared": [{"name": "acme", "max": "5%"}]}
    manifest["spec"].pop("budget")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_set("tiers.1.match", {"header": {"x": "y"}}), "the last tier is for all other requests"),
        (_set("tiers.0.name", "bronze"), "two tiers have the same name"),
        (_set("batching.maxWait", "1w"), "(days and weeks are none: 7d is 168h)"),
        (_set("budget.period", "Fortnight"), "Hour"),
        (_set("budget.shares", [{"models": ["a"], "max": "101%"}]), "spec.budget.shares[0].max"),
        (
            _set("budget.shares", [{"models": ["a", "b"], "max": "1%"}, {"models": ["b", "a"], "max": "2%"}]),
            "two shares are for the same models",
        ),
        (
            _set("quotas", [{"models": ["a"], "requests": 1}, {"models": ["a"], "requests": 2}]),
            "two quotas are for the same models and period",
        ),
        (_set("staleness", {"maxAge": "1s"}), "must be a duration from 5s to 10m"),
        (_set("learning", {"halfLife": "7d"}), "(days and weeks are none: 7d is 168h)"),
        (_set("learning", {"halfLife": "1s"}), "must be a duration from 1h to 8760h"),
        (_set("learning", {"exploration": "6%"}), "spec.learning.exploration"),
        (_set("learning", {"enabled": "yes"}), "spec.learning.enabled"),
        (_set("estimator", {"kappa": "none"}), "spec.estimator.kappa"),
        (_set("estimator", {"minConfidence": "1.1"}), "spec.estimator.minConfidence"),
        (_set("estimator", {"ref": {}}), "spec.estimator.ref.name"),
        (_floor_that_does_nothing, "a tier has a floor although staleness.then is not Floor"),
        (_set("tenants", {"header": "x", "fairShare": False}), "tenants says nothing with fairShare false"),
        (_set("aliases", {"auto": "large"}), "an alias must be a name such as gpt-4o"),
        (_set("aliases", {"a b": "large"}), "an alias must be a name such as gpt-4o"),
        (_set("aliases", {"gpt-4o": "a b"}), "spec.aliases.gpt-4o"),
        (_set("models", {"allow": []}), "spec.models.allow"),
        (_set("tiers.0.models", {"deny": ["a", "a"]}), "Duplicate value"),
        (_set("tiers.0.minimumQuality", "1.5"), "spec.tiers[0].minimumQuality"),
        (_set("tiers.0.onOverload", "Wait"), "Unsupported value"),
        (_set("tiers.0.latency", {"total": "0s"}), "must be a duration from 1ms to 24h"),
        (
            _set("tiers.0.latency", {"timeToFirstToken": "2s", "total": "1s"}),
            "timeToFirstToken is above total",
        ),
        (_tenants_without_budget, "there is no budget to take a part of"),
    ],
)
def test_a_policy_that_can_not_work_is_refused_in_words(
    plane: Plane, change: Callable[[Manifest], None], says: str
) -> None:
    manifest = policy("default")
    change(manifest)
    assert says in plane.refusal(manifest)


async def test_what_was_learned_is_stored_whole_in_the_status(user: KubernetesUnderTest) -> None:
    await user.apply(policy(user.namespace))
    stored = await user.cluster.get(Kind.POLICY, user.key("assistant"))
    grouped = replace(parse_policy(stored), groups=Groups("x-region", ("north",)))
    cells = tuple(
        cell
        for number in range(64)
        for cell in log_of(f"m{number}", 0.1, answers=150, group="north", cost=0.01).changes().cells
    )
    manifest = fleet_manifest()
    manifest["spec"]["models"][1]["name"] = "m0"
    suggested = suggestions_body(grouped, parse_fleet(manifest), cells)
    standing = Standing(Verdict.DRIFT, 50.0, 0.1, 0.2, -0.5)
    known = LearningView(Base(NO_DOCUMENT), "learned", standing, cells, "")
    body = policy_body(None, 3, grouped, known, suggested)
    assert all(body[part] for part in ("estimator", "traffic", "groups", "suggestions"))
    version = str(field(stored, "metadata", "resourceVersion"))
    await user.cluster.write_status(Kind.POLICY, user.key("assistant"), version, body)
    after = await user.cluster.get(Kind.POLICY, user.key("assistant"))
    assert after["status"] == body


async def test_an_applied_fleet_is_scaled_through_the_subresource_and_told(
    plane: Plane, user: KubernetesUnderTest, tmp_path: Path
) -> None:
    kubeconfig = plane.control_plane.kubeconfig
    async with operator_on(kubeconfig, user.namespace, tmp_path) as (operator, _):
        await user.apply(managed_deployment(user.namespace))
        await user.apply(service(user.namespace, "large"))
        await operator.ready()
        await user.apply(small_fleet(user.namespace))
        await _replicas_become(user, 2)
        deployed = await user.cluster.get(Kind.DEPLOYMENT, user.key("large"))
        await user.log.until(lambda: len(user.log.ready_urls("large")) == 2, "two ready replicas")
        await user.log.until(
            lambda: _condition(user.log.state(Kind.FLEET, "chat"), "Ready")[0] == "True", "a ready fleet"
        )
        shown = await asyncio.to_thread(
            plane.kubectl, "get", "modelfleet", "chat", f"--namespace={user.namespace}"
        )
        await operator.stop()
    entries = field(deployed, "metadata", "managedFields")
    assert isinstance(entries, list)
    owners = {
        (entry["manager"], entry.get("subresource"))
        for entry in entries
        if field(entry, "fieldsV1", "f:spec", "f:replicas") is not None
    }
    assert {subresource for _, subresource in owners} == {"scale"}, owners
    assert field(deployed, "metadata", "finalizers") is None
    assert "GPUS" in shown
    assert "4/" in shown, shown


async def test_a_deleted_fleet_is_gone_at_once_and_its_deployments_stay(
    plane: Plane, user: KubernetesUnderTest, tmp_path: Path
) -> None:
    kubeconfig, key = plane.control_plane.kubeconfig, user.key("large")
    await user.apply(managed_deployment(user.namespace))
    await user.apply(service(user.namespace, "large"))
    async with operator_on(kubeconfig, user.namespace, tmp_path) as (operator, _):
        await user.apply(small_fleet(user.namespace))
        await _replicas_become(user, 2)
        await user.delete("ModelFleet", "chat")
        await user.log.until(lambda: (Kind.FLEET, "chat") not in user.log.objects, "the fleet's end")
        await user.apply(small_fleet(user.namespace, replicas=3))
        await _replicas_become(user, 3)
        await user.log.until(
            lambda: _condition(user.log.state(Kind.FLEET, "chat"), "Accepted")[0] == "True", "a status"
        )
        await operator.kill()
    # kubectl waits for the object's end: a finalizer that nobody removes would keep it for ever.
    await asyncio.to_thread(
        plane.kubectl, "delete", "mf", "chat", f"--namespace={user.namespace}", "--timeout=20s"
    )
    assert field(await user.cluster.get(Kind.DEPLOYMENT, key), "spec", "replicas") == 3


async def test_a_restarted_operator_keeps_the_plan(
    plane: Plane, user: KubernetesUnderTest, tmp_path: Path
) -> None:
    kubeconfig = plane.control_plane.kubeconfig
    await user.apply(managed_deployment(user.namespace))
    await user.apply(service(user.namespace, "large"))
    async with operator_on(kubeconfig, user.namespace, tmp_path) as (operator, _):
        await user.apply(small_fleet(user.namespace))
        await user.log.until(lambda: len(user.log.ready_urls("large")) == 2, "two ready replicas")
        await user.log.until(
            lambda: _condition(user.log.state(Kind.FLEET, "chat"), "Ready")[0] == "True", "a ready fleet"
        )
        await operator.kill()
    before = user.log.state(Kind.DEPLOYMENT, "large")
    epoch = field(user.log.state(Kind.FLEET, "chat"), "status", "capacity", "epoch")
    async with operator_on(kubeconfig, user.namespace, tmp_path) as (operator, _):
        await operator.ready()
        await user.log.until(
            lambda: field(user.log.state(Kind.FLEET, "chat"), "status", "capacity", "epoch") != epoch,
            "the new epoch in the status",
        )
        await operator.stop()
    after = await user.cluster.get(Kind.DEPLOYMENT, user.key("large"))
    assert field(after, "spec", "replicas") == 2
    assert field(after, "metadata", "generation") == field(before, "metadata", "generation")
    assert len(user.log.ready_urls("large")) == 2


async def test_leases_follow_the_models_pods(plane: Plane, user: KubernetesUnderTest, tmp_path: Path) -> None:
    namespace = user.namespace
    for manifest in (
        managed_deployment(namespace),
        service(namespace, "large"),
        small_fleet(namespace),
        policy(namespace),
    ):
        await user.apply(manifest)
    await user.apply(app_pod(namespace))
    await user.log.until(lambda: (Kind.POD, "assistant-0") in user.log.objects, "the pod")
    uid = str(field(user.log.state(Kind.POD, "assistant-0"), "metadata", "uid"))
    kubeconfig = plane.control_plane.kubeconfig
    async with operator_on(kubeconfig, namespace, tmp_path) as (operator, capacity):
        await operator.ready()
        client = LeaseClient(capacity, SidecarId(namespace, "assistant-0", uid, "boot-1"))
        client.want({LARGE: Want(100)}, {BUDGET: Need(1_000_000, 1_000_000, 1.0, 0.0)})
        running = asyncio.create_task(client.run())
        try:
            await _slots_become(client, 2 * CONCURRENCY)
            assert client.policy is not None
            assert client.fleet is not None
            assert set(client.holding.free(client.now())) == user.log.ready_urls("large")
            victim = sorted(user.log.ready_urls("large"))[0]
            async with aiohttp.ClientSession() as http:
                with contextlib.suppress(aiohttp.ClientError):
                    await http.post(f"{victim}/exit")
            await _slots_become(client, CONCURRENCY)
            assert victim not in {url for url, slots in client.holding.free(client.now()).items() if slots}
            await _slots_become(client, 2 * CONCURRENCY)
        finally:
            running.cancel()
            await asyncio.wait({running})


async def test_a_replica_that_is_to_go_drains_and_a_rollout_moves_the_leases(
    plane: Plane, user: KubernetesUnderTest, tmp_path: Path
) -> None:
    """The replica without requests goes, whichever Kubernetes would choose; then every pod is replaced."""
    namespace = user.namespace
    wanted = small_fleet(namespace, replicas=3)
    wanted["spec"]["scaling"]["scaleDownStabilization"] = "0s"
    large = managed_deployment(namespace)
    large["spec"]["strategy"] = {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    for manifest in (large, service(namespace, "large"), wanted, policy(namespace), app_pod(namespace)):
        await user.apply(manifest)
    await user.log.until(lambda: (Kind.POD, "assistant-0") in user.log.objects, "the pod")
    uid = str(field(user.log.state(Kind.POD, "assistant-0"), "metadata", "uid"))
    async with operator_on(plane.control_plane.kubeconfig, namespace, tmp_path) as (operator, capacity):
        await operator.ready()
        client = LeaseClient(capacity, SidecarId(namespace, "assistant-0", uid, "boot-1"))
        client.want({LARGE: Want(100)}, {BUDGET: Need(1_000_000, 1_000_000, 1.0, 0.0)})
        running = asyncio.create_task(client.run())
        try:
            await _slots_become(client, 3 * CONCURRENCY)
            # Of equals a ReplicaSet takes the least UID, so without a mark the first would go.
            first, second, idle = _by_uid(user, "large")
            requests = {url: _begin(client, url) for url in (first, second)}
            client.give_back()  # tells of them now
            wanted["spec"]["models"][0]["variants"][0]["replicas"]["min"] = 2
            await user.apply(wanted)
            await user.log.until(lambda: idle not in user.log.ready_urls("large"), "the idle one's end")
            assert user.log.ready_urls("large") == {first, second}
            await _slots_become(client, 2 * CONCURRENCY - 2)
            await _replicas_become(user, 2)

            large["spec"]["template"]["metadata"]["annotations"] = {"release": "two"}
            await user.apply(large)
            await user.log.until(
                lambda: len(user.log.ready_urls("large") - {first, second}) == 2, "two new replicas"
            )
            for url, request in requests.items():
                assert client.holding.settle(request, NanoUsd(0), client.now()), f"the request at {url}"
            await _slots_become(client, 2 * CONCURRENCY)
            assert {url for url, free in client.holding.free(client.now()).items() if free} == (
                user.log.ready_urls("large")
            )
        finally:
            running.cancel()
            await asyncio.wait({running})


def _by_uid(user: KubernetesUnderTest, service_name: str) -> list[str]:
    """Return the URLs of a Service's ready endpoints, by the UID of their pods."""
    uids: dict[str, str] = {}
    for (kind, _), slice_ in user.log.objects.items():
        labels = field(slice_, "metadata", "labels", "kubernetes.io/service-name")
        if kind is Kind.ENDPOINT_SLICE and labels == service_name:
            endpoints, ports = slice_.get("endpoints"), slice_.get("ports")
            assert isinstance(endpoints, list)
            assert isinstance(ports, list)
            for endpoint in endpoints:
                url = f"http://{endpoint['addresses'][0]}:{ports[0]['port']}"
                uids[url] = str(field(endpoint, "targetRef", "uid"))
    return sorted(user.log.ready_urls(service_name), key=lambda url: uids[url])


def _begin(client: LeaseClient, url: str) -> int:
    """Begin a request at an endpoint; return its reservation."""
    now = client.now()
    begun = client.holding.reserve(now, EndpointUrl(url), NanoUsd(0), now + 600, charges={})
    assert isinstance(begun, Reservation)
    return begun.id


async def _slots_become(client: LeaseClient, number: int) -> None:
    try:
        async with asyncio.timeout(30):
            while sum(client.holding.free(client.now()).values()) != number:
                await client.wait_change(1.0)
    except TimeoutError:
        free = client.holding.free(client.now())
        raise AssertionError(f"{number} slots: not within 30 s, but {free}; {client.refusal!r}") from None


async def test_a_real_sidecar_gets_its_policys_lease(
    plane: Plane, user: KubernetesUnderTest, tmp_path: Path
) -> None:
    namespace = user.namespace
    for manifest in (
        managed_deployment(namespace),
        service(namespace, "large"),
        small_fleet(namespace),
        policy(namespace),
    ):
        await user.apply(manifest)
    await user.apply(app_pod(namespace))
    await user.log.until(lambda: (Kind.POD, "assistant-0") in user.log.objects, "the pod")
    uid = str(field(user.log.state(Kind.POD, "assistant-0"), "metadata", "uid"))
    pod = {"namespace": namespace, "name": "assistant-0", "uid": uid}
    async with (
        operator_on(plane.control_plane.kubeconfig, namespace, tmp_path) as (operator, capacity),
        sidecar_of(pod, capacity, tmp_path) as (sidecar, api),
    ):
        await operator.ready()
        await user.log.until(lambda: len(user.log.ready_urls("large")) == 2, "two ready replicas")
        await sidecar.ready()
        async with asyncio.timeout(30), aiohttp.ClientSession() as http:
            while True:
                async with http.get(f"{api}/v1/models") as response:
                    if response.status == 200 and "large" in await response.text():
                        break
                await asyncio.sleep(0.1)
        await user.log.until(
            lambda: field(user.log.state(Kind.FLEET, "chat"), "status", "sidecars") == 1, "status"
        )
        await sidecar.stop()
        await operator.stop()
