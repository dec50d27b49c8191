"""Writes an estimator so that nobody ever reads half of it, and reads one.

In: `Trained`, a path. Out: a file, or `Trained`. Next: a ConfigMap that `spec.estimator.ref` names.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from modelfleet_core.estimation.artifact import ArtifactError, decode, encode
from modelfleet_core.estimation.trained import Trained

MOST_BYTES = 1 << 23
"""No file beyond this is looked at."""
CONFIG_MAP_BYTES = 1_000_000
"""Kubernetes refuses ConfigMaps above 1 MiB, metadata and base64 aside."""


def write(path: Path, trained: Trained) -> int:
    """Write the estimator in place of what was at `path`, all or nothing; return its size in bytes."""
    data = encode(trained)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(name).chmod(0o644)
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink()
        raise
    return len(data)


def read(path: Path) -> Trained:
    """Return the estimator in the file; raise ValueError that says why it is none."""
    with path.open("rb") as file:
        data = file.read(MOST_BYTES + 1)
    if len(data) > MOST_BYTES:
        raise ValueError(f"{path} is larger than {MOST_BYTES} bytes; an estimator is not")
    try:
        return decode(data)
    except ArtifactError as error:
        raise ValueError(f"{path}: {error}") from error
