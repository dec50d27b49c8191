"""What training makes of data that tell little, or are degenerate: never much worse than means."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from modelfleet_core.estimation.artifact import decode, encode
from modelfleet_core.estimation.features import feature_matrix
from modelfleet_core.estimation.statistics import Batch
from modelfleet_core.estimation.training import train
from modelfleet_core.values import ModelName, TaskName
from support.training import MODELS, made

FloatArray = npt.NDArray[np.float64]

ROWS = 90
STRANGE = ["", " \n", "日本語" * 2000, "x" * 100_000, "\x00\ud800", "1 2 3"]


def one_model(batch: Batch) -> Batch:
    return replace(batch, quality=batch.quality[:, :1], output_tokens=batch.output_tokens[:, :1])


def constant(value: float) -> FloatArray:
    return np.full((ROWS, len(MODELS)), value)


def with_gap(batch: Batch) -> Batch:
    quality = batch.quality.copy()
    quality[:, 1] = np.nan
    return replace(batch, quality=quality, output_tokens=np.full(quality.shape, np.nan))


def hardly_any(batch: Batch) -> Batch:
    quality = batch.quality.copy()
    quality[5:] = np.nan
    return replace(batch, quality=quality)


ODD = {
    "one model": one_model,
    "one task": lambda batch: replace(batch, task=(TaskName("only"),) * ROWS),
    "a task for each query": lambda batch: replace(
        batch, task=tuple(TaskName(f"task {k}") for k in range(ROWS))
    ),
    "all wrong": lambda batch: replace(batch, quality=constant(0.0)),
    "all right": lambda batch: replace(batch, quality=constant(1.0)),
    "all a half": lambda batch: replace(batch, quality=constant(0.5)),
    "one text": lambda batch: replace(
        batch, x=np.tile(batch.x[:1], (ROWS, 1)), fold=np.zeros(ROWS, dtype=np.int64)
    ),
    "no text": lambda batch: replace(batch, x=np.zeros_like(batch.x)),
    "a model never asked": with_gap,
    "few outcomes": hardly_any,
    "empty answers": lambda batch: replace(batch, output_tokens=constant(0.0)),
    "endless answers": lambda batch: replace(batch, output_tokens=constant(1e9)),
}


@pytest.mark.parametrize("kind", ODD)
def test_odd_data_give_estimates_in_range_for_any_text(kind: str) -> None:
    batch = ODD[kind](made(ROWS).batch())
    models = MODELS[: batch.quality.shape[1]]
    found = decode(encode(train(models, lambda: [batch])))
    x = np.vstack([batch.x[:5], feature_matrix(STRANGE)])
    for tasks in (None, [TaskName("sum")] * len(x), [TaskName("only")] * len(x)):
        told = found.predict(x, tasks)
        for values in (told.quality, told.variance, told.samples, told.confidence):
            assert np.isfinite(values).all()
        assert told.quality.min() >= 0.0
        assert told.quality.max() <= 1.0
        assert told.variance.min() >= 0.0
        assert (told.output_tokens[np.isfinite(told.output_tokens)] >= 1.0).all()


@pytest.mark.parametrize("value", [0.0, 0.5, 1.0])
def test_models_that_always_do_the_same_are_estimated_as_that(value: float) -> None:
    batch = replace(made(ROWS).batch(), quality=constant(value))
    told = train(MODELS, lambda: [batch]).predict(batch.x)
    assert told.quality == pytest.approx(constant(value), abs=0.01)


@pytest.mark.parametrize("answers", [1, None])
def test_where_texts_tell_nothing_routing_is_hardly_worse_than_the_best_single_model(
    answers: int | None,
) -> None:
    rng = np.random.default_rng(7)
    models = tuple(ModelName(f"m{k}") for k in range(6))
    truth = np.array([0.45, 0.5, 0.55, 0.6, 0.65, 0.7])
    batch = made(300).batch()
    quality = (rng.random((300, 6)) < truth).astype(np.float64)
    if answers is not None:
        quality[np.arange(6) != rng.integers(0, 6, 300)[:, np.newaxis]] = np.nan
    past = replace(batch, quality=quality, output_tokens=np.full((300, 6), np.nan))
    found = train(models, lambda: [past])
    routed = truth[found.predict(batch.x).quality.argmax(axis=1)].mean()
    best = truth[found.mean.argmax()]
    assert routed > best - 0.03


def test_rows_told_twice_do_not_change_who_is_best() -> None:
    batch = made(ROWS).batch()
    once = train(MODELS, lambda: [batch]).predict(batch.x).quality
    twice = train(MODELS, lambda: [batch, batch]).predict(batch.x).quality
    assert (once.argmax(axis=1) == twice.argmax(axis=1)).mean() > 0.95


def test_a_few_lucky_answers_do_not_make_a_model_the_best() -> None:
    rng = np.random.default_rng(5)
    models = tuple(ModelName(f"m{k}") for k in range(5))
    batch = made(300).batch()
    quality = (rng.random((300, 5)) < np.array([0.6, 0.62, 0.64, 0.66, 0.68])).astype(np.float64)
    quality[:, 0] = np.nan
    quality[:3, 0] = 1.0
    past = replace(batch, quality=quality, output_tokens=np.full((300, 5), np.nan))
    found = train(models, lambda: [past])
    assert found.mean[0] < 0.75
    assert found.mean[1:] == pytest.approx(np.nanmean(quality, axis=0)[1:], abs=0.03)
