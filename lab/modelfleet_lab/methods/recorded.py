"""Recorded outcomes as matrices, split into past and test by the text of the prompt.

In: a folder with `queries.parquet`, `outcomes.parquet` and `models.csv`. Out: `Recorded`. Next: `comparison`.
Models that are flagged as not comparable are left out, as are repeated prompts.
"""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modelfleet_lab.methods import BoolArray, FloatArray
from modelfleet_lab.questions.recorded import HIDDEN_TOKENS
from modelfleet_lab.tables import read_columns

TRAIN = 0.6
"""Share of the prompts that are past."""
_PER_MILLION = 1e-6


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """n queries, m models; every model answered every query."""

    prompts: tuple[str, ...]
    tasks: tuple[str, ...]
    models: tuple[str, ...]
    quality: FloatArray
    """(n, m) in [0, 1]."""
    cost: FloatArray
    """(n, m) USD."""


def read(folder: Path) -> Recorded:
    """Return what `folder` records; raise ValueError that names a missing file, column or outcome.

    Without `cost_usd`, cost is input tokens times the input price.
    """
    queries = read_columns(folder / "queries.parquet", ("query_id", "task", "prompt", "input_tokens"))
    prices = _models(folder / "models.csv")
    first = {prompt: k for k, prompt in reversed(list(enumerate(queries["prompt"])))}
    rows = {queries["query_id"][k]: n for n, k in enumerate(sorted(first.values()))}
    columns = {model: j for j, model in enumerate(prices)}
    kept = sorted(first.values())
    try:
        outcomes = read_columns(folder / "outcomes.parquet", ("query_id", "model", "quality", "cost_usd"))
        costs = outcomes["cost_usd"]
    except ValueError:
        outcomes = read_columns(folder / "outcomes.parquet", ("query_id", "model", "quality"))
        tokens = dict(zip(queries["query_id"], queries["input_tokens"], strict=True))
        costs = [
            tokens[query] * prices.get(model, 0.0) * _PER_MILLION
            for query, model in zip(outcomes["query_id"], outcomes["model"], strict=True)
        ]
    quality = np.full((len(rows), len(columns)), np.nan)
    cost = np.full((len(rows), len(columns)), np.nan)
    for query, model, value, usd in zip(
        outcomes["query_id"], outcomes["model"], outcomes["quality"], costs, strict=True
    ):
        if query in rows and model in columns:
            quality[rows[query], columns[model]] = value
            cost[rows[query], columns[model]] = usd
    missing = np.argwhere(np.isnan(quality) | np.isnan(cost))
    if missing.size:
        names = [queries["query_id"][kept[missing[0][0]]], list(columns)[missing[0][1]]]
        raise ValueError(f"{folder / 'outcomes.parquet'}: no outcome of query {names[0]} by {names[1]}")
    return Recorded(
        prompts=tuple(queries["prompt"][k] for k in kept),
        tasks=tuple(queries["task"][k] for k in kept),
        models=tuple(columns),
        quality=quality,
        cost=cost,
    )


def is_past(prompts: tuple[str, ...], seed: int) -> BoolArray:
    """Return (n,) whether each prompt belongs to the past: a hash of seed and text decides."""
    draws = [int(hashlib.sha256(f"{seed}|{prompt}".encode()).hexdigest()[:8], 16) for prompt in prompts]
    return np.array(draws) / 2**32 < TRAIN


def _models(path: Path) -> dict[str, float]:
    """Return the comparable models and their input prices."""
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    with path.open(encoding="utf-8") as lines:
        reader = csv.DictReader(lines)
        for name in ("model", "usd_per_mtok_in"):
            if name not in (reader.fieldnames or ()):
                raise ValueError(f"{path}: column {name!r} is missing")
        return {
            row["model"]: float(row["usd_per_mtok_in"])
            for row in reader
            if row["model"] not in HIDDEN_TOKENS
            and row.get("experimental_or_duplicate_endpoint", "").lower() != "true"
        }
