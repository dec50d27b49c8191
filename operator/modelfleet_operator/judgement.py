"""Stage status: what a policy's judge scored, what it cost, and how far it agrees with users.

In: the cells that the leader merged, and the judge's account. Out: `status.judge` of a RoutingPolicy, and
metrics. Pure; next: `policies` and `insight`. All counts fade with the policy's half-life.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from modelfleet_core.estimation.experience import ExperienceCell, Figure

LEAST = 10.0
"""Scores from which a mean, and answers that both scored from which agreement, is told."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """What judge and users said of answers; None: too few to tell."""

    scored: float
    """Answers that the judge scored."""
    mean: float | None
    """Of its scores, 0 to 1."""
    users_mean: float | None
    """Of the scores from feedback; mostly of other answers."""
    both: float
    """Answers that judge and user scored."""
    agreement: float | None
    """Share of those on which both said good (one half or more) or both bad."""
    kappa: float | None
    """Cohen's: agreement above that of two who score by chance, each as often good as it is; 1: always, 0:
    as by chance. None also where both always say the same word, for then chance agrees as well."""


def judgement(cells: Iterable[ExperienceCell]) -> Judgement:
    """Return what all cells together say."""
    sums = sum((cell.sums for cell in cells), np.zeros(len(Figure)))
    scored, scores, both = (float(sums[figure]) for figure in (Figure.JUDGED, Figure.SCORES, Figure.BOTH))
    agreement = kappa = None
    if both >= LEAST:
        agreement = float(sums[Figure.AGREED]) / both
        user, judge = (float(sums[good]) / both for good in (Figure.BOTH_USER_GOOD, Figure.BOTH_JUDGE_GOOD))
        by_chance = user * judge + (1.0 - user) * (1.0 - judge)
        if by_chance < 1.0 - 1e-9:
            kappa = (agreement - by_chance) / (1.0 - by_chance)
    return Judgement(
        scored=scored,
        mean=float(sums[Figure.JUDGED_SCORE]) / scored if scored >= LEAST else None,
        users_mean=float(sums[Figure.SCORE]) / scores if scores >= LEAST else None,
        both=both,
        agreement=agreement,
        kappa=kappa,
    )


def judge_body(found: Judgement) -> dict[str, object]:
    """Return `status.judge` without its money."""
    told = {
        "meanScore": found.mean,
        "usersMeanScore": found.users_mean,
        "agreement": found.agreement,
        "kappa": found.kappa,
    }
    return {
        "scored": round(found.scored),
        "compared": round(found.both),
        **{name: f"{value:.3f}" for name, value in told.items() if value is not None},
    }
