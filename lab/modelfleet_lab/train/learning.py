"""The passes of training over recorded outcomes, here or on a Dask cluster.

In: a folder. Out: `Training`. Next: `estimator.files` writes what was trained.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from modelfleet_core.estimation.statistics import Statistics
from modelfleet_core.estimation.trained import Trained
from modelfleet_core.estimation.training import trained_from
from modelfleet_core.values import ModelName
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from modelfleet_lab.outcomes import Part, stream
from modelfleet_lab.train.counting import count, counted
from modelfleet_lab.train.dask import connected
from modelfleet_lab.train.held_out import HeldOut, held_out
from modelfleet_lab.train.memory import peak_bytes


@dataclass(frozen=True, slots=True)
class Training:
    """What came of it, and what it took."""

    trained: Trained
    held_out: HeldOut | None
    queries: int
    outcomes: int
    left_out: Mapping[str, str]
    """Models that models.csv flags, and as what."""
    seconds: float
    peak_bytes: int
    """Of this process."""


def learn(data: Path, *, dask: str | None, scratch: Path | None, console: Console) -> Training:
    """Return the estimator that the folder teaches; raise ValueError for what can not be used."""
    began = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:,.0f}"))
    with ExitStack() as contexts:
        cluster = contexts.enter_context(connected(dask)) if dask is not None else None
        progress = contexts.enter_context(
            Progress(*columns, TimeElapsedColumn(), console=console, transient=True)
        )
        reading = progress.add_task("rows read", total=None)
        streamed = contexts.enter_context(
            stream(data, scratch=scratch, done=lambda rows: progress.advance(reading, rows))
        )
        models = tuple(ModelName(name) for name in streamed.models)

        def parts() -> Iterator[Part]:
            bar = progress.add_task("parts counted", total=streamed.count)
            return _shown(streamed.parts(), partial(progress.advance, bar))

        if cluster is None:
            statistics = Statistics.none(models)
            for part in parts():
                count(statistics, part)
        else:
            statistics = cluster.total(parts(), partial(counted, models))
        progress.add_task("fit", total=None)
        trained, without = trained_from(statistics), held_out(statistics)
    return Training(
        trained=trained,
        held_out=without,
        queries=streamed.queries,
        outcomes=streamed.outcomes,
        left_out=streamed.folder.left_out,
        seconds=time.monotonic() - began,
        peak_bytes=peak_bytes(),
    )


def _shown(parts: Iterator[Part], done: Callable[[], None]) -> Iterator[Part]:
    """Yield the parts; a part counts as done when the next one is asked for."""
    for part in parts:
        yield part
        done()
