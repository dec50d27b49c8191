"""Estimates each model's quality by the scores of your own evaluation: a table of task, model and score.

`EVALUATION_TABLE` is the path of a CSV file with the columns `task`, `model` and `score` (0 to 1): a row for
each question that a model answered. A model's mean on a task is pulled towards its mean over all tasks, and
that towards the manifest's prior, as long as there are few scores.
"""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from modelfleet_core.catalog import Fleet, Model
from modelfleet_core.estimation.forecast import Forecast, Question

PATH = "EVALUATION_TABLE"
WEIGHT = 20.0
"""Scores that a mean needs to count as much as what it is pulled towards."""
DOUBT = 0.04
"""Variance of the manifest's prior: a standard deviation of 0.2."""


@dataclass
class Scores:
    """Of one model, on one task or over all."""

    count: int = 0
    total: float = 0.0
    squares: float = 0.0

    def add(self, score: float) -> None:
        self.count += 1
        self.total += score
        self.squares += score * score

    def mean(self, towards: float) -> float:
        return (self.total + WEIGHT * towards) / (self.count + WEIGHT)

    def variance(self) -> float:
        """Return that of the mean."""
        if not self.count:
            return DOUBT
        spread = max(0.01, self.squares / self.count - (self.total / self.count) ** 2)
        return min(DOUBT, spread / self.count)


class EvaluationTable:
    """The estimator `evaluation-table`."""

    def __init__(self, rows: Iterable[tuple[str, str, float]] | None = None) -> None:
        """Read the table of `EVALUATION_TABLE`, or take `rows` of (task, model, score)."""
        self._by_task: dict[tuple[str, str], Scores] = defaultdict(Scores)
        self._by_model: dict[str, Scores] = defaultdict(Scores)
        for task, model, score in read_table(Path(os.environ[PATH])) if rows is None else rows:
            self._by_task[task, model].add(score)
            self._by_model[model].add(score)

    def forecast(self, question: Question, fleet: Fleet) -> Forecast:
        """Return the table's word on each model of the fleet, in its order."""
        task = question.profile.task
        here = [self._by_task.get((task, model.name), Scores()) for model in fleet.models]
        known = min(scores.count for scores in here)
        return Forecast(
            quality=[
                scores.mean(self._overall(model)) for scores, model in zip(here, fleet.models, strict=True)
            ],
            variance=[scores.variance() for scores in here],
            samples=[float(scores.count) for scores in here],
            confidence=known / (known + WEIGHT),
        )

    def _overall(self, model: Model) -> float:
        return self._by_model.get(model.name, Scores()).mean(model.quality.prior)


def read_table(path: Path) -> list[tuple[str, str, float]]:
    """Read a table; raise ValueError that names the line at fault."""
    with path.open(encoding="utf-8", newline="") as file:
        table = csv.DictReader(file)
        missing = {"task", "model", "score"} - set(table.fieldnames or ())
        if missing:
            raise ValueError(f"{path} has no column {', '.join(sorted(missing))}")
        rows = []
        for row in table:
            try:
                score = float(row["score"])
            except (TypeError, ValueError):
                score = -1.0
            if not 0.0 <= score <= 1.0:
                raise ValueError(f"{path}, line {table.line_num}: score {row['score']!r} is not from 0 to 1")
            rows.append((row["task"], row["model"], score))
    return rows
