"""Stage assign, second half of knowing a request: what each model would make of it.

In: `RequestProfile` and the fleet. Out: one `Estimate` per model. Next: the assignment problem.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from modelfleet_core.catalog import Fleet
from modelfleet_core.estimation.profile import RequestProfile
from modelfleet_core.estimation.running import Running
from modelfleet_core.values import ModelName, NanoUsd, TaskName, usd

_SHARPNESS = 3.0
_ANY_DIFFICULTY = Running(mean=0.4, variance=0.0225)
"""Spread of difficulty scores over mixed tasks, until a task's own is known."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """One model's expected answer to one request."""

    model: ModelName
    quality: float
    """In [0, 1]."""
    quality_variance: float
    samples: float
    """Answers that the estimate rests on; 0: the manifest's word."""
    cost: float
    """USD, expected."""
    reserve: NanoUsd
    """No attempt costs more."""
    output_tokens: float
    """Expected; a variant's `Latency.service_time` makes seconds of it."""


class Estimator(Protocol):
    def estimate(self, profile: RequestProfile, fleet: Fleet) -> tuple[Estimate, ...]:
        """Return one estimate per model, in the order of the fleet."""
        ...


class PriorEstimator:
    """The manifest's word on quality by task, moved by how hard a request is among those of its task.

    It learns nothing about models. It only keeps, by task, how difficulty scores are spread and how long
    answers are, so that a score means the same in every task. One per sidecar; not shared by threads.
    """

    def __init__(self) -> None:
        self._difficulty: dict[TaskName, Running] = {}
        self._output: dict[TaskName, Running] = {}

    def saw(self, profile: RequestProfile) -> None:
        """Count a request that arrived."""
        before = self._difficulty.get(profile.task, _ANY_DIFFICULTY)
        self._difficulty[profile.task] = before.after(profile.difficulty)

    def answered(self, task: TaskName, output_tokens: int) -> None:
        """Count an answer that was complete."""
        before = self._output.get(task)
        value = float(output_tokens)
        self._output[task] = Running(value, 0.0) if before is None else before.after(value)

    def output_tokens(self) -> Mapping[TaskName, float]:
        """Return mean lengths of answers by task, for `profile`."""
        return {task: running.mean for task, running in self._output.items()}

    def estimate(self, profile: RequestProfile, fleet: Fleet) -> tuple[Estimate, ...]:
        """Return one estimate per model, in the order of the fleet."""
        spread = self._difficulty.get(profile.task, _ANY_DIFFICULTY)
        hardness = spread.rank(profile.difficulty)
        estimates = []
        for model in fleet.models:
            quality = quality_at(model.quality.of(profile.task), hardness)
            expected = model.pricing.cost(profile.input_tokens, round(profile.output_tokens))
            estimates.append(
                Estimate(
                    model=model.name,
                    quality=quality,
                    quality_variance=quality * (1.0 - quality),
                    samples=0.0,
                    cost=usd(expected),
                    reserve=model.pricing.cost(profile.input_tokens_bound, profile.max_output_tokens),
                    output_tokens=profile.output_tokens,
                )
            )
        return tuple(estimates)


def quality_at(mean: float, hardness: float) -> float:
    """Return the quality of a model with `mean` on requests of its task, at `hardness` in [0, 1].

        quality = mean ** (3 ** (2 hardness - 1))

    At hardness 0.5 it is `mean`. It stays in [0, 1], falls with hardness, keeps the order of the models, and
    falls faster (as a ratio) the weaker the model is: easy requests may go anywhere, hard ones may not.
    """
    return float(min(1.0, max(0.0, mean)) ** (_SHARPNESS ** (2.0 * hardness - 1.0)))
