"""Write the lock files of the images and of what builds them; with `--check`, fail if they would change.

Each lock has what one program needs, with hashes, in the versions of `requirements.lock`. What a program
never imports is left out, against the metadata of a package that names it; the reason stands beside each.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMAGES = ROOT / "images"

LEFT_OUT: Mapping[str, tuple[str, ...]] = {
    # OR-tools names pandas for `model_builder`; the programs here use `pywraplp`, which does not import it.
    "operator": ("pandas",),
    # The injector parses manifests and patches pods: it solves no program and speaks no gRPC.
    "injector": ("ortools", "protobuf"),
    # A sidecar's batch has less time than a program is worth starting in, so it never loads OR-tools.
    "sidecar": ("ortools",),
    # The simulated model server counts tokens and waits; it decides nothing.
    "model-server": ("numpy", "ortools", "protobuf"),
}
"""For each image, named as its extra in pyproject.toml, the packages that it does without."""
CLIENT_APP = ("openai", "grpcio", "protobuf")
"""What the application of the cluster tests imports."""


def _compile(out: Path, *arguments: str, given: str | None = None) -> None:
    """Run `uv pip compile` of the environment that runs this; `out` keeps the pins that it has."""
    command = [str(Path(sys.executable).parent / "uv"), "pip", "compile", "--quiet", *arguments]
    command += ["--constraint", "requirements.lock", "--universal", "--python-version", "3.11"]
    command += ["--generate-hashes", "--no-header", "--no-annotate", "--no-emit-index-url"]
    command += ["--no-emit-find-links", "--output-file", str(out)]
    done = subprocess.run(command, cwd=ROOT, input=given, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"`{' '.join(command)}` failed:\n{done.stderr}")


def lock_program(image: str, out: Path) -> None:
    """Write the lock of one program's image to `out`."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as without:
        # An override with a marker that never holds takes the package out, and what only it needs.
        without.write("".join(f"{name} ; python_version < '3'\n" for name in LEFT_OUT[image]))
        without.flush()
        _compile(out, "pyproject.toml", "--extra", image, "--override", without.name)


def lock_given(wanted: Sequence[str], out: Path) -> None:
    """Write the lock of these requirements to `out`."""
    _compile(out, "-", given="\n".join(wanted))


def main() -> int:
    """Write the locks, or compare them with those that are there."""
    parser = argparse.ArgumentParser(description="Lock what the images install.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a lock would change")
    check = parser.parse_args().check
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    locks: dict[Path, Callable[[Path], None]] = {
        IMAGES / "build.lock": partial(lock_given, project["build-system"]["requires"]),
        ROOT / "tests/support/client_app/requirements.lock": partial(lock_given, CLIENT_APP),
        **{IMAGES / image / "requirements.lock": partial(lock_program, image) for image in LEFT_OUT},
    }
    stale = []
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch, "requirements.lock")
        for there, lock in locks.items():
            made.write_bytes(there.read_bytes() if there.exists() else b"")
            lock(made)
            if not there.exists() or made.read_bytes() != there.read_bytes():
                stale.append(str(there.relative_to(ROOT)))
                if not check:
                    there.write_bytes(made.read_bytes())
    if stale and check:
        print(f"out of date: {', '.join(stale)}; run `make lock-images` and commit what it writes")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
