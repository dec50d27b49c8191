"""Stage assign, second half of knowing a request: what each model would make of it.

In: `RequestProfile` and the fleet, the `Forecast` of an estimator, what was learned since. Out: `Estimates`,
one per model. Next: the assignment problem.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from modelfleet_core.catalog import Fleet
from modelfleet_core.estimation.forecast import UNTOLD_VARIANCE, FloatArray, Forecast, Question
from modelfleet_core.estimation.learned import Learned
from modelfleet_core.estimation.profile import RequestProfile
from modelfleet_core.estimation.running import Running
from modelfleet_core.values import ModelName, NanoUsd, TaskName, usd

_SHARPNESS = 3.0
_ANY_DIFFICULTY = Running(mean=0.4, variance=0.0225)
"""Spread of difficulty scores over mixed tasks, until a task's own is known."""
_TRUSTED = 100.0
"""Scored answers per model after which the manifest's priors, as corrected, are trusted by half."""


class Estimate(NamedTuple):
    """One model's expected answer to one request; there are many, and tuples are made the fastest."""

    model: ModelName
    quality: float
    """In [0, 1]."""
    base: float
    """The same without what was learned since its estimator was made."""
    quality_variance: float
    """Of the estimate, not of a single answer."""
    samples: float
    """Answers that the estimate rests on; 0: the manifest's word."""
    cost: float
    """USD, expected."""
    reserve: NanoUsd
    """No attempt costs more."""
    output_tokens: float
    """Expected; a variant's `Pace` makes seconds of it."""


@dataclass(frozen=True, slots=True)
class Estimates:
    """What is expected of one request."""

    models: tuple[Estimate, ...]
    """In the fleet's order."""
    confidence: float
    """In [0, 1]: how far they can be trusted; 0: nothing but the manifest's priors."""


def estimates(
    profile: RequestProfile,
    fleet: Fleet,
    forecast: Forecast,
    learned: Learned | None = None,
    embedding: FloatArray | None = None,
) -> Estimates:
    """Return what is expected of each model of `fleet`.

    `learned`, for the models of `fleet` in its order, corrects the forecast's quality of a request with this
    `embedding` (k,).
    """
    quality: Sequence[float] = [min(1.0, max(0.0, one)) for one in forecast.quality]
    base, confidence = quality, forecast.confidence
    variance = forecast.variance or (UNTOLD_VARIANCE,) * len(quality)
    samples = forecast.samples or (0.0,) * len(quality)
    if learned is not None and embedding is not None:
        quality, doubt, seen = learned.correct(embedding, quality)
        variance = [new if n > 0 else old for new, old, n in zip(doubt, variance, seen, strict=True)]
        samples = [old + n for old, n in zip(samples, seen, strict=True)]
        mean = sum(seen) / len(seen)
        confidence = max(confidence, mean / (mean + _TRUSTED))
    tokens = forecast.output_tokens or (math.nan,) * len(quality)
    limit = float(profile.max_output_tokens)
    asked, most_asked, most = profile.input_tokens, profile.input_tokens_bound, profile.max_output_tokens
    models = []
    for j, model in enumerate(fleet.models):
        length = profile.output_tokens if math.isnan(tokens[j]) else min(limit, tokens[j])
        pricing = model.pricing
        models.append(
            Estimate(
                model.name,
                quality[j],
                base[j],
                variance[j],
                samples[j],
                usd(pricing.cost(asked, round(length))),
                pricing.cost(most_asked, most),
                length,
            )
        )
    return Estimates(tuple(models), confidence)


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

    def forecast(self, question: Question, fleet: Fleet) -> Forecast:
        """Return the manifest's word on each model; its confidence is 0."""
        profile = question.profile
        spread = self._difficulty.get(profile.task, _ANY_DIFFICULTY)
        hardness = spread.rank(profile.difficulty)
        return Forecast(
            quality=[quality_at(model.quality.of(profile.task), hardness) for model in fleet.models],
            confidence=0.0,
        )

    def estimate(self, profile: RequestProfile, fleet: Fleet) -> tuple[Estimate, ...]:
        """Return one estimate per model by the manifest's word alone, in the order of the fleet."""
        return estimates(profile, fleet, self.forecast(Question(profile), fleet)).models


def quality_at(mean: float, hardness: float) -> float:
    """Return the quality of a model with `mean` on requests of its task, at `hardness` in [0, 1].

        quality = mean ** (3 ** (2 hardness - 1))

    At hardness 0.5 it is `mean`. It stays in [0, 1], falls with hardness, keeps the order of the models, and
    falls faster (as a ratio) the weaker the model is: easy requests may go anywhere, hard ones may not.
    """
    return float(min(1.0, max(0.0, mean)) ** (_SHARPNESS ** (2.0 * hardness - 1.0)))
