"""The shape of the repository: what may not exist, and what must stay in step."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def test_no_package_shadows_the_standard_librarys_operator() -> None:
    assert not (ROOT / "operator" / "__init__.py").exists(), (
        "operator/__init__.py shadows the operator module"
    )


def test_no_init_file_under_tests_outside_support() -> None:
    found = [path for path in (ROOT / "tests").rglob("__init__.py") if "support" not in path.parts]
    assert found == []


def test_test_files_have_unique_names() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("root", ["core", "operator", "sidecar", "lab", "client"])
def test_every_module_says_what_it_is(root: str) -> None:
    silent = [
        str(path.relative_to(ROOT))
        for path in (ROOT / root).rglob("*.py")
        if not path.read_text(encoding="utf-8").lstrip().startswith(('"""', 'r"""'))
    ]
    assert silent == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    vague = {"utils", "util", "helpers", "common", "manager", "misc", "v2"}
    named = [
        path
        for root in ("core", "operator", "sidecar", "lab", "client")
        for path in (ROOT / root).rglob("*.py")
        if vague & set(path.stem.split("_"))
    ]
    assert named == []


def test_every_direct_dependency_is_pinned_in_the_lock_file() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = list(project["project"]["dependencies"])
    for extra in project["project"]["optional-dependencies"].values():
        wanted += extra
    names = {item.split(";")[0].split("[")[0].split(">")[0].split("=")[0].strip().lower() for item in wanted}
    lock = (ROOT / "requirements.lock").read_text(encoding="utf-8").lower()
    missing = [name for name in names if name != "modelfleet" and f"\n{name}==" not in f"\n{lock}"]
    assert missing == []


def test_the_clients_own_distribution_has_the_products_version_and_the_extras_dependencies() -> None:
    whole, own = (
        tomllib.loads((ROOT / path).read_text(encoding="utf-8"))["project"]
        for path in ("pyproject.toml", "client/pyproject.toml")
    )
    assert own["version"] == whole["version"]
    extra = {name for name in own["dependencies"] if not name.startswith("protobuf")}
    assert extra == set(whole["optional-dependencies"]["client"])


def test_the_licence_is_the_apache_licence() -> None:
    assert "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")


def test_shell_scripts_and_make_targets_of_the_readme_exist() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    ci = (ROOT / ".ci/run").read_text(encoding="utf-8")
    targets = {word for line in readme.splitlines() if line.startswith("make ") for word in [line.split()[1]]}
    assert targets, "the README tells no command"
    assert [target for target in targets if f"\n{target}:" not in makefile] == []
    assert [target for target in targets if f"make {target}" not in ci] == []


def test_every_path_that_a_page_links_to_exists() -> None:
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    dead = [
        f"{page.relative_to(ROOT)}: {link}"
        for page in pages
        for link in re.findall(r"\]\(([^)#\s]+)[^)]*\)", page.read_text(encoding="utf-8"))
        if "://" not in link and not (page.parent / link).exists()
    ]
    assert dead == []
