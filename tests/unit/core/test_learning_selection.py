"""Routing takes the model that looks best, so it sees answers where estimates were too high.

Where a base is calibrated, that is, tells the mean of what can be, a choice by its estimates says nothing of
their errors. Where it is not, the same is taken from all models, and the choice stays.
"""

from __future__ import annotations

import numpy as np
import pytest
from modelfleet_core.estimation.drift import Verdict
from modelfleet_core.estimation.embedding import EMBEDDING
from modelfleet_core.estimation.experience import FloatArray
from modelfleet_core.estimation.learned import NOTHING_LEARNED
from modelfleet_core.estimation.learning import Answer, ExperienceLog
from modelfleet_core.estimation.merging import Learner
from modelfleet_core.values import ModelName
from support.experiences import key, sidecar

MODELS = tuple(ModelName(f"model{number}") for number in range(6))
MEAN = np.linspace(0.55, 0.7, len(MODELS))
SPREAD, NOISE = 0.15, 0.1
"""Standard deviations of qualities over requests, and of the noise in what a base sees of them."""
ANSWERS = 3000


def _routed(*, calibrated: bool, seed: int) -> tuple[FloatArray, float, set[Verdict]]:
    """Return what was learned of each model, the quality that it cost, and what was said of it meanwhile."""
    rng = np.random.default_rng(seed)
    kinds = rng.dirichlet(np.full(EMBEDDING - 1, 0.3), size=200)
    learner, log = Learner(1e12, "base"), ExperienceLog("base")
    learned = NOTHING_LEARNED.for_fleet(MODELS)
    lost, verdicts = 0.0, set()
    for number in range(ANSWERS):
        x = np.concatenate([[1.0], kinds[rng.integers(len(kinds))]])
        quality = np.clip(MEAN + SPREAD * rng.normal(size=len(MODELS)), 0.02, 0.98)
        seen = quality + NOISE * rng.normal(size=len(MODELS))
        trust = SPREAD**2 / (SPREAD**2 + NOISE**2) if calibrated else 1.0
        base = np.clip(MEAN + trust * (seen - MEAN), 0.0, 1.0)
        used, _, _ = learned.correct(x, base.tolist())
        j = used.index(max(used))
        lost += float(quality[base.argmax()] - quality[j])
        score = float(rng.random() < quality[j])
        log.scored(Answer(key(MODELS[j]), x, float(base[j]), used[j]), score)
        if number % 100 == 99:
            learner.hear(sidecar(), log.changes(), 1.0)
            verdicts.add(learner.standing().verdict)
            learned = learner.learned(1.0).for_fleet(MODELS)
    requests = np.hstack([np.ones((len(kinds), 1)), kinds])
    return (learned.theta[:-1] @ requests.T).mean(axis=1), lost / ANSWERS, verdicts


@pytest.mark.parametrize("seed", [1, 2])
def test_choosing_by_calibrated_estimates_teaches_no_false_error(seed: int) -> None:
    corrections, lost, verdicts = _routed(calibrated=True, seed=seed)
    assert np.abs(corrections).max() < 0.04
    assert lost < 0.004
    assert verdicts == {Verdict.STEADY}


@pytest.mark.parametrize("seed", [1, 2])
def test_choosing_by_estimates_that_are_too_sure_lowers_all_alike_and_is_not_rolled_back(seed: int) -> None:
    corrections, lost, verdicts = _routed(calibrated=False, seed=seed)
    assert corrections.max() < 0.0
    assert np.ptp(corrections) < 0.08
    assert lost < 0.004
    assert Verdict.ROLLED_BACK not in verdicts
