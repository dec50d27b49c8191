"""Stage publish, in the leader: what all sidecars of one policy saw of answers and scores, merged.

In: `Experience`s as they come. Out: `Learned` for the sidecars, cells and `Standing` for the policy's
status, and `state`, which outlives the process. Next: `publish`, `suggestions`.

    learner.hear(sidecar, report.experience, now)    # of each new report, in the order of its stream
    learner.learned(now)                             # every few seconds
    learner.state(now)                               # to be kept, now and then

Sums are linear, so that merging is addition of what is new in each sidecar's, and each score counts once
whatever is lost or repeated. Old evidence fades by half-life. `now` is in seconds of a clock that leaders
share.

Sidecars may lie. Of one pod `BURST` scores count at once and `RATE` per second, names that policy and fleet
do not have are not taken over, and what no answers can have added is refused (`told`).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from modelfleet_core.estimation.drift import Standing, Verdict, Watch
from modelfleet_core.estimation.embedding import EMBEDDING
from modelfleet_core.estimation.experience import (
    Experience,
    ExperienceCell,
    ExperienceKey,
    Figure,
    Scored,
)
from modelfleet_core.estimation.learned import NOTHING_LEARNED, Learned, learned
from modelfleet_core.estimation.memory import (
    MAX_CELLS,
    MAX_SIDECARS,
    Memory,
    Remembered,
    decode,
    encode,
)
from modelfleet_core.estimation.posterior import posterior
from modelfleet_core.estimation.told import MAX_MODELS, MOMENTS, ROW, Counts, Told
from modelfleet_core.values import ModelName, SidecarId, TaskName

FloatArray = npt.NDArray[np.float64]

SILENT = 3600.0
"""Seconds after which only a sidecar's counts are kept, not its sums."""
_LEAST = 10.0
"""Weight of scores below which nothing is said."""
_AFTER_DRIFT, _AFTER_ROLL_BACK = 0.5, 0.25
"""Share of its weight that evidence keeps."""
_WITHDRAWN = 200.0
"""Weight of new scores after a roll-back until what was learned is tried again."""
_TOLD = 1000.0
"""Weight of scores for which a drift is told."""
RATE, BURST = 100.0, 10_000.0
"""Weight of scores that one pod may bring per second, and at once; of more each counts less."""
_SMALLEST = 1e-6
_GONE = 0.5
"""Events of a cell, or weight of a model's scores, that make room for others."""
_STALE = 0.01
"""Half-lives after which corrections are made anew though no score came."""
_TRIANGLE = np.triu_indices(EMBEDDING)
_SCORED = slice(MOMENTS + EMBEDDING, ROW)


@dataclass(frozen=True, slots=True)
class Names:
    """What cells and evidence may be about."""

    models: frozenset[ModelName]
    """Others are passed over."""
    tasks: frozenset[TaskName]
    rules: frozenset[str]
    groups: frozenset[str]


class Learner:
    """The leader's memory of one policy. Bounded in models, cells and sidecars."""

    def __init__(self, half_life: float, estimator_version: str = "") -> None:
        self.half_life = half_life
        self.estimator_version = estimator_version
        self.names: Names | None = None
        """Of the policy and its fleet as they are now; None: whatever sidecars say."""
        self._at = 0.0
        self._scale = 1.0
        """What is kept times this is what counts, so that fading touches one figure."""
        self._evidence: dict[ModelName, FloatArray] = {}
        self._cells: dict[ExperienceKey, FloatArray] = {}
        self._sidecars: dict[SidecarId, Told] = {}
        self._earlier: dict[str, Remembered] = {}
        """By digest, sidecars that an earlier leader heard and this one not yet."""
        self._complete = True
        """Whoever is not remembered has told nothing."""
        self._watch = Watch()
        self._alarm = Verdict.STEADY
        self._since_alarm = 0.0
        self._made: tuple[float, Learned] | None = None
        self._busy: dict[str, float] = {}
        """By pod, until when what it brought would have taken at `RATE`."""
        self._looked_at = 0.0
        """When cells that faded away were looked for."""

    @classmethod
    def restore(cls, data: bytes, half_life: float) -> Learner:
        """Return the learner whose `state` this is; raise LearningError if it is none."""
        memory = decode(data)
        learner = cls(half_life, memory.estimator_version)
        learner._at, learner._complete = memory.at, memory.complete
        learner._evidence, learner._cells = dict(memory.evidence), dict(memory.cells)
        learner._earlier = dict(memory.sidecars)
        learner._watch, learner._alarm = memory.watch, memory.alarm
        learner._since_alarm = memory.since_alarm
        return learner

    def state(self, now: float) -> bytes:
        """Return at most 256 KiB with which `restore` goes on.

        What arrives after it and before the process ends is counted all the same once its sidecar speaks to
        the next leader; what was heard of sidecars that end before that is lost.
        """
        self._fade(now)
        sidecars = dict(self._earlier)
        for sidecar, told in self._sidecars.items():
            sidecars[_digest(sidecar)] = Remembered(told.version, told.heard_at, told.counted())
        newest = sorted(sidecars, key=lambda digest: (-sidecars[digest].heard_at, digest))
        return encode(
            Memory(
                at=self._at,
                estimator_version=self.estimator_version,
                watch=self._watch,
                alarm=self._alarm,
                since_alarm=self._since_alarm,
                evidence={model: row * self._scale for model, row in self._evidence.items()},
                cells={key: sums * self._scale for key, sums in self._cells.items()},
                sidecars={digest: sidecars[digest] for digest in newest[:MAX_SIDECARS]},
                complete=self._complete and len(newest) <= MAX_SIDECARS,
            )
        )

    def rebase(self, estimator_version: str) -> None:
        """Another base gives the estimates: what corrected the old one is of no use."""
        if estimator_version != self.estimator_version:
            self.estimator_version = estimator_version
            self._evidence.clear()
            self._watch, self._alarm, self._since_alarm = Watch(), Verdict.STEADY, 0.0
            self._made = None
            for told in self._sidecars.values():
                told.unlearn()
            for digest, earlier in self._earlier.items():
                counts = {model: Counts(0.0, counted.events) for model, counted in earlier.counts.items()}
                self._earlier[digest] = replace(earlier, counts=counts)

    def hear(self, sidecar: SidecarId, experience: Experience, now: float) -> None:
        """Take over a report. Of a base other than the learner's only the cells count."""
        self._fade(now)
        told = self._sidecars.get(sidecar)
        counted = True
        if told is None:
            told, counted = self._entered(sidecar, experience.estimator_version, now)
        told.heard_at = max(told.heard_at, now)
        told.rebase(experience.estimator_version)
        names = self.names
        known = [m for m in experience.models if names is None or m.model in names.models]
        evidence = told.new_evidence(known)
        cells = told.new_cells([c for c in experience.cells if names is None or c.key.model in names.models])
        if not counted:
            return
        for key, sums in cells:
            self._add_cell(key, sums)
        if evidence and experience.estimator_version == self.estimator_version:
            share = self._believed(
                sidecar.uid, sum(float(row[_SCORED][Scored.WEIGHT]) for _, row in evidence)
            )
            for model, row in evidence:
                self._add_evidence(model, row * share)

    def forget(self, sidecar: SidecarId) -> None:
        """A sidecar ended: keep of it what it taught and its counts, not its sums."""
        if (told := self._sidecars.pop(sidecar, None)) is not None:
            self._earlier[_digest(sidecar)] = Remembered(told.version, told.heard_at, told.counted())

    def learned(self, now: float) -> Learned:
        """Return what corrects the base now; its version is empty where nothing does."""
        self._fade(now)
        if self._made is None or now > self._made[0] + _STALE * self.half_life:
            self._made = now, self._learned()
        return self._made[1]

    def cells(self, now: float) -> tuple[ExperienceCell, ...]:
        """Return sums over all sidecars, older events counting less."""
        self._fade(now)
        order = sorted(self._cells, key=lambda key: (key.task, key.rule, key.model, key.group))
        return tuple(ExperienceCell(key, self._cells[key] * self._scale) for key in order)

    def standing(self) -> Standing:
        """Return how estimates stand against scores."""
        watch = self._watch
        return Standing(
            verdict=self._alarm,
            samples=self._since_alarm,
            used_error=watch.used_error,
            base_error=watch.base_error,
            residual=watch.level,
        )

    def _learned(self) -> Learned:
        models = tuple(sorted(self._evidence))
        rows = np.array([self._evidence[model] for model in models]).reshape(-1, ROW) * self._scale
        scored = rows[:, _SCORED]
        weight = float(scored[:, Scored.WEIGHT].sum())
        if weight < _LEAST or self._alarm is Verdict.ROLLED_BACK:
            return replace(NOTHING_LEARNED, base_version=self.estimator_version)
        moments = np.zeros((len(models), EMBEDDING, EMBEDDING))
        moments[:, _TRIANGLE[0], _TRIANGLE[1]] = rows[:, :MOMENTS]
        moments[:, _TRIANGLE[1], _TRIANGLE[0]] = rows[:, :MOMENTS]
        found = posterior(
            moments, rows[:, MOMENTS : MOMENTS + EMBEDDING], float(scored[:, Scored.BASE_ERROR].sum()), weight
        )
        return learned(
            self.estimator_version, models, found.theta, found.covariance, scored[:, Scored.WEIGHT]
        )

    def _entered(self, sidecar: SidecarId, version: str, now: float) -> tuple[Told, bool]:
        """Return what a sidecar that was not heard yet has told, and whether all beyond that is new."""
        self._forget(now, sidecar.uid)
        earlier = self._earlier.pop(_digest(sidecar), None)
        if earlier is None:
            told = Told(version, now)
        else:
            told = Told(earlier.version, earlier.heard_at, dict(earlier.counts))
        self._sidecars[sidecar] = told
        return told, earlier is not None or self._complete

    def _forget(self, now: float, pod: str) -> None:
        """Keep the counts only of sidecars that are silent, of earlier starts in `pod`, and of too many."""
        gone = [s for s, told in self._sidecars.items() if now > told.heard_at + SILENT or s.uid == pod]
        if len(self._sidecars) - len(gone) >= MAX_SIDECARS:
            gone += [min(self._sidecars.keys() - gone, key=lambda s: self._sidecars[s].heard_at)]
        for sidecar in gone:
            self.forget(sidecar)
        while len(self._earlier) > MAX_SIDECARS:
            oldest = min(self._earlier, key=lambda digest: self._earlier[digest].heard_at)
            del self._earlier[oldest]
            self._complete = False

    def _believed(self, pod: str, weight: float) -> float:
        """Return the share of `weight` that counts of what a pod brings now."""
        busy = max(self._at, self._busy.get(pod, 0.0))
        room = BURST - (busy - self._at) * RATE
        share = min(1.0, max(0.0, room / weight)) if weight > 0.0 else 0.0
        if len(self._busy) >= MAX_SIDECARS:
            self._busy = {other: until for other, until in self._busy.items() if until > self._at}
        self._busy[pod] = busy + weight * share / RATE
        return share

    def _add_cell(self, key: ExperienceKey, sums: FloatArray) -> None:
        if (names := self.names) is not None:
            key = ExperienceKey(
                task=key.task if key.task in names.tasks else TaskName(""),
                rule=key.rule if key.rule in names.rules else "",
                model=key.model,
                group=key.group if key.group in names.groups else "",
            )
        kept = self._cells.get(key)
        if kept is None and len(self._cells) >= MAX_CELLS - MAX_MODELS:
            self._make_room()
        if kept is None and len(self._cells) >= MAX_CELLS - MAX_MODELS:
            key = replace(key, task=TaskName(""), rule="", group="")
            kept = self._cells.get(key)
        if kept is not None:
            kept += sums / self._scale
        elif len(self._cells) < MAX_CELLS:
            self._cells[key] = sums / self._scale

    def _make_room(self) -> None:
        """Forget cells that faded away; looked for once an hour."""
        if self._at < self._looked_at + SILENT:
            return
        self._looked_at = self._at
        least = _GONE / self._scale
        self._cells = {
            key: sums
            for key, sums in self._cells.items()
            if sums[Figure.REQUESTS] + sums[Figure.ERRORS] >= least
        }

    def _has_room(self) -> bool:
        """Return whether one more model's evidence can be kept; what faded, or is of no use, makes room."""
        if len(self._evidence) < MAX_MODELS:
            return True
        for model, row in list(self._evidence.items()):
            gone = self.names is not None and model not in self.names.models
            if gone or row[_SCORED][Scored.WEIGHT] * self._scale < _GONE:
                del self._evidence[model]
        return len(self._evidence) < MAX_MODELS

    def _add_evidence(self, model: ModelName, row: FloatArray) -> None:
        kept = self._evidence.get(model)
        if kept is not None:
            kept += row / self._scale
        elif self._has_room():
            self._evidence[model] = row / self._scale
        else:
            return
        self._made = None
        self._since_alarm += float(row[_SCORED][Scored.WEIGHT])
        if self._alarm is Verdict.ROLLED_BACK:
            # Scores of answers that were chosen before it say nothing of what is learned next.
            if self._since_alarm >= _WITHDRAWN:
                self._alarm, self._since_alarm = Verdict.STEADY, 0.0
            return
        if self._alarm is Verdict.DRIFT and self._since_alarm >= _TOLD:
            self._alarm = Verdict.STEADY
        self._watch, verdict = self._watch.after(row[_SCORED])
        if verdict is not Verdict.STEADY:
            share = _AFTER_DRIFT if verdict is Verdict.DRIFT else _AFTER_ROLL_BACK
            for sums in self._evidence.values():
                sums *= share
            self._alarm, self._since_alarm = verdict, 0.0
            self._watch = replace(
                Watch(),
                used_error=self._watch.used_error,
                base_error=self._watch.base_error,
                level=self._watch.level,
            )

    def _fade(self, now: float) -> None:
        if self._at and now > self._at:
            self._scale *= 0.5 ** ((now - self._at) / self.half_life)
        self._at = max(self._at, now)
        if self._scale < _SMALLEST:
            for sums in (*self._evidence.values(), *self._cells.values()):
                sums *= self._scale
            self._scale = 1.0


def _digest(sidecar: SidecarId) -> str:
    return hashlib.sha256("\n".join(sidecar).encode()).hexdigest()[:32]
