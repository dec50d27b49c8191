"""The demo's Kubernetes: a real API server, etcd and controller-manager on this machine.

In: manifests. Out: the running product: applied with kubectl, watched and scaled by the operator through
the API. Next: `product` replays the scenario through it. A stand-in for scheduler and kubelet runs the pods
as processes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from modelfleet_lab.controlplane import namespace
from modelfleet_lab.controlplane.binaries import find_or_build
from modelfleet_lab.controlplane.start import ControlPlane, running
from modelfleet_lab.demo.children import Children
from modelfleet_lab.demo.examples import KINDS, operator_settings, start_node, uid_of
from modelfleet_lab.demo.hosts import PERIOD, write_manifests
from modelfleet_lab.demo.kubectl import Kubectl
from modelfleet_lab.demo.manifests import NAMESPACE, Manifest, applications
from modelfleet_lab.demo.programs import AppPod, Running, operator_and_sidecars, serving
from modelfleet_lab.demo.scenario import SLACK, WARM_UP, Scenario

READY_IN = 20.0
"""Seconds that everything is expected to need from the policy's making until traffic starts."""
LEAST_LEFT = 90.0
"""Seconds that the budget's hour must still have: the run's, with its start."""
SHOW_EVERY = 10.0
"""Seconds between two looks with kubectl."""


@contextlib.contextmanager
def control_plane(folder: Path, console: Console) -> Iterator[ControlPlane]:
    """Run a control plane in a network of its own; call it before any thread and event loop exist."""

    def report(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    namespace.rehearse()  # before a build that takes minutes and needs the machine's network
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

    def __init__(self, kubectl: Kubectl) -> None:
        self._kubectl = kubectl

    def limit(self, scenario: Scenario) -> float:
        left = PERIOD - time.time() % PERIOD
        return round(scenario.limit * max(1.0, (left - READY_IN) / _run_seconds(scenario)), 6)

    @contextlib.asynccontextmanager
    async def running(
        self, scenario: Scenario, manifests: Sequence[Manifest], folder: Path, children: Children
    ) -> AsyncIterator[Running]:
        kubectl = self._kubectl
        path = write_manifests([m for m in manifests if m["kind"] != "Node"], folder)
        nodes = folder / "nodes"
        nodes.mkdir()
        node = write_manifests([m for m in manifests if m["kind"] == "Node"], nodes)
        await kubectl.show("create", "namespace", NAMESPACE)
        # Nodes are created with their status, as a kubelet registers itself.
        await kubectl.show("create", "-f", str(node.absolute()))
        await kubectl.show("apply", "-f", str(path.absolute()))
        await start_node(kubectl, children, folder)
        pods = [
            AppPod(pod.namespace, pod.name, await uid_of(kubectl, pod.namespace, pod.name))
            for pod in applications()
        ]
        settings = operator_settings(kubectl, NAMESPACE)
        async with operator_and_sidecars(children, settings, pods) as started:
            await serving(started, children)
            await self._show()
            showing = asyncio.create_task(self._show_on())
            try:
                yield started
            finally:
                showing.cancel()
                await asyncio.gather(showing, return_exceptions=True)
            await self._show()

    async def _show_on(self) -> None:
        while True:
            await asyncio.sleep(SHOW_EVERY)
            await self._show()

    async def _show(self) -> None:
        await self._kubectl.look("get", KINDS, "-n", NAMESPACE)


async def wait_for_room(console: Console) -> None:
    """Wait for the next budget hour if this one ends within the run."""
    left = PERIOD - time.time() % PERIOD
    if left < LEAST_LEFT:
        console.print(f"the budget's hour ends in {left:.0f} s, within the run: waiting for the next one")
        await asyncio.sleep(left + 1.0)


def _run_seconds(scenario: Scenario) -> float:
    return WARM_UP + scenario.duration + SLACK
