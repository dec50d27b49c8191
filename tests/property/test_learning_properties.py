"""Evidence is the same however reports are lost and repeated, and leaders change."""

from __future__ import annotations

import random

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelfleet_core.estimation.experience import Figure
from modelfleet_core.estimation.exploration import MOST_EXPLORED, explore
from modelfleet_core.estimation.learning import Answer, ExperienceLog
from modelfleet_core.estimation.memory import decode
from modelfleet_core.estimation.merging import Learner
from modelfleet_core.estimation.posterior import posterior
from modelfleet_core.estimation.told import ROW
from support.experiences import embedding, key, sidecar

pytestmark = pytest.mark.property

LONG = 1e15
seeds = st.integers(0, 2**32 - 1)
MODELS = ("small", "middle", "large")


def event(rng: random.Random, log: ExperienceLog) -> None:
    model = rng.choice(MODELS)
    where = key(model, task=rng.choice(["math", "code"]), rule=rng.choice(["", "legal"]))
    if rng.random() < 0.2:
        log.failed(where)
        return
    log.answered(where, rng.random(), rng.random() / 100)
    if rng.random() < 0.5:
        answer = Answer(where, embedding(rng.uniform(-1, 1), rng.uniform(-1, 1)), rng.random(), rng.random())
        log.scored(answer, rng.choice([0.0, 0.5, 1.0]))


def total(learner: Learner) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Return what was merged: evidence by model, and all cells."""
    evidence = decode(learner.state(1.0)).evidence
    rows = np.array([evidence.get(model, np.zeros(ROW)) for model in MODELS])
    cells = sum((cell.sums for cell in learner.cells(1.0)), np.zeros(len(Figure)))
    return rows, cells


@settings(max_examples=80, deadline=None)
@given(seeds, st.integers(1, 4))
def test_every_score_counts_once_whatever_is_lost_or_repeated(seed: int, count: int) -> None:
    rng = random.Random(seed)
    logs = [ExperienceLog("base") for _ in range(count)]
    learner, truth = Learner(LONG, "base"), Learner(LONG, "base")
    for sequence in range(1, 61):
        at = rng.randrange(count)
        for _ in range(rng.randrange(4)):
            event(rng, logs[at])
        if rng.random() < 0.15:
            logs[at].unheard()
        report = logs[at].changes()
        logs[at].sent(sequence)
        if rng.random() < 0.7:
            for _ in range(rng.choice([1, 1, 2])):
                learner.hear(sidecar(at), report, 1.0)
            if rng.random() < 0.7:
                logs[at].answered_to(sequence)
    for at, log in enumerate(logs):
        log.unheard()
        learner.hear(sidecar(at), log.changes(), 1.0)
        truth.hear(sidecar(at), log.changes(), 1.0)
    for merged, expected in zip(total(learner), total(truth), strict=True):
        assert merged == pytest.approx(expected, rel=1e-5, abs=1e-6)


@settings(max_examples=80, deadline=None)
@given(seeds, st.integers(1, 4))
def test_leaders_may_change_at_any_time_and_no_score_is_lost_or_doubled(seed: int, count: int) -> None:
    """Weights and events stay exact; what kind of requests the newest scores came from is approximate."""
    rng = random.Random(seed)
    logs = [ExperienceLog("base") for _ in range(count)]
    learner, truth = Learner(LONG, "base"), Learner(LONG, "base")
    kept = learner.state(1.0)
    for sequence in range(1, 61):
        at = rng.randrange(count)
        for _ in range(rng.randrange(4)):
            event(rng, logs[at])
        report = logs[at].changes()
        logs[at].sent(sequence)
        learner.hear(sidecar(at), report, 1.0)
        logs[at].answered_to(sequence)
        if rng.random() < 0.2:
            kept = learner.state(1.0)
        if rng.random() < 0.1:
            learner = Learner.restore(kept, LONG)
            for log in logs:
                log.unheard()
    for at, log in enumerate(logs):
        log.unheard()
        learner.hear(sidecar(at), log.changes(), 1.0)
        truth.hear(sidecar(at), log.changes(), 1.0)
    (rows, cells), (expected_rows, expected_cells) = total(learner), total(truth)
    weight = 300 + len(embedding())
    assert rows[:, weight] == pytest.approx(expected_rows[:, weight], rel=1e-5, abs=1e-5)
    counted = [Figure.REQUESTS, Figure.ERRORS]
    assert cells[counted].sum() == pytest.approx(expected_cells[counted].sum(), rel=1e-5)
    assert (rows[:, 0] >= 0.0).all()


@settings(max_examples=50, deadline=None)
@given(seeds, st.integers(1, 6), st.integers(0, 200))
def test_a_posterior_is_finite_and_its_variance_positive(seed: int, models: int, scores: int) -> None:
    rng = np.random.default_rng(seed)
    k = len(embedding())
    moments, products, square = np.zeros((models, k, k)), np.zeros((models, k)), 0.0
    for _ in range(scores):
        x, y, at = (
            rng.normal(size=k) * rng.choice([1e-6, 1.0, 10.0]),
            rng.uniform(-1, 1),
            rng.integers(models),
        )
        moments[at] += np.outer(x, x)
        products[at] += y * x
        square += y * y
    found = posterior(moments, products, square, float(scores))
    assert np.isfinite(found.theta).all()
    assert (np.linalg.eigvalsh(found.covariance) > 0.0).all()


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(st.floats(-2, 2), st.just(float("-inf"))), max_size=8),
    st.floats(0, 1),
    st.floats(0, 1, exclude_max=True),
)
def test_exploration_takes_another_choice_that_is_worth_nearly_as_much(
    worth: list[float], share: float, draw: float
) -> None:
    chosen = explore(worth, share, draw)
    if draw >= min(share, MOST_EXPLORED):
        assert chosen is None
    if chosen is not None:
        assert chosen != worth.index(max(worth))
        assert max(worth) - 0.05 <= worth[chosen] <= max(worth)


def test_exploration_takes_its_share_and_every_near_choice() -> None:
    draws = [explore([0.7, 0.68, 0.66, 0.2], 0.04, (number + 0.5) / 10_000) for number in range(10_000)]
    assert [draws.count(k) for k in (0, 1, 2, 3, None)] == [0, 200, 200, 0, 9600]
