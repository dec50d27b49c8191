"""Stage publish, what training found out as a file: arrays in `.npz`, with a schema and a version.

In: `Trained`. Out: bytes, and `Trained` again from bytes that others may have tampered with. Next: the
operator hands it to the sidecars. Nothing is unpickled; no array is read before its size is known to be
within bounds.
"""

from __future__ import annotations

import ast
import io
import json
import struct
import zipfile
from typing import Final

import numpy as np
import numpy.typing as npt

from modelfleet_core.estimation.features import FEATURES
from modelfleet_core.estimation.trained import Trained
from modelfleet_core.values import ModelName, TaskName

FloatArray = npt.NDArray[np.float64]

SCHEMA = "modelfleet/estimator/1"
MOST_BYTES = 4 << 20
"""Of a whole document."""
_MOST_ARRAY_BYTES = 4 << 20
_MOST_HEAD_BYTES = 1 << 18
_MOST_NAMES = 4096
_MAGIC = b"\x93NUMPY\x01\x00"
_HEAD = "head"

_SHAPES: Final[dict[str, tuple[str, ...]]] = {
    "center": ("d",),
    "mean": ("m",),
    "samples": ("m",),
    "directions": ("d", "r"),
    "loadings": ("r", "m"),
    "task_slopes": ("d", "t"),
    "task_levels": ("t",),
    "task_quality": ("t", "m"),
    "task_samples": ("t", "m"),
    "likeness": ("d", "k"),
    "noise": ("m",),
    "slope": ("m",),
    "level": ("m",),
    "token_directions": ("d", "s"),
    "token_loadings": ("s", "m"),
    "token_mean": ("m",),
    "token_smearing": ("m",),
}
"""Axes of each array; those that share a letter are of one length."""
_MAY_BE_UNKNOWN = frozenset({"token_mean"})
_MOST: Final[dict[str, int]] = {"d": FEATURES, "m": 512, "t": 512, "r": 64, "k": 256, "s": 64}


class ArtifactError(ValueError):
    """A document that is not an estimator that this version reads."""


def encode(trained: Trained) -> bytes:
    """Return `trained` as a compressed `.npz` of 32-bit floats; equal content gives equal bytes."""
    head = {
        "schema": SCHEMA,
        "version": trained.version,
        "models": list(trained.models),
        "tasks": list(trained.tasks),
        "kappa": trained.kappa,
        "typical_leverage": trained.typical_leverage,
    }
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        _write(archive, _HEAD, np.frombuffer(json.dumps(head).encode(), dtype=np.uint8))
        for name in _SHAPES:
            _write(archive, name, np.asarray(getattr(trained, name), dtype=np.float32))
    return file.getvalue()


def decode(data: bytes) -> Trained:
    """Return what `encode` was given, to 32 bits; raise ArtifactError if it is anything else."""
    if len(data) > MOST_BYTES:
        raise ArtifactError(f"an estimator of {len(data)} bytes is refused; the most is {MOST_BYTES}")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            head = _head(_read(archive, _HEAD, "u1", _MOST_HEAD_BYTES))
            arrays = {name: _read(archive, name, "f4", _MOST_ARRAY_BYTES) for name in _SHAPES}
    except (
        zipfile.BadZipFile,
        OSError,
        EOFError,
        KeyError,
        struct.error,
        NotImplementedError,
        RuntimeError,
    ) as e:
        raise ArtifactError(f"not an estimator's file ({e}); make one with `modelfleet train`") from e
    return _assembled(head, arrays)


def _assembled(head: dict[str, object], arrays: dict[str, FloatArray]) -> Trained:
    models, tasks = _names(head, "models"), _names(head, "tasks")
    lengths = {"d": FEATURES, "m": len(models), "t": len(tasks)}
    for name, axes in _SHAPES.items():
        shape = arrays[name].shape
        if len(shape) != len(axes):
            raise ArtifactError(f"{name} has {len(shape)} axes; an estimator's has {len(axes)}")
        for axis, length in zip(axes, shape, strict=True):
            if length != lengths.setdefault(axis, length) or length > _MOST[axis]:
                raise ArtifactError(f"{name} is of shape {shape}, which does not fit the other arrays")
        finite = np.isfinite(arrays[name])
        if not (finite.all() or (name in _MAY_BE_UNKNOWN and (finite | np.isnan(arrays[name])).all())):
            raise ArtifactError(f"{name} holds a value that is not finite; train anew")
    if not models:
        raise ArtifactError("an estimator of no models; train on outcomes")
    return Trained(
        models=tuple(ModelName(name) for name in models),
        tasks=tuple(TaskName(name) for name in tasks),
        version=_text(head, "version"),
        kappa=_number(head, "kappa"),
        typical_leverage=_number(head, "typical_leverage"),
        **arrays,
    )


def _write(
    archive: zipfile.ZipFile, name: str, array: npt.NDArray[np.float32] | npt.NDArray[np.uint8]
) -> None:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
    # The time of writing is left out, so that the same content is the same document.
    archive.writestr(
        zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)), file.getvalue(), zipfile.ZIP_DEFLATED, 6
    )


def _read(archive: zipfile.ZipFile, name: str, kind: str, most: int) -> FloatArray:
    """Return an array after its declared size, real size and header agree; never reads more than `most`."""
    info = archive.getinfo(f"{name}.npy")
    with archive.open(info) as file:
        raw = file.read(most + 257)
    if len(raw) > most + 256:
        raise ArtifactError(f"{name} is larger than {most} bytes; an estimator's is not")
    if not raw.startswith(_MAGIC):
        raise ArtifactError(f"{name} is not an array of NumPy's format 1.0")
    (length,) = struct.unpack("<H", raw[8:10])
    try:
        header = ast.literal_eval(raw[10 : 10 + length].decode("latin1"))
        descr, order, shape = header["descr"], header["fortran_order"], header["shape"]
    except (ValueError, SyntaxError, TypeError, KeyError, MemoryError, RecursionError) as e:
        raise ArtifactError(f"{name} has a header that can not be read") from e
    if descr not in {f"<{kind}", f"|{kind}"} or order is not False or not isinstance(shape, tuple):
        raise ArtifactError(f"{name} is of type {descr!r:.40}; an estimator's is {kind}")
    if not all(isinstance(size, int) and 0 <= size <= most for size in shape) or len(shape) > 2:
        raise ArtifactError(f"{name} has a shape that no estimator has")
    body = raw[10 + length :]
    size = 1
    for axis in shape:
        size *= axis
    if len(body) != size * np.dtype(kind).itemsize:
        raise ArtifactError(f"{name} holds {len(body)} bytes, which is not what its shape {shape} takes")
    return np.frombuffer(body, dtype=f"<{kind}").reshape(shape).astype(np.float64)


def _head(raw: FloatArray) -> dict[str, object]:
    try:
        head = json.loads(raw.astype(np.uint8).tobytes())
    except (ValueError, RecursionError) as e:
        raise ArtifactError("the head of the estimator's file is not JSON") from e
    if not isinstance(head, dict) or head.get("schema") != SCHEMA:
        found = head.get("schema") if isinstance(head, dict) else head
        raise ArtifactError(f"schema {str(found)[:60]!r} is not {SCHEMA!r}; train with this version")
    return head


def _names(head: dict[str, object], key: str) -> list[str]:
    names = head.get(key)
    if not isinstance(names, list) or len(names) > _MOST_NAMES:
        raise ArtifactError(f"{key} is not a list of at most {_MOST_NAMES} names")
    if not all(isinstance(name, str) and 0 < len(name) <= 256 for name in names) or len(set(names)) < len(
        names
    ):
        raise ArtifactError(f"{key} holds something that is not a name, or one twice")
    return names


def _text(head: dict[str, object], key: str) -> str:
    value = head.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= 64:
        raise ArtifactError(f"{key} is not a text of 1 to 64 characters")
    return value


def _number(head: dict[str, object], key: str) -> float:
    value = head.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value < 1e9:
        raise ArtifactError(f"{key} is not a number of at least 0")
    return float(value)
