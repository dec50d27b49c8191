"""Recorded outcomes as complete matrices, split into past and test by the text of the prompt.

In: a folder of outcomes. Out: `Recorded`. Next: `modelfleet evaluate` and `methods.comparison`.
Models that are not comparable are left out, as are repeated prompts.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from modelfleet_lab.outcomes import scanning
from modelfleet_lab.outcomes.folder import Folder, find
from modelfleet_lab.outcomes.joining import BoolArray, FloatArray, means, numbers, once, places

TRAIN = 0.6
"""Share of the prompts that are past."""
_BYTES_PER_TOKEN = 4
"""For prompts whose tokens nobody counted."""


@dataclass(frozen=True, slots=True, eq=False)
class Recorded:
    """n queries, m models; every model answered every query."""

    prompts: tuple[str, ...]
    tasks: tuple[str, ...]
    """Empty where not known."""
    models: tuple[str, ...]
    quality: FloatArray
    """(n, m) in [0, 1]."""
    cost: FloatArray
    """(n, m) USD."""
    input_tokens: FloatArray
    """(n,) estimated by the prompt's length where not recorded."""
    output_tokens: FloatArray
    """(n, m) NaN where not recorded."""
    price_in: FloatArray
    """(m,) USD per token; 0 where models.csv has no prices: then every cost is as recorded."""
    price_out: FloatArray
    """(m,) as `price_in`."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Models that can not be compared, and why."""


def read(path: Path) -> Recorded:
    """Return what the folder records; raise ValueError that names a missing file, column or outcome.

    Cost is `cost_usd` where recorded; otherwise recorded output tokens and input tokens at list prices;
    where no output tokens are recorded at all, input tokens at their price. Prices and input tokens may be
    missing where every cost is recorded.
    """
    folder = find(path)
    prices = list(folder.models.values())
    price_in, price_out = (np.array([getattr(p, way) for p in prices]) for way in ("input", "output"))
    queries = pa.concat_tables(scanning.queries(folder, ("input_tokens",)))
    once(folder, queries["query_id"])
    outcomes = pa.concat_tables(scanning.outcomes(folder, ("cost_usd", "output_tokens")))
    place = places(folder, outcomes, queries["query_id"])
    quality, cost, output = (
        means(place, numbers(outcomes[name]), len(queries), len(prices))
        for name in ("quality", "cost_usd", "output_tokens")
    )
    prompts = queries["prompt"].to_pylist()
    kept = sorted({prompt: k for k, prompt in reversed(list(enumerate(prompts)))}.values())
    ids, tasks = queries["query_id"].take(kept).to_pylist(), queries["task"].take(kept).to_pylist()
    quality, output = quality[kept], output[kept]
    _complete(folder, ids, quality, "no outcome")
    tokens = numbers(queries["input_tokens"])[kept]
    cost = cost[kept]
    if np.isnan(cost).any():
        _priced(folder, tokens, price_in, price_out)
        cost = _with_list_prices(cost, tokens, output, price_in, price_out)
    _complete(folder, ids, cost, "neither cost_usd nor output_tokens")
    asked = tuple(prompts[k] for k in kept)
    return Recorded(
        prompts=asked,
        tasks=tuple(task or "" for task in tasks),
        models=tuple(folder.models),
        quality=quality,
        cost=cost,
        input_tokens=np.where(np.isnan(tokens), [_expected_tokens(prompt) for prompt in asked], tokens),
        output_tokens=output,
        price_in=np.nan_to_num(price_in),
        price_out=np.nan_to_num(price_out),
        left_out=folder.left_out,
    )


def is_past(prompts: tuple[str, ...], seed: int) -> BoolArray:
    """Return (n,) whether each prompt belongs to the past: a hash of seed and text decides."""
    draws = [int(hashlib.sha256(f"{seed}|{prompt}".encode()).hexdigest()[:8], 16) for prompt in prompts]
    return np.array(draws) / 2**32 < TRAIN


def _priced(folder: Folder, tokens: FloatArray, price_in: FloatArray, price_out: FloatArray) -> None:
    """Raise ValueError where something is missing without which a missing cost can not be worked out."""
    why = "is missing, and some cost_usd are not recorded"
    for column, found in (("usd_per_mtok_in", price_in), ("usd_per_mtok_out", price_out)):
        if np.isnan(found).any():
            raise ValueError(f"{folder.path / 'models.csv'}: column {column!r} {why}")
    if np.isnan(tokens).any():
        raise ValueError(f"{folder.queries[0]}: column 'input_tokens', or a value of it, {why}")


def _expected_tokens(prompt: str) -> int:
    return math.ceil(len(prompt.encode("utf-8", "replace")) / _BYTES_PER_TOKEN)


def _with_list_prices(
    cost: FloatArray, tokens: FloatArray, output: FloatArray, price_in: FloatArray, price_out: FloatArray
) -> FloatArray:
    """Return (n, m) the recorded cost, elsewhere tokens at list prices."""
    answers = output * price_out
    if np.isnan(cost).all() and np.isnan(output).all():
        answers = np.zeros_like(cost)
    return np.where(np.isnan(cost), tokens[:, None] * price_in + answers, cost)


def _complete(folder: Folder, ids: list[str], matrix: FloatArray, what: str) -> None:
    missing = np.argwhere(np.isnan(matrix))
    if missing.size:
        query, model = ids[missing[0][0]], list(folder.models)[missing[0][1]]
        raise ValueError(
            f"{folder.outcomes[0]}: {what} of query {query!r} by {model!r} ({len(missing)} of {matrix.size} "
            "are missing); an evaluation needs every model's outcome of every query"
        )
