"""Finds the control plane's programs, or builds them from their Go modules into a cache.

In come the environment and the cache folder; out goes the path of each program, for `start`. Looked at:
`$KUBEBUILDER_ASSETS`, if it has all of them; then the cache; what is missing there Go builds, under a lock.
`python -m modelfleet_lab.controlplane.binaries` does this and prints where they are.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
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
}
PROGRAMS = tuple(_PACKAGES)
_PROGRESS_SECONDS = 30.0

Report = Callable[[str], None]


class BinariesError(RuntimeError):
    """The programs could not be found or built; the message says what to do."""


def cache_folder() -> Path:
    """Return where built programs are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "modelfleet" / "kubernetes" / VERSION


def find_or_build(report: Report) -> Mapping[str, Path]:
    """Return the path of each of `PROGRAMS`; `report` gets a line for each step that takes time.

    Raises `BinariesError` when a program has to be built and Go is missing or fails.
    """
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets:
        found = _present(Path(assets))
        if len(found) == len(PROGRAMS):
            return found
        missing = ", ".join(name for name in PROGRAMS if name not in found)
        report(f"KUBEBUILDER_ASSETS={assets} is not used: it has no {missing}")
    folder = cache_folder()
    if len(_present(folder)) < len(PROGRAMS):
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder / ".lock", report):
            for name in PROGRAMS:
                if name not in _present(folder):
                    _build(name, folder, report)
    return _present(folder)


def _present(folder: Path) -> Mapping[str, Path]:
    paths = {name: folder / name for name in PROGRAMS}
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
            + ", ".join(PROGRAMS)
        )
    module, package = _PACKAGES[name]
    stamp = f"-X k8s.io/component-base/version.gitVersion={VERSION}"
    major, minor, _ = VERSION.removeprefix("v").split(".")
    stamp += f" -X k8s.io/component-base/version.gitMajor={major}"
    stamp += f" -X k8s.io/component-base/version.gitMinor={minor}"
    stamp += " -X k8s.io/component-base/version.gitTreeState=clean"
    with tempfile.TemporaryDirectory(prefix="build-", dir=folder) as scratch:
        for file in ("go.mod", "go.sum"):
            source = resources.files(__package__).joinpath("modules", module, file)
            Path(scratch, file).write_bytes(source.read_bytes())
        built = Path(scratch, name)
        command = [go, "build", "-trimpath", "-ldflags", f"-s -w {stamp}", "-o", str(built), package]
        _run(command, Path(scratch), name, report)
        built.replace(folder / name)  # a program in the cache is always whole


def _run(command: list[str], directory: Path, name: str, report: Report) -> None:
    """Run a build, with a line now and then: on two cores the API server takes about 11 minutes."""
    started = time.monotonic()
    report(f"building {name} {VERSION} with Go, once; this takes minutes")
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


def main() -> int:
    """Make sure that every program is there; print their paths."""
    try:
        programs = find_or_build(lambda line: print(line, file=sys.stderr, flush=True))
    except BinariesError as error:
        print(error, file=sys.stderr)
        return 1
    for path in programs.values():
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
