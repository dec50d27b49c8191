"""Stage forward and learn, in the sidecar: sums over answers and their scores since the process started.

In: one call per event, and which report each grant answers. Out: `Experience`, the entries that the leader
does not know yet. Next: the lease client sends it, the leader's `merging` takes it over.

As in `demand.sketch`, sums only grow and a report holds whole sums: lost, repeated and reordered reports
change nothing, and what the leader heard is left out of the next one.

Only scores teach: those of users and, at half weight, of a judge. Errors, repeated questions and cut answers
are counted in cells but teach nothing of quality: they depend on load and on the caller's limits as much as
on the model, and there is no honest score to give them.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from modelfleet_core.estimation.embedding import EMBEDDING
from modelfleet_core.estimation.experience import (
    Experience,
    ExperienceCell,
    ExperienceKey,
    Figure,
    ModelEvidence,
    Scored,
)
from modelfleet_core.values import ModelName, TaskName

FloatArray = npt.NDArray[np.float64]

MAX_CELLS = 512
MAX_MODELS = 64
"""Models that scores teach about, and that have a cell where there is no room for finer ones."""
JUDGE_WEIGHT = 0.5
_REMEMBERED = 256
"""Reports that wait for their answer."""
_TRIANGLE = np.triu_indices(EMBEDDING)


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What is kept of an answered request, so that a later score can teach."""

    key: ExperienceKey
    embedding: FloatArray
    """(EMBEDDING,)"""
    base: float
    """Quality of the model that answered, as estimated without what was learned."""
    used: float
    """The estimate that routing went by."""


@dataclass(slots=True)
class _Evidence:
    moments: FloatArray = field(default_factory=lambda: np.zeros(len(_TRIANGLE[0])))
    products: FloatArray = field(default_factory=lambda: np.zeros(EMBEDDING))
    scored: FloatArray = field(default_factory=lambda: np.zeros(len(Scored)))
    changed: int = 0


@dataclass(slots=True)
class _Cell:
    sums: list[float]
    """By `Figure`."""
    changed: int = 0


class ExperienceLog:
    """One per sidecar. Bounded: `MAX_CELLS` cells, `MAX_MODELS` coarser ones and as many models' evidence."""

    def __init__(self, estimator_version: str = "") -> None:
        self.estimator_version = estimator_version
        self._cells: dict[ExperienceKey, _Cell] = {}
        self._models: dict[ModelName, _Evidence] = {}
        self._records = 0
        self._reported = 0
        self._heard = 0
        self._sent: deque[tuple[int, int]] = deque(maxlen=_REMEMBERED)
        """Sequences of reports and what they held: changes up to that number of records."""

    def __len__(self) -> int:
        """Return how many cells are counted."""
        return len(self._cells)

    # Events.

    def answered(self, key: ExperienceKey, predicted: float, cost: float) -> None:
        """Count an answer; `predicted`: the quality that routing went by, `cost` in USD."""
        self._count(key, {Figure.REQUESTS: 1.0, Figure.PREDICTED: predicted, Figure.COST: cost})

    def failed(self, key: ExperienceKey) -> None:
        """Count an attempt that ended in an error."""
        self._count(key, {Figure.ERRORS: 1.0})

    def retried(self, key: ExperienceKey) -> None:
        """Count that the caller asked the same again."""
        self._count(key, {Figure.RETRIES: 1.0})

    def truncated(self, key: ExperienceKey) -> None:
        """Count an answer that its token limit cut."""
        self._count(key, {Figure.TRUNCATED: 1.0})

    def scored(self, answer: Answer, score: float, weight: float = 1.0) -> None:
        """Learn from a user's `score` in [0, 1], once for each answer."""
        score = _within(score)
        self._count(answer.key, {Figure.SCORES: 1.0, Figure.SCORE: score, Figure.SQUARE: score * score})
        self._learn(answer, score, weight)

    def judged(self, answer: Answer, score: float) -> None:
        """Learn from a judge's `score` in [0, 1], once for each answer."""
        score = _within(score)
        self._count(answer.key, {Figure.JUDGED: 1.0, Figure.JUDGED_SCORE: score})
        self._learn(answer, score, JUDGE_WEIGHT)

    def compared(self, key: ExperienceKey, user: float, judge: float) -> None:
        """Count an answer that user and judge have both scored, once both are known."""
        liked, passed = user >= 0.5, judge >= 0.5
        self._count(
            key,
            {
                Figure.BOTH: 1.0,
                Figure.AGREED: float(liked == passed),
                Figure.BOTH_USER_GOOD: float(liked),
                Figure.BOTH_JUDGE_GOOD: float(passed),
            },
        )

    def rebase(self, estimator_version: str) -> None:
        """Another base gives the estimates from now on: what corrects the old one is of no use."""
        if estimator_version != self.estimator_version:
            self.estimator_version = estimator_version
            self._models.clear()

    # Reports.

    def changes(self) -> Experience:
        """Return the entries that changed since the newest report that the leader answered."""
        self._reported = self._records
        return Experience(
            estimator_version=self.estimator_version,
            models=tuple(
                ModelEvidence(
                    model, evidence.moments.copy(), evidence.products.copy(), evidence.scored.copy()
                )
                for model, evidence in self._models.items()
                if evidence.changed > self._heard
            ),
            cells=tuple(
                ExperienceCell(key, np.array(cell.sums))
                for key, cell in self._cells.items()
                if cell.changed > self._heard
            ),
        )

    def sent(self, sequence: int) -> None:
        """The last `changes` went out with the report of this sequence."""
        self._sent.append((sequence, self._reported))

    def answered_to(self, sequence: int) -> None:
        """The leader answered this report, so it has heard all reports of this stream up to it."""
        while self._sent and self._sent[0][0] <= sequence:
            self._heard = self._sent.popleft()[1]

    def unheard(self) -> None:
        """A new stream begins, maybe to another leader: tell everything again."""
        self._sent.clear()
        self._heard = 0

    def _count(self, key: ExperienceKey, figures: dict[Figure, float]) -> None:
        cell = self._cell(key)
        if cell is not None:
            self._records += 1
            cell.changed = self._records
            for figure, value in figures.items():
                cell.sums[figure] += value

    def _cell(self, key: ExperienceKey) -> _Cell | None:
        cell = self._cells.get(key)
        if cell is None and len(self._cells) >= MAX_CELLS:
            key = replace(key, task=TaskName(""), rule="", group="")
            cell = self._cells.get(key)
        if cell is None and len(self._cells) < MAX_CELLS + MAX_MODELS:
            cell = self._cells[key] = _Cell([0.0] * len(Figure))
        return cell

    def _learn(self, answer: Answer, score: float, weight: float) -> None:
        evidence = self._models.get(answer.key.model)
        if evidence is None:
            if len(self._models) >= MAX_MODELS:
                return
            evidence = self._models[answer.key.model] = _Evidence()
        x, base, used = answer.embedding, _within(answer.base), _within(answer.used)
        self._records += 1
        evidence.changed = self._records
        evidence.moments += weight * np.outer(x, x)[_TRIANGLE]
        evidence.products += weight * (score - base) * x
        evidence.scored += weight * np.array(
            [1.0, score, used, base, (score - used) ** 2, (score - base) ** 2]
        )


def _within(value: float) -> float:
    return min(1.0, max(0.0, value))
