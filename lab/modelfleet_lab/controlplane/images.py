"""Builds the images of the programs with buildah, for a node of the tests: no registry, no Docker, as root.

In come the Containerfiles that users build from; out goes one OCI archive for each, which `node` loads. The
base is a minimal Debian with Python, made once. Archives lie in the cache under a name that has the digest of
what they are made of, so an unchanged tree builds nothing.
`python -m modelfleet_lab.controlplane.images` does this and prints where they are.
"""

from __future__ import annotations

import ast
import configparser
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

PROGRAMS = ("operator", "injector", "sidecar", "model-server")
_SUITE = "bookworm"
_PACKAGES = "python3,python3-venv,ca-certificates"
_NEEDLESS = ("var/cache/apt", "var/lib/apt/lists", "usr/share/doc", "usr/share/man", "usr/share/locale")
_BASE_KEY = hashlib.sha256(f"{_SUITE} {_PACKAGES} {_NEEDLESS}".encode()).hexdigest()[:16]
_KEPT = 3
"""Archives of one image that stay in the cache, the newest."""
_IMAGES_IN_STORAGE = 200
"""Above it the builder's storage, which only saves time, is emptied."""

Report = Callable[[str], None]


class ImagesError(RuntimeError):
    """An image could not be built; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an image is made: a Containerfile with `ARG BASE`, whose paths start at the repository's root."""

    name: str
    containerfile: Path


@dataclass(frozen=True, slots=True)
class Archive:
    """A built image."""

    reference: str
    """What it is called on a node that loads it, such as `docker.io/modelfleet/operator:0.1.0`."""
    path: Path
    """An OCI archive: `ctr --namespace k8s.io images import PATH`."""


def programs() -> tuple[Recipe, ...]:
    """Return the recipes of the product's programs."""
    return tuple(recipe_of(Path("images", name, "Containerfile")) for name in PROGRAMS)


def recipe_of(containerfile: Path) -> Recipe:
    """Return the recipe of a Containerfile, whose image is called like its folder."""
    return Recipe(containerfile.parent.name.replace("_", "-"), containerfile)


def cache_folder() -> Path:
    """Return where base, archives and the builder's storage are kept."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "modelfleet" / "images"


def find_or_build(root: Path, recipes: Sequence[Recipe], report: Report) -> Mapping[str, Archive]:
    """Return the archive of each recipe by its name; `report` gets a line for each step that takes time.

    `root` is the repository. Raises `ImagesError` when something has to be built and can not be.
    """
    folder = cache_folder()
    found = {recipe.name: wanted(root, recipe) for recipe in recipes}
    if not all(archive.path.exists() for archive in found.values()):
        folder.mkdir(parents=True, exist_ok=True)
        with _lock(folder / ".lock", report), _Builder(folder, report) as builder:
            base = _base(folder, builder, report)
            for recipe in recipes:
                tree = builder.scratch / recipe.name
                copy_inputs(root, recipe, tree)  # what is edited meanwhile must not come under this digest
                found[recipe.name] = archive = wanted(tree, recipe)
                if not archive.path.exists():
                    builder.build(tree, recipe, base, archive)
                    _forget_old(folder, recipe.name)
    for archive in found.values():
        archive.path.touch()  # in use: the newest are those that stay
    return found


def wanted(root: Path, recipe: Recipe) -> Archive:
    """Return the archive of an image as the tree `root` describes it, built or not."""
    version = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    digest = hashlib.sha256(f"{_BASE_KEY} {version}".encode())
    for file in _inputs(root, recipe):
        digest.update(f"{file.relative_to(root)} {hashlib.sha256(file.read_bytes()).hexdigest()}\n".encode())
    path = cache_folder() / f"{recipe.name}-{digest.hexdigest()[:16]}.tar"
    return Archive(f"docker.io/modelfleet/{recipe.name}:{version}", path)


def _inputs(root: Path, recipe: Recipe) -> Iterator[Path]:
    """Yield the files that an image is made of: its Containerfile, and what that copies from the tree."""
    yield from (root / recipe.containerfile, root / "pyproject.toml")
    text = (root / recipe.containerfile).read_text(encoding="utf-8")
    for sources in re.findall(r"^COPY (?!--from)(.+) \S+$", text, re.MULTILINE):
        for source in sources.split():
            path = root / source
            for file in sorted(path.rglob("*")) if path.is_dir() else (path,):
                if file.is_file() and "__pycache__" not in file.parts:
                    yield file


def copy_inputs(root: Path, recipe: Recipe, tree: Path) -> None:
    """Copy what an image is made of from `root` to the new folder `tree`."""
    for file in _inputs(root, recipe):
        copy = tree / file.relative_to(root)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, copy)


def _forget_old(folder: Path, name: str) -> None:
    archives = folder.glob(f"{name}-{'?' * 16}.tar")
    for path in sorted(archives, key=lambda path: path.stat().st_mtime)[:-_KEPT]:
        path.unlink()


@contextmanager
def _lock(path: Path, report: Report) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            report(f"waiting for another build that holds {path}")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


class _Builder:
    """buildah with a storage of its own, and pip's configuration of this machine for what it builds."""

    scratch: Path
    """A folder that is gone at the end."""

    def __init__(self, folder: Path, report: Report) -> None:
        program = shutil.which("buildah")
        if program is None or os.geteuid() != 0:
            raise ImagesError(
                "the images of the tests are built with buildah, as root: apt-get install buildah "
                "debootstrap, and run this as root"
            )
        self._folder = folder
        self._report = report
        self._temporary = tempfile.TemporaryDirectory(prefix="build-", dir=folder)
        self.scratch = Path(self._temporary.name)
        self._program = program
        self._buildah: tuple[str, ...] = ()

    def __enter__(self) -> _Builder:
        # Layers need a file system that can be mounted over another; where there is none, whole copies do.
        for driver in ("overlay", "vfs"):
            storage = self._folder / f"storage-{driver}"
            places = ("--root", str(storage), "--runroot", str(storage / "run"))
            self._buildah = (self._program, *places, "--storage-driver", driver)
            if subprocess.run([*self._buildah, "info"], capture_output=True, check=False).returncode == 0:
                break
        if len(self.run("images", "--all", "--quiet").splitlines()) > _IMAGES_IN_STORAGE:
            self.run("rmi", "--all", "--force")
        return self

    def __exit__(self, *_: object) -> None:
        self._temporary.cleanup()

    def run(self, *arguments: str) -> str:
        """Run one command of buildah; return what it prints. Raises `ImagesError` with the end of its log."""
        return _run([*self._buildah, *arguments])

    def has(self, image: str) -> bool:
        return bool(self.run("images", "--quiet", "--filter", f"reference={image}"))

    def build(self, tree: Path, recipe: Recipe, base: str, archive: Archive) -> None:
        """Build an image and write its archive, which is there only once it is whole."""
        started = time.monotonic()
        self._report(f"building the image of {recipe.name}; the first time this takes minutes")
        pip, volumes = self._pip()
        image = f"localhost/modelfleet/{recipe.name}:built"
        arguments = [
            "--isolation=chroot",
            "--layers",
            f"--build-arg=BASE={base}",
            f"--secret=id=pip,src={pip}",
        ]
        arguments += [f"--volume={path}:{path}:ro" for path in volumes]
        self.run("build", *arguments, f"--file={tree / recipe.containerfile}", f"--tag={image}", str(tree))
        written = self.scratch / f"{recipe.name}.tar"
        self.run("push", "--quiet", image, f"oci-archive:{written}:{archive.reference}")
        written.replace(archive.path)
        self._report(f"built the image of {recipe.name} in {time.monotonic() - started:.0f} s")

    def _pip(self) -> tuple[Path, Sequence[str]]:
        """Return a configuration of pip as this machine has it, and the files that it names."""
        shown = _run([sys.executable, "-m", "pip", "config", "list"])
        config = configparser.RawConfigParser()
        config["global"] = {}
        for key, value in re.findall(r"^(\S+?)=(.+)$", shown, re.MULTILINE):
            name = re.sub(r"^(global|install|site|user|:env:)\.", "", key)
            config["global"][name] = "\n".join(ast.literal_eval(value).split())
        path = self.scratch / "pip.conf"
        with path.open("w") as file:
            config.write(file)
        path.chmod(0o600)  # it may have a password
        words = " ".join(config["global"].values()).split()
        return path, sorted({word for word in words if word.startswith("/") and Path(word).exists()})


def _base(folder: Path, builder: _Builder, report: Report) -> str:
    """Return the base of the images in the builder's storage: Debian's packages, without their documents."""
    image = f"localhost/modelfleet/base:{_BASE_KEY}"
    if builder.has(image):
        return image
    kept = folder / f"base-{_BASE_KEY}.tar"
    if not kept.exists():
        if shutil.which("debootstrap") is None:
            raise ImagesError("the base of the images is made by debootstrap: apt-get install debootstrap")
        report(f"making the base of the images, Debian {_SUITE} with Python, once; this takes minutes")
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="base-", dir=folder) as scratch:
            tree = Path(scratch, "tree")
            _run(["debootstrap", "--variant=minbase", f"--include={_PACKAGES}", _SUITE, str(tree)])
            for needless in _NEEDLESS:
                shutil.rmtree(tree / needless)
            packed = Path(scratch, "base.tar")
            _run(["tar", "--create", f"--file={packed}", f"--directory={tree}", "."])
            packed.replace(kept)
        report(f"made the base in {time.monotonic() - started:.0f} s")
    container = builder.run("from", "scratch").strip()
    builder.run("add", "--quiet", container, str(kept), "/")
    builder.run("config", "--env=PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", container)
    builder.run("commit", "--quiet", "--rm", container, image)
    return image


def _run(command: Sequence[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-25:])
        raise ImagesError(f"`{' '.join(command)}` failed with exit code {done.returncode}:\n{tail}")
    return done.stdout


def main() -> int:
    """Make sure that every image is there; print their archives."""
    try:
        archives = find_or_build(
            Path.cwd(), programs(), lambda line: print(line, file=sys.stderr, flush=True)
        )
    except ImagesError as error:
        print(error, file=sys.stderr)
        return 1
    for archive in archives.values():
        print(archive.reference, archive.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
