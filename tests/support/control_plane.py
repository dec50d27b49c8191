"""A real control plane with a stand-in node for tests, in a network namespace of the test process."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from modelfleet_lab.controlplane import binaries, start
from modelfleet_operator.cluster.kubernetes import KubernetesCluster

from support.clusters import ClusterUnderTest, node

ROOT = Path(__file__).parents[2]
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class Plane:
    """The running control plane, with the project's CRDs applied and one node without GPUs."""

    control_plane: start.ControlPlane
    folder: Path

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """Run kubectl; return its output. A failure fails the test with what kubectl said."""
        done = self.control_plane.run_kubectl(*arguments, given=given)
        assert done.returncode == 0, f"kubectl {' '.join(arguments)}: {done.stderr}"
        return done.stdout

    def refusal(self, manifest: Mapping[str, object]) -> str:
        """Apply a manifest that must be refused; return what the user is told."""
        done = self.control_plane.run_kubectl("apply", "-f", "-", given=json.dumps(manifest))
        assert done.returncode != 0, f"the API server took it: {done.stdout}"
        return done.stderr

    def new_namespace(self) -> str:
        """Return a namespace that pods can run in."""
        name = f"test-{next(_numbers)}"
        self.kubectl("create", "namespace", name)
        self.kubectl("wait", "--for=create", "serviceaccount/default", f"--namespace={name}", "--timeout=30s")
        return name

    def environment(self) -> dict[str, str]:
        """Return the variables for programs that are to use this control plane."""
        return {**os.environ, "KUBECONFIG": str(self.control_plane.kubeconfig)}


@contextmanager
def running_plane(folder: Path) -> Iterator[Plane]:
    """Run a control plane and a stand-in node until the block ends; raises if any of it fails."""
    programs = binaries.find_or_build(lambda line: print(line, file=sys.__stderr__, flush=True))
    with start.running(programs, folder / "control-plane") as control_plane:
        plane = Plane(control_plane, folder)
        plane.kubectl("apply", "-f", str(ROOT / "crds"))
        plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
        _await_kinds(control_plane)
        plane.kubectl("create", "-f", "-", given=json.dumps(node("host", gpus=0)))
        with (folder / "node.log").open("wb") as output:
            stand_in = subprocess.Popen(
                [sys.executable, "-m", "modelfleet_operator.cluster.node", f"--logs={folder / 'pods'}"],
                env=plane.environment(),
                stdout=output,
                stderr=output,
            )
        try:
            plane.kubectl("wait", "--for=condition=Ready", "node/host", "--timeout=30s")
            yield plane
            assert stand_in.poll() is None, f"the node has ended: {(folder / 'node.log').read_text()[-2000:]}"
        finally:
            stand_in.send_signal(signal.SIGTERM)
            stand_in.wait(30)


def _await_kinds(control_plane: start.ControlPlane) -> None:
    """Wait until the API server serves the project's kinds, which takes a moment once established."""
    for _ in range(100):
        if (
            control_plane.run_kubectl("get", "modelfleets,routingpolicies", "--all-namespaces").returncode
            == 0
        ):
            return
        time.sleep(0.1)
    raise AssertionError("the API server does not serve the project's kinds 10 s after they were established")


class KubernetesUnderTest(ClusterUnderTest):
    """The adapter of the real API server; kubectl is the user's hands."""

    def __init__(self, plane: Plane, cluster: KubernetesCluster, namespace: str) -> None:
        super().__init__(cluster, namespace)
        self._plane = plane

    @classmethod
    async def make(cls, plane: Plane) -> KubernetesUnderTest:
        namespace = await asyncio.to_thread(plane.new_namespace)
        cluster = await KubernetesCluster.connect(
            namespace=namespace, kubeconfig=str(plane.control_plane.kubeconfig)
        )
        return cls(plane, cluster, namespace)

    async def apply(self, manifest: Mapping[str, object]) -> None:
        # Nodes are created with their status, as a kubelet registers itself.
        verb = "create" if manifest["kind"] == "Node" else "apply"
        await asyncio.to_thread(self._plane.kubectl, verb, "-f", "-", given=json.dumps(manifest))

    async def delete(self, kind: str, name: str) -> None:
        arguments = ["delete", kind, name, f"--namespace={self.namespace}", "--wait=false"]
        if kind == "Pod":
            arguments += ["--grace-period=0", "--force"]
        await asyncio.to_thread(self._plane.kubectl, *arguments)

    async def events(self) -> list[Mapping[str, object]]:
        told = await asyncio.to_thread(
            self._plane.kubectl, "get", "events", f"--namespace={self.namespace}", "--output=json"
        )
        listed: list[Mapping[str, object]] = json.loads(told)["items"]
        return listed

    async def describe(self, kind: str, name: str) -> str:
        """Return what `kubectl describe` says of an object."""
        return await asyncio.to_thread(
            self._plane.kubectl, "describe", kind, name, f"--namespace={self.namespace}"
        )

    async def close(self) -> None:
        await super().close()
        await asyncio.to_thread(self._plane.kubectl, "delete", "namespace", self.namespace, "--wait=false")
        await asyncio.to_thread(
            self._plane.kubectl, "delete", "node", f"host-{self.namespace}", "--ignore-not-found"
        )
