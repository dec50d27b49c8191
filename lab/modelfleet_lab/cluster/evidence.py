"""Keeps what a developer needs after a failed run: logs, objects, events and metrics.

`collect` asks the running cluster, at the moment of the failure; `keep_logs` takes from the state folder what
is there even when the API server is not. No Secret is read.
"""

from __future__ import annotations

import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from modelfleet_lab.cluster.access import Cluster, ClusterError

_VIEWS = {
    "objects.txt": ("get", "all,endpointslices,configmaps,leases,pvc", "--all-namespaces", "--output=wide"),
    "pods.yaml": ("get", "pods", "--all-namespaces", "--output=yaml"),
    "described-pods.txt": ("describe", "pods", "--all-namespaces"),
    "described-nodes.txt": ("describe", "nodes"),
    "events.txt": ("get", "events", "--all-namespaces", "--sort-by=.lastTimestamp"),
    "fleets-and-policies.yaml": ("get", "modelfleets,routingpolicies", "--all-namespaces", "--output=yaml"),
}
# The names under which containers of the product publish a port that serves /metrics.
_METRICS_PORTS = {"metrics", "http", "admin", "probes", "sidecar-metrics"}
_METRICS_SECONDS = 5.0


def collect(cluster: Cluster, name: str) -> Path:
    """Write all that can be learned now into the folder `name` of the run; return that folder.

    What can not be learned is written down as such, so that this never hides the failure that it is about.
    """
    folder = cluster.folder / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, arguments in _VIEWS.items():
        done = cluster.run("kubectl", *arguments)
        (folder / file).write_text(done.stdout + done.stderr)
    for pod, address, port in _metrics(cluster):
        (folder / f"metrics-{pod}-{port}.txt").write_text(_scrape(f"http://{address}:{port}/metrics"))
    rules = subprocess.run(["iptables-save"], capture_output=True, text=True, check=False)
    (folder / "packet-filter.txt").write_text(rules.stdout + rules.stderr)
    keep_logs(cluster.state, folder)
    return folder


def kept(cluster: Cluster) -> bool:
    """Return whether something of this run was collected already."""
    return any(path != cluster.state for path in cluster.folder.iterdir())


def keep_logs(state: Path, folder: Path) -> None:
    """Copy the logs of the cluster's programs and of all pods, earlier containers included, into `folder`."""
    for log in sorted(
        [*state.glob("*.log"), *state.glob("control-plane/*.log"), *state.glob("pods/*/*/*.log*")]
    ):
        # The path of a pod's log names namespace, pod, uid and container: one flat name is easier to find.
        flat = "-".join(log.relative_to(state).parts)
        (folder / "logs").mkdir(parents=True, exist_ok=True)
        shutil.copyfile(log, folder / "logs" / flat)


def _metrics(cluster: Cluster) -> Iterator[tuple[str, str, int]]:
    """Yield name, address and port of each place in running pods that serves metrics."""
    try:
        pods = cluster.get("pods", "--all-namespaces", "--field-selector=status.phase=Running")["items"]
    except ClusterError:
        return  # the API server does not answer: `objects.txt` says so
    for pod in pods:
        for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
            for port in container.get("ports", []):
                if port.get("name") in _METRICS_PORTS:
                    name = f"{pod['metadata']['namespace']}-{pod['metadata']['name']}"
                    yield name, pod["status"]["podIP"], port["containerPort"]


def _scrape(address: str) -> str:
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(address, timeout=_METRICS_SECONDS) as answer:
            return str(answer.read().decode(errors="replace"))
    except OSError as error:
        return f"{address}: {error}\n"
