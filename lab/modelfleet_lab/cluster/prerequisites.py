"""Looks for what the system must bring: a container runtime, network plugins, packet filtering.

In comes the machine; out goes where the network plugins lie, for `containers`, or an error that names what to
install. `install` does that where apt is there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

# Each program with the Debian package that brings it.
_BUILDERS = {"buildah": "buildah", "debootstrap": "debootstrap"}
_PROGRAMS = {
    "containerd": "containerd",
    "ctr": "containerd",
    "containerd-shim-runc-v2": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "conntrack": "conntrack",
    "ip": "iproute2",
    "mount": "mount",
}
_PLUGIN_PACKAGE = "containernetworking-plugins"
_PLUGINS = ("ptp", "host-local", "portmap", "loopback")
_PLUGIN_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"), Path("/usr/libexec/cni"))


class PrerequisiteError(RuntimeError):
    """Something that this machine must bring is not there; the message says what to do."""


def require() -> Path:
    """Return the folder of the network plugins; raises `PrerequisiteError` if anything is missing."""
    if os.geteuid() != 0:
        raise PrerequisiteError("a node's containers and network need root: run it as root")
    packages = missing_packages()
    folder = _plugin_folder()
    if packages or folder is None:
        names = " ".join(packages)
        raise PrerequisiteError(
            f"a node needs programs that are not here; on Debian: apt-get install {names}"
        )
    return folder


def missing_packages() -> list[str]:
    """Return the Debian packages that would bring what is missing."""
    return _missing(_PROGRAMS) + ([_PLUGIN_PACKAGE] if _plugin_folder() is None else [])


def install(report: Callable[[str], None], *, images: bool) -> None:
    """Install what is missing with apt-get, what `images` are built with included, if this is root on Debian.

    Elsewhere it is left to `require` to say so. Raises `PrerequisiteError` when apt-get fails.
    """
    packages = missing_packages() + (_missing(_BUILDERS) if images else [])
    if not packages or os.geteuid() != 0 or shutil.which("apt-get") is None:
        return
    command = ["apt-get", "install", "--yes", "--no-install-recommends", *packages]
    report(f"installing what a node needs: {' '.join(command)}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for step in (["apt-get", "update"], command):
        done = subprocess.run(step, capture_output=True, text=True, check=False, env=environment)
        if done.returncode != 0:
            raise PrerequisiteError(f"`{' '.join(step)}` failed:\n{(done.stdout + done.stderr)[-2000:]}")


def _missing(programs: Mapping[str, str]) -> list[str]:
    return sorted({package for program, package in programs.items() if shutil.which(program) is None})


def _plugin_folder() -> Path | None:
    return next(
        (folder for folder in _PLUGIN_FOLDERS if all((folder / plugin).exists() for plugin in _PLUGINS)), None
    )
