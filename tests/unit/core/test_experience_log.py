"""A sidecar counts answers and scores in bounded memory and tells the leader what it does not know."""

from __future__ import annotations

import numpy as np
import pytest
from modelfleet_core.estimation.experience import NO_EXPERIENCE, Experience, Figure, Scored
from modelfleet_core.estimation.learning import JUDGE_WEIGHT, MAX_CELLS, MAX_MODELS, ExperienceLog
from support.experiences import answer, key


def cells_of(experience: Experience) -> dict[str, np.ndarray]:
    return {str(cell.key.model): cell.sums for cell in experience.cells}


def test_a_log_that_saw_nothing_tells_nothing() -> None:
    found = ExperienceLog().changes()
    assert (found.models, found.cells) == (NO_EXPERIENCE.models, NO_EXPERIENCE.cells)


def test_scores_are_summed_with_what_was_expected() -> None:
    log = ExperienceLog("base")
    log.answered(key(), 0.7, 0.02)
    log.scored(answer("small", 2.0, base=0.6, used=0.7), 1.0)
    found = log.changes()
    assert found.estimator_version == "base"
    (evidence,) = found.models
    assert evidence.scored == pytest.approx([1.0, 1.0, 0.7, 0.6, 0.09, 0.16])
    assert evidence.products[:2] == pytest.approx([0.4, 0.8])
    assert evidence.moments[:3] == pytest.approx([1.0, 2.0, 0.0])
    sums = cells_of(found)["small"]
    assert sums[[Figure.REQUESTS, Figure.PREDICTED, Figure.COST]] == pytest.approx([1.0, 0.7, 0.02])
    assert sums[[Figure.SCORES, Figure.SCORE, Figure.SQUARE]] == pytest.approx([1.0, 1.0, 1.0])


def test_errors_repeats_and_cut_answers_are_counted_but_teach_nothing() -> None:
    log = ExperienceLog()
    log.failed(key())
    log.retried(key())
    log.truncated(key())
    found = log.changes()
    assert not found.models
    assert cells_of(found)["small"][[Figure.ERRORS, Figure.RETRIES, Figure.TRUNCATED]].tolist() == [1, 1, 1]


def test_a_judge_teaches_less_than_a_user_and_their_agreement_is_counted() -> None:
    log = ExperienceLog()
    log.judged(answer(), 0.8)
    log.compared(key(), 1.0, 0.8)
    log.compared(key(), 0.0, 0.8)
    found = log.changes()
    assert found.models[0].scored[Scored.WEIGHT] == JUDGE_WEIGHT
    sums = cells_of(found)["small"]
    assert sums[[Figure.JUDGED, Figure.BOTH, Figure.AGREED]].tolist() == [1, 2, 1]
    assert sums[[Figure.BOTH_USER_GOOD, Figure.BOTH_JUDGE_GOOD, Figure.SCORES]].tolist() == [1, 2, 0]


def test_what_the_leader_answered_is_left_out_until_it_changes() -> None:
    log = ExperienceLog()
    log.scored(answer("small"), 1.0)
    log.changes()
    log.sent(1)
    log.scored(answer("large"), 1.0)
    log.answered_to(1)
    assert [entry.model for entry in log.changes().models] == ["large"]
    log.sent(2)
    log.answered_to(2)
    assert not log.changes().models
    log.scored(answer("small"), 0.0)
    (evidence,) = log.changes().models
    assert evidence.scored[Scored.WEIGHT] == 2.0


def test_a_new_stream_is_told_everything() -> None:
    log = ExperienceLog()
    log.scored(answer("small"), 1.0)
    log.changes()
    log.sent(1)
    log.answered_to(1)
    log.unheard()
    assert [entry.model for entry in log.changes().models] == ["small"]


def test_another_base_starts_evidence_anew_and_keeps_cells() -> None:
    log = ExperienceLog("one")
    log.scored(answer(), 1.0)
    log.rebase("one")
    assert log.changes().models
    log.rebase("two")
    found = log.changes()
    assert (found.estimator_version, found.models) == ("two", ())
    assert cells_of(found)["small"][Figure.SCORES] == 1.0


def test_what_was_told_does_not_change_afterwards() -> None:
    log = ExperienceLog()
    log.scored(answer(), 1.0)
    found = log.changes()
    log.scored(answer(), 1.0)
    assert found.models[0].scored[Scored.WEIGHT] == 1.0
    assert found.cells[0].sums[Figure.SCORES] == 1.0


def test_memory_is_bounded_and_events_beyond_it_count_by_model() -> None:
    log = ExperienceLog()
    for number in range(MAX_CELLS + 100):
        log.answered(key("small", task=f"task{number}"), 0.5, 0.0)
    for number in range(2 * MAX_MODELS):
        log.scored(answer(f"model{number}"), 1.0)
    found = log.changes()
    assert len(found.cells) == MAX_CELLS + MAX_MODELS
    assert len(found.models) == MAX_MODELS
    coarse = next(cell for cell in found.cells if cell.key == key("small", task=""))
    assert coarse.sums[Figure.REQUESTS] == 100.0


@pytest.mark.parametrize("score", [-3.0, 7.0])
def test_a_score_outside_its_range_counts_as_its_end(score: float) -> None:
    log = ExperienceLog()
    log.scored(answer(), score)
    assert log.changes().models[0].scored[Scored.SCORE] == (1.0 if score > 1.0 else 0.0)
