"""Puts outcomes into matrices: a row for each query, a column for each model.

In: tables of `scanning`. Out: places and means. Next: `reading`, `streaming`.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from modelfleet_lab.outcomes.folder import Folder

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


def once(folder: Folder, query_ids: pa.ChunkedArray) -> None:
    """Raise ValueError where an id is there twice."""
    counted = pc.value_counts(query_ids)
    place = pc.index(pc.greater(counted.field("counts"), 1), True).as_py()
    if place >= 0:
        twice = counted.field("values")[place].as_py()
        raise ValueError(f"{folder.queries[0]}: query_id {twice!r} is there more than once")


def places(folder: Folder, outcomes: pa.Table, query_ids: pa.ChunkedArray) -> IntArray:
    """Return each outcome's place in a matrix (queries, models) laid out by rows."""
    row = pc.index_in(outcomes["query_id"], value_set=query_ids)
    unknown = pc.index(pc.is_null(row), True).as_py()
    if unknown >= 0:
        name = outcomes["query_id"][unknown].as_py()
        raise ValueError(
            f"{folder.outcomes[0]}: query_id {name!r} is not in {folder.queries[0].name}; "
            "every outcome needs its query"
        )
    rows = row.to_numpy().astype(np.int64)
    return np.asarray(rows * len(folder.models) + outcomes["model"].to_numpy(), np.int64)


def means(place: IntArray, values: FloatArray, queries: int, models: int) -> FloatArray:
    """Return (queries, models) the mean of the values at each place; NaN where there is none.

    A query may have been asked several times: its outcomes are averaged.
    """
    known = ~np.isnan(values)
    size = queries * models
    count = np.bincount(place[known], minlength=size)
    total = np.bincount(place[known], weights=values[known], minlength=size)
    mean = np.full(size, np.nan)
    np.divide(total, count, out=mean, where=count > 0)
    return mean.reshape(queries, models)


def numbers(column: pa.ChunkedArray) -> FloatArray:
    """Return the values, NaN where null."""
    return np.asarray(pc.fill_null(column, np.nan).to_numpy(), np.float64)
