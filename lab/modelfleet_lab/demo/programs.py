"""Starts the product's programs and waits until they serve.

In: the host's settings for the operator, the applications' pods. Out: `Running`. Next: `product` replays
through it.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

from modelfleet_lab.demo.children import Child, Children
from modelfleet_lab.demo.sampling import Sampler
from modelfleet_lab.ports import free_ports


@dataclass(frozen=True, slots=True)
class AppPod:
    """An application's pod, to which a sidecar belongs."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class Running:
    """The started product."""

    sampler: Sampler
    sidecars: Sequence[str]
    """Base URL of each application's sidecar."""


@contextlib.asynccontextmanager
async def operator_and_sidecars(
    children: Children, settings: Mapping[str, str], pods: Sequence[AppPod]
) -> AsyncIterator[Running]:
    """Run the operator with `settings` (environment), in the namespace of `pods`, and a sidecar for each."""
    capacity, probes, *ports = free_ports(2 + 3 * len(pods))
    programs: list[Child] = []
    sampler = Sampler(f"http://127.0.0.1:{probes}/metrics")
    sampling: asyncio.Task[None] | None = None
    try:
        operator = await children.start(
            "operator",
            [sys.executable, "-m", "modelfleet_operator"],
            {
                **settings,
                "MODELFLEET_NAMESPACE": pods[0].namespace,
                "MODELFLEET_CAPACITY_LISTEN": f"127.0.0.1:{capacity}",
                "MODELFLEET_HTTP_LISTEN": f"127.0.0.1:{probes}",
            },
        )
        programs.append(operator)
        await children.ready(operator, f"http://127.0.0.1:{probes}/readyz", timeout=60.0)
        sampling = asyncio.create_task(sampler.run())
        triples = [ports[3 * index : 3 * index + 3] for index in range(len(pods))]
        sidecars = [
            await _start_sidecar(children, pod, capacity, triple)
            for pod, triple in zip(pods, triples, strict=True)
        ]
        programs += sidecars
        await asyncio.gather(
            *(
                children.ready(sidecar, f"http://127.0.0.1:{admin}/readyz")
                for sidecar, (_, _, admin) in zip(sidecars, triples, strict=True)
            )
        )
        yield Running(sampler, [f"http://127.0.0.1:{http}" for _, http, _ in triples])
    finally:
        if sampling is not None:
            sampling.cancel()
            await asyncio.gather(sampling, return_exceptions=True)
        # Sidecars first, so that they can give back what they hold.
        await children.stop(programs[1:])
        await children.stop(programs[:1])


async def _start_sidecar(children: Children, pod: AppPod, capacity: int, ports: Sequence[int]) -> Child:
    grpc, http, admin = ports
    return await children.start(
        f"sidecar-{pod.name}",
        [sys.executable, "-m", "modelfleet_sidecar"],
        {
            "MODELFLEET_OPERATOR": f"127.0.0.1:{capacity}",
            "MODELFLEET_NAMESPACE": pod.namespace,
            "MODELFLEET_POD_NAME": pod.name,
            "MODELFLEET_POD_UID": pod.uid,
            "MODELFLEET_GRPC_LISTEN": f"127.0.0.1:{grpc}",
            "MODELFLEET_HTTP_LISTEN": f"127.0.0.1:{http}",
            "MODELFLEET_ADMIN_LISTEN": f"127.0.0.1:{admin}",
        },
    )


async def serving(running: Running, children: Children, *, timeout: float = 60.0) -> None:
    """Return once all sidecars have leases and every model that should run has a ready replica."""
    sampler = running.sampler

    def complete() -> bool:
        if not sampler.samples:
            return False
        sample = sampler.samples[-1]
        wanted = [variant for variant in sample.variants.values() if variant.desired]
        everyone = sample.sidecars >= len(running.sidecars)
        return everyone and bool(wanted) and all(variant.ready for variant in wanted)

    async def wait() -> None:
        async with asyncio.timeout(timeout):
            while not complete():
                sampler.fresh.clear()
                await sampler.fresh.wait()

    await children.guard(wait())
