"""Operator and injector with the accounts and roles of the chart need each of the rights, and no other.

The programs run as processes beside the control plane. They live through all that asks for a right: models
that grow and shrink, a sidecar that leases, a ledger that is long over, writers that are in each other's way,
a capacity Service that leads nowhere, and a second leader.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import trustme
from modelfleet_core.leasing.accounts import BUDGET
from modelfleet_core.leasing.ledger import budget_period
from modelfleet_core.leasing.messages import Need, SidecarId, Want
from modelfleet_core.policy import Period
from modelfleet_core.values import ModelName, ObjectKey, VariantKey
from modelfleet_operator.cluster import Kind
from modelfleet_operator.cluster.transport import MERGE_PATCH, Transport
from modelfleet_operator.ledger_records import ledger_key, long_over
from modelfleet_sidecar.lease import LeaseClient
from modelfleet_sidecar.operator_access import OperatorAccess
from support.access import pem, write_pair
from support.charts import Manifest, helm, named
from support.clusters import field, node, policy, service
from support.control_plane import KubernetesUnderTest, Plane
from support.fleet_on_nodes import CONCURRENCY, app_pod, host, managed_deployment, small_fleet
from support.programs import Program, program
from support.rights import Right, difference, granted, used

pytestmark = pytest.mark.integration

RELEASE = "rights"
OPERATOR, INJECTOR = f"{RELEASE}-operator", f"{RELEASE}-injector"
CAPACITY = f"{RELEASE}-capacity"
OF_ACCOUNTS = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding", "Service")
OWN_RECORDS = ("modelfleet-epoch", "modelfleet-ledger-", "modelfleet-learned-")
LARGE = VariantKey(ModelName("large"), "h100")
PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Release:
    """The chart's accounts and roles, in a namespace of their own; the fleets are in that of `user`."""

    plane: Plane
    user: KubernetesUnderTest
    namespace: str
    manifests: list[Manifest]
    authority: trustme.CA
    folder: Path

    async def kubectl(self, *arguments: str, given: object = None) -> str:
        text = None if given is None else json.dumps(given)
        return await asyncio.to_thread(self.plane.kubectl, *arguments, given=text)

    async def until(self, condition: str, what: str, namespace: str) -> None:
        await self.kubectl(
            "wait", f"--for={condition}", what, f"--namespace={namespace}", f"--timeout={PATIENCE:.0f}s"
        )

    def address(self, number: int) -> str:
        return f"10.244.{self.namespace.removeprefix('test-')}.{200 + number}"

    def operator(self, number: int) -> contextlib.AbstractAsyncContextManager[Program]:
        address = self.address(number)
        return self._program(
            OPERATOR,
            number,
            {
                "MODELFLEET_NAMESPACE": self.namespace,
                "MODELFLEET_POD_IP": address,
                "MODELFLEET_CAPACITY_LISTEN": f"{address}:7443",
                "MODELFLEET_CAPACITY_TLS": self._certificate(number),
            },
        )

    def injector(self) -> contextlib.AbstractAsyncContextManager[Program]:
        (self.folder / "ca.crt").write_text(pem(self.authority))
        settings = {
            "MODELFLEET_LISTEN": f"{self.address(9)}:8443",
            "MODELFLEET_TLS": self._certificate(9),
            "MODELFLEET_OPERATOR_CA": str(self.folder / "ca.crt"),
            "MODELFLEET_DRAIN_SECONDS": "0",
        }
        return self._program(INJECTOR, 9, settings)

    def _certificate(self, number: int) -> str:
        return str(write_pair(self.folder / f"tls-{number}", self.authority, self.address(number)))

    @asynccontextmanager
    async def _program(
        self, account: str, number: int, settings: Mapping[str, str]
    ) -> AsyncIterator[Program]:
        """Run what the account's Deployment runs, with its settings and a token of the account."""
        template = named(self.manifests, "Deployment", account)["spec"]["template"]["spec"]
        assert template["serviceAccountName"] == account
        (container,) = template["containers"]
        of_chart = {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}
        config = json.loads(self.plane.control_plane.kubeconfig.read_text())
        token = await self.kubectl("create", "token", account, f"--namespace={self.namespace}")
        config["users"][0]["user"] = {"token": token.strip()}
        kubeconfig = self.folder / f"kubeconfig-{number}"
        kubeconfig.write_text(json.dumps(config))
        http = f"{self.address(number)}:8080"
        environment = {**of_chart, "KUBECONFIG": str(kubeconfig), "MODELFLEET_HTTP_LISTEN": http, **settings}
        name = account.replace(RELEASE, "modelfleet")
        async with program(name, self.folder / f"{name}-{number}", environment, f"http://{http}") as running:
            yield running

    @asynccontextmanager
    async def leasing(self, number: int) -> AsyncIterator[LeaseClient]:
        """Lease from an operator as the sidecar of the policy's pod does, with the pod's token."""
        namespace = self.user.namespace
        await self.user.log.until(lambda: (Kind.POD, "assistant-0") in self.user.log.objects, "the pod")
        uid = str(field(self.user.log.state(Kind.POD, "assistant-0"), "metadata", "uid"))
        token = await self.kubectl(
            "create",
            "token",
            "default",
            f"--namespace={namespace}",
            "--audience=modelfleet",
            "--bound-object-kind=Pod",
            "--bound-object-name=assistant-0",
        )
        file = self.folder / "token"
        file.write_text(token)
        access = OperatorAccess(f"{self.address(number)}:7443", pem(self.authority), file)
        client = LeaseClient(access, SidecarId(namespace, "assistant-0", uid, "boot-1"))
        client.want({LARGE: Want(100)}, {BUDGET: Need(1_000_000, 1_000_000, 1.0, 0.0)})
        running = asyncio.create_task(client.run())
        try:
            yield client
        finally:
            running.cancel()
            await asyncio.wait({running})

    def difference(self, account: str) -> list[str]:
        return difference(self.manifests, self.plane.control_plane.audit_log, self.namespace, account)

    def done(self) -> set[Right]:
        done, _ = used(self.plane.control_plane.audit_log, self.namespace, OPERATOR)
        return done


@asynccontextmanager
async def _released(plane: Plane, folder: Path, values: Mapping[str, Any]) -> AsyncIterator[Release]:
    """Make what the chart installs for its accounts; `watchNamespace` in the values is that of the fleets."""
    user = await KubernetesUnderTest.make(plane)
    namespace = plane.new_namespace()
    own = {"watchNamespace": user.namespace} if "watchNamespace" in values else {}
    manifests = helm(folder).render({**values, **own}, release=RELEASE, namespace=namespace)
    release = Release(plane, user, namespace, manifests, trustme.CA(), folder)
    installed = [manifest for manifest in manifests if manifest["kind"] in OF_ACCOUNTS]
    await release.kubectl("apply", "-f", "-", given={"apiVersion": "v1", "kind": "List", "items": installed})
    # What other tests left in this control plane: a leader of all namespaces would await their pods' reports.
    await release.kubectl("delete", "modelfleets,routingpolicies", "--all", "--all-namespaces")
    injected = ("pods", "--all-namespaces", "--selector=modelfleet.io/inject=true")
    await release.kubectl("delete", *injected, "--force", "--grace-period=0")
    await user.watch()
    try:
        yield release
    finally:
        outside = [m for m in installed if m["kind"].startswith("Cluster")]
        await release.kubectl(
            "delete", "-f", "-", given={"apiVersion": "v1", "kind": "List", "items": outside}
        )
        await release.kubectl("delete", "namespace", namespace, "--wait=false")
        await user.close()


@asynccontextmanager
async def _others_write(release: Release) -> AsyncIterator[None]:
    """Change fleet and policy all the time, so that the operator's own writes meet newer versions."""
    transport = await Transport.connect(str(release.plane.control_plane.kubeconfig))
    within = f"/apis/modelfleet.io/v1alpha1/namespaces/{release.user.namespace}"

    async def change(path: str, section: str, name: str, values: Collection[str]) -> None:
        for value in itertools.cycle(values):
            body = {"spec": {section: {name: value}}}
            await transport.request("PATCH", f"{within}/{path}", body=body, content_type=MERGE_PATCH)

    changing = [
        asyncio.create_task(change("modelfleets/chat", "scaling", "scaleDownStabilization", ("1s", "2s"))),
        asyncio.create_task(change("routingpolicies/assistant", "batching", "maxWait", ("15ms", "16ms"))),
    ]
    try:
        yield
    finally:
        for task in changing:
            task.cancel()
        await asyncio.wait(changing)
        await transport.close()


async def _used(release: Release, *rights: tuple[str, str]) -> None:
    """Wait until the operator has used each (verb, resource)."""
    missing = set(rights)
    try:
        async with asyncio.timeout(PATIENCE):
            while missing := set(rights) - {(use.verb, use.resource) for use in release.done()}:  # noqa: ASYNC110 - a file tells nobody
                await asyncio.sleep(0.2)
    except TimeoutError:
        pytest.fail(f"the operator does not {missing}: not within {PATIENCE} s")


async def _live(release: Release) -> None:
    """Have operator and injector do all that they ever do."""
    user, models = release.user, release.user.namespace
    over = _ledger_long_over(models)
    fleet = small_fleet(models)
    for manifest in (
        node(host(models), gpus=6),
        managed_deployment(models),
        service(models, "large"),
        fleet,
        policy(models),
        app_pod(models),
        over,
    ):
        await user.apply(manifest)
    async with release.operator(1) as first, release.injector() as injector:
        await first.ready()
        async with release.operator(2) as second, release.leasing(1) as client:
            await injector.ready()
            await second.ready()
            async with _others_write(release):
                await _used(release, ("get", "modelfleets"), ("get", "routingpolicies"))
            async with asyncio.timeout(PATIENCE):
                while sum(client.holding.free(client.now()).values()) != 2 * CONCURRENCY:
                    await client.wait_change(1.0)
            fleet["spec"]["scaling"]["scaleDownStabilization"] = "0s"
            fleet["spec"]["models"][0]["variants"][0]["replicas"] = {"min": 1, "max": 1}
            await user.apply(fleet)
            await user.log.until(
                lambda: field(user.log.state(Kind.DEPLOYMENT, "large"), "spec", "replicas") == 1,
                "one replica",
            )
            await release.until("delete", f"configmap/{over['metadata']['name']}", models)
            leader = f"endpointslice/{CAPACITY}-leader"
            await release.kubectl("delete", leader, f"--namespace={release.namespace}")
            await release.until("create", leader, release.namespace)
            await first.stop()
            address = "jsonpath={.endpoints[0].addresses[0]}=" + release.address(2)
            await release.until(address, leader, release.namespace)
            await second.ready()
            await second.stop()
            await injector.stop()


def _ledger_long_over(namespace: str) -> Manifest:
    """Return a ledger of the policy whose period ended hours ago."""
    owner = ObjectKey(namespace, "assistant")
    present = budget_period(owner, Period.HOUR, datetime.now(UTC))
    key = ledger_key(owner, long_over(owner, Period.HOUR, present.starts)[1])
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": key.name, "namespace": namespace},
    }


MODES: dict[str, dict[str, Any]] = {
    "all namespaces": {},
    "one namespace": {"watchNamespace": "that of the fleets"},
    "one namespace without nodes": {"watchNamespace": "that of the fleets", "nodes": {"read": False}},
}


@pytest.mark.parametrize("mode", MODES)
async def test_the_chart_grants_just_the_rights_that_are_used(
    mode: str, plane: Plane, tmp_path: Path
) -> None:
    async with _released(plane, tmp_path, MODES[mode]) as release:
        try:
            await _live(release)
        except Exception as error:
            error.add_note("\n".join(release.difference(OPERATOR) + release.difference(INJECTOR)))
            raise
        assert release.difference(OPERATOR) == []
        assert release.difference(INJECTOR) == []
        rights = granted(release.manifests, OPERATOR)
        # What is made can not be limited to a name; for all else here the names are known beforehand.
        own = {right for right in rights if right.namespace == release.namespace and right.verb != "create"}
        assert {str(right) for right in own if not right.name} == set()
        records = {use.name for use in release.done() if use.resource == "configmaps" and use.name}
        assert all(name.startswith(OWN_RECORDS) for name in records), records
        outside = {str(right) for right in rights if not right.namespace}
        if mode != "all namespaces":
            nodes = {"list nodes", "watch nodes"} if mode == "one namespace" else set()
            assert outside == {"create tokenreviews.authentication.k8s.io", *nodes}
