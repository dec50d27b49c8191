"""Gives a new mount namespace the file tree of a node: what is written by it stays in one folder.

In comes the cluster's state folder; the machine's files look as before, but what containers, network plugins
and the kubelet keep goes to that folder or to memory, and every mount ends with the namespace. Called by
`isolation` in its first process.
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

SERVICE_NETWORK = "10.96.0.0/16"
_RUN = Path("/run")
# Where containers, network plugins and the kubelet keep things of their own making.
_WRITTEN_TO = (Path("/var/lib"), Path("/var/log"), Path("/opt"))
# Large or worth reading afterwards: on the disk of the state folder. The rest may lie in memory.
KEPT = {
    "containerd": Path("/var/lib/containerd"),
    "kubelet": Path("/var/lib/kubelet"),
    "pods": Path("/var/log/pods"),
}
# The kubelet writes these where they differ, and they belong to the whole machine.
_KERNEL = {
    "vm/overcommit_memory": "1",
    "vm/panic_on_oom": "0",
    "kernel/panic": "10",
    "kernel/panic_on_oops": "1",
    "kernel/keys/root_maxkeys": "1000000",
    "kernel/keys/root_maxbytes": "25000000",
}

_MS_NOSUID, _MS_NODEV, _MS_NOEXEC, _MS_BIND, _MS_REC, _MS_PRIVATE = 2, 4, 8, 4096, 16384, 1 << 18
_libc = ctypes.CDLL(None, use_errno=True)


def set_up(state: Path, resolver: str) -> None:
    """Mount a node's file tree in this process's own mount namespace; names are resolved by `resolver`.

    Raises `OSError` that names the mount that failed.
    """
    _mount("none", Path("/"), None, _MS_REC | _MS_PRIVATE)
    _mount("proc", Path("/proc"), "proc", _MS_NOSUID | _MS_NODEV | _MS_NOEXEC)
    _mount("tmpfs", _RUN, "tmpfs", _MS_NOSUID | _MS_NODEV)
    for folder in _WRITTEN_TO:
        _shadow(folder)
    for name, path in KEPT.items():
        (state / name).mkdir(parents=True, exist_ok=True)
        path.mkdir(parents=True, exist_ok=True)
        _bind(state / name, path)
    names = state / "resolv.conf"
    search = "default.svc.cluster.local svc.cluster.local cluster.local"
    names.write_text(f"nameserver {resolver}\nsearch {search}\noptions ndots:5\n")
    _replace(Path("/etc/resolv.conf").resolve(), names)
    for name, wanted in _KERNEL.items():
        setting = Path("/proc/sys", name)
        if setting.exists() and setting.read_text().strip() != wanted:
            stand_in = state / "kernel" / name
            stand_in.parent.mkdir(parents=True, exist_ok=True)
            stand_in.write_text(wanted + "\n")
            _bind(stand_in, setting)


def overlay_works(state: Path) -> bool:
    """Return whether the state folder's file system can hold the upper layer of an overlay; tries it."""
    scratch = state / "overlay"
    for part in ("lower", "upper", "work", "merged"):
        (scratch / part).mkdir(parents=True)
    options = f"lowerdir={scratch}/lower,upperdir={scratch}/upper,workdir={scratch}/work"
    try:
        _mount("overlay", scratch / "merged", "overlay", 0, options)
    except OSError:
        return False
    if _libc.umount2(os.fsencode(scratch / "merged"), 0) != 0:
        raise OSError(ctypes.get_errno(), f"can not unmount {scratch / 'merged'}")
    return True


def _shadow(folder: Path) -> None:
    """Put a file system in memory over `folder` that shows what is in it; what is new there goes with it."""
    held = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        entries = list(os.scandir(folder))
        _mount("tmpfs", folder, "tmpfs", _MS_NOSUID | _MS_NODEV)
        for entry in entries:
            target = folder / entry.name
            if entry.is_symlink():
                target.symlink_to(os.readlink(entry.name, dir_fd=held))
                continue
            if entry.is_dir():
                target.mkdir()
            else:
                target.touch()
            _bind(Path(f"/proc/self/fd/{held}", entry.name), target)
    finally:
        os.close(held)


def _replace(path: Path, by: Path) -> None:
    if path.is_relative_to(_RUN):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    if path.exists():
        _bind(by, path)


def _bind(source: Path, target: Path) -> None:
    _mount(str(source), target, None, _MS_BIND | _MS_REC)


def _mount(source: str, target: Path, kind: str | None, flags: int, options: str = "") -> None:
    arguments = (os.fsencode(source), os.fsencode(target), kind.encode() if kind else None)
    if _libc.mount(*arguments, ctypes.c_ulong(flags), options.encode() or None) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"can not mount {source} on {target}: {os.strerror(error)}")
