"""Leave one task out: what estimates are worth for requests of a kind that was never seen.

In: `Protocol`. Out: `LeftOut`. Next: `tables` and `result`.

For each task: the estimator is trained on the past of all other tasks and chooses, without a price, the model
of the highest estimated quality for every query of the task, past and test (none was seen). It is measured
against the best single model of the past of the other tasks: an estimator that has nothing to say should say
so, and choose that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from modelfleet_lab.evaluate import estimators
from modelfleet_lab.evaluate.intervals import draws, interval
from modelfleet_lab.evaluate.protocol import LEAST, Part, Protocol, best_single, part_of
from modelfleet_lab.methods import FloatArray, IntArray


@dataclass(frozen=True, slots=True)
class Task:
    """One task left out; qualities are means over its queries."""

    name: str
    queries: int
    ours: float
    single: float
    model: str
    """The best single model of the other tasks."""
    best: float
    """Of the task's own best model, in hindsight."""
    gain: float
    """Ours minus single."""
    gain_ci: tuple[float, float] | None
    cost_share: float
    """Of ours, in costs of the single model."""

    def json(self) -> dict[str, object]:
        return {
            "queries": self.queries,
            "quality": self.ours,
            "single_quality": self.single,
            "single": self.model,
            "best_quality": self.best,
            "gain": self.gain,
            "gain_ci": None if self.gain_ci is None else list(self.gain_ci),
            "cost_share": self.cost_share if np.isfinite(self.cost_share) else None,
        }


@dataclass(frozen=True, slots=True)
class LeftOut:
    """All tasks; `left` are those with too few queries to say anything."""

    tasks: tuple[Task, ...]
    left: tuple[str, ...]

    @property
    def mean(self) -> float:
        """Over tasks, each counted once."""
        return float(np.mean([task.gain for task in self.tasks]))

    @property
    def worst(self) -> float:
        return min(task.gain for task in self.tasks)

    def json(self) -> dict[str, object]:
        return {
            "mean": self.mean,
            "worst": self.worst,
            "tasks": {task.name: task.json() for task in self.tasks},
            "too_small": list(self.left),
        }


def tasks_to_leave_out(protocol: Protocol) -> list[str]:
    """Return the names of all tasks. Raises ValueError where there are fewer than two."""
    names = sorted(set(protocol.data.tasks) - {""})
    if len(names) < 2:
        raise ValueError(
            "--leave-one-task-out needs two tasks or more in the column 'task' of queries.parquet; "
            f"it has {len(names)}"
        )
    return names


def run(protocol: Protocol, *, resamples: int, tell: Callable[[str], None]) -> LeftOut:
    """Return the result for every task. Raises ValueError where there are fewer than two."""
    data = protocol.data
    names = tasks_to_leave_out(protocol)
    tell("features")
    everything = np.array(data.tasks)
    all_past = estimators.known(data, protocol.past)
    past_tasks = np.array(protocol.past.tasks)
    found, left = [], []
    for name in names:
        tell(f"without task {name}")
        others = past_tasks != name
        asked = part_of(data, everything == name)
        if asked.size < LEAST or others.sum() < LEAST:
            left.append(name)
            continue
        trained = estimators.fit(data.models, all_past, others)
        told = trained.predict(estimators.known(data, asked).x)
        single = best_single(protocol.past, others)
        choice = _best(estimators.pessimistic(told, trained.kappa), single)
        found.append(_task(protocol, name, asked, choice, single, resamples))
    if not found:
        raise ValueError(f"no task has {LEAST} queries or more; --leave-one-task-out has nothing to measure")
    return LeftOut(tuple(found), tuple(left))


def _best(quality: FloatArray, single: int) -> IntArray:
    """Return (n,) the column of the highest quality; `single` where it is as good."""
    alike = quality[:, single] >= quality.max(axis=1)
    return np.where(alike, single, quality.argmax(axis=1))


def _task(protocol: Protocol, name: str, asked: Part, choice: IntArray, single: int, resamples: int) -> Task:
    rows = np.arange(asked.size)
    ours, theirs = asked.quality[rows, choice], asked.quality[:, single]
    gains = [w @ (ours - theirs) / asked.size for w in draws(asked.size, resamples, protocol.seed)]
    paid, listed = float(asked.cost[rows, choice].sum()), float(asked.cost[:, single].sum())
    return Task(
        name=name,
        queries=asked.size,
        ours=float(ours.mean()),
        single=float(theirs.mean()),
        model=protocol.data.models[single],
        best=float(asked.quality.mean(axis=0).max()),
        gain=float((ours - theirs).mean()),
        gain_ci=interval(np.concatenate(gains)),
        cost_share=paid / listed if listed > 0 else float("nan"),
    )
