"""The split of the evaluation, and what everything is measured by.

In: `Recorded` outcomes and a seed. Out: `Protocol`: which queries are past and which are test, and the best
single model of the past. Next: `estimators` are told the past; `figures` charges the test.

A query belongs to the past if the first 8 hex digits of sha256("seed|prompt") / 2^32 are below 0.6. Equal
prompts were made one before, so no text is on both sides.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from modelfleet_lab.methods import BoolArray, FloatArray
from modelfleet_lab.outcomes import Recorded, is_past

LEAST = 10
"""Queries that each side needs: with less, no figure means anything."""


@dataclass(frozen=True, slots=True, eq=False)
class Part:
    """Some of the queries, k of them."""

    prompts: tuple[str, ...]
    tasks: tuple[str, ...]
    quality: FloatArray
    """(k, m) as recorded."""
    cost: FloatArray
    """(k, m) USD as recorded."""
    input_tokens: FloatArray
    """(k,)"""
    output_tokens: FloatArray
    """(k, m) NaN where not recorded."""

    @property
    def size(self) -> int:
        return len(self.prompts)


@dataclass(frozen=True, slots=True, eq=False)
class Protocol:
    """What is known before (`past`), what is measured on (`test`), and the model to beat."""

    data: Recorded
    seed: int
    past: Part
    test: Part
    single: int
    """Column of the best single model: the highest mean quality of the past, of equal ones the cheapest."""

    @property
    def single_quality(self) -> float:
        """Its mean quality on the test."""
        return float(self.test.quality[:, self.single].mean())

    @property
    def single_cost(self) -> float:
        """Its mean cost on the test, USD per query."""
        return float(self.test.cost[:, self.single].mean())


def part_of(data: Recorded, members: BoolArray) -> Part:
    """Return the queries that are `members` (n,)."""
    chosen = np.flatnonzero(members)
    return Part(
        prompts=tuple(data.prompts[i] for i in chosen),
        tasks=tuple(data.tasks[i] for i in chosen),
        quality=data.quality[chosen],
        cost=data.cost[chosen],
        input_tokens=data.input_tokens[chosen],
        output_tokens=data.output_tokens[chosen],
    )


def best_single(past: Part, members: BoolArray | None = None) -> int:
    """Return the column of the highest mean quality, of equal ones the cheapest; of `members` (k,) only."""
    rows = slice(None) if members is None else members
    quality, cost = past.quality[rows].mean(axis=0), past.cost[rows].mean(axis=0)
    return int(np.where(quality >= quality.max() - 1e-12, cost, np.inf).argmin())


def split(data: Recorded, seed: int) -> Protocol:
    """Return the protocol. Raises ValueError where there is too little to compare."""
    if len(data.models) < 2:
        raise ValueError(f"only {data.models[0]} can be compared; routing needs two models or more")
    members = is_past(data.prompts, seed)
    past, test = part_of(data, members), part_of(data, ~members)
    for name, part in (("past", past), ("test", test)):
        if part.size < LEAST:
            raise ValueError(
                f"the split by seed {seed} leaves {part.size} different prompts for the {name} of "
                f"{len(data.prompts)} in all; {LEAST} are needed: use more data or another --seed"
            )
    return Protocol(data=data, seed=seed, past=past, test=test, single=best_single(past))
