"""Reads Parquet files piece by piece, and checks each value before anything is made of it.

In: `Folder`. Out: Arrow tables of one type each, never more than `ROWS` rows at a time. Next: `reading` and
`streaming` join queries and outcomes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import parquet

from modelfleet_lab.outcomes.folder import Folder

ROWS = 32_768
TEXT = pa.large_string()
NUMBER = pa.float64()
MODEL = pa.int16()
"""The model's place among those that can be compared."""
QUERIES = {"query_id": TEXT, "prompt": TEXT}
TASK = {"task": TEXT}
OUTCOMES = {"query_id": TEXT, "model": TEXT, "quality": NUMBER}


def queries(folder: Folder, more: Sequence[str] = ()) -> Iterator[pa.Table]:
    """Yield `query_id`, `prompt`, the numbers named by `more`, and `task`: these null where not known."""
    for path, first, table in _scan(folder.queries, QUERIES, TASK | dict.fromkeys(more, NUMBER)):
        for name in QUERIES:
            _refuse(path, first, table, name, pc.is_null(table[name]), "a value")
        for name in more:
            _refuse(path, first, table, name, _not_within(table[name], 0.0, None), "0 or more, or null")
        yield table


def outcomes(folder: Folder, more: Sequence[str] = ()) -> Iterator[pa.Table]:
    """Yield `query_id`, `model` (int16), `quality` and the numbers named by `more`.

    Those of `more` may be missing, as column or value: then they are null. Outcomes of models that can not
    be compared are left out.
    """
    known = pa.array(list(folder.models), TEXT)
    others = pa.array(list(folder.left_out), TEXT)
    for path, first, table in _scan(folder.outcomes, OUTCOMES, dict.fromkeys(more, NUMBER)):
        for name in ("query_id", "model", "quality"):
            _refuse(path, first, table, name, pc.is_null(table[name], nan_is_null=True), "a value")
        _refuse(
            path, first, table, "quality", _not_within(table["quality"], 0.0, 1.0), "a number from 0 to 1"
        )
        for name in more:
            _refuse(path, first, table, name, _not_within(table[name], 0.0, None), "0 or more, or null")
        places = pc.index_in(table["model"], value_set=known)
        neither = pc.and_(pc.is_null(places), pc.invert(pc.is_in(table["model"], value_set=others)))
        _refuse(path, first, table, "model", neither, f"one that {folder.path / 'models.csv'} names")
        table = table.set_column(table.column_names.index("model"), "model", pc.cast(places, MODEL))
        yield table.filter(pc.is_valid(places))


def rows(paths: Sequence[Path]) -> int:
    """Return how many rows the files say they have."""
    return sum(_open(path).metadata.num_rows for path in paths)


def text_bytes(paths: Sequence[Path], column: str) -> int:
    """Return the column's size as the files state it, before compression."""
    total = 0
    for path in paths:
        metadata = _open(path).metadata
        for group in range(metadata.num_row_groups):
            chunks = (metadata.row_group(group).column(i) for i in range(metadata.num_columns))
            total += sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema == column)
    return total


def _open(path: Path) -> parquet.ParquetFile:
    try:
        return parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{path} can not be read as Parquet: {error}") from error


def _scan(
    paths: Sequence[Path], required: Mapping[str, pa.DataType], optional: Mapping[str, pa.DataType]
) -> Iterator[tuple[Path, int, pa.Table]]:
    """Yield (file, number of the first row, rows) with exactly the named columns, each of its type."""
    found = 0
    for path in paths:
        with _open(path) as file:
            present = file.schema_arrow.names
            for name in required:
                if name not in present:
                    needed = ", ".join(required)
                    raise ValueError(f"{path}: column {name!r} is missing; needed are {needed}")
            names = [*required, *(name for name in optional if name in present)]
            first = 0
            try:
                for batch in file.iter_batches(batch_size=ROWS, columns=names, use_threads=False):
                    yield path, first, _typed(path, first, batch, {**required, **optional})
                    first += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                raise ValueError(f"{path}: rows from {first} can not be read: {error}") from error
            found += first
    if not found:
        raise ValueError(f"{paths[0]} has no rows")


def _typed(path: Path, first: int, batch: pa.RecordBatch, types: Mapping[str, pa.DataType]) -> pa.Table:
    columns = {}
    for name, wanted in types.items():
        if name not in batch.schema.names:
            columns[name] = pa.nulls(batch.num_rows, wanted)
            continue
        try:
            columns[name] = pc.cast(batch.column(name), wanted)
        except pa.ArrowException as error:
            kind = "a number" if wanted == NUMBER else "text"
            rows = f"rows from {first}, counted from 0"
            raise ValueError(f"{path}: {rows}: column {name!r} must be {kind}: {error}") from error
    return pa.table(columns)


def _not_within(values: pa.ChunkedArray, low: float, high: float | None) -> pa.ChunkedArray:
    """Return whether each value is out of range or not finite; false where null."""
    inside = pc.and_(pc.is_finite(values), pc.greater_equal(values, low))
    if high is not None:
        inside = pc.and_(inside, pc.less_equal(values, high))
    return pc.fill_null(pc.invert(inside), False)


def _refuse(path: Path, first: int, table: pa.Table, name: str, bad: pa.ChunkedArray, wanted: str) -> None:
    place = pc.index(bad, True).as_py()
    if place >= 0:
        value = table[name][place].as_py()
        raise ValueError(
            f"{path}: row {first + place}, counted from 0: {name} is {_short(value)}; it must be {wanted}"
        )


def _short(value: object) -> str:
    text = "null" if value is None else repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
