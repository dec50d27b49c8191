"""The demo's Kubernetes: a real API server, etcd and controller-manager on this machine.

In: manifests. Out: the running product: applied with kubectl, watched and scaled by the operator through
the API. Next: `product` replays the scenario through it. A stand-in for scheduler and kubelet runs the pods
as processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from modelfleet_lab.controlplane import namespace
from modelfleet_lab.controlplane.binaries import find_or_build
from modelfleet_lab.controlplane.start import ControlPlane, running
from modelfleet_lab.demo.children import Children
from modelfleet_lab.demo.hosts import PERIOD, write_manifests
from modelfleet_lab.demo.manifests import NAMESPACE, Manifest
from modelfleet_lab.demo.programs import Running, operator_and_sidecars, serving
from modelfleet_lab.demo.scenario import SHARES, SLACK, WARM_UP, Scenario

ROOT = Path(__file__).parents[3]
"""The checkout, which holds the CRDs and the examples."""
READY_IN = 20.0
"""Seconds that everything is expected to need from the policy's making until traffic starts."""
LEAST_LEFT = 240.0
"""Seconds that the budget's hour must still have."""
SHOW_EVERY = 10.0
"""Seconds between two looks with kubectl."""


class KubectlError(RuntimeError):
    """kubectl refused; the message is its own."""


@contextlib.contextmanager
def control_plane(folder: Path, console: Console) -> Iterator[ControlPlane]:
    """Run a control plane in a network of its own; call it before any thread and event loop exist."""

    def report(text: str) -> None:
        console.print(text, markup=False, highlight=False)

    programs = find_or_build(report)
    namespace.enter()
    report("starting etcd, kube-apiserver and kube-controller-manager")
    with running(programs, folder) as plane:
        yield plane


class KubernetesHost:
    """A real control plane. The operator's clock is real there, so the limit is stretched over the hour."""

    words = (
        "on a real kube-apiserver, etcd and kube-controller-manager, with a stand-in for scheduler and "
        "kubelet that runs pods as local processes; the policy's hourly limit is what the run may spend, "
        "stretched over what was left of the hour, since the product paces its spend to its end"
    )

    def __init__(self, plane: ControlPlane, console: Console) -> None:
        self._plane = plane
        self._console = console

    def limit(self, scenario: Scenario) -> float:
        left = PERIOD - time.time() % PERIOD
        return round(scenario.limit * max(1.0, (left - READY_IN) / _run_seconds(scenario)), 6)

    @contextlib.asynccontextmanager
    async def running(
        self, scenario: Scenario, manifests: Sequence[Manifest], folder: Path, children: Children
    ) -> AsyncIterator[Running]:
        await self._apply(ROOT / "crds")
        await self._kubectl("wait", "--for=condition=Established", "--timeout=60s", "crd", "--all")
        await self._kubectl("create", "namespace", NAMESPACE)
        path = write_manifests(manifests, folder)
        await self._apply(path)
        await self._offer_gpus(manifests)
        await children.start(
            "node",
            [
                sys.executable,
                "-m",
                "modelfleet_operator.cluster.node",
                f"--kubeconfig={self._plane.kubeconfig}",
                f"--logs={folder / 'pods'}",
            ],
        )
        settings = {
            "KUBECONFIG": str(self._plane.kubeconfig),
            "MODELFLEET_CLUSTER": "kubernetes",
            "MODELFLEET_WATCH_NAMESPACE": NAMESPACE,
        }
        async with operator_and_sidecars(children, settings, await self._uids()) as started:
            await serving(started, children)
            await self._show()
            showing = asyncio.create_task(self._show_on())
            try:
                yield started
            finally:
                showing.cancel()
                await asyncio.gather(showing, return_exceptions=True)
            await self._show()

    async def _apply(self, path: Path) -> None:
        self._console.print(f"$ kubectl apply -f {path.name}", markup=False, highlight=False)
        applied = await self._kubectl("apply", "-f", str(path))
        self._console.print(applied.strip(), markup=False, highlight=False)

    async def _offer_gpus(self, manifests: Sequence[Manifest]) -> None:
        """Patch the nodes' status, which an apply does not set."""
        for manifest in manifests:
            if manifest["kind"] == "Node":
                metadata = manifest["metadata"]
                name = str(metadata["name"]) if isinstance(metadata, dict) else ""
                patch = json.dumps({"status": manifest["status"]})
                await self._kubectl(
                    "patch", "node", name, "--subresource=status", "--type=merge", "--patch", patch
                )

    async def _uids(self) -> list[str]:
        """Return the UIDs that the API server gave to the applications' pods."""
        names = [f"pod/app-{index}" for index in range(len(SHARES))]
        listed = json.loads(await self._kubectl("get", *names, "-n", NAMESPACE, "-o", "json"))
        return [str(item["metadata"]["uid"]) for item in listed["items"]]

    async def _show_on(self) -> None:
        while True:
            await asyncio.sleep(SHOW_EVERY)
            await self._show()

    async def _show(self) -> None:
        kinds = "modelfleets,routingpolicies,deployments"
        shown = await self._kubectl("get", kinds, "-n", NAMESPACE)
        self._console.print(f"$ kubectl get {kinds} -n {NAMESPACE}", markup=False, highlight=False)
        self._console.print(shown.rstrip(), markup=False, highlight=False)

    async def _kubectl(self, *arguments: str) -> str:
        process = await asyncio.create_subprocess_exec(
            str(self._plane.kubectl),
            f"--kubeconfig={self._plane.kubeconfig}",
            *arguments,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        output, errors = await process.communicate()
        if process.returncode != 0:
            raise KubectlError(f"kubectl {' '.join(arguments[:4])}: {errors.decode().strip()}")
        return output.decode()


def wait_for_room(console: Console) -> None:
    """Wait for the next budget hour if this one ends within the run."""
    left = PERIOD - time.time() % PERIOD
    if left < LEAST_LEFT:
        console.print(f"the budget's hour ends in {left:.0f} s, within the run: waiting for the next one")
        time.sleep(left + 1.0)


def _run_seconds(scenario: Scenario) -> float:
    return WARM_UP + scenario.duration + SLACK
