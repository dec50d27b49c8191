"""Runs a command, or an interactive shell, in a fresh cluster that ends with it.

`python -m modelfleet_lab.cluster [--images] [--containerfile FILE] [--gpus N] [COMMAND ...]`: the command
finds kubectl and helm on its PATH and the cluster in KUBECONFIG; pods and Services are reached by address and
name. The exit code is the command's. What a failed run leaves lies in a folder below out/cluster that is
printed.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType

from modelfleet_lab.cluster import access, cgroups, containers, evidence, isolation, node, prerequisites
from modelfleet_lab.controlplane import binaries, daemon, images

ROOT = Path(__file__).parents[3]
"""The repository, whose images can be built."""
_FAILURES = (
    access.ClusterError,
    binaries.BinariesError,
    cgroups.CgroupError,
    containers.ImageError,
    daemon.DaemonError,
    images.ImagesError,
    isolation.IsolationError,
    prerequisites.PrerequisiteError,
)


def main(arguments: Sequence[str]) -> int:
    """Run the program; return its exit code."""
    options = _parse(arguments)
    try:
        if options.install:
            prerequisites.install(_report, images=bool(options.images or options.containerfile))
        plugins = prerequisites.require()
        programs = binaries.find_or_build(_report, node.PROGRAMS)
        archives = list(options.image)
        recipes = [
            *(images.programs() if options.images else ()),
            *map(images.recipe_of, options.containerfile),
        ]
        if recipes:
            built = images.find_or_build(ROOT, recipes, _report)
            archives += [archive.path for archive in built.values()]
        with isolation.run_folder(options.output) as folder:

            def inside() -> int:
                try:
                    return _inside(folder, programs, plugins, archives, options)
                except _FAILURES as error:
                    print(error, file=sys.stderr)
                    return 1

            code = isolation.run(inside, folder / "state")
            if code != 0:
                evidence.keep_logs(folder / "state", folder / "at-the-end")
                _report(f"ended with exit code {code}; what is known of it lies in {folder}")
        return code
    except _FAILURES as error:
        print(error, file=sys.stderr)
        return 1


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m modelfleet_lab.cluster",
        description="Run a command, or an interactive shell, in a fresh Kubernetes cluster of one node.",
    )
    parser.add_argument(
        "--images", action="store_true", help="build the product's images and give the node them"
    )
    parser.add_argument(
        "--image", type=Path, action="append", default=[], help="an OCI archive for the node; may be repeated"
    )
    parser.add_argument(
        "--containerfile",
        type=Path,
        action="append",
        default=[],
        help="path from the repository's root of one more image to build for the node; may be repeated",
    )
    parser.add_argument("--gpus", type=int, default=0, help="GPUs of the node, %(default)s by default")
    parser.add_argument("--install", action="store_true", help="install missing system packages with apt-get")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("out/cluster"),
        help="folder for state and logs, %(default)s by default",
    )
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, help="what to run, by default an interactive shell"
    )
    options = parser.parse_args(arguments)
    if options.command[:1] == ["--"]:
        del options.command[0]
    return options


def _inside(
    folder: Path,
    programs: Mapping[str, Path],
    plugins: Path,
    archives: Sequence[Path],
    options: argparse.Namespace,
) -> int:
    """Run the cluster and in it the command; return the command's exit code, for a shell 0."""
    started = time.monotonic()
    with node.running(folder, programs, plugins, archives) as cluster:
        cluster.set_gpus(options.gpus)
        _report(
            f"the cluster is ready after {time.monotonic() - started:.0f} s; its logs lie in {cluster.state}"
        )
        if not options.command:
            shell = os.environ.get("SHELL", "/bin/sh")
            _report("kubectl and helm are on the PATH; the cluster ends with this shell")
            _run([shell], cluster)
            return 0
        code = _run(options.command, cluster)
        if code != 0 and not evidence.kept(cluster):
            evidence.collect(cluster, "at-the-end")
        return code


def _run(command: Sequence[str], cluster: access.Cluster) -> int:
    """Run the command to its end, or until this process is asked to end; return its exit code."""
    process = subprocess.Popen(command, env=cluster.environment())

    def end(number: int, _: FrameType | None) -> None:
        process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, end)
    signal.signal(signal.SIGINT, lambda *_: None)  # the terminal has sent it to the command as well
    code = process.wait()
    return code if code >= 0 else 128 - code


def _report(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
