"""Recorded outcomes: what each model made of each query, and what it cost.

In: a folder with `queries.parquet`, `outcomes.parquet` and `models.csv`, as `docs/train.md` says.
Out: complete matrices (`Recorded`) for evaluations, parts of any amount (`Stream`) for training.

Every error names the file, the column and the row or value.
"""

from __future__ import annotations

from modelfleet_lab.outcomes.reading import Recorded, is_past, read
from modelfleet_lab.outcomes.streaming import Part, Stream, stream

__all__ = ["Part", "Recorded", "Stream", "is_past", "read", "stream"]
