"""Answers and their scores, as sidecars see them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from modelfleet_core.estimation.embedding import EMBEDDING
from modelfleet_core.estimation.experience import ExperienceCell, ExperienceKey, Figure
from modelfleet_core.estimation.learning import Answer, ExperienceLog
from modelfleet_core.values import ModelName, SidecarId, TaskName


def sidecar(number: int = 0) -> SidecarId:
    return SidecarId("ml", f"pod{number}", f"uid{number}", "1")


def key(model: str = "small", task: str = "math", rule: str = "", group: str = "") -> ExperienceKey:
    return ExperienceKey(TaskName(task), rule, ModelName(model), group)


def embedding(*values: float) -> npt.NDArray[np.float64]:
    """An embedding that starts with 1 and `values`."""
    result = np.zeros(EMBEDDING)
    result[: len(values) + 1] = 1.0, *values
    return result


def answer(
    model: str = "small", *values: float, base: float = 0.5, used: float | None = None, task: str = "math"
) -> Answer:
    return Answer(key(model, task), embedding(*values), base, base if used is None else used)


def teach(
    log: ExperienceLog, model: str, scores: int, mean: float, *values: float, base: float = 0.5
) -> None:
    """Score `scores` answers, so many of them 1 that their mean is `mean`."""
    for number in range(scores):
        log.answered(key(model), base, 0.001)
        log.scored(answer(model, *values, base=base), float(number < round(mean * scores)))


def cell(
    model: str,
    *,
    scores: float,
    mean: float,
    task: str = "math",
    rule: str = "",
    cost: float = 0.001,
    group: str = "",
) -> ExperienceCell:
    """Scores of 0 and 1 with that mean; every answer is scored and costs `cost`."""
    sums = np.zeros(len(Figure))
    sums[[Figure.REQUESTS, Figure.SCORES]] = scores
    sums[[Figure.SCORE, Figure.SQUARE]] = scores * mean
    sums[Figure.COST] = scores * cost
    return ExperienceCell(key(model, task, rule, group), sums)
