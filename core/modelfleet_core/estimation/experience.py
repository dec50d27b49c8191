"""Stage forward and learn, its evidence: what one sidecar saw of answers and scores, as sums that add.

In: answers and feedback, counted by `learning`. Out: `Experience`, which travels to the leader and is merged
there. It holds sums only: no text, no caller, no single request.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from modelfleet_core.values import ModelName, TaskName

FloatArray = npt.NDArray[np.float64]


class Figure(IntEnum):
    """What is summed in a cell, over requests that the model answered."""

    REQUESTS = 0
    PREDICTED = 1
    """Quality that routing expected."""
    COST = 2
    """USD as booked."""
    SCORES = 3
    """Requests with a score from feedback."""
    SCORE = 4
    SQUARE = 5
    """Of scores."""
    ERRORS = 6
    """Attempts that ended in an error."""
    RETRIES = 7
    """Callers that asked the same again."""
    TRUNCATED = 8
    """Answers cut by their token limit."""
    JUDGED = 9
    """Requests that the judge scored."""
    JUDGED_SCORE = 10
    BOTH = 11
    """Requests that judge and user scored."""
    AGREED = 12
    """Of those: both scores at or above one half, or both below."""
    BOTH_USER_GOOD = 13
    """Of `BOTH`: the user's score is at least one half."""
    BOTH_JUDGE_GOOD = 14


class Scored(IntEnum):
    """What is summed over a model's scored answers, to tell whether estimates are right."""

    WEIGHT = 0
    SCORE = 1
    USED = 2
    """The estimate that routing went by."""
    BASE = 3
    """The estimate without what was learned since."""
    USED_ERROR = 4
    """Squared error of the one."""
    BASE_ERROR = 5
    """Squared error of the other."""


@dataclass(frozen=True, slots=True)
class ExperienceKey:
    """Cells are few: tasks and groups that a policy declares or the estimator knows, rules, models."""

    task: TaskName
    rule: str
    """Of the policy's rules the one that matched; empty: none."""
    model: ModelName
    group: str
    """The tenant or the declared value of the attribute; empty: none of them."""


@dataclass(frozen=True, slots=True, eq=False)
class ExperienceCell:
    key: ExperienceKey
    sums: FloatArray
    """(len(Figure),) cumulative since the sidecar's start."""


@dataclass(frozen=True, slots=True, eq=False)
class ModelEvidence:
    """Of one model, over scored answers x (k,) with score y and base estimate b, weighted w; cumulative."""

    model: ModelName
    moments: FloatArray
    """(k (k + 1) / 2,) sum of w x x', its upper triangle by rows."""
    products: FloatArray
    """(k,) sum of w x (y - b)."""
    scored: FloatArray
    """(len(Scored),)"""


@dataclass(frozen=True, slots=True, eq=False)
class Experience:
    """What the leader does not know yet, as cumulative sums; entries that did not change are absent."""

    estimator_version: str
    """Of the base whose estimates `models` corrects; its sums start anew with another base. Empty: the
    manifest's priors."""
    models: tuple[ModelEvidence, ...]
    cells: tuple[ExperienceCell, ...]

    def and_then(self, later: Experience, most_cells: int) -> Experience:
        """Return what both tell, as the same sidecar told them; of too many cells the oldest are left out."""
        models = {
            entry.model: entry for entry in self.models if later.estimator_version == self.estimator_version
        }
        cells = {cell.key: cell for cell in self.cells}
        for cell in later.cells:
            cells.pop(cell.key, None)
            cells[cell.key] = cell
        return Experience(
            later.estimator_version,
            tuple((models | {entry.model: entry for entry in later.models}).values()),
            tuple(cells.values())[-most_cells:],
        )


NO_EXPERIENCE = Experience("", (), ())
