"""What training makes of past outcomes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from modelfleet_core.estimation.features import FEATURES, feature_matrix
from modelfleet_core.estimation.sample import ROWS, Sample
from modelfleet_core.estimation.statistics import Batch, Statistics
from modelfleet_core.estimation.trained import Trained
from modelfleet_core.estimation.training import train, trained_from
from modelfleet_core.values import TaskName
from support.training import FORMS, MODELS, QUALITY, TOKENS, made

ASKED = [form.format(31415, 2718) for form in FORMS.values()]
TASKS = list(FORMS)


@pytest.fixture(scope="module")
def trained() -> Trained:
    return train(MODELS, lambda: [made(600).batch()])


def test_a_text_alone_tells_which_model_is_best(trained: Trained) -> None:
    found = trained.predict(feature_matrix(ASKED))
    assert np.abs(found.quality - QUALITY).max() < 0.15
    assert found.quality.argmax(axis=1).tolist() == QUALITY.argmax(axis=1).tolist()
    assert found.tasks.argmax(axis=1).tolist() == [trained.tasks.index(task) for task in TASKS]


def test_lengths_are_those_of_the_text_s_kind_and_the_model(trained: Trained) -> None:
    found = trained.predict(feature_matrix(ASKED)).output_tokens
    assert np.abs(np.log(found / TOKENS)).max() < np.log(1.6)


def test_lengths_are_right_on_average() -> None:
    past = made(900)
    found = train(MODELS, lambda: [past.batch(range(600))])
    later = past.batch(range(600, 900))
    told = found.predict(later.x).output_tokens.mean(axis=0)
    assert told == pytest.approx(later.output_tokens.mean(axis=0), rel=0.1)


def test_a_named_task_decides_against_what_the_text_looks_like(trained: Trained) -> None:
    poem = trained.predict(feature_matrix(ASKED[:1]), [TaskName("poem")]).quality[0]
    assert poem.argmax() == QUALITY[1].argmax()


def test_a_named_task_gives_its_means_to_texts_that_are_as_its_own(trained: Trained) -> None:
    told = trained.predict(feature_matrix(ASKED), TASKS).quality
    means = np.stack([trained.task_quality[trained.tasks.index(task)] for task in TASKS])
    assert np.abs(told - means).max() < 0.05


def test_within_a_named_task_the_text_tells_easy_from_hard() -> None:
    batch = made(900).batch()
    hard = np.array([k % 2 == 0 for k in range(900)])
    x = batch.x.copy()
    x[hard, :8] += 3.0
    quality = np.tile(np.where(hard, 0.2, 0.8)[:, np.newaxis], (1, len(MODELS)))
    found = train(MODELS, lambda: [replace(batch, x=x, quality=quality)])
    told = found.predict(x, batch.task).quality
    assert told[~hard].mean() - told[hard].mean() > 0.3


def test_models_that_differ_alike_in_all_tasks_get_no_task_of_their_own_by_chance() -> None:
    batch = made(300).batch()
    rng = np.random.default_rng(3)
    alike = np.array([0.6, 0.6, 0.6, 0.6])
    told = []
    for kind in (alike + np.zeros((3, 1)), QUALITY):
        quality = (rng.random((300, len(MODELS))) < kind[np.arange(300) % 3]).astype(np.float64)
        found = train(MODELS, lambda quality=quality: [replace(batch, quality=quality)])  # type: ignore[misc]
        level = (found.task_quality - found.mean).mean(axis=1, keepdims=True)
        told.append(np.abs(found.task_quality - found.mean - level).max())
    assert told[0] < 0.05
    assert told[1] > 0.3


def test_a_named_task_that_is_not_known_is_as_none(trained: Trained) -> None:
    x = feature_matrix(ASKED)
    other = trained.predict(x, [TaskName("law"), None, TaskName("law")])
    assert np.array_equal(other.quality, trained.predict(x).quality)


def test_texts_unlike_training_get_the_models_means_in_their_order(trained: Trained) -> None:
    x = feature_matrix(["日本の首都はどこですか。" * 50])
    found = trained.predict(x)
    assert found.confidence[0] < 0.1
    assert np.abs(found.quality[0] - trained.mean).max() < 0.1
    assert found.quality[0].argmax() == trained.mean.argmax()
    like = trained.predict(feature_matrix(ASKED))
    assert like.confidence.min() > 0.5
    assert (found.variance[0] > like.variance.max(axis=0)).all()


def test_data_without_task_labels_teach_by_the_text_alone() -> None:
    found = train(MODELS, lambda: [made(600).batch(named=False)])
    assert found.tasks == ()
    told = found.predict(feature_matrix(ASKED))
    assert told.tasks.shape == (3, 0)
    assert told.quality.argmax(axis=1).tolist() == QUALITY.argmax(axis=1).tolist()


def test_one_answer_to_each_query_teaches_too() -> None:
    found = train(MODELS, lambda: [made(1200, answers=1).batch()])
    told = found.predict(feature_matrix(ASKED)).quality.argmax(axis=1)
    assert (QUALITY[[0, 1, 2], told] >= QUALITY.max(axis=1) - 0.05).all()
    assert found.samples.sum() == 1200


def test_graded_outcomes_are_estimated_as_shares() -> None:
    found = train(MODELS, lambda: [made(600).batch(graded=True)])
    told = found.predict(feature_matrix(ASKED)).quality
    assert np.abs(told - (0.25 + 0.5 * QUALITY)).max() < 0.1


def test_estimates_are_calibrated_on_later_queries() -> None:
    past = made(1500)
    found = train(MODELS, lambda: [past.batch(range(900))])
    later = past.batch(range(900, 1500))
    told = found.predict(later.x).quality
    order = np.argsort(told.ravel())
    bins = np.array_split(order, 10)
    error = [abs(told.ravel()[b].mean() - later.quality.ravel()[b].mean()) for b in bins]
    assert np.mean(error) < 0.05


def test_variance_falls_with_evidence() -> None:
    few = train(MODELS, lambda: [made(90).batch()]).predict(feature_matrix(ASKED))
    many = train(MODELS, lambda: [made(1800).batch()]).predict(feature_matrix(ASKED))
    assert (many.variance < few.variance).all()
    assert (many.samples > few.samples).all()


def test_pessimism_is_not_used_where_it_does_not_gain(trained: Trained) -> None:
    assert trained.kappa == 0.0


def test_models_without_outcomes_and_lengths_never_seen_are_told_as_such() -> None:
    batch = made(300).batch()
    quality, tokens = batch.quality.copy(), np.full(batch.quality.shape, np.nan)
    quality[:, 2] = np.nan
    found = train(MODELS, lambda: [replace(batch, quality=quality, output_tokens=tokens)])
    told = found.predict(feature_matrix(ASKED))
    assert found.samples[2] == 0
    assert np.isfinite(told.quality).all()
    assert np.isnan(told.output_tokens).all()


def test_the_same_rows_in_other_batches_teach_the_same() -> None:
    past = made(240)
    whole = train(MODELS, lambda: [past.batch()])
    parts = train(MODELS, lambda: [past.batch(range(k, 240, 7)) for k in range(7)])
    x = feature_matrix(ASKED)
    assert whole.predict(x).quality == pytest.approx(parts.predict(x).quality, abs=1e-6)


@pytest.mark.parametrize("rows", [2, 3, 7, 20])
def test_a_handful_of_outcomes_is_enough_to_begin(rows: int) -> None:
    told = train(MODELS, lambda: [made(rows).batch()]).predict(feature_matrix(ASKED))
    for values in (told.quality, told.variance, told.confidence):
        assert np.isfinite(values).all()


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(ValueError, match="fewer than two outcomes"):
        train(MODELS, list)


def test_hundreds_of_tasks_leave_the_most_frequent_ones_with_estimates_of_their_own() -> None:
    batch = made(900).batch()
    labels = tuple(TaskName(f"task {k % 300 if k % 3 else 0}") for k in range(900))
    found = train(MODELS, lambda: [replace(batch, task=labels)])
    assert len(found.tasks) == 64
    assert "task 0" in found.tasks


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"x": np.zeros((6, 3))}, "batch.x has shape"),
        ({"x": np.full((6, FEATURES), np.nan)}, "not finite"),
        ({"quality": np.full((6, 4), 1.5)}, r"outside \[0, 1\]"),
        ({"quality": np.zeros((6, 3))}, "batch.quality has shape"),
        ({"output_tokens": np.full((6, 4), -1.0)}, "not a number of tokens"),
        ({"output_tokens": np.full((6, 4), np.inf)}, "not a number of tokens"),
        ({"fold": np.full(6, 5)}, "batch.fold"),
        ({"task": ()}, "batch.task"),
    ],
)
def test_a_batch_that_is_none_is_refused_with_the_field(change: dict[str, object], problem: str) -> None:
    batch: Batch = replace(made(6).batch(), **change)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=problem):
        Statistics.none(MODELS).add(batch)


def test_sums_of_different_models_do_not_add() -> None:
    with pytest.raises(ValueError, match="different models"):
        Statistics.none(MODELS) + Statistics.none(MODELS[:2])


def test_partitions_counted_apart_and_added_train_the_same() -> None:
    past = made(240)
    counted = []
    for part in (range(80), range(80, 240)):
        statistics = Statistics.none(MODELS)
        statistics.add(past.batch(part))
        counted.append(statistics)
    x = feature_matrix(ASKED)
    whole = train(MODELS, lambda: [past.batch()]).predict(x).quality
    assert trained_from(counted[1] + counted[0]).predict(x).quality == pytest.approx(whole, abs=1e-6)


def test_the_sample_stays_bounded_and_does_not_depend_on_the_split() -> None:
    n = ROWS + 1500
    rng = np.random.default_rng(1)
    x, y = rng.random((n, 3)), rng.random((n, 2))
    fold = rng.integers(0, 5, n)
    task = tuple(TaskName(str(k)) for k in range(n))

    def of(start: int, end: int) -> Sample:
        return Sample.of(x[start:end], y[start:end], y[start:end], fold[start:end], task[start:end])

    whole = of(0, n)
    total = Sample.none(3, 2)
    for start in range(0, n, 1000):
        total += of(start, min(n, start + 1000))
    assert len(whole.key) == ROWS
    assert total.task == whole.task
    assert np.array_equal(total.x, whole.x)
