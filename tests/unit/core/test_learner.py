"""The leader merges what sidecars saw, each score once, and goes on after a restart."""

from __future__ import annotations

import numpy as np
import pytest
from modelfleet_core.estimation.experience import Figure, Scored
from modelfleet_core.estimation.learning import ExperienceLog
from modelfleet_core.estimation.memory import MOST_BYTES, LearningError, decode
from modelfleet_core.estimation.merging import SILENT, Learner
from modelfleet_core.estimation.told import MOMENTS, ROW
from modelfleet_core.values import ModelName
from support.experiences import answer, embedding, key, sidecar, teach

LONG = 1e12
"""A half-life in which nothing fades."""


def weight(learner: Learner, now: float, model: str = "small") -> float:
    evidence = decode(learner.state(now)).evidence
    return float(evidence[ModelName(model)][MOMENTS + len(embedding()) + Scored.WEIGHT]) if evidence else 0.0


def events(learner: Learner, now: float) -> float:
    return sum(float(cell.sums[Figure.REQUESTS]) for cell in learner.cells(now))


def test_sums_of_sidecars_add_and_repeated_reports_change_nothing() -> None:
    learner = Learner(LONG, "base")
    for number in range(3):
        log = ExperienceLog("base")
        teach(log, "small", 10, 0.5)
        for _ in range(3):
            learner.hear(sidecar(number), log.changes(), 1.0)
    assert weight(learner, 1.0) == pytest.approx(30.0)
    assert events(learner, 1.0) == pytest.approx(30.0)


def test_evidence_counts_half_after_its_half_life() -> None:
    learner, log = Learner(100.0, "base"), ExperienceLog("base")
    teach(log, "small", 10, 0.5)
    learner.hear(sidecar(), log.changes(), 1000.0)
    assert weight(learner, 1100.0) == pytest.approx(5.0)
    assert events(learner, 1200.0) == pytest.approx(2.5)
    teach(log, "small", 10, 0.5)
    learner.hear(sidecar(), log.changes(), 1200.0)
    assert weight(learner, 1200.0) == pytest.approx(12.5)


def test_very_old_evidence_fades_to_nothing_without_an_error() -> None:
    learner, log = Learner(1.0, "base"), ExperienceLog("base")
    teach(log, "small", 100, 0.5)
    learner.hear(sidecar(), log.changes(), 1.0)
    assert weight(learner, 1e6) == 0.0
    assert learner.learned(1e6).version == ""


def test_a_time_that_goes_back_fades_nothing() -> None:
    learner, log = Learner(10.0, "base"), ExperienceLog("base")
    teach(log, "small", 10, 0.5)
    learner.hear(sidecar(), log.changes(), 1000.0)
    assert weight(learner, 900.0) == pytest.approx(10.0)


def test_evidence_on_another_base_does_not_count_but_its_cells_do() -> None:
    learner, log = Learner(LONG, "new"), ExperienceLog("old")
    teach(log, "small", 10, 0.5)
    learner.hear(sidecar(), log.changes(), 1.0)
    assert (weight(learner, 1.0), events(learner, 1.0)) == (0.0, 10.0)
    log.rebase("new")
    teach(log, "small", 4, 0.5)
    learner.hear(sidecar(), log.changes(), 1.0)
    assert (weight(learner, 1.0), events(learner, 1.0)) == pytest.approx((4.0, 14.0))


def test_a_new_base_starts_from_nothing() -> None:
    learner, log = Learner(LONG, "old"), ExperienceLog("old")
    teach(log, "small", 100, 1.0)
    learner.hear(sidecar(), log.changes(), 1.0)
    assert learner.learned(1.0).version
    learner.rebase("new")
    found = learner.learned(1.0)
    assert (found.version, found.base_version) == ("", "new")
    assert events(learner, 1.0) == 100.0


def test_after_a_restart_sidecars_that_tell_all_again_count_once() -> None:
    first, log = Learner(LONG, "base"), ExperienceLog("base")
    teach(log, "small", 30, 0.5)
    first.hear(sidecar(), log.changes(), 1.0)
    again = Learner.restore(first.state(2.0), LONG)
    log.unheard()
    again.hear(sidecar(), log.changes(), 3.0)
    assert weight(again, 3.0) == pytest.approx(30.0)
    teach(log, "small", 5, 1.0)
    again.hear(sidecar(), log.changes(), 4.0)
    assert (weight(again, 4.0), events(again, 4.0)) == pytest.approx((35.0, 35.0))


def test_what_came_after_the_last_write_counts_once_sidecars_speak_again() -> None:
    first, log = Learner(LONG, "base"), ExperienceLog("base")
    teach(log, "small", 30, 0.5)
    first.hear(sidecar(), log.changes(), 1.0)
    kept = first.state(1.0)
    teach(log, "small", 10, 0.5)
    teach(log, "large", 6, 0.5)
    first.hear(sidecar(), log.changes(), 2.0)
    again = Learner.restore(kept, LONG)
    log.unheard()
    again.hear(sidecar(), log.changes(), 3.0)
    assert weight(again, 3.0) == pytest.approx(40.0)
    assert weight(again, 3.0, "large") == pytest.approx(6.0)
    assert events(again, 3.0) == pytest.approx(46.0)


def test_a_restart_changes_nothing_of_what_was_learned() -> None:
    learner, log = Learner(LONG, "base"), ExperienceLog("base")
    teach(log, "small", 200, 0.8, 0.5)
    teach(log, "large", 100, 0.3, -0.5)
    learner.hear(sidecar(), log.changes(), 1.0)
    again = Learner.restore(learner.state(1.0), LONG)
    assert again.learned(1.0).theta == pytest.approx(learner.learned(1.0).theta, abs=1e-4)
    assert again.standing() == learner.standing()


def test_a_sidecar_that_was_silent_for_long_and_comes_back_counts_once() -> None:
    learner, log, other = Learner(LONG, "base"), ExperienceLog("base"), ExperienceLog("base")
    teach(log, "small", 20, 0.5)
    learner.hear(sidecar(0), log.changes(), 1.0)
    learner.hear(sidecar(1), other.changes(), 2.0 + SILENT)
    log.unheard()
    teach(log, "small", 1, 1.0)
    learner.hear(sidecar(0), log.changes(), 3.0 + SILENT)
    assert (weight(learner, 3.0 + SILENT), events(learner, 3.0 + SILENT)) == pytest.approx((21.0, 21.0))


def test_state_is_bounded_whatever_was_heard() -> None:
    learner = Learner(LONG, "base")
    for number in range(1100):
        log = ExperienceLog("base")
        for model in range(3):
            log.scored(answer(f"model{(number + model) % 70}", number / 1100, task=f"task{number}"), 1.0)
            log.answered(key(f"model{(number + model) % 70}", f"task-{number}-" + "x" * 50), 0.5, 0.01)
        learner.hear(sidecar(number), log.changes(), float(number + 1))
    data = learner.state(2000.0)
    assert len(data) <= MOST_BYTES
    assert not decode(data).complete
    late, restored = ExperienceLog("base"), Learner.restore(data, LONG)
    before = events(restored, 2000.0)
    teach(late, "model0", 50, 0.5)
    restored.hear(sidecar(0), late.changes(), 2001.0)
    assert events(restored, 2001.0) == pytest.approx(before), "it may have been counted before"
    teach(late, "model0", 2, 0.5)
    restored.hear(sidecar(0), late.changes(), 2002.0)
    assert events(restored, 2002.0) == pytest.approx(before + 2)


def test_every_cut_or_changed_state_is_refused_or_still_whole() -> None:
    learner, log = Learner(LONG, "base"), ExperienceLog("base")
    teach(log, "small", 30, 0.5)
    learner.hear(sidecar(), log.changes(), 1.0)
    data = learner.state(1.0)
    rng = np.random.default_rng(1)
    for _ in range(200):
        broken = bytearray(data)
        broken[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        try:
            found = Learner.restore(bytes(broken), LONG)
        except LearningError:
            continue
        assert np.isfinite(found.learned(2.0).theta).all()
    for length in range(0, len(data), 101):
        with pytest.raises(LearningError):
            Learner.restore(data[:length], LONG)


def test_an_empty_learner_is_kept_and_restored() -> None:
    again = Learner.restore(Learner(LONG).state(5.0), LONG)
    assert again.learned(6.0).version == ""
    assert again.cells(6.0) == ()
    assert ROW == 330


def test_of_a_sidecar_that_ended_what_it_taught_stays_and_counts_once() -> None:
    log, learner = ExperienceLog("base"), Learner(1e9, "base")
    teach(log, "small", 20, 0.5)
    learner.hear(sidecar(), log.changes(), 1.0)
    learner.forget(sidecar())
    learner.forget(sidecar(7))
    assert weight(learner, 2.0) == 20.0
    learner.hear(sidecar(), log.changes(), 2.0)
    assert weight(learner, 2.0) == 20.0
