"""The control plane's programs are found where they are, and built once where they are not."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from modelfleet_lab.controlplane import binaries

FAKE_GO = """#!/bin/sh
test -s go.mod || exit 3
if grep -q require go.mod; then test -s go.sum || exit 3; fi
while [ "$1" != -o ]; do shift; done
echo "$2" >> "$LOG"
printf '#!/bin/sh\\n' > "$2"
chmod +x "$2"
"""


@pytest.fixture(autouse=True)
def _empty_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("LOG", str(tmp_path / "log"))


def _program(path: Path, content: str = "#!/bin/sh\n") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(0o755)


def _install_go(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str) -> None:
    _program(tmp_path / "go" / "go", content)
    monkeypatch.setenv("PATH", str(tmp_path / "go"), prepend=":")


def test_a_complete_folder_of_assets_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in binaries.CONTROL_PLANE:
        _program(tmp_path / "assets" / name)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    lines: list[str] = []
    assert binaries.find_or_build(lines.append)["etcd"] == tmp_path / "assets" / "etcd"
    assert lines == []


def test_incomplete_assets_are_named_and_the_cache_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _program(tmp_path / "assets" / "etcd")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    for name in binaries.CONTROL_PLANE:
        _program(binaries.cache_folder() / name)
    lines: list[str] = []
    assert binaries.find_or_build(lines.append)["etcd"] == binaries.cache_folder() / "etcd"
    assert "no kube-apiserver, kube-controller-manager, kubectl" in lines[0]


def test_without_go_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(binaries.BinariesError, match=r"install Go .* or point KUBEBUILDER_ASSETS"):
        binaries.find_or_build(lambda _: None)


def test_the_programs_of_a_node_are_found_apart_from_the_control_planes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in binaries.CONTROL_PLANE:
        _program(tmp_path / "assets" / name)
    for name in binaries.NODE:
        _program(binaries.cache_folder() / name)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path / "assets"))
    assert set(binaries.find_or_build(lambda _: None)) == set(binaries.CONTROL_PLANE)
    lines: list[str] = []
    assert set(binaries.find_or_build(lines.append, binaries.NODE)) == set(binaries.NODE)
    assert len(lines) == 1
    assert "no kube-scheduler, kubelet, kube-proxy, coredns, pause" in lines[0]


def test_the_name_server_is_built_from_the_projects_own_main_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _install_go(monkeypatch, tmp_path, FAKE_GO.replace("test -s go.mod", "test -s go.mod && test -s main.go"))
    found = binaries.find_or_build(lambda _: None, ["coredns"])
    assert found == {"coredns": binaries.cache_folder() / "coredns"}


def test_what_is_missing_can_be_asked_for_by_group(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _install_go(monkeypatch, tmp_path, FAKE_GO)
    assert binaries.main(["helm", "node"]) == 0
    printed = [Path(line).name for line in capsys.readouterr().out.splitlines()]
    assert printed == ["helm", *binaries.NODE]


def test_parallel_runs_build_each_program_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _install_go(monkeypatch, tmp_path, FAKE_GO)
    found: list[object] = []

    def build() -> None:
        found.append(binaries.find_or_build(lambda _: None))

    threads = [threading.Thread(target=build) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    built = [Path(line).name for line in (tmp_path / "log").read_text().splitlines()]
    assert sorted(built) == sorted(binaries.CONTROL_PLANE)
    assert found == [{name: binaries.cache_folder() / name for name in binaries.CONTROL_PLANE}] * 3


def test_a_failed_build_shows_the_compilers_words_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _install_go(monkeypatch, tmp_path, "#!/bin/sh\necho 'undefined: x' >&2\nexit 2\n")
    with pytest.raises(binaries.BinariesError, match=r"exit code 2:\n.*undefined: x"):
        binaries.find_or_build(lambda _: None)
    assert [path.name for path in binaries.cache_folder().iterdir()] == [".lock"]
