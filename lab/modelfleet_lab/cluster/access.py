"""What commands and tests do with a running cluster: kubectl, Helm, images, GPUs.

`node` makes it from what it started; a process that `__main__` runs inside finds it by `Cluster.current`.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelfleet_lab.cluster import containers

VARIABLE = "MODELFLEET_CLUSTER"
NODE_NAME = "node"
GPU = "nvidia.com/gpu"
GPU_PRODUCT = f"{GPU}.product"


class ClusterError(RuntimeError):
    """A command failed, or there is no cluster; the message has what was said."""


@dataclass(frozen=True, slots=True)
class Cluster:
    """A running cluster of one node, seen by processes in its namespaces."""

    folder: Path
    """The run's folder: `state` in it goes with the cluster, the rest stays for the developer."""

    @classmethod
    def current(cls) -> Cluster:
        """Return the cluster that this process runs in; raises `ClusterError`."""
        folder = os.environ.get(VARIABLE)
        if not folder:
            raise ClusterError(
                "not inside a cluster: run `make test-cluster`, or `make cluster` and then this"
            )
        return cls(Path(folder))

    @property
    def state(self) -> Path:
        """Where the parts of the cluster keep their files and logs."""
        return self.folder / "state"

    @property
    def kubeconfig(self) -> Path:
        """Access as administrator."""
        return self.state / "control-plane" / "admin.kubeconfig"

    @property
    def audit_log(self) -> Path:
        """One JSON object per line for each request of a ServiceAccount outside kube-system."""
        return self.state / "control-plane" / "audit.log"

    def environment(self) -> dict[str, str]:
        """Return the variables for a program that is to use this cluster."""
        return {
            **os.environ,
            VARIABLE: str(self.folder),
            "KUBECONFIG": str(self.kubeconfig),
            "PATH": os.pathsep.join(
                [str(self.state / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
            ),
            "CONTAINERD_ADDRESS": str(containers.SOCKET),
            "CONTAINERD_NAMESPACE": "k8s.io",
            # What talks to Services must not be sent to a proxy outside.
            "NO_PROXY": "*",
            "no_proxy": "*",
        }

    def run(
        self, program: str, *arguments: str, given: str | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl or helm; the caller looks at `returncode`."""
        return subprocess.run(
            [str(self.state / "bin" / program), *arguments],
            input=given,
            capture_output=True,
            text=True,
            check=False,
            env=self.environment(),
        )

    def kubectl(self, *arguments: str, given: str | None = None) -> str:
        """Run kubectl as administrator and return its output; raises `ClusterError`."""
        return self._checked("kubectl", *arguments, given=given)

    def helm(self, *arguments: str, given: str | None = None) -> str:
        """Run Helm as administrator and return its output; raises `ClusterError`."""
        return self._checked("helm", *arguments, given=given)

    def apply(self, *manifests: Mapping[str, object], namespace: str = "default") -> None:
        """Apply manifests in one go; raises `ClusterError`."""
        text = "\n---\n".join(json.dumps(manifest) for manifest in manifests)
        self.kubectl("apply", f"--namespace={namespace}", "--filename=-", given=text)

    def get(self, *arguments: str) -> Any:
        """Return what `kubectl get` says, as parsed JSON, of one object or a list; raises `ClusterError`."""
        return json.loads(self.kubectl("get", *arguments, "--output=json"))

    def load_image(self, archive: Path) -> Sequence[str]:
        """Give the node the images of an OCI archive; raises `containers.ImageError`."""
        return containers.load_image(archive)

    def set_gpus(self, count: int, product: str = "NVIDIA-H100-80GB-HBM3") -> None:
        """Let the node have `count` GPUs of the type `product`; the scheduler honours it at once."""
        self.kubectl("label", "node", NODE_NAME, f"{GPU_PRODUCT}={product}", "--overwrite")
        stock = {"capacity": {GPU: str(count)}, "allocatable": {GPU: str(count)}}
        self.kubectl(
            "patch", "node", NODE_NAME, "--subresource=status", f"--patch={json.dumps({'status': stock})}"
        )

    def _checked(self, program: str, *arguments: str, given: str | None) -> str:
        done = self.run(program, *arguments, given=given)
        if done.returncode != 0:
            raise ClusterError(f"{program} {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout
