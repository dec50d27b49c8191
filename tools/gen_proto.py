"""Generate `proto/gen` from the protos; with `--check`, fail if the committed code differs.

The generated modules live in the import package `modelfleet.v1`.
"""

from __future__ import annotations

import argparse
import filecmp
import shutil
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
GENERATED = PROTO / "gen"


def generate(out: Path) -> None:
    """Write the whole generated tree to the empty directory `out`."""
    sources = sorted(str(path) for path in PROTO.glob("modelfleet/*/*.proto"))
    well_known = str(resources.files("grpc_tools") / "_proto")
    # The plugins of mypy-protobuf stand beside the interpreter that runs this.
    scripts = Path(sys.executable).parent
    arguments = ["protoc", f"-I{PROTO}", f"-I{well_known}", f"--python_out={out}", f"--grpc_python_out={out}"]
    for name in ("mypy", "mypy_grpc"):
        plugin = shutil.which(f"protoc-gen-{name}", path=str(scripts)) or f"protoc-gen-{name}"
        arguments += [f"--plugin=protoc-gen-{name}={plugin}", f"--{name}_out={out}"]
    if protoc.main([*arguments, *sources]) != 0:
        raise SystemExit("protoc failed: see the messages above")
    for package in ("modelfleet", "modelfleet/v1"):
        (out / package / "__init__.py").write_text(
            '"""Generated from proto/ by tools/gen_proto.py; never edited."""\n', encoding="utf-8"
        )
        (out / package / "py.typed").touch()


def files(root: Path) -> set[Path]:
    return {
        p.relative_to(root) for p in root.rglob("*") if p.is_file() and p.suffix in {".py", ".pyi", ".typed"}
    }


def drift(fresh: Path) -> list[str]:
    """Return the paths that differ between `fresh` and the committed tree."""
    return sorted(
        str(path)
        for path in files(fresh) | files(GENERATED)
        if not (fresh / path).exists()
        or not (GENERATED / path).exists()
        or not filecmp.cmp(fresh / path, GENERATED / path, shallow=False)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed code, write nothing")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as scratch:
        fresh = Path(scratch)
        generate(fresh)
        differing = drift(fresh)
        if check:
            if differing:
                raise SystemExit("proto/gen differs: run tools/gen_proto.py\n  " + "\n  ".join(differing))
            print("proto/gen is up to date")
            return
        shutil.rmtree(GENERATED, ignore_errors=True)
        shutil.copytree(fresh, GENERATED)
    print(f"generated {len(files(GENERATED))} files, {len(differing)} changed")


if __name__ == "__main__":
    main()
