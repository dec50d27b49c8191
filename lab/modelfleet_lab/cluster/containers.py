"""Starts containerd for the node, with a network for pods and the image that every pod rests on.

In come the state folder and the network plugins; out goes its socket for the kubelet. Pods get addresses of
`POD_NETWORK`, each with a route of its own, so that all their traffic passes the packet filters of Services.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from modelfleet_lab.cluster import archives, mounts
from modelfleet_lab.controlplane import daemon

SOCKET = Path("/run/containerd/containerd.sock")
POD_NETWORK = "10.244.1.0/24"
_PAUSE = "localhost/modelfleet/pause:1"
_NETWORK = {
    "cniVersion": "0.4.0",
    "name": "pods",
    "plugins": [
        {
            "type": "ptp",
            "ipam": {
                "type": "host-local",
                "dataDir": "/run/cni",
                "ranges": [[{"subnet": POD_NETWORK}]],
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        },
        {"type": "portmap", "capabilities": {"portMappings": True}},
    ],
}


class ImageError(RuntimeError):
    """An image could not be loaded; the message says why."""


@contextmanager
def running(state: Path, plugins: Path, pause: Path) -> Iterator[daemon.Daemon]:
    """Run containerd until the block ends; `pause` is the program that holds a pod's namespaces."""
    networks = state / "networks"
    networks.mkdir()
    (networks / "10-pods.conflist").write_text(json.dumps(_NETWORK))
    snapshotter = "overlayfs" if mounts.overlay_works(state) else "native"
    config = state / "containerd.toml"
    config.write_text(_config(snapshotter, plugins, networks))
    with daemon.running("containerd", Path("containerd"), [f"--config={config}"], state) as started:
        started.require(_why_not_ready)
        archive = state / "pause.tar"
        archives.write(archive, _PAUSE, pause)
        load_image(archive)
        yield started


def load_image(archive: Path) -> Sequence[str]:
    """Give the node the images of an OCI archive; return what was said of each. Raises `ImageError`."""
    done = _ctr("images", "import", str(archive))
    if done.returncode != 0:
        raise ImageError(f"containerd does not take {archive}: {done.stderr.strip()}")
    return done.stdout.splitlines()


def _why_not_ready() -> str:
    done = _ctr("version")
    return "" if done.returncode == 0 else done.stderr.strip()


def _ctr(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["ctr", f"--address={SOCKET}", "--namespace=k8s.io", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def _config(snapshotter: str, plugins: Path, networks: Path) -> str:
    # Where the parent may not lower its own score, runc would fail ("can't get final child's PID from pipe").
    # Profiles of AppArmor would stay in the kernel after the end.
    return f"""
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "{SOCKET}"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  sandbox_image = "{_PAUSE}"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "{snapshotter}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "{plugins}"
    conf_dir = "{networks}"
"""
