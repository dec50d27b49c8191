"""Stage forward and learn, some rows of training as they are: what sums can not tell is tried on them.

In: rows. Out: `Sample`, at most `ROWS` of them. Next: `training`, which estimates each by a fit without its
fold.

The rows with the lowest keys are kept, and a row's key is a checksum of its content. So every row has the
same chance, and samples add: however rows are split, the same are left.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modelfleet_core.values import TaskName

FloatArray = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

ROWS = 8192


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """n rows in the order of their keys."""

    key: npt.NDArray[np.uint64]
    """(n,)"""
    x: Float32Array
    """(n, d)"""
    quality: Float32Array
    """(n, m), NaN where not known."""
    output_tokens: Float32Array
    """(n, m), NaN where not known."""
    fold: IntArray
    """(n,)"""
    task: tuple[TaskName | None, ...]
    """(n,)"""

    @classmethod
    def none(cls, features: int, models: int) -> Sample:
        empty = np.empty((0, models), np.float32)
        return cls(
            np.empty(0, np.uint64),
            np.empty((0, features), np.float32),
            empty,
            empty,
            np.empty(0, np.int64),
            (),
        )

    @classmethod
    def of(
        cls,
        x: FloatArray,
        quality: FloatArray,
        output_tokens: FloatArray,
        fold: IntArray,
        task: tuple[TaskName | None, ...],
    ) -> Sample:
        """Return all rows, keyed."""
        x32, quality32, tokens32 = (
            np.ascontiguousarray(a, dtype=np.float32) for a in (x, quality, output_tokens)
        )
        outcomes = np.ascontiguousarray(np.hstack([quality32, tokens32]))
        keys = [zlib.crc32(a) << 32 | zlib.crc32(b) for a, b in zip(x32, outcomes, strict=True)]
        return cls(np.array(keys, np.uint64), x32, quality32, tokens32, fold, task).lowest()

    def lowest(self) -> Sample:
        """Return the `ROWS` rows with the lowest keys."""
        return self.at(np.argsort(self.key, kind="stable")[:ROWS])

    def at(self, place: npt.NDArray[np.int64]) -> Sample:
        """Return the rows at `place`."""
        return Sample(
            self.key[place],
            self.x[place],
            self.quality[place],
            self.output_tokens[place],
            self.fold[place],
            tuple(self.task[k] for k in place.tolist()),
        )

    def __add__(self, other: Sample) -> Sample:
        if len(self.key) == ROWS:
            # Once full, few rows of a batch are low enough: the rest is not copied.
            other = other.at(np.arange(np.searchsorted(other.key, self.key[-1])))
            if not other.key.size:
                return self
        return Sample(
            np.concatenate([self.key, other.key]),
            np.concatenate([self.x, other.x]),
            np.concatenate([self.quality, other.quality]),
            np.concatenate([self.output_tokens, other.output_tokens]),
            np.concatenate([self.fold, other.fold]),
            self.task + other.task,
        ).lowest()
