"""The injector behind a real API server, and the policy by which the API server does the same alone."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import signal
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import trustme
from modelfleet_lab.ports import free_ports
from modelfleet_operator.cluster.transport import Transport
from support.charts import helm, named
from support.control_plane import Plane
from support.injection import body, pod, write_certificate
from support.programs import STOP_SECONDS, Program, program

pytestmark = pytest.mark.integration

POLICY = {
    "apiVersion": "modelfleet.io/v1alpha1",
    "kind": "RoutingPolicy",
    "metadata": {"name": "assistant"},
    "spec": {
        "fleetRef": {"name": "chat"},
        "podSelector": {"matchLabels": {"app": "assistant"}},
        "tiers": [{"name": "all"}],
    },
}
INJECTED = 'modelfleet_injector_admissions_total{outcome="injected"}'
RESTRICTED = {
    "runAsNonRoot": True,
    "runAsUser": 1000,
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "seccompProfile": {"type": "RuntimeDefault"},
}


def _fleet(name: str, secret: str) -> dict[str, Any]:
    external = {"url": "https://api.example.com/v1", "apiKeySecretRef": {"name": secret, "key": "token"}}
    variant = {"name": "api", "external": external, "limits": {"inFlight": 8}}
    model = {
        "name": "frontier",
        "quality": {"prior": "0.9"},
        "pricing": {"inputPerMTok": "1", "outputPerMTok": "2"},
        "variants": [variant],
    }
    return {
        "apiVersion": "modelfleet.io/v1alpha1",
        "kind": "ModelFleet",
        "metadata": {"name": name},
        "spec": {"models": [model]},
    }


@dataclass
class Rig:
    plane: Plane
    namespace: str
    folder: Path
    authority: trustme.CA

    async def apply(self, *manifests: Mapping[str, object]) -> None:
        for manifest in manifests:
            await self.kubectl("apply", "-f", "-", given=json.dumps(manifest))

    async def kubectl(self, *arguments: str, given: str | None = None) -> str:
        arguments = (f"--namespace={self.namespace}", *arguments)
        return await asyncio.to_thread(self.plane.kubectl, *arguments, given=given)

    async def created(self, manifest: Mapping[str, object]) -> dict[str, Any]:
        """Return the pod as the API server would store it, without what differs from pod to pod."""
        text = await self.kubectl(
            "create", "--dry-run=server", "-o", "json", "-f", "-", given=json.dumps(manifest)
        )
        made: dict[str, Any] = json.loads(text)
        for name in ("uid", "creationTimestamp"):
            made["metadata"].pop(name)
        return made

    def values(self, **injector: object) -> dict[str, Any]:
        return {
            "watchNamespace": self.namespace,
            "injector": {"failurePolicy": "Fail", **injector},
            "sidecar": {
                "resources": {"requests": {"cpu": "50m"}, "limits": {"memory": "192Mi"}},
                "env": {"NO_PROXY": "10.0.0.0/8", "MODELFLEET_UPSTREAM_CA": "a\nb\n"},
            },
            "tls": {
                "source": "existing",
                "caBundle": self.authority.cert_pem.bytes().decode(),
                "existing": {"capacitySecret": "capacity", "injectorSecret": "injector"},
            },
        }

    def trust(self, authority: trustme.CA | None = None) -> ssl.SSLContext:
        context = ssl.create_default_context()
        (authority or self.authority).configure_trust(context)
        return context

    @asynccontextmanager
    async def injector(self, *, kubeconfig: Path | None = None) -> AsyncIterator[tuple[Program, str]]:
        """Run the injector as the chart's Deployment does; yield it and its webhook's URL."""
        webhook, http = (f"127.0.0.1:{port}" for port in free_ports(2))
        (deployment,) = (
            manifest
            for manifest in helm(self.folder).render(self.values())
            if manifest["kind"] == "Deployment" and manifest["metadata"]["name"].endswith("-injector")
        )
        (container,) = deployment["spec"]["template"]["spec"]["containers"]
        environment = {variable["name"]: str(variable["value"]) for variable in container["env"]}
        environment |= {
            "KUBECONFIG": str(kubeconfig or self.plane.control_plane.kubeconfig),
            "MODELFLEET_LISTEN": webhook,
            "MODELFLEET_HTTP_LISTEN": http,
            "MODELFLEET_TLS": str(self.folder / "tls"),
            "MODELFLEET_OPERATOR_CA": str(self.folder / "tls" / "ca.crt"),
            "MODELFLEET_DRAIN_SECONDS": "3",
        }
        async with program("modelfleet-injector", self.folder, environment, f"http://{http}") as started:
            yield started, f"https://{webhook}/mutate"

    @contextmanager
    def webhook(self, url: str) -> Iterator[None]:
        """Make the API server ask at `url`, as the chart's configuration says."""
        configuration = named(
            helm(self.folder).render(self.values()),
            "MutatingWebhookConfiguration",
            "modelfleet-modelfleet-system-injector",
        )
        (hook,) = configuration["webhooks"]
        hook["clientConfig"] = {"url": url, "caBundle": hook["clientConfig"]["caBundle"]}
        with self._applied(configuration):
            yield

    @contextmanager
    def policy(self) -> Iterator[None]:
        """Make the API server inject by itself, as the chart's policy says."""
        values = self.values(mode="policy", policy={"apiKeys": [{"name": "frontier", "key": "token"}]})
        rendered = helm(self.folder).render(values)
        kinds = ("MutatingAdmissionPolicy", "MutatingAdmissionPolicyBinding")
        with self._applied(*(manifest for manifest in rendered if manifest["kind"] in kinds)):
            yield

    @contextmanager
    def _applied(self, *manifests: Mapping[str, object]) -> Iterator[None]:
        for manifest in manifests:
            self.plane.kubectl("apply", "-f", "-", given=json.dumps(manifest))
        try:
            yield
        finally:
            for manifest in manifests:
                self.plane.kubectl("delete", "-f", "-", given=json.dumps(manifest))

    async def until(
        self, holds: Callable[[dict[str, Any]], bool], manifest: Mapping[str, object]
    ) -> dict[str, Any]:
        """Create the pod until the API server makes of it what is wanted; it learns of changes by watches."""
        for _ in range(100):
            made = await self.created(manifest)
            if holds(made):
                return made
            await asyncio.sleep(0.1)
        raise AssertionError(f"not after 10 s: {json.dumps(made)[:3000]}")


@pytest.fixture
def rig(plane: Plane, tmp_path: Path) -> Rig:
    authority = trustme.CA()
    write_certificate(tmp_path / "tls", authority)
    return Rig(plane, plane.new_namespace(), tmp_path, authority)


def _injected(made: Mapping[str, Any]) -> bool:
    names = [container["name"] for container in made["spec"].get("initContainers", ())]
    return names[:1] == ["modelfleet-sidecar"]


def _keys(made: Mapping[str, Any]) -> list[str]:
    return [
        source["secret"]["name"]
        for volume in made["spec"]["volumes"]
        if volume["name"] == "modelfleet-keys"
        for source in volume["projected"]["sources"]
    ]


def _assistant(**changes: Any) -> dict[str, Any]:
    return pod(labels={"app": "assistant"}, automountServiceAccountToken=False, **changes)


PODS: dict[str, dict[str, Any]] = {
    "plain": _assistant(),
    "init containers": _assistant(
        initContainers=[{"name": "a", "image": "a"}, {"name": "b", "image": "b", "restartPolicy": "Always"}]
    ),
    "own variables": _assistant(
        containers=[
            {"name": "a", "image": "a", "env": [{"name": "X", "value": "$(OPENAI_BASE_URL)"}]},
            {"name": "b", "image": "b", "env": [{"name": "OPENAI_API_KEY", "value": "mine"}]},
            {"name": "c", "image": "c", "envFrom": [{"configMapRef": {"name": "c"}}]},
        ]
    ),
    "volumes": _assistant(volumes=[{"name": "data", "emptyDir": {}}]),
    "of a Job": _assistant(restartPolicy="Never"),
    "on the node's network": _assistant(hostNetwork=True),
    "resources as a whole": _assistant(
        resources={"requests": {"cpu": "100m"}, "limits": {"memory": "64Mi"}},
        containers=[{"name": "a", "image": "a", "resources": {"requests": {"cpu": "100m"}}}],
    ),
    "empty resources": _assistant(resources={}),
    "a port of the sidecar": _assistant(
        containers=[{"name": "a", "image": "a", "ports": [{"containerPort": 18080}]}]
    ),
    "another protocol": _assistant(
        containers=[{"name": "a", "image": "a", "ports": [{"containerPort": 18080, "protocol": "UDP"}]}]
    ),
    "a volume of the sidecar": _assistant(volumes=[{"name": "modelfleet-token", "emptyDir": {}}]),
    "a container of its name": _assistant(containers=[{"name": "modelfleet-sidecar", "image": "a"}]),
    "Windows": _assistant(os={"name": "windows"}),
}


async def test_webhook_and_policy_make_the_same_pods(rig: Rig) -> None:
    await rig.apply(_fleet("chat", "frontier"), POLICY)
    async with rig.injector() as (running, url):
        await running.ready()
        with rig.webhook(url):
            await rig.until(_injected, PODS["plain"])
            by_webhook = {name: await rig.created(manifest) for name, manifest in PODS.items()}
    with rig.policy():
        await rig.until(_injected, PODS["plain"])
        by_policy = {name: await rig.created(manifest) for name, manifest in PODS.items()}
    for name, made in by_webhook.items():
        assert made == by_policy[name], name
    left = {"a port of the sidecar", "a volume of the sidecar", "a container of its name", "Windows"}
    assert {name for name, made in by_webhook.items() if not _injected(made)} == left


async def test_a_restricted_namespace_takes_the_pod_and_it_has_its_keys(rig: Rig) -> None:
    await rig.apply(_fleet("chat", "frontier"), _fleet("other", "unrelated"), POLICY)
    await asyncio.to_thread(
        rig.plane.kubectl,
        "label",
        "namespace",
        rig.namespace,
        "pod-security.kubernetes.io/enforce=restricted",
    )
    wanted = _assistant(containers=[{"name": "app", "image": "app", "securityContext": RESTRICTED}])
    async with rig.injector() as (running, url):
        await running.ready()
        with rig.webhook(url):
            made = await rig.until(_injected, wanted)
            again = await rig.created({**made, "metadata": wanted["metadata"]})
            _, told = await _create(rig, PODS["a port of the sidecar"] | {"metadata": wanted["metadata"]})
        assert await running.metric("process_resident_memory_bytes") < 110 * 2**20
        log = running.tail()
    assert _keys(made) == ["frontier"]
    assert [c["name"] for c in again["spec"]["initContainers"]] == ["modelfleet-sidecar"], (
        "not injected twice"
    )
    assert "Warning: modelfleet sidecar not injected: container a has port 18080" in told
    assert "OPENAI_BASE_URL" not in log
    assert "frontier" not in log


async def _create(rig: Rig, manifest: Mapping[str, object]) -> tuple[int, str]:
    """Create for real; return the exit code and what the user is told besides."""
    arguments = (f"--namespace={rig.namespace}", "create", "-f", "-")
    done = await asyncio.to_thread(
        rig.plane.control_plane.run_kubectl, *arguments, given=json.dumps(manifest)
    )
    return done.returncode, done.stderr


async def test_without_fleets_known_it_is_not_ready_and_what_it_knew_outlives_the_api_server(
    rig: Rig, tmp_path: Path
) -> None:
    content = json.loads(rig.plane.control_plane.kubeconfig.read_text())
    server = content["clusters"][0]["cluster"]["server"]
    host, port = server.removeprefix("https://").rsplit(":", 1)
    async with _Relay(host, int(port)) as relay, aiohttp.ClientSession() as http:
        content["clusters"][0]["cluster"]["server"] = f"https://{host}:{relay.port}"
        kubeconfig = tmp_path / "kubeconfig"
        kubeconfig.write_text(json.dumps(content))
        async with rig.injector(kubeconfig=kubeconfig) as (running, url):
            await _listening(http, running)
            async with http.get(f"{running.http}/readyz") as response:
                assert (response.status, await response.text()) == (
                    503,
                    "not yet: fleets and policies are known\n",
                )
            await rig.apply(_fleet("chat", "frontier"), POLICY)
            await relay.open()
            await running.ready()
            await _review(http, rig, url, lambda keys: keys == ["frontier"])
            await relay.close()
            await _review(http, rig, url, lambda keys: keys == ["frontier"])
            async with http.get(f"{running.http}/readyz") as response:
                assert response.status == 200
            await rig.apply(_fleet("chat", "newer"))
            await relay.open()
            await _review(http, rig, url, lambda keys: keys == ["newer"])


async def test_a_rolling_update_loses_no_admission(rig: Rig) -> None:
    """Between API server and injectors stands what a Service does: new connections go to who is ready."""
    async with rig.injector() as (old, old_url), rig.injector() as (new, new_url):
        await asyncio.gather(old.ready(), new.ready())
        ports = [int(urlsplit(url).port or 0) for url in (old_url, new_url)]
        transport = await Transport.connect(str(rig.plane.control_plane.kubeconfig))
        async with _Relay("127.0.0.1", ports[0]) as service, aiohttp.ClientSession() as http:
            await service.open()
            with rig.webhook(f"https://127.0.0.1:{service.port}/mutate"):
                await rig.until(_injected, PODS["plain"])
                updated = asyncio.Event()
                creating = [asyncio.create_task(_create_until(updated, transport, rig)) for _ in range(3)]
                await _served(old, more_than=10)
                old.process.send_signal(signal.SIGTERM)
                await _unready(http, old)
                # A Service hears of it later; until then new connections come, and are served.
                await _served(old, more_than=int(await old.metric(INJECTED)) + 2)
                service.point_at(ports[1])
                assert await asyncio.to_thread(old.process.wait, STOP_SECONDS) == 0, old.tail()
                await _served(new, more_than=10)
                updated.set()
                created = sum(await asyncio.gather(*creating))
        await transport.close()
        assert created > 20


async def _create_until(done: asyncio.Event, transport: Transport, rig: Rig) -> int:
    """Create pods one after the other; each must be taken, with its sidecar."""
    count = 0
    while not done.is_set():
        made = await transport.request(
            "POST",
            f"/api/v1/namespaces/{rig.namespace}/pods",
            body=PODS["plain"],
            query={"dryRun": "All"},
        )
        assert _injected(made)
        count += 1
    return count


async def _served(running: Program, *, more_than: int) -> None:
    for _ in range(300):
        if await running.metric(INJECTED) > more_than:
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"not {more_than} admissions within 30 s: {running.tail()}")


async def _unready(http: aiohttp.ClientSession, running: Program) -> None:
    for _ in range(300):
        async with http.get(f"{running.http}/readyz") as response:
            if response.status == 503:
                assert "this one ends" in await response.text()
                return
        await asyncio.sleep(0.01)
    raise AssertionError(f"it stays ready: {running.tail()}")


async def _listening(http: aiohttp.ClientSession, running: Program) -> None:
    for _ in range(300):
        with contextlib.suppress(aiohttp.ClientConnectorError):
            async with http.get(f"{running.http}/healthz") as response:
                assert response.status == 200
                return
        await asyncio.sleep(0.1)
    raise AssertionError(f"the injector does not listen: {running.tail()}")


async def _review(
    http: aiohttp.ClientSession, rig: Rig, url: str, holds: Callable[[list[str]], bool]
) -> None:
    """Ask the injector itself until the keys of the pod are as wanted."""
    for _ in range(300):
        data = body(_assistant(), namespace=rig.namespace)
        async with http.post(url, data=data, ssl=rig.trust()) as response:
            answer = (await response.json())["response"]
        operations = json.loads(base64.b64decode(answer["patch"]))
        volumes = [
            value
            for operation in operations
            if operation["path"] == "/spec/volumes"
            for value in operation["value"]
        ]
        keys = _keys({"spec": {"volumes": volumes}})
        if holds(keys):
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"the pod has the keys {keys}")


class _Relay:
    """A way to the API server that opens and closes; it keeps its address."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._far = host, port
        self.port = free_ports(1)[0]
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> _Relay:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._relay, self._host, self.port)

    async def close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def point_at(self, port: int) -> None:
        """Send what comes from now on elsewhere; what is connected stays."""
        self._far = port

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        ends = [writer]
        try:
            far_reader, far_writer = await asyncio.open_connection(self._host, self._far)
            ends.append(far_writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, far_writer))
                group.create_task(_copy(far_reader, writer))
        except* OSError:
            pass  # the other end is gone, and so is this one
        finally:
            for end in ends:
                end.transport.abort()
            self._tasks.discard(task)


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Copy until the source ends, then end the target; raises what either side does."""
    while data := await source.read(65536):
        target.write(data)
        await target.drain()
    raise ConnectionResetError("the source has ended")
