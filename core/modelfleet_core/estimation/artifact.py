"""Stage publish, what training found out as a file: arrays in `.npz`, with a schema and a version.

In: `Trained`. Out: bytes, and `Trained` again from bytes that others may have tampered with. Next: the
operator hands it to the sidecars. Every name, number and array is checked before anything is made of it.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt

from modelfleet_core.estimation.archive import ArchiveError, pack, unpack
from modelfleet_core.estimation.features import FEATURES
from modelfleet_core.estimation.trained import Trained
from modelfleet_core.values import ModelName, TaskName

FloatArray = npt.NDArray[np.float64]

SCHEMA = "modelfleet/estimator/2"
MOST_BYTES = 2 << 20
"""Of a document, and of one of its arrays."""
_MOST_NAME = 256

_SHAPES: Final[dict[str, tuple[str, ...]]] = {
    "center": ("d",),
    "scale": ("d",),
    "mean": ("m",),
    "samples": ("m",),
    "directions": ("d", "r"),
    "loadings": ("r", "m"),
    "task_slopes": ("d", "t"),
    "task_levels": ("t",),
    "task_quality": ("t", "m"),
    "task_samples": ("t", "m"),
    "task_strength": ("t", "r"),
    "likeness": ("d", "k"),
    "likeness_weight": ("k",),
    "likeness_rest": ("1",),
    "middles": ("t or 1", "k"),
    "typical_distance": ("t or 1",),
    "typical_share": ("1",),
    "weights": ("3",),
    "curve": ("c", "m"),
    "noise": ("m",),
    "spread": ("m",),
    "token_directions": ("d", "s"),
    "token_loadings": ("s", "m"),
    "token_mean": ("m",),
    "token_smearing": ("m",),
}
"""Axes of each array; those that share a letter are of one length."""
_MOST: Final[dict[str, int]] = {"m": 512, "t": 64, "r": 16, "k": 64, "s": 16, "c": 257}
_LARGEST = 1e12
_POSITIVE = ("scale", "typical_share")
_NOT_NEGATIVE = (
    "samples",
    "task_samples",
    "likeness_weight",
    "likeness_rest",
    "typical_distance",
    "noise",
    "spread",
    "token_smearing",
)
_UNKNOWN_LENGTH = -1.0
"""In place of `token_mean` of a model whose answers were never measured: a file holds only numbers."""


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
    }
    seen = replace(trained, token_mean=np.nan_to_num(trained.token_mean, nan=_UNKNOWN_LENGTH))
    return pack(head, {name: np.asarray(getattr(seen, name), dtype=np.float32) for name in _SHAPES})


def decode(data: bytes) -> Trained:
    """Return what `encode` was given, to 32 bits; raise ArtifactError if it is anything else."""
    try:
        head, _ = unpack(data, (), most=MOST_BYTES)
        if head.get("schema") != SCHEMA:  # which has other arrays
            raise ArtifactError(
                f"schema {str(head.get('schema'))[:60]!r} is not {SCHEMA!r}; train with this version"
            )
        head, arrays = unpack(data, tuple(_SHAPES), most=MOST_BYTES)
    except ArchiveError as e:
        raise ArtifactError(f"not an estimator: {e}; make one with `modelfleet train`") from e
    models, tasks = _names(head, "models", _MOST["m"]), _names(head, "tasks", _MOST["t"])
    if not models:
        raise ArtifactError("an estimator of no models; train on outcomes")
    _check(arrays, len(models), len(tasks))
    length = arrays.pop("token_mean")
    return Trained(
        models=tuple(ModelName(name) for name in models),
        tasks=tuple(TaskName(name) for name in tasks),
        version=_version(head),
        kappa=_kappa(head),
        token_mean=np.where(length < 0.0, np.nan, length),
        **arrays,
    )


def _check(arrays: dict[str, FloatArray], models: int, tasks: int) -> None:
    lengths = {"d": FEATURES, "m": models, "t": tasks, "t or 1": max(1, tasks), "1": 1, "3": 3}
    for name, axes in _SHAPES.items():
        array = arrays[name]
        if array.dtype != np.float64 or array.ndim != len(axes):
            raise ArtifactError(f"{name} is {array.ndim}-dimensional {array.dtype}; train with this version")
        for axis, length in zip(axes, array.shape, strict=True):
            if length != lengths.setdefault(axis, length) or length > _MOST.get(axis, length):
                raise ArtifactError(f"{name} is of shape {array.shape}, which does not fit the other arrays")
    if lengths["c"] < 2:
        raise ArtifactError("curve has fewer than two points; train anew")
    for names, wrong, wanted in (
        (_POSITIVE, np.less_equal, "above 0"),
        (_NOT_NEGATIVE, np.less, "at least 0"),
    ):
        for name in names:
            if wrong(arrays[name], 0.0).any():
                raise ArtifactError(f"{name} holds a value that is not {wanted}; train anew")
    if any(np.abs(array).max(initial=0.0) > _LARGEST for array in arrays.values()):
        raise ArtifactError(f"a value is beyond {_LARGEST:g}, which no training gives; train anew")


def _names(head: dict[str, object], key: str, most: int) -> list[str]:
    names = head.get(key)
    if not isinstance(names, list) or len(names) > most:
        raise ArtifactError(f"{key} is not a list of at most {most} names")
    found = [name for name in names if isinstance(name, str) and 0 < len(name) <= _MOST_NAME]
    if len(found) < len(names) or len(set(found)) < len(found):
        raise ArtifactError(f"{key} holds something that is not a name, or one twice")
    return found


def _version(head: dict[str, object]) -> str:
    version = head.get("version")
    if not isinstance(version, str) or not 0 < len(version) <= 64:
        raise ArtifactError("version is not a text of 1 to 64 characters")
    return version


def _kappa(head: dict[str, object]) -> float:
    kappa = head.get("kappa")
    if isinstance(kappa, bool) or not isinstance(kappa, int | float) or not 0.0 <= kappa <= 10.0:
        raise ArtifactError("kappa is not a number from 0 to 10")
    return float(kappa)
