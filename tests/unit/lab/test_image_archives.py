"""Archives of images are named by what they are made of, so that an unchanged tree builds nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from modelfleet_lab.controlplane import images
from modelfleet_lab.controlplane.images import ImagesError, Recipe, find_or_build

RECIPE = Recipe("tool", Path("images/tool/Containerfile"))


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository with one image, and a machine without buildah."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(images.shutil, "which", lambda name: None)
    root = tmp_path / "tree"
    (root / "images" / "tool").mkdir(parents=True)
    (root / "core" / "part").mkdir(parents=True)
    (root / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\n')
    (root / "core" / "part" / "a.py").write_text("a = 1\n")
    (root / RECIPE.containerfile).write_text(
        "FROM x AS y\nCOPY pyproject.toml core /src/\nCOPY --from=y /a /b\n"
    )
    return root


def build(root: Path) -> Path:
    """Pretend that the image was built; return its archive."""
    wanted = images.wanted(root, RECIPE)
    wanted.path.parent.mkdir(parents=True, exist_ok=True)
    wanted.path.write_bytes(b"image")
    return wanted.path


def test_an_unchanged_tree_builds_nothing(tree: Path) -> None:
    path = build(tree)
    found = find_or_build(tree, [RECIPE], pytest.fail)
    assert found["tool"].path == path
    assert found["tool"].reference == "docker.io/modelfleet/tool:1.2.3"


@pytest.mark.parametrize("changed", ["core/part/a.py", "images/tool/Containerfile", "pyproject.toml"])
def test_a_changed_input_is_built_anew(tree: Path, changed: str) -> None:
    build(tree)
    with (tree / changed).open("a") as file:
        file.write("# more\n")
    with pytest.raises(ImagesError, match="apt-get install buildah"):
        find_or_build(tree, [RECIPE], lambda line: None)


def test_a_new_file_is_an_input_and_compiled_code_is_not(tree: Path) -> None:
    path = build(tree)
    compiled = tree / "core" / "part" / "__pycache__" / "a.pyc"
    compiled.parent.mkdir()
    compiled.write_bytes(b"code")
    assert images.wanted(tree, RECIPE).path == path
    (tree / "core" / "part" / "b.py").touch()
    assert images.wanted(tree, RECIPE).path != path


def test_what_is_copied_for_a_build_has_the_same_digest(tree: Path, tmp_path: Path) -> None:
    images.copy_inputs(tree, RECIPE, tmp_path / "copy")
    assert images.wanted(tmp_path / "copy", RECIPE) == images.wanted(tree, RECIPE)
