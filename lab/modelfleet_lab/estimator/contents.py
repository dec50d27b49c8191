"""What an estimator knows, as figures.

In: `Trained`. Out: plain values. Next: `tables` shows them, `--json` writes them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from modelfleet_core.estimation.features import feature_matrix
from modelfleet_core.estimation.trained import Trained
from modelfleet_core.values import TaskName

_Z = 1.959964
"""Of 95 % intervals."""


@dataclass(frozen=True, slots=True)
class Known:
    """Of one model, over all it answered or those of one task."""

    model: str
    samples: int
    quality: float
    low: float
    """95 % interval, as of so many independent answers that are right or wrong."""
    high: float


@dataclass(frozen=True, slots=True)
class Estimated:
    """Of one model, for one text."""

    model: str
    quality: float
    deviation: float
    """Standard deviation of the estimate."""
    samples: float
    output_tokens: float | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What the estimator makes of a text."""

    models: tuple[Estimated, ...]
    confidence: float
    tasks: tuple[tuple[str, float], ...]
    """Likely ones first."""


def over_all(trained: Trained) -> tuple[Known, ...]:
    """Return each model's mean quality."""
    rows = zip(trained.models, trained.samples, trained.mean, strict=True)
    return tuple(_known(model, samples, mean) for model, samples, mean in rows)


def in_task(trained: Trained, task: str) -> tuple[Known, ...]:
    """Return each model's mean quality in `task`; raise ValueError when the estimator does not know it."""
    if task not in trained.tasks:
        raise ValueError(
            f"the estimator knows no task {task!r}; it knows {', '.join(trained.tasks) or 'none'}"
        )
    k = trained.tasks.index(TaskName(task))
    rows = zip(trained.models, trained.task_samples[k], trained.task_quality[k], strict=True)
    return tuple(_known(model, samples, mean) for model, samples, mean in rows)


def typical_tokens(trained: Trained) -> tuple[float | None, ...]:
    """Return the length of each model's answer to a typical text; None where none was recorded."""
    tokens = np.exp(trained.token_mean) * trained.token_smearing
    return tuple(None if math.isnan(value) else float(value) for value in tokens)


def estimate(trained: Trained, text: str, task: str | None) -> Answer:
    """Return the estimates for `text`, of `task` where that is known."""
    found = trained.predict(feature_matrix([text]), [None if task is None else TaskName(task)])
    models = tuple(
        Estimated(
            model=model,
            quality=float(found.quality[0, j]),
            deviation=math.sqrt(max(0.0, float(found.variance[0, j]))),
            samples=float(found.samples[0, j]),
            output_tokens=None if math.isnan(found.output_tokens[0, j]) else float(found.output_tokens[0, j]),
        )
        for j, model in enumerate(trained.models)
    )
    likely = sorted(zip(trained.tasks, found.tasks[0].tolist(), strict=True), key=lambda pair: -pair[1])
    return Answer(models, float(found.confidence[0]), tuple(likely))


def figures(trained: Trained, size: int) -> dict[str, object]:
    """Return all of it, for JSON."""
    tokens = typical_tokens(trained)
    return {
        "version": trained.version,
        "bytes": size,
        "kappa": trained.kappa,
        "models": [
            _json(known) | {"output_tokens": length}
            for known, length in zip(over_all(trained), tokens, strict=True)
        ],
        "tasks": {task: [_json(known) for known in in_task(trained, task)] for task in trained.tasks},
    }


def _known(model: str, samples: float, mean: float) -> Known:
    low, high = _interval(float(mean), float(samples))
    return Known(model, round(float(samples)), float(mean), low, high)


def _interval(mean: float, samples: float) -> tuple[float, float]:
    """Return Wilson's interval (1927); scores between 0 and 1 vary less, so it is then too wide."""
    if samples <= 0:
        return 0.0, 1.0
    inside = min(1.0, max(0.0, mean))
    shrink = 1.0 + _Z**2 / samples
    center = (inside + _Z**2 / (2.0 * samples)) / shrink
    half = _Z / shrink * math.sqrt(inside * (1.0 - inside) / samples + _Z**2 / (4.0 * samples**2))
    return max(0.0, center - half), min(1.0, center + half)


def _json(known: Known) -> dict[str, object]:
    return {
        "model": known.model,
        "samples": known.samples,
        "quality": known.quality,
        "quality_ci": [known.low, known.high],
    }
