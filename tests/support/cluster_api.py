"""Requests to the API server without kubectl, where many are wanted or each is timed; a watch over GPUs."""

from __future__ import annotations

import http.client
import json
import ssl
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from modelfleet_lab.cluster.access import GPU, Cluster

_POLL = 0.5


class Api:
    """One connection of an administrator, for one thread; `with` closes it."""

    def __init__(self, cluster: Cluster) -> None:
        config = json.loads(cluster.kubeconfig.read_text())
        server = config["clusters"][0]["cluster"]
        context = ssl.create_default_context(cafile=server["certificate-authority"])
        address = urlsplit(server["server"])
        self._token = config["users"][0]["user"]["token"]
        self._connection = http.client.HTTPSConnection(
            address.hostname or "", address.port, context=context, timeout=30
        )

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def ask(self, method: str, path: str, body: Mapping[str, object] | None = None) -> tuple[Any, float]:
        """Return the parsed answer and how many seconds it took; fails on a status that is no success."""
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        given = json.dumps(body) if body is not None else None
        started = time.perf_counter()
        self._connection.request(method, path, body=given, headers=headers)
        response = self._connection.getresponse()
        content = response.read()
        took = time.perf_counter() - started
        assert response.status < 300, f"{method} {path}: {response.status} {content[:500]!r}"
        return json.loads(content), took

    def rehearse_pod(self, namespace: str, pod: Mapping[str, object]) -> tuple[Any, float]:
        """Create a pod as far as admission goes; return what would be stored, and the seconds."""
        return self.ask("POST", f"/api/v1/namespaces/{namespace}/pods?dryRun=All", pod)


class GpuWatch:
    """What pods of a namespace hold of the node's GPUs, looked at twice a second."""

    def __init__(self) -> None:
        self.peak = 0
        self.most: list[str] = []
        """The pods of the peak."""
        self.unschedulable: set[str] = set()
        """Pods that the scheduler found no room for."""

    def look(self, pods: Mapping[str, Any]) -> None:
        """Take in a list of pods; those that run, start or end hold their GPUs."""
        holders: dict[str, int] = {}
        for pod in pods["items"]:
            name, status = pod["metadata"]["name"], pod["status"]
            limits = [c.get("resources", {}).get("limits", {}) for c in pod["spec"]["containers"]]
            asked = sum(int(limit.get(GPU, 0)) for limit in limits)
            if asked and pod["spec"].get("nodeName") and status.get("phase") not in ("Succeeded", "Failed"):
                holders[name] = asked
            for condition in status.get("conditions", ()):
                if condition.get("reason") == "Unschedulable":
                    self.unschedulable.add(name)
        if sum(holders.values()) > self.peak:
            self.peak, self.most = sum(holders.values()), sorted(holders)


@contextmanager
def watching_gpus(cluster: Cluster, namespace: str) -> Iterator[GpuWatch]:
    """Look at the pods of `namespace` until the block ends; fails if that ever failed."""
    watch, stop, broken = GpuWatch(), threading.Event(), []

    def look() -> None:
        try:
            with Api(cluster) as api:
                while not stop.wait(_POLL):
                    watch.look(api.ask("GET", f"/api/v1/namespaces/{namespace}/pods")[0])
        except (OSError, http.client.HTTPException, AssertionError) as error:
            broken.append(error)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield watch
    finally:
        stop.set()
        thread.join()
    assert not broken, f"the watch over GPUs ended: {broken[0]!r}"


def memory_of(cluster: Cluster, pod: str, namespace: str, container: str) -> int:
    """Return the resident memory of a container's first process in bytes, as its kernel counts it."""
    read = "print(open('/proc/1/status').read())"
    status = cluster.kubectl(
        "exec", pod, f"--namespace={namespace}", f"--container={container}", "--", "python3", "-c", read
    )
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
    return int(line.split()[1]) * 1024
