"""Starts a whole cluster of one node in the namespaces that `isolation` made, and waits until it takes pods.

In come the programs of `controlplane.binaries` and the run's folder; out goes the `access.Cluster`. The API
server and the name server listen on one address of the namespace's own network; nothing reaches in or out.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from modelfleet_lab.cluster import access, containers, isolation
from modelfleet_lab.cluster.mounts import SERVICE_NETWORK
from modelfleet_lab.controlplane import binaries, daemon, namespace, start

PROGRAMS = (*binaries.CONTROL_PLANE, *binaries.HELM, *binaries.NODE)
_DOMAIN = "cluster.local"
_DNS_READY_PORT = 8181
_ACCOUNT_SECONDS = 30


@contextmanager
def running(
    folder: Path, programs: Mapping[str, Path], plugins: Path, archives: Sequence[Path] = ()
) -> Iterator[access.Cluster]:
    """Run a cluster with the images of `archives` until the block ends; `plugins` are the network's plugins.

    Raises `daemon.DaemonError`, which names the part that failed, with the end of its log, and
    `containers.ImageError`.
    """
    cluster = access.Cluster(folder)
    state = cluster.state
    _link(programs, state / "bin")
    # A route must exist before Services' addresses are replaced by pods', even for programs of this node.
    _ip("route", "add", SERVICE_NETWORK, "dev", "lo", "src", namespace.ADDRESS)
    with contextlib.ExitStack() as stack:

        def begin(name: str, *arguments: str) -> daemon.Daemon:
            return stack.enter_context(daemon.running(name, programs[name], arguments, state))

        stack.enter_context(containers.running(state, plugins, programs["pause"]))
        # One after another, while the rest starts: they share layers.
        loader = stack.enter_context(ThreadPoolExecutor(1))
        loading = [loader.submit(cluster.load_image, archive) for archive in archives]
        plane = stack.enter_context(
            start.running(programs, state / "control-plane", controllers=start.ALL_CONTROLLERS)
        )
        begin("kube-scheduler", f"--kubeconfig={plane.kubeconfig}", "--leader-elect=false", "--secure-port=0")
        kubelet = begin(
            "kubelet",
            f"--config={_write(state / 'kubelet.json', _kubelet(isolation.cgroup_of(folder)))}",
            f"--kubeconfig={plane.kubeconfig}",
            f"--hostname-override={access.NODE_NAME}",
            f"--node-ip={namespace.ADDRESS}",
        )
        begin("kube-proxy", f"--config={_write(state / 'kube-proxy.json', _kube_proxy(plane.kubeconfig))}")
        (state / "Corefile").write_text(_corefile(plane.kubeconfig))
        dns = begin("coredns", f"-conf={state / 'Corefile'}")
        kubelet.require(lambda: _why_node_not_ready(plane))
        dns.require(_why_names_not_ready)
        cluster.kubectl(
            "wait",
            "--for=create",
            "serviceaccount/default",
            f"--timeout={_ACCOUNT_SECONDS}s",
            "--namespace=default",
        )
        for image in loading:
            image.result()
        yield cluster


def _link(programs: Mapping[str, Path], folder: Path) -> None:
    folder.mkdir()
    for name, path in programs.items():
        (folder / name).symlink_to(path)


def _ip(*arguments: str) -> None:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise daemon.DaemonError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")


def _write(path: Path, value: Mapping[str, object]) -> Path:
    path.write_text(json.dumps(value, indent=2))
    return path


def _kubelet(cgroup: str) -> Mapping[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "failCgroupV1": False,
        "failSwapOn": False,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroup}",
        "enforceNodeAllocatable": [],
        "containerRuntimeEndpoint": f"unix://{containers.SOCKET}",
        # The API server has no certificate to show, and who is in this network is the administrator anyway.
        "authentication": {"anonymous": {"enabled": True}, "webhook": {"enabled": False}},
        "authorization": {"mode": "AlwaysAllow"},
        "clusterDomain": _DOMAIN,
        "clusterDNS": [namespace.ADDRESS],
        "volumePluginDir": "/var/lib/kubelet/volume-plugins",
        # A developer's disk may be quite full, and images that are gone can not be pulled again.
        "evictionHard": {"nodefs.available": "1%", "imagefs.available": "1%", "memory.available": "50Mi"},
        "imageGCHighThresholdPercent": 100,
    }


def _kube_proxy(kubeconfig: Path) -> Mapping[str, object]:
    return {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "mode": "iptables",
        "clusterCIDR": namespace.NETWORK,
        "hostnameOverride": access.NODE_NAME,
        "conntrack": {"maxPerCore": 0},
    }


def _corefile(kubeconfig: Path) -> str:
    return f""".:53 {{
  bind {namespace.ADDRESS}
  errors
  ready 127.0.0.1:{_DNS_READY_PORT}
  kubernetes {_DOMAIN} in-addr.arpa {{
    kubeconfig {kubeconfig}
  }}
  cache 5
}}
"""


def _why_node_not_ready(plane: start.ControlPlane) -> str:
    query = '{.status.conditions[?(@.type=="Ready")].status} {.status.conditions[?(@.type=="Ready")].message}'
    done = plane.run_kubectl("get", "node", access.NODE_NAME, f"--output=jsonpath={query}")
    if done.returncode != 0:
        return done.stderr.strip()
    return "" if done.stdout.startswith("True ") else done.stdout.strip()


def _why_names_not_ready() -> str:
    try:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"http://127.0.0.1:{_DNS_READY_PORT}/ready", timeout=5):
            return ""
    except OSError as error:  # refused, or it answers 503 until it has read the Services
        return str(error)
