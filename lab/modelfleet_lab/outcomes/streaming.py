"""Recorded outcomes of any amount, in parts that fit into memory.

In: a folder of outcomes, in any order. Out: `Stream`, whose parts hold whole queries. Next: `train`.

Queries and outcomes are separate files, and one may be sorted otherwise than the other. Both are therefore
first dealt out to parts by a hash of `query_id`, on disk; then each part is joined in memory by itself. That
reads the data once and takes about their size on disk, and never more memory than the largest part.
"""

from __future__ import annotations

import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from modelfleet_lab.outcomes import scanning
from modelfleet_lab.outcomes.folder import Folder, find
from modelfleet_lab.outcomes.joining import FloatArray, IntArray, means, numbers, once, places

PART_OUTCOMES = 250_000
PART_BYTES = 1 << 25
"""Of prompts."""
PART_CELLS = 2_000_000
"""Queries times models: most cells are empty where each query was asked of few."""
PARTS_AT_MOST = 512
"""Files open at once. With more than 128 million outcomes parts, and memory with them, grow."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """n queries, m models."""

    prompts: tuple[str, ...]
    tasks: tuple[str | None, ...]
    quality: FloatArray
    """(n, m) in [0, 1], NaN where not recorded."""
    output_tokens: FloatArray
    """(n, m) NaN where not recorded."""


@dataclass(frozen=True, slots=True)
class Part:
    """Some of the queries with all their outcomes, as two Arrow streams; it may travel to another machine."""

    folder: Folder
    queries: bytes
    outcomes: bytes

    def batches(self, rows: int) -> Iterator[Batch]:
        """Yield the queries that have outcomes, at most `rows` at a time; raise ValueError for bad ids."""
        queries, outcomes = (pa.ipc.open_stream(data).read_all() for data in (self.queries, self.outcomes))
        once(self.folder, queries["query_id"])
        place = places(self.folder, outcomes, queries["query_id"])
        columns = len(self.folder.models)
        quality, tokens = (
            means(place, numbers(outcomes[name]), len(queries), columns)
            for name in ("quality", "output_tokens")
        )
        answered = np.flatnonzero(~np.isnan(quality).all(axis=1))
        for first in range(0, len(answered), rows):
            chosen = answered[first : first + rows]
            yield Batch(
                prompts=tuple(queries["prompt"].take(chosen).to_pylist()),
                tasks=tuple(queries["task"].take(chosen).to_pylist()),
                quality=quality[chosen],
                output_tokens=tokens[chosen],
            )


@dataclass(frozen=True, slots=True)
class Stream:
    """May be read several times while its context is open."""

    folder: Folder
    queries: int
    outcomes: int
    """Rows of the files, those of models that are left out included."""
    rows: int
    """Queries in a batch, at most."""
    scratch: Path
    count: int

    @property
    def models(self) -> tuple[str, ...]:
        return tuple(self.folder.models)

    def parts(self) -> Iterator[Part]:
        """Yield every part, each read when it is asked for."""
        for k in range(self.count):
            yield Part(self.folder, *(_file(self.scratch, name, k).read_bytes() for name in _NAMES))

    def batches(self) -> Iterator[Batch]:
        """Yield all queries that have outcomes; the order is that of the parts, always the same."""
        for part in self.parts():
            yield from part.batches(self.rows)


_NAMES = ("queries", "outcomes")


@contextmanager
def stream(
    path: Path,
    *,
    rows: int = 2048,
    scratch: Path | None = None,
    done: Callable[[int], None] = lambda rows: None,
) -> Iterator[Stream]:
    """Deal the folder out to parts in `scratch` (default: where the system keeps temporary files).

    `done` is told how many rows were dealt out, piece by piece. Raise ValueError for what can not be used
    and OSError where `scratch` is full.
    """
    folder = find(path)
    counts = scanning.rows(folder.queries), scanning.rows(folder.outcomes)
    wanted = max(
        counts[1] / PART_OUTCOMES,
        scanning.text_bytes(folder.queries, "prompt") / PART_BYTES,
        counts[0] * len(folder.models) / PART_CELLS,
    )
    count = min(PARTS_AT_MOST, int(wanted) + 1)
    place = Path(tempfile.mkdtemp(prefix="modelfleet-train-", dir=scratch))
    try:
        _deal(scanning.queries(folder), place, "queries", count, done)
        _deal(scanning.outcomes(folder, ("output_tokens",)), place, "outcomes", count, done)
        yield Stream(folder, *counts, rows, place, count)
    finally:
        shutil.rmtree(place)


def _deal(
    tables: Iterator[pa.Table], scratch: Path, name: str, count: int, done: Callable[[int], None]
) -> None:
    """Write each row to the part that its `query_id` belongs to; rows keep their order."""
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    with ExitStack() as files:
        writers: list[pa.ipc.RecordBatchStreamWriter] = []
        for table in tables:
            if not writers:
                writers = [
                    files.enter_context(
                        pa.ipc.new_stream(str(_file(scratch, name, k)), table.schema, options=options)
                    )
                    for k in range(count)
                ]
            owner = _owners(table["query_id"], count)
            order = np.argsort(owner, kind="stable")
            dealt = table.take(order)
            ends = np.searchsorted(owner[order], np.arange(count), side="right")
            for k, (first, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
                if end > first:
                    writers[k].write_table(dealt.slice(first, end - first))
            done(len(table))


def _owners(query_ids: pa.ChunkedArray, count: int) -> IntArray:
    """Return the part of each id; the same id is always in the same part."""
    encoded = query_ids.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):
        encoded = encoded.combine_chunks()
    owners = np.array(
        [zlib.crc32(name.encode()) % count for name in encoded.dictionary.to_pylist()], np.int64
    )
    return np.asarray(owners[encoded.indices.to_numpy()], np.int64)


def _file(scratch: Path, name: str, part: int) -> Path:
    return scratch / f"{name}-{part}.arrow"
