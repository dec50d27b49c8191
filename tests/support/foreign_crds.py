"""CRDs of other projects that the chart has objects for, from the Go modules that publish them."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

_MODULES = Path(__file__).parent / "foreign"


def crds(module: str, *files: str) -> list[Path]:
    """Return the paths of files of a module; `foreign/go.mod` and `go.sum` say which release it is."""
    done = subprocess.run(
        ["go", "mod", "download", "-json", module], cwd=_MODULES, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"go mod download {module}: {done.stdout}{done.stderr}"
    folder = Path(json.loads(done.stdout)["Dir"])
    return [folder / file for file in files]
