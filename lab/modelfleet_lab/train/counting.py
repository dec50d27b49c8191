"""Turns parts of recorded outcomes into what the core's training counts.

In: `Part` of `outcomes.stream`. Out: `Batch` with features, and sums. Next: core `estimation.training`.
All of it runs on a Dask worker as it does here, and needs no file there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from modelfleet_core.estimation.features import feature_matrix
from modelfleet_core.estimation.training import Batch, Statistics, fold_of
from modelfleet_core.values import ModelName, TaskName

from modelfleet_lab.outcomes import Part

ROWS = 2048
"""Queries whose features are in memory at once."""
_SPECIMEN = "Prove that f(x) = 2x + 1 is monotone.\n```python\nassert f(3) == 7\n``` Почему? なぜ?"


def batches(part: Part) -> Iterator[Batch]:
    """Yield the part's queries with their features; raise ValueError for ids that do not match."""
    for batch in part.batches(ROWS):
        yield Batch(
            x=feature_matrix(batch.prompts),
            task=tuple(None if task is None else TaskName(task) for task in batch.tasks),
            quality=batch.quality,
            output_tokens=batch.output_tokens,
            fold=np.array([fold_of(prompt) for prompt in batch.prompts], np.int64),
        )


def count(statistics: Statistics, part: Part) -> None:
    """Add the part's sums to `statistics`."""
    for batch in batches(part):
        statistics.add(batch)


def counted(models: Sequence[ModelName], part: Part) -> Statistics:
    """Return the part's sums."""
    statistics = Statistics.none(models)
    count(statistics, part)
    return statistics


def fingerprint() -> str:
    """Return what tells one version of the features from another."""
    return hashlib.sha256(feature_matrix([_SPECIMEN]).round(9).tobytes()).hexdigest()
