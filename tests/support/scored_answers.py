"""Builders of what sidecars saw of answers, and of the estimators that it corrects."""

from __future__ import annotations

from functools import cache

import numpy as np
from modelfleet_core.estimation.artifact import encode
from modelfleet_core.estimation.embedding import embed
from modelfleet_core.estimation.experience import ExperienceKey
from modelfleet_core.estimation.features import feature_matrix, features
from modelfleet_core.estimation.learning import Answer, ExperienceLog
from modelfleet_core.estimation.training import Batch, fold_of, train
from modelfleet_core.values import ModelName, TaskName

TEXTS = tuple(f"question {number} of {topic}" for number in range(20) for topic in ("code", "law", "maths"))


def key(model: str, *, task: str = "", rule: str = "", group: str = "") -> ExperienceKey:
    return ExperienceKey(TaskName(task), rule, ModelName(model), group)


def answer(model: str, *, text: str = TEXTS[0], base: float = 0.5, group: str = "") -> Answer:
    return Answer(key(model, group=group), embed(features(text)), base, base)


def log_of(
    model: str, score: float, *, answers: int = 50, version: str = "", group: str = "", cost: float = 0.001
) -> ExperienceLog:
    """Return the memory of a sidecar that saw so many answers of a model, each with this score."""
    log = ExperienceLog(version)
    saw(log, model, score, answers=answers, group=group, cost=cost)
    return log


def saw(
    log: ExperienceLog,
    model: str,
    score: float,
    *,
    answers: int = 50,
    group: str = "",
    cost: float = 0.001,
) -> None:
    """Let the sidecar see more answers."""
    for number in range(answers):
        one = answer(model, text=TEXTS[number % len(TEXTS)], group=group)
        log.answered(one.key, one.used, cost)
        log.scored(one, score)


@cache
def estimator(models: tuple[str, ...] = ("large", "frontier"), *, best: int = 0) -> bytes:
    """Return a small trained estimator, as `modelfleet train` writes it; model `best` is right more often."""
    quality = np.full((len(TEXTS), len(models)), 0.4)
    quality[:, best] = 0.9
    quality[::3] -= 0.2
    batch = Batch(
        x=feature_matrix(TEXTS),
        task=(None,) * len(TEXTS),
        quality=quality,
        output_tokens=np.full(quality.shape, 50.0),
        fold=np.array([fold_of(text) for text in TEXTS]),
    )
    return encode(train(tuple(ModelName(model) for model in models), lambda: [batch]))
