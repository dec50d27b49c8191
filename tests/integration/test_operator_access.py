"""Operators as in a cluster: few rights, TLS, a Service that leads to the leader, and a standby."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import grpc.aio
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc  # type: ignore[import-untyped]
from modelfleet_operator.cluster import Kind
from support.access import pem, write_pair
from support.charts import Manifest, helm
from support.clusters import field, policy, service
from support.control_plane import KubernetesUnderTest, Plane
from support.fleet_on_nodes import app_pod, managed_deployment, small_fleet
from support.programs import Program, program, sidecar_of

pytestmark = pytest.mark.integration

ACCOUNT = "modelfleet-operator"
SERVICE, SLICE = "modelfleet-capacity", "modelfleet-capacity-leader"
PATIENCE = 60.0


@dataclass(frozen=True, slots=True)
class Site:
    """A namespace for fleets and operators, whose account has just the rights that the chart gives it."""

    plane: Plane
    user: KubernetesUnderTest
    authority: trustme.CA
    folder: Path
    kubeconfig: Path

    @property
    def namespace(self) -> str:
        return self.user.namespace

    def address(self, number: int) -> str:
        return f"10.244.{self.namespace.removeprefix('test-')}.{200 + number}"

    @asynccontextmanager
    async def operator(self, number: int, **settings: str) -> AsyncIterator[Program]:
        """Run one at an address of its own."""
        address = self.address(number)
        environment = {
            "KUBECONFIG": str(self.kubeconfig),
            "MODELFLEET_NAMESPACE": self.namespace,
            "MODELFLEET_WATCH_NAMESPACE": self.namespace,
            "MODELFLEET_WATCH_NODES": "false",
            "MODELFLEET_CAPACITY_LISTEN": f"{address}:7443",
            "MODELFLEET_CAPACITY_TLS": str(
                write_pair(self.folder / f"tls-{number}", self.authority, address, f"{SERVICE}.svc")
            ),
            "MODELFLEET_CAPACITY_SERVICE": SERVICE,
            "MODELFLEET_POD_IP": address,
            "MODELFLEET_HTTP_LISTEN": f"{address}:8080",
        }
        folder = self.folder / f"operator-{number}"
        async with program(
            "modelfleet-operator", folder, environment | settings, f"http://{address}:8080"
        ) as running:
            yield running

    def leads_to(self, number: int, *, ready: bool = True) -> Callable[[], bool]:
        """Return whether the capacity Service leads to this operator and no other."""

        def leads() -> bool:
            endpoints = self.user.log.state(Kind.ENDPOINT_SLICE, SLICE).get("endpoints")
            return isinstance(endpoints, list) and [
                (endpoint["addresses"], endpoint["conditions"]["ready"]) for endpoint in endpoints
            ] == [([self.address(number)], ready)]

        return leads


def _roles(namespace: str, folder: Path) -> list[Manifest]:
    """Return the chart's roles, and their bindings, for a release that looks after its own namespace."""
    values = {"watchNamespace": namespace, "nodes": {"read": False}}
    rendered = helm(folder).render(values, namespace=namespace)
    return [manifest for manifest in rendered if manifest["kind"].endswith(("Role", "RoleBinding"))]


@asynccontextmanager
async def site_on(plane: Plane, folder: Path) -> AsyncIterator[Site]:
    user = await KubernetesUnderTest.make(plane)
    namespace = user.namespace
    plane.kubectl("create", "serviceaccount", ACCOUNT, f"--namespace={namespace}")
    config = json.loads(plane.control_plane.kubeconfig.read_text())
    config["users"][0]["user"] = {
        "token": plane.kubectl("create", "token", ACCOUNT, f"--namespace={namespace}").strip()
    }
    kubeconfig = folder / "kubeconfig"
    kubeconfig.write_text(json.dumps(config))
    ports = [{"name": "capacity", "port": 7443}]
    await user.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": SERVICE, "namespace": namespace},
            "spec": {"ports": ports},
        }
    )
    await user.watch()
    try:
        yield Site(plane, user, trustme.CA(), folder, kubeconfig)
    finally:
        await user.close()
        for kind in ("clusterrole", "clusterrolebinding"):
            plane.kubectl("delete", kind, f"modelfleet-{namespace}-operator", "--ignore-not-found")


async def _grant(site: Site) -> None:
    for manifest in _roles(site.namespace, site.folder):
        await site.user.apply(manifest)


async def _serving(site: Site, number: int) -> int:
    """Return what grpc.health.v1 says of the capacity service; it is open to those without a token."""
    credentials = grpc.ssl_channel_credentials(pem(site.authority).encode())
    async with grpc.aio.secure_channel(f"{site.address(number)}:7443", credentials) as channel:
        request = health_pb2.HealthCheckRequest(service="modelfleet.v1.Capacity")
        return int((await health_pb2_grpc.HealthStub(channel).Check(request)).status)


async def _said(running: Program, text: str) -> None:
    """Wait until the program logs it."""
    async with asyncio.timeout(PATIENCE):
        while text not in running.log.read_text(errors="replace"):  # noqa: ASYNC110 - a file tells nobody
            await asyncio.sleep(0.1)


async def _ready_text(running: Program) -> str:
    async with aiohttp.ClientSession() as http, http.get(f"{running.http}/readyz") as response:
        return await response.text()


async def test_the_service_follows_the_leader_over_a_kill_and_a_clean_stop(
    plane: Plane, tmp_path: Path
) -> None:
    async with site_on(plane, tmp_path) as site:
        await _grant(site)
        async with site.operator(1) as first:
            await first.ready()
            await site.user.log.until(site.leads_to(1), "the slice of the first")
            async with site.operator(2) as second:
                await second.ready()  # as a standby
                assert await second.metric("modelfleet_operator_leading") == 0
                assert await second.metric("modelfleet_capacity_reached") == 0
                assert await _serving(site, 1) == health_pb2.HealthCheckResponse.SERVING
                assert await _serving(site, 2) == health_pb2.HealthCheckResponse.NOT_SERVING
                await first.kill()
                await site.user.log.until(site.leads_to(2), "the slice of the second")
                await second.ready()
                assert await second.metric("modelfleet_capacity_reached") == 1
                async with site.operator(3) as third:
                    await third.ready()
                    await second.stop()
                    await site.user.log.until(site.leads_to(3), "the slice of the third")
                    await third.stop()
                    await site.user.log.until(site.leads_to(3, ready=False), "that nobody serves")
        plane.kubectl("delete", "service", SERVICE, f"--namespace={site.namespace}")
        plane.kubectl(
            "wait", "--for=delete", f"endpointslice/{SLICE}", f"--namespace={site.namespace}", "--timeout=60s"
        )


async def test_a_real_sidecar_leases_with_its_pods_token(plane: Plane, tmp_path: Path) -> None:
    async with site_on(plane, tmp_path) as site:
        await _grant(site)
        namespace = site.namespace
        for manifest in (
            managed_deployment(namespace),
            service(namespace, "large"),
            small_fleet(namespace),
            policy(namespace),
            app_pod(namespace),
        ):
            await site.user.apply(manifest)
        await site.user.log.until(lambda: (Kind.POD, "assistant-0") in site.user.log.objects, "the pod")
        uid = str(field(site.user.log.state(Kind.POD, "assistant-0"), "metadata", "uid"))
        token = plane.kubectl(
            "create",
            "token",
            "default",
            f"--namespace={namespace}",
            "--audience=modelfleet",
            "--bound-object-kind=Pod",
            "--bound-object-name=assistant-0",
        ).strip()
        (tmp_path / "token").write_text(token)
        access = {
            "MODELFLEET_OPERATOR_CA": pem(site.authority),
            "MODELFLEET_OPERATOR_TOKEN": str(tmp_path / "token"),
        }
        pod = {"namespace": namespace, "name": "assistant-0", "uid": uid}
        async with (
            site.operator(1) as operator,
            sidecar_of(pod, f"{site.address(1)}:7443", tmp_path, access) as (sidecar, api),
        ):
            await operator.ready()
            await sidecar.ready()
            async with asyncio.timeout(PATIENCE), aiohttp.ClientSession() as http:
                while True:
                    async with http.get(f"{api}/v1/models") as response:
                        if response.status == 200 and "large" in await response.text():
                            break
                    await asyncio.sleep(0.1)
            solved: Any = {}

            def told() -> bool:
                conditions = field(site.user.log.state(Kind.FLEET, "chat"), "status", "conditions")
                found = conditions if isinstance(conditions, list) else []
                solved.update(next((item for item in found if item["type"] == "Solved"), {}))
                return bool(solved)

            await site.user.log.until(told, "the fleet's status")
            assert "reads no nodes" in solved["message"]
            await sidecar.stop()
            await operator.stop()
            for log in (operator.log, sidecar.log):
                assert token not in log.read_text()


async def test_what_rbac_denies_is_named_and_awaited(plane: Plane, tmp_path: Path) -> None:
    async with site_on(plane, tmp_path) as site, site.operator(1) as operator:
        await _said(operator, 'cannot list resource \\"modelfleets\\"')
        assert "not yet: the cluster is observed" in await _ready_text(operator)
        assert operator.process.poll() is None
        await _grant(site)
        await operator.ready()
        await operator.stop()
