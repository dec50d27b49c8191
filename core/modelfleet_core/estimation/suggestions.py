"""Stage publish, what an operator of models may want to change: said, never done.

In: merged cells, the policy and its fleet. Out: `Suggestion`s. Next: the policy's status.

Each rests on at least `LEAST` scored answers on every side, and all that are looked at in one call are wrong
together in at most `RISK` of calls where nothing is amiss (Bonferroni: each may be in its share of it;
scores' means are taken as normal). They compare what was answered, and routing does not send models alike
requests: that is what a person must weigh.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
import numpy.typing as npt

from modelfleet_core.catalog import Fleet
from modelfleet_core.estimation.experience import ExperienceCell, Figure
from modelfleet_core.policy import Policy

FloatArray = npt.NDArray[np.float64]

LEAST = 100.0
"""Scored answers."""
RISK = 0.05
_MOST = 20
_DEARER = 1.2
"""Cost of a rule's answers, relative to others of their tasks, from which it is asked what they gain."""
_GAIN = 0.02
"""Quality that such a rule should gain at least."""
_PRIOR_OFF = 0.05
"""Difference of a prior that routing hardly notices."""


class Kind(Enum):
    COSTLY_RULE = "CostlyRule"
    DOMINATED_MODEL = "DominatedModel"
    WRONG_PRIOR = "WrongPrior"


@dataclass(frozen=True, slots=True)
class Suggestion:
    kind: Kind
    subject: str
    """The rule, or the class and the model."""
    message: str
    samples: float
    """Scored answers of the smaller side; older ones count less."""
    confidence: float
    """At least 1 - `RISK`, over all that was looked at."""


@dataclass(frozen=True, slots=True)
class _Mean:
    """Of scores and costs of some answers."""

    scores: float
    score: float
    error: float
    """Standard error of `score`."""
    cost: float
    """USD per answer."""


def suggestions(cells: Iterable[ExperienceCell], policy: Policy, fleet: Fleet) -> tuple[Suggestion, ...]:
    """Return what can be said with confidence, most confident first, at most 20."""
    known = {model.name for model in fleet.models}
    kept = [cell for cell in cells if cell.key.model in known]
    looked_at = [
        *_costly_rules(kept, policy),
        *_dominated_models(kept),
        *_wrong_priors(kept, fleet),
    ]
    found = []
    for suggestion in looked_at:
        # Each came with the chance that it is mistaken by itself.
        mistaken = (1.0 - suggestion.confidence) * len(looked_at)
        if mistaken <= RISK:
            found.append(replace(suggestion, confidence=1.0 - mistaken))
    found.sort(key=lambda suggestion: (-suggestion.confidence, suggestion.kind.value, suggestion.subject))
    return tuple(found[:_MOST])


def _costly_rules(cells: Sequence[ExperienceCell], policy: Policy) -> Iterator[Suggestion]:
    """Rules whose answers cost more than others of the same tasks and gain less than they should."""
    for rule in policy.rules:
        tasks = {cell.key.task for cell in cells if cell.key.rule == rule.name}
        pairs = []
        for task in sorted(tasks):
            inside = _mean(c for c in cells if c.key.task == task and c.key.rule == rule.name)
            outside = _mean(c for c in cells if c.key.task == task and not c.key.rule)
            if inside.scores > 0.0 and outside.scores >= 2.0 and outside.cost > 0.0:
                pairs.append((inside, outside))
        scores = sum(inside.scores for inside, _ in pairs)
        others = sum(outside.scores for _, outside in pairs)
        if min(scores, others) < LEAST:
            continue
        share = [inside.scores / scores for inside, _ in pairs]
        gain = sum(s * (i.score - o.score) for s, (i, o) in zip(share, pairs, strict=True))
        error = math.sqrt(
            sum(s * s * (i.error**2 + o.error**2) for s, (i, o) in zip(share, pairs, strict=True))
        )
        cost = sum(s * i.cost for s, (i, _) in zip(share, pairs, strict=True))
        other = sum(s * o.cost for s, (_, o) in zip(share, pairs, strict=True))
        if cost <= _DEARER * other:
            continue
        yield Suggestion(
            Kind.COSTLY_RULE,
            rule.name,
            f"answers under rule {rule.name} cost {_usd(cost)} each, others of the same tasks {_usd(other)},"
            f" and score {gain:+.3f} (95 % within {1.96 * error:.3f}) beside them: see whether it is needed",
            min(scores, others),
            1.0 - _above((_GAIN - gain) / error),
        )


def _dominated_models(cells: Sequence[ExperienceCell]) -> Iterator[Suggestion]:
    """Models that another one answers better and not dearer in a task."""
    for task in sorted({cell.key.task for cell in cells if cell.key.task}):
        models = sorted({cell.key.model for cell in cells if cell.key.task == task})
        means = {
            model: _mean(c for c in cells if c.key.task == task and c.key.model == model) for model in models
        }
        enough = {model: mean for model, mean in means.items() if mean.scores >= LEAST}
        for model, mean in enough.items():
            rivals = [other for other in enough if other != model and enough[other].cost <= mean.cost]
            for other in rivals:
                rival = enough[other]
                yield Suggestion(
                    Kind.DOMINATED_MODEL,
                    f"{task}/{model}",
                    f"in {task}, {other} scores {rival.score:.3f} at {_usd(rival.cost)} per answer and"
                    f" {model} {mean.score:.3f} at {_usd(mean.cost)}: {model} may not be worth it there",
                    min(mean.scores, rival.scores),
                    1.0 - _above((rival.score - mean.score) / math.hypot(rival.error, mean.error)),
                )


def _wrong_priors(cells: Sequence[ExperienceCell], fleet: Fleet) -> Iterator[Suggestion]:
    """Models whose scores in a task are not what the manifest says."""
    for model in fleet.models:
        for task in sorted({cell.key.task for cell in cells if cell.key.model == model.name}):
            mean = _mean(c for c in cells if c.key.task == task and c.key.model == model.name)
            if mean.scores < LEAST:
                continue
            prior = model.quality.of(task or None)
            where = f"quality.byTask.{task}" if task in model.quality.by_task else "quality.prior"
            off = max(0.0, abs(mean.score - prior) - _PRIOR_OFF)
            yield Suggestion(
                Kind.WRONG_PRIOR,
                f"{task}/{model.name}",
                f"{model.name} scores {mean.score:.3f} (95 % within {1.96 * mean.error:.3f}) in"
                f" {task or 'all tasks'}; its {where} says {prior:.3f}",
                mean.scores,
                1.0 - 2.0 * _above(off / mean.error),
            )


def _mean(cells: Iterable[ExperienceCell]) -> _Mean:
    sums = sum((cell.sums for cell in cells), np.zeros(len(Figure)))
    scores, requests = float(sums[Figure.SCORES]), float(sums[Figure.REQUESTS])
    if scores < 2.0 or requests <= 0.0:
        return _Mean(0.0, 0.0, math.inf, 0.0)
    score = float(sums[Figure.SCORE]) / scores
    # A quarter of an answer more: equal scores do not make the mean certain.
    spread = max(0.0, float(sums[Figure.SQUARE]) / scores - score * score) + 0.25 / scores
    return _Mean(scores, score, math.sqrt(spread / (scores - 1.0)), float(sums[Figure.COST]) / requests)


def _above(z: float) -> float:
    """Return the chance of a standard normal figure above `z`."""
    return 0.5 * math.erfc(z / math.sqrt(2.0))


def _usd(amount: float) -> str:
    return f"{amount:.3g} USD"
