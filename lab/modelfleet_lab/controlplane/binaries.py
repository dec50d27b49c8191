"""Finds programs of a control plane and of a node, Helm and grpcurl, or builds them from Go modules.

In come the environment and the cache folder; out goes the path of each program, for `start` and `node`.
Looked at: `$KUBEBUILDER_ASSETS`, if it has all that are asked for; then the cache; what is missing there Go
builds, under a lock. `python -m modelfleet_lab.controlplane.binaries control-plane helm node` does this for
the groups of programs that it names and prints where they are.
"""

from __future__ import annotations

import argparse
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path

VERSION = "v1.36.3"
"""The Kubernetes release that `modules/kubernetes/go.mod` names; the cache has one folder for each."""

_PACKAGES = {
    "etcd": ("etcd", "go.etcd.io/etcd/server/v3"),
    "kube-apiserver": ("kubernetes", "k8s.io/kubernetes/cmd/kube-apiserver"),
    "kube-controller-manager": ("kubernetes", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    "kubectl": ("kubernetes", "k8s.io/kubernetes/cmd/kubectl"),
    "helm": ("helm", "helm.sh/helm/v3/cmd/helm"),
    "kube-scheduler": ("kubernetes", "k8s.io/kubernetes/cmd/kube-scheduler"),
    "kubelet": ("kubernetes", "k8s.io/kubernetes/cmd/kubelet"),
    "kube-proxy": ("kubernetes", "k8s.io/kubernetes/cmd/kube-proxy"),
    "coredns": ("coredns", "."),
    "pause": ("pause", "."),
    "grpcurl": ("grpcurl", "github.com/fullstorydev/grpcurl/cmd/grpcurl"),
}
CONTROL_PLANE = ("etcd", "kube-apiserver", "kube-controller-manager", "kubectl")
HELM = ("helm",)
NODE = ("kube-scheduler", "kubelet", "kube-proxy", "coredns", "pause")
GRPCURL = ("grpcurl",)
GROUPS = {"control-plane": CONTROL_PLANE, "helm": HELM, "node": NODE, "grpcurl": GRPCURL}

_MAJOR, _MINOR, _ = VERSION.removeprefix("v").split(".")
# What a program says of itself, and for Helm also which Kubernetes it renders charts for without a cluster.
_STAMPS = {
    "kubernetes": {
        "k8s.io/component-base/version.gitVersion": VERSION,
        "k8s.io/component-base/version.gitMajor": _MAJOR,
        "k8s.io/component-base/version.gitMinor": _MINOR,
        "k8s.io/component-base/version.gitTreeState": "clean",
    },
    "helm": {
        "helm.sh/helm/v3/pkg/lint/rules.k8sVersionMajor": _MAJOR,
        "helm.sh/helm/v3/pkg/lint/rules.k8sVersionMinor": _MINOR,
        "helm.sh/helm/v3/pkg/chartutil.k8sVersionMajor": _MAJOR,
        "helm.sh/helm/v3/pkg/chartutil.k8sVersionMinor": _MINOR,
    },
}
_PROGRESS_SECONDS = 30.0

Report = Callable[[str], None]


class BinariesError(RuntimeError):
    """The programs could not be found or built; the message says what to do."""


def cache_folder() -> Path:
    """Return where built programs are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "modelfleet" / "kubernetes" / VERSION


def find_or_build(report: Report, wanted: Sequence[str] = CONTROL_PLANE) -> Mapping[str, Path]:
    """Return the path of each program of `wanted`; `report` gets a line for each step that takes time.

    Raises `BinariesError` when a program has to be built and Go is missing or fails.
    """
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets:
        found = _present(Path(assets), wanted)
        if len(found) == len(wanted):
            return found
        missing = ", ".join(name for name in wanted if name not in found)
        report(f"KUBEBUILDER_ASSETS={assets} is not used: it has no {missing}")
    folder = cache_folder()
    if len(_present(folder, wanted)) < len(wanted):
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder / ".lock", report):
            for name in wanted:
                if not _present(folder, [name]):
                    _build(name, folder, report)
    return _present(folder, wanted)


def _present(folder: Path, wanted: Sequence[str]) -> Mapping[str, Path]:
    paths = {name: folder / name for name in wanted}
    return {name: path for name, path in paths.items() if os.access(path, os.X_OK)}


@contextmanager
def _lock(path: Path, report: Report) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"waiting for another build that holds {path}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(name: str, folder: Path, report: Report) -> None:
    go = shutil.which("go")
    if go is None:
        raise BinariesError(
            f"{name} {VERSION} is neither in $KUBEBUILDER_ASSETS nor in {folder}, and there is no `go` on "
            "PATH to build it: install Go 1.26 or later, or point KUBEBUILDER_ASSETS at a folder that has "
            + ", ".join(next(group for group in GROUPS.values() if name in group))
        )
    module, package = _PACKAGES[name]
    stamp = "".join(f" -X {variable}={value}" for variable, value in _STAMPS.get(module, {}).items())
    with tempfile.TemporaryDirectory(prefix="build-", dir=folder) as scratch:
        for source in resources.files(__package__).joinpath("modules", module).iterdir():
            Path(scratch, source.name).write_bytes(source.read_bytes())
        built = Path(scratch, name)
        command = [go, "build", "-trimpath", "-ldflags", f"-s -w{stamp}", "-o", str(built), package]
        _run(command, Path(scratch), name, report)
        built.replace(folder / name)  # a program in the cache is always whole


def _run(command: list[str], directory: Path, name: str, report: Report) -> None:
    """Run a build, with a line now and then: on two cores the API server takes about 11 minutes."""
    started = time.monotonic()
    report(f"building {name} for Kubernetes {VERSION} with Go, once; this takes minutes")
    log = directory / "build.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=directory, stdout=output, stderr=output, env={**os.environ, "CGO_ENABLED": "0"}
        )
        try:
            while True:
                try:
                    code = process.wait(_PROGRESS_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    report(f"building {name}: {time.monotonic() - started:.0f} s so far")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
    if code != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
        raise BinariesError(f"`{' '.join(command)}` failed with exit code {code}:\n{tail}")
    report(f"built {name} in {time.monotonic() - started:.0f} s")


def main(arguments: Sequence[str]) -> int:
    """Make sure that every program of the named groups is there; print their paths."""
    parser = argparse.ArgumentParser(prog="python -m modelfleet_lab.controlplane.binaries")
    parser.add_argument("group", nargs="+", choices=list(GROUPS), help="programs that are wanted")
    wanted = [name for group in parser.parse_args(arguments).group for name in GROUPS[group]]
    try:
        programs = find_or_build(lambda line: print(line, file=sys.stderr, flush=True), wanted)
    except BinariesError as error:
        print(error, file=sys.stderr)
        return 1
    for path in programs.values():
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
