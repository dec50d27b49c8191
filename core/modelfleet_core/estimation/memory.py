"""Stage publish, what a leader keeps of learning so that the next one goes on from there.

In: `Memory`. Out: bytes of bounded size, and `Memory` again. Next: the operator keeps them in a ConfigMap.

Where all does not fit, the smallest cells go first, then the sidecars that were silent longest; `complete`
says that none of those went, so that a sidecar that is not there has told nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from modelfleet_core.estimation.archive import ArchiveError, pack, unpack
from modelfleet_core.estimation.drift import Verdict, Watch
from modelfleet_core.estimation.experience import ExperienceKey, Figure, Scored
from modelfleet_core.estimation.told import MAX_MODELS, ROW, Counts
from modelfleet_core.values import ModelName, TaskName

FloatArray = npt.NDArray[np.float64]

SCHEMA = "modelfleet/learning/1"
MOST_BYTES = 256 << 10
MAX_CELLS = 1024
MAX_SIDECARS = 1024
_MOST_ENTRY = 4 << 20
_MOST_NAMES = 8192
_MOST_TEXT = 1024
_ARRAYS = ("evidence", "keys", "cells", "heard", "versions", "owners", "counts")


class LearningError(ValueError):
    """Bytes that are not what a leader kept of learning."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """Of one sidecar, what was counted."""

    version: str
    heard_at: float
    counts: Mapping[ModelName, Counts]


@dataclass(frozen=True, slots=True, eq=False)
class Memory:
    at: float
    """Seconds; sums are as faded as they were then."""
    estimator_version: str
    watch: Watch
    alarm: Verdict
    since_alarm: float
    evidence: Mapping[ModelName, FloatArray]
    """(ROW,) each."""
    cells: Mapping[ExperienceKey, FloatArray]
    """(len(Figure),) each."""
    sidecars: Mapping[str, Remembered]
    """By digest."""
    complete: bool


def encode(memory: Memory) -> bytes:
    """Return `memory` in at most `MOST_BYTES`, evidence and cells as 32-bit floats."""
    data = _encoded(memory)
    while len(data) > MOST_BYTES:
        if memory.cells:
            order = sorted(memory.cells, key=lambda key: -memory.cells[key][Figure.REQUESTS])
            memory = replace(memory, cells={key: memory.cells[key] for key in order[: len(order) // 2]})
        elif memory.sidecars:
            newest = sorted(memory.sidecars, key=lambda digest: -memory.sidecars[digest].heard_at)
            kept = {digest: memory.sidecars[digest] for digest in newest[: len(newest) // 2]}
            memory = replace(memory, sidecars=kept, complete=False)
        else:
            raise LearningError(f"evidence on {len(memory.evidence)} models takes {len(data)} bytes")
        data = _encoded(memory)
    return data


def _encoded(memory: Memory) -> bytes:
    names: dict[str, int] = {}

    def number(name: str) -> int:
        return names.setdefault(name, len(names))

    models = [number(model) for model in memory.evidence]
    keys = [[number(part) for part in (k.task, k.rule, k.model, k.group)] for k in memory.cells]
    versions = [number(sidecar.version) for sidecar in memory.sidecars.values()]
    owners, counts = [], []
    for row, sidecar in enumerate(memory.sidecars.values()):
        for model, counted in sidecar.counts.items():
            owners.append([row, number(model)])
            counts.append([counted.weight, counted.events])
    head = {
        "schema": SCHEMA,
        "at": memory.at,
        "estimator": memory.estimator_version,
        "watch": asdict(memory.watch),
        "alarm": memory.alarm.value,
        "since_alarm": memory.since_alarm,
        "models": models,
        "names": list(names),
        "sidecars": list(memory.sidecars),
        "complete": memory.complete,
    }
    arrays: dict[str, npt.NDArray[Any]] = {
        "evidence": np.array(list(memory.evidence.values()), dtype=np.float32).reshape(-1, ROW),
        "keys": np.array(keys, dtype=np.int32).reshape(-1, 4),
        "cells": np.array(list(memory.cells.values()), dtype=np.float32).reshape(-1, len(Figure)),
        "heard": np.array([sidecar.heard_at for sidecar in memory.sidecars.values()], dtype=np.float64),
        "versions": np.array(versions, dtype=np.int32),
        "owners": np.array(owners, dtype=np.int32).reshape(-1, 2),
        "counts": np.array(counts, dtype=np.float64).reshape(-1, 2),
    }
    return pack(head, arrays)


def decode(data: bytes) -> Memory:
    """Return what `encode` was given, to 32 bits; raise LearningError if it is anything else."""
    try:
        head, arrays = unpack(data, _ARRAYS, most=_MOST_ENTRY)
    except ArchiveError as e:
        raise LearningError(f"not what was kept of learning: {e}") from e
    if head.get("schema") != SCHEMA:
        raise LearningError(f"schema {str(head.get('schema'))[:60]!r} is not {SCHEMA!r}")
    names = _texts(head, "names", _MOST_NAMES)
    digests = _texts(head, "sidecars", MAX_SIDECARS)
    models = head.get("models")
    if not isinstance(models, list) or len(models) > MAX_MODELS:
        raise LearningError(f"models is not a list of at most {MAX_MODELS}")
    s, p, c = len(digests), len(arrays["owners"]), len(arrays["cells"])
    shapes = {
        "evidence": (len(models), ROW),
        "keys": (c, 4),
        "cells": (min(c, MAX_CELLS), len(Figure)),
        "heard": (s,),
        "versions": (s,),
        "owners": (min(p, MAX_SIDECARS * MAX_MODELS), 2),
        "counts": (p, 2),
    }
    for name, shape in shapes.items():
        if arrays[name].shape != shape:
            raise LearningError(f"{name} has shape {arrays[name].shape}, not {shape}")
    for name in ("keys", "versions", "owners"):
        if arrays[name].dtype != np.int32 or (arrays[name].size and arrays[name].min() < 0):
            raise LearningError(f"{name} does not hold numbers of names")
    if p and (arrays["owners"][:, 0].max() >= s or arrays["counts"].min() < 0.0):
        raise LearningError("counts do not belong to sidecars")

    def name_of(number: object) -> str:
        if not isinstance(number, int) or not 0 <= number < len(names):
            raise LearningError("a name is missing")
        return names[number]

    counts: list[dict[ModelName, Counts]] = [{} for _ in digests]
    for (row, model), (weight, events) in zip(
        arrays["owners"].tolist(), arrays["counts"].tolist(), strict=True
    ):
        counts[row][ModelName(name_of(model))] = Counts(weight, events)
    cells = {}
    for key, sums in zip(arrays["keys"].tolist(), arrays["cells"], strict=True):
        task, rule, model, group = (name_of(number) for number in key)
        cells[ExperienceKey(TaskName(task), rule, ModelName(model), group)] = sums
    return Memory(
        at=_number(head, "at"),
        estimator_version=_text(head, "estimator"),
        watch=_watch(head.get("watch")),
        alarm=_verdict(head),
        since_alarm=_number(head, "since_alarm"),
        evidence={
            ModelName(name_of(number)): row for number, row in zip(models, arrays["evidence"], strict=True)
        },
        cells=cells,
        sidecars={
            digest: Remembered(name_of(version), heard_at, counted)
            for digest, version, heard_at, counted in zip(
                digests, arrays["versions"].tolist(), arrays["heard"].tolist(), counts, strict=True
            )
        },
        complete=head.get("complete") is True,
    )


def _watch(found: object) -> Watch:
    if not isinstance(found, dict) or set(found) != {entry.name for entry in fields(Watch)}:
        raise LearningError("watch does not have the figures of this version")
    started = found["open"]
    if not isinstance(started, list) or len(started) != len(Scored):
        raise LearningError("watch.open is not a list of sums")
    figures = {name: _finite(f"watch.{name}", value) for name, value in found.items() if name != "open"}
    if figures["excess_weight"] <= 0.0 or figures["excess_square"] <= 0.0:
        raise LearningError("watch has no spread")
    return Watch(**figures, open=tuple(_finite("watch.open", value) for value in started))


def _verdict(head: Mapping[str, object]) -> Verdict:
    try:
        return Verdict(head.get("alarm"))
    except ValueError as e:
        raise LearningError("alarm is not one that is known") from e


def _texts(head: Mapping[str, object], key: str, most: int) -> list[str]:
    found = head.get(key)
    if not isinstance(found, list) or len(found) > most:
        raise LearningError(f"{key} is not a list of at most {most} texts")
    if not all(isinstance(text, str) and len(text) <= _MOST_TEXT for text in found):
        raise LearningError(f"{key} holds something that is not a text")
    return found


def _text(head: Mapping[str, object], key: str) -> str:
    found = head.get(key)
    if not isinstance(found, str) or len(found) > _MOST_TEXT:
        raise LearningError(f"{key} is not a text")
    return found


def _number(head: Mapping[str, object], key: str) -> float:
    value = _finite(key, head.get(key))
    if value < 0.0:
        raise LearningError(f"{key} is below 0")
    return value


def _finite(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 1e18:
        raise LearningError(f"{name} is not a number")
    return float(value)
