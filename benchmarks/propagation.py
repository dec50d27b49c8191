"""Measures how long a change takes to reach those who must act on it, on a real API server.

Three processes as in production: the operator, a sidecar's lease client (the sidecar's own code), and this
one, which changes the cluster and watches the API server. Prints and writes JSON, in seconds:

- `apply_to_scale`: from the start of `kubectl apply` of a fleet to the event of the scaled Deployment;
- `lost_to_lease`, `won_to_lease`: from the API server's event that a ready replica is gone, or is there, to
  the sidecar's applied grant without it, or with it.

    python benchmarks/propagation.py --rounds 20 --json out/propagation.json
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import aiohttp
import uvloop
from modelfleet_core.leasing.messages import SidecarId
from modelfleet_core.values import ModelName, NanoUsd, VariantKey
from modelfleet_lab.controlplane import namespace
from modelfleet_operator.cluster.transport import Transport
from modelfleet_sidecar.lease import LeaseClient, boot_clock
from support.clusters import field, node, policy, service
from support.control_plane import Plane, running_plane
from support.fleet_on_nodes import app_pod, host, managed_deployment, small_fleet
from support.programs import operator_on

LARGE = VariantKey(ModelName("large"), "h100")
PATIENCE = 30.0


async def lease_client(address: str, pod: str, uid: str, space: str) -> None:
    """Be a sidecar that wants every slot; print the time and the endpoints of each applied grant."""
    client = LeaseClient(address, SidecarId(space, pod, uid, "boot-1"))
    client.want({LARGE: 1000}, NanoUsd(1_000_000))
    running = asyncio.create_task(client.run())
    while not running.done():
        if await client.wait_change(1.0):
            urls = sorted(url for url, slots in client.holding.free(client.now()).items() if slots)
            print(json.dumps({"at": boot_clock(), "urls": urls}), flush=True)
    await running


class Timeline:
    """States as they were told, each with its time; `first` waits for the first one after a moment."""

    def __init__(self) -> None:
        self._states: list[tuple[float, Any]] = []
        self._more = asyncio.Event()

    def tell(self, at: float, state: object) -> None:
        self._states.append((at, state))
        self._more.set()

    def last(self) -> Any:
        return self._states[-1][1]

    async def first(self, since: float, holds: Callable[[Any], bool]) -> float:
        async with asyncio.timeout(PATIENCE):
            while True:
                for at, state in self._states:
                    if at >= since and holds(state):
                        return at
                self._more.clear()
                await self._more.wait()


@asynccontextmanager
async def watched(transport: Transport, path: str, timeline: Timeline) -> AsyncIterator[None]:
    """Tell `timeline` each object of `path` that the API server sends, when it arrives."""
    listed = await transport.request("GET", path)
    version = str(field(listed, "metadata", "resourceVersion"))

    async def follow() -> None:
        async for _, manifest in transport.watch(path, version):
            timeline.tell(boot_clock(), manifest)

    following = asyncio.create_task(follow())
    try:
        yield
    finally:
        following.cancel()
        await asyncio.wait({following})


def ready_urls(endpoint_slice: Mapping[str, Any]) -> list[str]:
    return sorted(
        f"http://{address}:{port['port']}"
        for endpoint in endpoint_slice.get("endpoints") or []
        if endpoint["conditions"].get("ready")
        for address in endpoint["addresses"]
        for port in endpoint_slice["ports"]
    )


async def measure_apply(plane: Plane, transport: Transport, space: str, rounds: int) -> list[float]:
    seconds: list[float] = []
    deployments = Timeline()
    path = f"/apis/apps/v1/namespaces/{space}/deployments"
    async with watched(transport, path, deployments):
        for _ in range(rounds):
            started = boot_clock()
            await kubectl(plane, "apply", "-f", "-", given=json.dumps(small_fleet(space)))
            scaled = await deployments.first(started, lambda now: field(now, "spec", "replicas") == 2)
            seconds.append(scaled - started)
            await kubectl(plane, "delete", "mf", "chat", f"--namespace={space}")
            await kubectl(plane, "scale", "deployment", "large", "--replicas=1", f"--namespace={space}")
    return seconds


async def measure_leases(
    plane: Plane, transport: Transport, space: str, capacity: str, rounds: int
) -> tuple[list[float], list[float]]:
    await kubectl(plane, "apply", "-f", "-", given=json.dumps(small_fleet(space)))
    pod = json.loads(await kubectl(plane, "get", "pod", "assistant-0", f"--namespace={space}", "-o", "json"))
    uid = str(field(pod, "metadata", "uid"))
    slices, grants, lost, won = Timeline(), Timeline(), list[float](), list[float]()
    client = await asyncio.create_subprocess_exec(
        sys.executable,
        __file__,
        "--client",
        capacity,
        "assistant-0",
        uid,
        space,
        stdout=asyncio.subprocess.PIPE,
    )
    reading = asyncio.create_task(read_grants(client, grants))
    path = f"/apis/discovery.k8s.io/v1/namespaces/{space}/endpointslices"
    try:
        async with watched(transport, path, slices), aiohttp.ClientSession() as http:
            await grants.first(0.0, lambda urls: len(urls) == 2)
            for _ in range(rounds):
                both = grants.last()
                victim, started = both[0], boot_clock()
                with contextlib.suppress(aiohttp.ClientError):
                    await http.post(f"{victim}/exit")
                rest = [url for url in both if url != victim]
                gone = await slices.first(started, lambda now, rest=rest: ready_urls(now) == rest)
                lost_at = await grants.first(started, lambda urls, rest=rest: urls == rest)
                back = await slices.first(gone, lambda now, both=both: ready_urls(now) == both)
                won_at = await grants.first(lost_at, lambda urls, both=both: urls == both)
                lost.append(lost_at - gone)
                won.append(won_at - back)
    finally:
        client.terminate()
        await client.wait()
        await reading
    return lost, won


async def read_grants(client: asyncio.subprocess.Process, grants: Timeline) -> None:
    assert client.stdout is not None  # noqa: S101 - it was asked for as a pipe
    async for line in client.stdout:
        told = json.loads(line)
        grants.tell(told["at"], told["urls"])


async def kubectl(plane: Plane, *arguments: str, given: str | None = None) -> str:
    return await asyncio.to_thread(plane.kubectl, *arguments, given=given)


async def measure(rounds: int) -> dict[str, object]:
    with tempfile.TemporaryDirectory(prefix="propagation-") as folder, running_plane(Path(folder)) as plane:
        space = plane.new_namespace()
        await kubectl(plane, "create", "-f", "-", given=json.dumps(node(host(space), gpus=6)))
        for manifest in (managed_deployment(space), service(space, "large"), policy(space), app_pod(space)):
            await kubectl(plane, "apply", "-f", "-", given=json.dumps(manifest))
        kubeconfig = plane.control_plane.kubeconfig
        transport = await Transport.connect(str(kubeconfig))
        try:
            async with operator_on(kubeconfig, space, Path(folder) / "logs") as (operator, capacity):
                await operator.ready()
                applied = await measure_apply(plane, transport, space, max(3, rounds // 4))
                lost, won = await measure_leases(plane, transport, space, capacity, rounds)
                await operator.stop()
        finally:
            await transport.close()
    return {"apply_to_scale": figures(applied), "lost_to_lease": figures(lost), "won_to_lease": figures(won)}


def figures(seconds: Sequence[float]) -> dict[str, float]:
    return {
        "median": round(statistics.median(seconds), 4),
        "max": round(max(seconds), 4),
        "rounds": len(seconds),
    }


def main() -> int:
    if sys.argv[1:2] == ["--client"]:
        with contextlib.suppress(KeyboardInterrupt):
            uvloop.run(lease_client(*sys.argv[2:]))
        return 0
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=20, help="replicas lost and won (default 20)")
    parser.add_argument("--json", type=Path, default=Path("out/propagation.json"), metavar="FILE")
    arguments = parser.parse_args()
    namespace.enter()
    result = asyncio.run(measure(arguments.rounds))
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))
    return 0


if __name__ == "__main__":
    sys.exit(main())
