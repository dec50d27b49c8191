"""The parts of a cluster that need no root: its images, what it asks of the system, how it is found."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest
from modelfleet_lab.cluster import __main__ as command
from modelfleet_lab.cluster import access, archives, cgroups, evidence, prerequisites


def test_an_archive_holds_the_program_under_digests_that_are_right(tmp_path: Path) -> None:
    program = tmp_path / "pause"
    program.write_bytes(b"static")
    archives.write(tmp_path / "image.tar", "localhost/pause:1", program)
    with tarfile.open(tmp_path / "image.tar") as image:
        files = {entry.name: image.extractfile(entry).read() for entry in image}  # type: ignore[union-attr]
    blobs = {name.rpartition("/")[2]: content for name, content in files.items() if name.startswith("blobs/")}
    assert {hashlib.sha256(content).hexdigest() for content in blobs.values()} == set(blobs)
    (entry,) = json.loads(files["index.json"])["manifests"]
    assert entry["annotations"] == {"org.opencontainers.image.ref.name": "localhost/pause:1"}
    manifest = json.loads(blobs[entry["digest"].removeprefix("sha256:")])
    config = json.loads(blobs[manifest["config"]["digest"].removeprefix("sha256:")])
    assert config["config"] == {"Entrypoint": ["/pause"], "User": "65532:65532"}
    (layer,) = manifest["layers"]
    assert config["rootfs"]["diff_ids"] == [layer["digest"]]
    with tarfile.open(fileobj=io.BytesIO(blobs[layer["digest"].removeprefix("sha256:")])) as content:
        (member,) = content.getmembers()
        assert (member.name, member.mode) == ("pause", 0o755)


def test_a_machine_without_a_runtime_is_told_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(
        prerequisites.PrerequisiteError, match=r"apt-get install .*containerd.* iptables .*runc"
    ):
        prerequisites.require()


def test_who_is_not_root_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(prerequisites.PrerequisiteError, match="run it as root"):
        prerequisites.require()


def test_what_is_missing_is_installed_once_and_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    apt = tmp_path / "apt-get"
    apt.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/log\n')
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    lines: list[str] = []
    prerequisites.install(lines.append, images=True)
    update, install = (tmp_path / "log").read_text().splitlines()
    assert update == "update"
    assert {"containerd", "runc", "iptables", "conntrack", "buildah", "debootstrap"} <= set(install.split())
    assert len(lines) == 1
    assert install in lines[0]


def test_a_failed_installation_shows_what_apt_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    apt = tmp_path / "apt-get"
    apt.write_text("#!/bin/sh\necho 'no such mirror' >&2\nexit 100\n")
    apt.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("os.geteuid", lambda: 0)
    with pytest.raises(prerequisites.PrerequisiteError, match="no such mirror"):
        prerequisites.install(lambda _: None, images=False)


def test_outside_a_cluster_it_is_said_how_to_get_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(access.VARIABLE, raising=False)
    with pytest.raises(access.ClusterError, match="make test-cluster"):
        access.Cluster.current()


@pytest.mark.parametrize("version", [1, 2])
def test_all_groups_of_a_cluster_are_removed_and_no_others(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, version: int
) -> None:
    roots = [tmp_path] if version == 2 else [tmp_path / "cpu", tmp_path / "memory"]
    for root in roots:
        root.mkdir(exist_ok=True)
        (root / "another" / "pod").mkdir(parents=True)
    if version == 2:
        (tmp_path / "cgroup.controllers").touch()
    monkeypatch.setattr(cgroups, "_ROOT", tmp_path)
    cgroups.make("modelfleet-run")
    for root in roots:
        (root / "modelfleet-run" / "kubepods" / "besteffort" / "pod").mkdir(parents=True)
    cgroups.remove("modelfleet-run")
    assert all(sorted(path.name for path in root.iterdir() if path.is_dir()) == ["another"] for root in roots)
    cgroups.remove("modelfleet-run")


def test_logs_of_parts_and_pods_are_kept_and_their_secrets_are_not(tmp_path: Path) -> None:
    state = tmp_path / "state"
    for name in (
        "kubelet.log",
        "control-plane/etcd.log",
        "control-plane/admin.kubeconfig",
        "pods/a_b_c/app/0.log",
    ):
        (state / name).parent.mkdir(parents=True, exist_ok=True)
        (state / name).write_text(name)
    evidence.keep_logs(state, tmp_path / "kept")
    kept = {path.name: path.read_text() for path in (tmp_path / "kept" / "logs").iterdir()}
    assert kept == {
        "kubelet.log": "kubelet.log",
        "control-plane-etcd.log": "control-plane/etcd.log",
        "pods-a_b_c-app-0.log": "pods/a_b_c/app/0.log",
    }


def test_a_mistake_of_the_user_ends_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert command.main([f"--output={tmp_path / 'out'}", "true"]) == 1
    assert "run it as root" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
