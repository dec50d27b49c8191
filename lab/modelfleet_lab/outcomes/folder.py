"""Which files a folder of recorded outcomes has, and which of its models can be compared.

In: a folder. Out: `Folder`. Next: `scanning` reads its Parquet files.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HIDDEN_TOKENS = frozenset({"o1-mini-2024-09-12"})
"""Models whose billed tokens are not in the records, also where no column says so."""
MODELS_AT_MOST = 512
_FLAGS = ("experimental_or_duplicate_endpoint", "hidden_reasoning_tokens")
"""Columns of models.csv that say that a model's cost or quality is not comparable; both may be absent."""
_PRICES = ("usd_per_mtok_in", "usd_per_mtok_out")
_TRUE, _FALSE = frozenset({"true", "1", "yes"}), frozenset({"false", "0", "no", ""})
_PER_MILLION = 1e-6


@dataclass(frozen=True, slots=True)
class Price:
    """USD per token; NaN where models.csv has no such column."""

    input: float
    output: float


@dataclass(frozen=True, slots=True)
class Folder:
    """Paths that exist, and the models of models.csv in its order."""

    path: Path
    queries: tuple[Path, ...]
    outcomes: tuple[Path, ...]
    models: Mapping[str, Price]
    """Those that can be compared."""
    left_out: Mapping[str, str]
    """The others, and why."""


def find(path: Path) -> Folder:
    """Return what the folder has; raise ValueError that names a missing file or column, or a bad value.

    `queries` and `outcomes` are one file each, `NAME.parquet`, or several: `NAME-*.parquet`, or a folder
    `NAME.parquet` or `NAME` with `*.parquet` in it, as dataframe libraries write them.
    """
    if not path.is_dir():
        raise ValueError(
            f"{path} is no folder; name one with queries.parquet, outcomes.parquet and models.csv"
        )
    queries, outcomes = _parts(path, "queries"), _parts(path, "outcomes")
    models, left_out = _models(path / "models.csv")
    return Folder(path, queries, outcomes, models, left_out)


def _parts(folder: Path, name: str) -> tuple[Path, ...]:
    single = folder / f"{name}.parquet"
    if single.is_file():
        return (single,)
    for inner in (single, folder / name):
        if inner.is_dir():
            found = tuple(sorted(inner.glob("*.parquet")))
            if not found:
                raise ValueError(f"{inner} has no *.parquet files in it")
            return found
    found = tuple(sorted(folder.glob(f"{name}-*.parquet")))
    if not found:
        raise ValueError(f"{single} is missing")
    return found


def _models(path: Path) -> tuple[dict[str, Price], dict[str, str]]:
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    models: dict[str, Price] = {}
    left_out: dict[str, str] = {}
    with path.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.DictReader(lines)
        if "model" not in (reader.fieldnames or ()):
            raise ValueError(f"{path}: column 'model' is missing")
        for row in reader:
            name, where = (row["model"] or "").strip(), f"{path}: line {reader.line_num}"
            if not name:
                raise ValueError(f"{where}: the model has no name")
            if name in models or name in left_out:
                raise ValueError(f"{where}: model {name!r} is there twice")
            if len(models) + len(left_out) == MODELS_AT_MOST:
                raise ValueError(f"{where}: more than {MODELS_AT_MOST} models")
            flags = [flag for flag in _FLAGS if _flag(row.get(flag), f"{where}: {flag}")]
            if flags or name in HIDDEN_TOKENS:
                left_out[name] = flags[0] if flags else "hidden_reasoning_tokens"
            else:
                models[name] = Price(*(_price(row, column, where) for column in _PRICES))
    if not models:
        raise ValueError(f"{path} names no model that can be compared")
    return models, left_out


def _flag(text: str | None, where: str) -> bool:
    value = (text or "").strip().lower()
    if value not in _TRUE | _FALSE:
        raise ValueError(f"{where} is {text!r}; write true or false")
    return value in _TRUE


def _price(row: Mapping[str, str | None], column: str, where: str) -> float:
    if column not in row:
        return math.nan
    text = row[column] or ""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise ValueError(f"{where}: {column} is {text!r}; write USD per million tokens, 0 or more")
    return value * _PER_MILLION
