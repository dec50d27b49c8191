"""Clients of others that the tests run: those of `examples/clients`, and schemathesis for the HTTP API.

Python's packages are installed by uv, Node's by npm, each into a folder of the cache named by its lock file;
grpcurl is built as the lab's other binaries are. A lock keeps two test runs from making one at a time.
`python -m support.client_programs` makes all of them.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from modelfleet_lab.controlplane import binaries

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "clients"
SCHEMATHESIS = ROOT / "tests" / "support" / "schemathesis"
PATIENCE = 600
"""Seconds for one installation."""


def report(line: str) -> None:
    print(line, file=sys.__stderr__, flush=True)


def python(of: Path = EXAMPLES) -> Path:
    """Return an interpreter with the packages that `of` locks; the examples': all but the typed client."""
    lock = of / "requirements.txt"
    with _folder(lock.read_bytes()) as (folder, made):
        interpreter = folder / "bin" / "python"
        if not made:
            uv = Path(sys.executable).parent / "uv"
            version = f"{sys.version_info.major}.{sys.version_info.minor}"
            _run(
                uv, "venv", "--quiet", "--clear", "--python", sys.executable, folder, name=f"Python {version}"
            )
            wanted = ("--require-hashes", "--requirement", lock)
            _run(
                uv,
                "pip",
                "install",
                "--quiet",
                "--python",
                interpreter,
                *wanted,
                name=f"packages of {of.name}",
            )
        return interpreter


def schemathesis() -> Path:
    """Return the program that tries an API by its document."""
    return python(SCHEMATHESIS).with_name("schemathesis")


def node_modules() -> Path:
    """Return a folder of Node's packages."""
    with _folder((EXAMPLES / "package-lock.json").read_bytes()) as (folder, made):
        if not made:
            for name in ("package.json", "package-lock.json"):
                shutil.copy(EXAMPLES / name, folder / name)
            _run("npm", "ci", "--silent", "--no-audit", "--no-fund", "--prefix", folder, name="Node clients")
        return folder / "node_modules"


def client_wheel() -> Path:
    """Return the typed client's own distribution; Python imports from it as it is."""
    sources = [ROOT / "client" / "pyproject.toml", *(ROOT / "client").rglob("*.py")]
    sources += (ROOT / "proto" / "gen" / "modelfleet").rglob("*.py")
    content = b"".join(path.read_bytes() for path in sorted(sources))
    with _folder(content) as (folder, made):
        if not made:
            # pip goes by the machine's own settings of where packages come from.
            build = (sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder)
            _run(*build, ROOT / "client", name="the client's wheel")
        (wheel,) = folder.glob("*.whl")
        return wheel


def grpcurl() -> Path:
    return binaries.find_or_build(report, ("grpcurl",))["grpcurl"]


@contextmanager
def _folder(content: bytes) -> Iterator[tuple[Path, bool]]:
    """Yield the folder of what `content` makes, and whether it is whole; it is once the body has ended."""
    key = hashlib.sha256(content + sys.version.encode()).hexdigest()[:16]
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "modelfleet" / "clients"
    folder = base / key
    base.mkdir(parents=True, exist_ok=True)
    with (base / f"{key}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        whole = base / f"{key}.whole"
        made = whole.exists() and folder.is_dir()
        folder.mkdir(exist_ok=True)
        yield folder, made
        whole.touch()


def _run(*command: str | Path, name: str) -> None:
    started = time.monotonic()
    report(f"making {name} for tests, once")
    if shutil.which(command[0]) is None:
        raise RuntimeError(
            f"{name} for tests: {command[0]} is not installed; tests need it, see CONTRIBUTING.md"
        )
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"`{' '.join(map(str, command))}` failed:\n{done.stderr[-2000:]}")
    report(f"made {name} in {time.monotonic() - started:.0f} s")


if __name__ == "__main__":
    for make in (python, schemathesis, node_modules, grpcurl, client_wheel):
        make()
