"""A cluster leaves nothing of itself on the machine, however it ends. These clusters run inside this one."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator, Set
from contextlib import contextmanager
from pathlib import Path

import pytest
from modelfleet_lab.cluster import isolation
from modelfleet_lab.cluster.access import Cluster
from support import cluster_node as pods

pytestmark = pytest.mark.cluster
CODES = {
    "its command ends": 0,
    "its command fails": 4,
    "its first process is killed": 128 + signal.SIGKILL,
    "it is told to end": 128 + signal.SIGTERM,
}
NOTHING: dict[str, list[str]] = {
    kind: [] for kind in ("processes", "mounts", "links", "packet filters", "cgroups")
}
# Runs one pod of the answerer, then says so and waits to be ended.
SCRIPT = """
kubectl create --filename=- <<'MANIFEST'
{manifest}
MANIFEST
kubectl wait --for=condition=Ready pod/lone --timeout=60s || exit 3
echo running
read -r _
exit {code}
"""


@pytest.fixture(scope="module")
def answerer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image for the pods of the inner clusters."""
    return pods.build_answerer(tmp_path_factory.mktemp("answerer"))


@pytest.mark.parametrize("end", CODES)
def test_nothing_is_left_of_a_cluster(cluster: Cluster, answerer: Path, tmp_path: Path, end: str) -> None:
    before = _machine()
    with _cluster_inside(tmp_path, answerer, code=4 if end == "its command fails" else 0) as outside:
        assert len(_processes() - before["processes"]) > 10
        assert len(_cgroups() - before["cgroups"]) > 1
        if end == "its first process is killed":
            os.kill(_first_process(outside.pid), signal.SIGKILL)
        elif end == "it is told to end":
            outside.terminate()
        else:
            assert outside.stdin is not None
            outside.stdin.write("\n")
            outside.stdin.flush()
        code = outside.wait(timeout=120)
    assert code == CODES[end]
    assert _left(before) == NOTHING
    assert list(tmp_path.glob("out/*/state")) == []
    kept = [path.name for path in tmp_path.glob("out/*/at-the-end/logs/*")]
    assert ("kubelet.log" in kept) == (end != "its command ends")


def test_the_next_start_removes_what_a_killed_run_left(
    cluster: Cluster, answerer: Path, tmp_path: Path
) -> None:
    before = _machine()
    with _cluster_inside(tmp_path, answerer) as outside:
        first = os.pidfd_open(_first_process(outside.pid))
        with isolation.run_folder(tmp_path / "out"):
            assert len(list(tmp_path.glob("out/*/state"))) == 2, "a start leaves runs alone that live"
        outside.kill()
        assert select.select([first], [], [], 60)[0], "the first process outlives the one that started it"
        os.close(first)
    assert {name for name, left in _left(before).items() if left} == {"cgroups"}
    with isolation.run_folder(tmp_path / "out"):
        pass
    assert _left(before) == NOTHING
    assert list(tmp_path.glob("out/*/state")) == []


@contextmanager
def _cluster_inside(folder: Path, image: Path, code: int = 0) -> Iterator[subprocess.Popen[str]]:
    """Run a cluster with one pod, whose command waits for a line and then ends with `code`."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "lone"},
        "spec": {"containers": [pods.server("web", "hello")]},
    }
    script = folder / "script"
    script.write_text(SCRIPT.format(manifest=json.dumps(pod), code=code))
    options = [f"--output={folder / 'out'}", f"--image={image}"]
    command = [sys.executable, "-m", "modelfleet_lab.cluster", *options, "sh", str(script)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as outside:
        assert outside.stdout is not None
        while (line := outside.stdout.readline()) and line != "running\n":
            pass
        assert line == "running\n", f"the inner cluster did not run: exit code {outside.wait()}"
        yield outside


def _left(before: dict[str, Set[str]]) -> dict[str, list[str]]:
    return {name: sorted(found - before[name]) for name, found in _machine().items()}


def _machine() -> dict[str, Set[str]]:
    """Return what a cluster could leave: everything of its kind that there is now."""
    return {
        "processes": _processes(),
        "mounts": set(Path("/proc/self/mountinfo").read_text().splitlines()),
        "links": _lines("ip", "-oneline", "link"),
        # Rules for Services of other tests come and go in this network, which is not the inner cluster's.
        "packet filters": {
            line for line in _lines("iptables-save") if line.startswith("-A") and '"test-' not in line
        },
        "cgroups": _cgroups(),
    }


def _processes() -> Set[str]:
    """Return the processes of namespaces inside this one, each by number and start."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            status = _status(folder)
            depth = len(status["NSpid"].split())
            start = (folder / "stat").read_text().rpartition(")")[2].split()[19]
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended while we looked
        if depth > 1 and not status["State"].startswith("Z"):  # which has ended; its parent is being told
            found.add(f"{folder.name} since {start}")
    return found


def _first_process(parent: int) -> int:
    """Return the one child of `parent`, which is number 1 in its own namespace."""
    (child,) = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    assert _status(Path("/proc", child))["NSpid"].split()[1] == "1"
    return int(child)


def _status(folder: Path) -> dict[str, str]:
    lines = (folder / "status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _cgroups() -> Set[str]:
    return {str(path) for path in Path("/sys/fs/cgroup").rglob("modelfleet-*")}


def _lines(*command: str) -> Set[str]:
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines())
