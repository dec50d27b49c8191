"""What does worse than the base is withdrawn, a change of scores is told, and what is well is left alone."""

from __future__ import annotations

import numpy as np
import pytest
from modelfleet_core.estimation.drift import Verdict, Watch
from modelfleet_core.estimation.experience import Scored
from modelfleet_core.estimation.learning import ExperienceLog
from modelfleet_core.estimation.merging import Learner
from support.experiences import answer, sidecar

BATCH = 25


def watched(
    rng: np.random.Generator,
    *,
    truth: tuple[float, ...],
    used: float,
    base: float,
    spread: float = 0.1,
    scores: int = 250,
) -> list[Verdict]:
    """Return verdicts over `scores` scores at each mean of `truth`; estimates vary by `spread`."""
    watch, found = Watch(), []
    for mean in truth:
        for _ in range(scores // BATCH):
            chance = np.clip(mean + spread * rng.standard_normal(BATCH), 0.0, 1.0)
            y = (rng.random(BATCH) < chance).astype(float)
            u = np.clip(used + chance - mean, 0.0, 1.0)
            b = np.clip(base + spread * rng.standard_normal(BATCH), 0.0, 1.0)
            scored = np.zeros(len(Scored))
            scored[:] = BATCH, y.sum(), u.sum(), b.sum(), ((y - u) ** 2).sum(), ((y - b) ** 2).sum()
            watch, verdict = watch.after(scored)
            found.append(verdict)
    return found


def test_a_stream_that_learning_makes_worse_is_rolled_back() -> None:
    for seed in range(50):
        verdicts = watched(np.random.default_rng(seed), truth=(0.5,), used=0.85, base=0.5, scores=2500)
        assert Verdict.ROLLED_BACK in verdicts


@pytest.mark.parametrize(("used", "base"), [(0.6, 0.4), (0.6, 0.6)])
def test_a_stream_that_learning_does_not_make_worse_never_is(used: float, base: float) -> None:
    """100 streams of 5,000 scores: learning that helps, and one that changes hardly anything."""
    alarms = [
        watched(np.random.default_rng(seed), truth=(0.6,), used=used, base=base, scores=5000)
        for seed in range(100)
    ]
    assert sum(Verdict.ROLLED_BACK in verdicts for verdicts in alarms) == 0
    assert sum(Verdict.DRIFT in verdicts for verdicts in alarms) <= 2, "at most 2 % of streams"


def test_a_change_of_what_models_answer_is_told() -> None:
    early = 0
    for seed in range(50):
        verdicts = watched(
            np.random.default_rng(seed), truth=(0.7, 0.4), used=0.7, base=0.7, spread=0.05, scores=2000
        )
        before, after = verdicts[: len(verdicts) // 2], verdicts[len(verdicts) // 2 :]
        early += Verdict.DRIFT in before
        assert Verdict.DRIFT in after
    assert early <= 1


def played(learner: Learner, log: ExperienceLog, scores: int, good: float, used: float, at: float) -> None:
    rng = np.random.default_rng(int(at))
    for number in range(scores):
        score = float(rng.random() < good)
        log.scored(answer("small", rng.uniform(-1.0, 1.0), base=0.5, used=used), score)
        if number % BATCH == BATCH - 1:
            learner.hear(sidecar(), log.changes(), at)


def test_a_roll_back_withdraws_what_was_learned_until_new_scores_came() -> None:
    learner, log = Learner(1e12, "base"), ExperienceLog("base")
    played(learner, log, 500, 0.9, 0.9, 1.0)
    assert learner.learned(1.0).version
    assert learner.standing().verdict is Verdict.STEADY
    for at in range(2, 40):
        played(learner, log, 25, 0.5, 0.9, float(at))
        if learner.standing().verdict is Verdict.ROLLED_BACK:
            break
    assert learner.standing().verdict is Verdict.ROLLED_BACK
    assert learner.learned(40.0).version == ""
    again = Learner.restore(learner.state(40.0), 1e12)
    assert again.learned(40.0).version == "", "a restart does not bring it back"
    played(again, log, 250, 0.5, 0.5, 41.0)
    assert again.standing().verdict is Verdict.STEADY
    assert again.learned(41.0).version


def test_standing_tells_errors_with_and_without_what_was_learned() -> None:
    learner, log = Learner(1e12, "base"), ExperienceLog("base")
    played(learner, log, 1000, 0.9, 0.9, 1.0)
    standing = learner.standing()
    assert standing.used_error == pytest.approx(0.09, abs=0.03)
    assert standing.base_error == pytest.approx(0.25, abs=0.01)
    assert standing.samples == 1000.0
    assert abs(standing.residual) < 0.05
