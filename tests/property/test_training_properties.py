"""Estimates stay estimates, sums stay sums and documents documents, whatever the data."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelfleet_core.estimation.artifact import ArtifactError, decode, encode
from modelfleet_core.estimation.features import FEATURES, feature_matrix, features
from modelfleet_core.estimation.statistics import Batch, Statistics
from modelfleet_core.estimation.training import train
from modelfleet_core.values import ModelName
from support.training import MODELS, made

pytestmark = pytest.mark.property

PAST = made(90)
TRAINED = train(MODELS, lambda: [PAST.batch()])
DOCUMENT = encode(TRAINED)


@given(st.lists(st.text(max_size=200), min_size=1, max_size=5), st.integers(1, 3000))
def test_every_text_is_estimated_within_bounds(texts: list[str], times: int) -> None:
    x = feature_matrix([*texts, texts[0] * times])
    found = TRAINED.predict(x)
    assert ((found.quality >= 0.0) & (found.quality <= 1.0)).all()
    assert ((found.confidence >= 0.0) & (found.confidence <= 1.0)).all()
    assert (found.variance >= 0.0).all()
    assert np.isfinite(found.variance).all()
    assert ((found.output_tokens >= 1.0) & np.isfinite(found.output_tokens)).all()
    assert found.tasks.sum(axis=1) == pytest.approx(1.0)


@given(st.text(max_size=300))
def test_figures_of_a_text_are_finite_and_bounded(text: str) -> None:
    x = features(text)
    assert x.shape == (FEATURES,)
    assert np.isfinite(x).all()
    assert ((x >= 0.0) & (x < 50.0)).all()


@settings(max_examples=3, deadline=None)
@given(st.lists(st.integers(0, 4), min_size=60, max_size=60))
def test_sums_of_any_split_are_those_of_the_whole(part: list[int]) -> None:
    def of(rows: list[int]) -> Statistics:
        found = Statistics.none(MODELS)
        found.add(PAST.batch(rows))
        return found

    whole = of(list(range(60)))
    split = [of([row for row in range(60) if part[row] == k]) for k in range(5)]
    total = split[3] + split[1] + (split[4] + (split[0] + split[2]))
    for name in ("rows", "x", "xx", "tokens"):
        assert np.allclose(getattr(total, name), getattr(whole, name))
    for one, other in ((total.quality, whole.quality), (total.log_tokens, whole.log_tokens)):
        for name in ("count", "total", "square", "x", "xy"):
            assert np.allclose(getattr(one, name), getattr(other, name))
    assert np.array_equal(total.sample.key, whole.sample.key)
    assert total.sample.task == whole.sample.task
    for task in whole.tasks:
        assert total.tasks[task].total == pytest.approx(whole.tasks[task].total)


@settings(max_examples=2, deadline=None)
@given(st.permutations(range(len(MODELS))))
def test_models_in_another_order_are_estimated_the_same(order: list[int]) -> None:
    batch = PAST.batch()
    turned = Batch(batch.x, batch.task, batch.quality[:, order], batch.output_tokens[:, order], batch.fold)
    found = train([ModelName(MODELS[k]) for k in order], lambda: [turned]).predict(batch.x)
    straight = TRAINED.predict(batch.x)
    assert found.quality == pytest.approx(straight.quality[:, order], abs=1e-5)
    assert found.output_tokens == pytest.approx(straight.output_tokens[:, order], rel=1e-4)


@given(st.integers(0, len(DOCUMENT) - 1), st.integers(1, 255))
def test_a_document_with_a_byte_changed_is_refused_or_still_sound(place: int, by: int) -> None:
    hurt = bytearray(DOCUMENT)
    hurt[place] ^= by
    try:
        back = decode(bytes(hurt))
    except ArtifactError:
        return
    quality = back.predict(feature_matrix(["Compute 1 + 2"])).quality
    assert ((quality >= 0.0) & (quality <= 1.0)).all()


@given(st.binary(max_size=2000))
def test_bytes_of_any_kind_are_refused_in_words(data: bytes) -> None:
    with pytest.raises(ArtifactError):
        decode(data)
