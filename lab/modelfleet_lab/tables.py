"""Reads columns of Parquet files, and says in one line which file and column can not be read.

In: a path and names of columns. Out: their values. Next: `arrivals` and `questions.recorded`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet


def read_columns(path: Path, names: Sequence[str]) -> Mapping[str, list[Any]]:
    """Return the columns in the order of `names`; raise ValueError when the file or a column is missing."""
    if not path.is_file():
        raise ValueError(f"{path} is missing")
    try:
        present = parquet.read_schema(path).names
        missing = [name for name in names if name not in present]
        if missing:
            raise ValueError(f"{path}: column {missing[0]!r} is missing; needed are {', '.join(names)}")
        table = parquet.read_table(path, columns=list(names))
    except pyarrow.ArrowException as error:
        raise ValueError(f"{path} can not be read as Parquet: {error}") from error
    return {name: table[name].to_pylist() for name in names}
