"""What the leader learned holds through idle hours, bases that come back, and sidecars that lie."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from modelfleet_core.estimation.experience import (
    Experience,
    ExperienceCell,
    ExperienceKey,
    Figure,
    ModelEvidence,
    Scored,
)
from modelfleet_core.estimation.learning import ExperienceLog
from modelfleet_core.estimation.merging import BURST, RATE, SILENT, Learner, Names
from modelfleet_core.estimation.told import MAX_MODELS, MOMENTS
from modelfleet_core.values import ModelName, TaskName
from support.experiences import answer, embedding, key, sidecar, teach

FOREVER = 1e12


def _said(learner: Learner, log: ExperienceLog, now: float, sequence: int, number: int = 0) -> None:
    """Report what changed, and see it answered."""
    learner.hear(sidecar(number), log.changes(), now)
    log.sent(sequence)
    log.answered_to(sequence)


def _total(learner: Learner, figure: Figure, now: float) -> float:
    return float(sum(cell.sums[figure] for cell in learner.cells(now)))


def test_a_sidecar_that_idled_for_hours_on_one_stream_counts_once() -> None:
    learner, log = Learner(FOREVER), ExperienceLog()
    for task in ("math", "code", "law", "mail"):
        for _ in range(50):
            log.answered(key("small", task), 0.5, 0.001)
    _said(learner, log, 1.0, 1)
    learner.hear(sidecar(1), ExperienceLog().changes(), 2.0 + 2 * SILENT)
    # The morning after: it tells only what is new, one cell at a time.
    now = 3.0 + 2 * SILENT
    for step, task in enumerate(("math", "code", "law", "mail")):
        log.answered(key("small", task), 0.5, 0.001)
        _said(learner, log, now + step, 2 + step)
    assert 200.0 <= _total(learner, Figure.REQUESTS, now + 10) <= 204.0 + 1e-6


def test_a_base_that_comes_back_is_corrected_by_all_that_is_told_of_it() -> None:
    learner, log = Learner(FOREVER, "a"), ExperienceLog("a")
    teach(log, "small", 50, 1.0)
    _said(learner, log, 1.0, 1)
    for base in ("b", "a"):  # and nobody asks anything meanwhile
        learner.rebase(base)
        log.rebase(base)
    teach(log, "small", 30, 1.0)
    _said(learner, log, 2.0, 2)
    assert learner.learned(2.0).samples[0] == pytest.approx(30.0)


def _weight(learner: Learner, now: float) -> float:
    return float(learner.learned(now).samples.sum())


def _evidence(weight: float, **changed: np.ndarray) -> ModelEvidence:
    """Of scores 1 where 0.5 was expected, all of one kind of request."""
    x = embedding(0.5)
    row, column = np.triu_indices(len(x))
    scored = np.zeros(len(Scored))
    scored[[Scored.WEIGHT, Scored.SCORE]] = weight
    scored[[Scored.USED, Scored.BASE]] = weight / 2
    scored[[Scored.USED_ERROR, Scored.BASE_ERROR]] = weight / 4
    sound = ModelEvidence(ModelName("small"), weight * x[row] * x[column], weight * 0.5 * x, scored)
    return replace(sound, **changed)


@pytest.mark.parametrize(
    "lie",
    [
        _evidence(50.0, moments=-_evidence(50.0).moments),
        _evidence(50.0, moments=np.full(MOMENTS, 1e15)),
        _evidence(50.0, moments=np.diag(np.full(len(embedding()), 1e9))[np.triu_indices(len(embedding()))]),
        _evidence(50.0, moments=np.where(np.arange(MOMENTS) == 1, 1e3, _evidence(50.0).moments)),
        _evidence(50.0, products=np.full(len(embedding()), 1e15)),
        _evidence(50.0, products=_evidence(50.0).products * 1.1),
        _evidence(50.0, scored=_evidence(50.0).scored * 1e12),
        _evidence(50.0, scored=np.full(len(Scored), 50.0) * np.array([1, 2, 1, 1, 1, 1])),
    ],
)
def test_sums_that_no_answers_can_have_change_nothing_that_others_taught(lie: ModelEvidence) -> None:
    learner, log = Learner(FOREVER), ExperienceLog()
    teach(log, "small", 100, 0.9)
    _said(learner, log, 1.0, 1)
    before = learner.learned(1.0)
    learner.hear(sidecar(1), Experience("", (lie,), ()), 2.0)
    assert learner.learned(2.0).theta == pytest.approx(before.theta)
    learner.hear(sidecar(1), Experience("", (_evidence(60.0),), ()), 3.0)
    assert _weight(learner, 3.0) <= 160.0 + 1e-6, "and what comes next is looked at again"
    assert np.isfinite(learner.learned(3.0).theta).all()


def test_sums_that_answers_can_have_count_however_they_were_rounded() -> None:
    learner, log = Learner(FOREVER), ExperienceLog()
    rng = np.random.default_rng(3)
    for step in range(400):
        values = rng.dirichlet(np.ones(23))
        log.scored(answer("small", *values, base=rng.random()), float(rng.integers(2)), rng.random())
        _said(learner, log, 1.0, step)
    log.unheard()
    assert _weight(learner, 1.0) == pytest.approx(log.changes().models[0].scored[Scored.WEIGHT])


def test_one_pod_can_not_outweigh_others_at_once_however_often_it_starts() -> None:
    learner = Learner(FOREVER)
    for start in range(50):
        liar = sidecar(9)._replace(boot=str(start))
        learner.hear(liar, Experience("", (_evidence(1e15),), ()), 1.0)
    assert _weight(learner, 1.0) == pytest.approx(BURST)
    liar = sidecar(9)._replace(boot="last")
    learner.hear(liar, Experience("", (_evidence(1e15),), ()), 11.0)
    assert _weight(learner, 11.0) == pytest.approx(BURST + 10.0 * RATE)
    log = ExperienceLog()
    teach(log, "small", 40, 1.0)
    _said(learner, log, 11.0, 1)
    assert _weight(learner, 11.0) == pytest.approx(BURST + 10.0 * RATE + 40.0)


def _cells(count: int, first: int = 0, model: str = "small") -> tuple[ExperienceCell, ...]:
    sums = np.zeros(len(Figure))
    sums[Figure.REQUESTS] = 1.0
    return tuple(
        ExperienceCell(ExperienceKey(TaskName(f"task-{first + n}"), "", ModelName(model), ""), sums)
        for n in range(count)
    )


def test_a_sidecar_with_ever_new_names_takes_bounded_memory_and_no_room_of_others() -> None:
    learner = Learner(FOREVER)
    learner.names = Names(
        models=frozenset({ModelName("small")}),
        tasks=frozenset({TaskName("math")}),
        rules=frozenset(),
        groups=frozenset({"gold"}),
    )
    for turn in range(8):
        fakes = _cells(1000, 1000 * turn) + _cells(20, 1000 * turn, f"fake-{turn}")
        models = tuple(replace(_evidence(5.0), model=ModelName(f"fake-{turn}-{n}")) for n in range(64))
        learner.hear(sidecar(9), Experience("", models, fakes), float(turn))
    known = {(cell.key.task, cell.key.model) for cell in learner.cells(9.0)}
    assert known == {("", "small")}
    log = ExperienceLog()
    teach(log, "small", 20, 1.0)
    log.answered(key("small", "math", group="gold"), 0.5, 0.1)
    log.answered(key("small", "math", group="stranger"), 0.5, 0.1)
    _said(learner, log, 9.0, 1)
    keys = {(cell.key.task, cell.key.group) for cell in learner.cells(9.0)}
    assert keys == {("", ""), ("math", ""), ("math", "gold")}
    assert learner.learned(9.0).models == ("small",)
    assert len(learner.state(9.0)) < 32 << 10


def test_names_that_are_in_use_no_more_make_room() -> None:
    learner = Learner(1000.0)
    models = [f"old-{n}" for n in range(MAX_MODELS)]
    for number, model in enumerate(models):
        learner.hear(
            sidecar(number), Experience("", (replace(_evidence(20.0), model=ModelName(model)),), ()), 1.0
        )
    for chunk in range(3):
        learner.hear(sidecar(100 + chunk), Experience("", (), _cells(500, 500 * chunk)), 1.0)
    now = 15_000.0
    log = ExperienceLog()
    teach(log, "small", 20, 1.0)
    _said(learner, log, now, 1, number=200)
    assert "small" in learner.learned(now).models
    assert [cell.key.task for cell in learner.cells(now)] == ["math"]


def test_what_one_sidecar_tells_in_many_reports_is_bounded_by_its_cells_and_models() -> None:
    told = Experience("a", (_evidence(5.0),), _cells(3))
    later = Experience("a", (_evidence(9.0),), _cells(3, 2))
    both = told.and_then(later, 4)
    assert [entry.scored[Scored.WEIGHT] for entry in both.models] == [9.0]
    assert [cell.key.task for cell in both.cells] == ["task-1", "task-2", "task-3", "task-4"]
    assert told.and_then(Experience("b", (), ()), 4).models == (), "they correct another base"
