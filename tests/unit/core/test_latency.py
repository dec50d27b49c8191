"""Measured times move the manifest's word, by load, and fade."""

from __future__ import annotations

from dataclasses import replace

import pytest
from modelfleet_core.catalog import Latency, Variant
from modelfleet_core.estimation.latency import Paces
from modelfleet_core.values import VariantKey
from support.fleets import external, fleet, model

SAID = Latency(time_to_first_token=0.5, per_output_token=0.02)


def variant(latency: Latency = SAID, name: str = "api") -> Variant:
    (found,) = fleet(model(external("m"))).variants()
    return replace(found, key=VariantKey(found.key.model, name), latency=latency)


def test_nothing_measured_is_the_manifests_word() -> None:
    pace = Paces().pace(variant(), 0.3)
    assert pace.latency == SAID
    assert pace.seconds(100) == pytest.approx(2.5)
    assert pace.samples == 0


def test_streams_tell_both_times_apart() -> None:
    paces = Paces()
    for _ in range(200):
        paces.streamed(variant(), 0.1, first=1.0, rest=99 * 0.05, tokens=100)
    pace = paces.pace(variant(), 0.1)
    assert pace.latency.time_to_first_token == pytest.approx(1.0, rel=0.05)
    assert pace.latency.per_output_token == pytest.approx(0.05, rel=0.05)
    assert pace.samples > 50


def test_whole_answers_of_different_lengths_tell_both_times_apart() -> None:
    paces = Paces()
    for number in range(400):
        tokens = (2, 400)[number % 2]
        paces.answered(variant(), 0.1, seconds=1.0 + 0.05 * tokens, tokens=tokens)
    pace = paces.pace(variant(), 0.1)
    assert pace.latency.time_to_first_token == pytest.approx(1.0, rel=0.1)
    assert pace.latency.per_output_token == pytest.approx(0.05, rel=0.1)


def test_an_answer_moves_the_estimate_little_and_many_move_it_far() -> None:
    paces = Paces()
    expected = [0.5]
    for _ in range(40):
        paces.streamed(variant(), 0.1, first=5.0, rest=0.0, tokens=1)
        expected.append(paces.pace(variant(), 0.1).latency.time_to_first_token)
    assert expected == sorted(expected)
    assert expected[1] < 2.0
    assert expected[-1] > 4.0


def test_each_load_has_its_own_pace_and_leans_on_the_others() -> None:
    paces = Paces()
    for _ in range(100):
        paces.streamed(variant(), 0.05, first=0.5, rest=99 * 0.02, tokens=100)
        paces.streamed(variant(), 0.95, first=4.0, rest=99 * 0.08, tokens=100)
    idle, between, full = (paces.pace(variant(), load).seconds(100) for load in (0.0, 0.5, 1.0))
    assert idle == pytest.approx(2.5, rel=0.15)
    assert full == pytest.approx(12.0, rel=0.15)
    assert idle < between < full


def test_old_times_fade() -> None:
    paces = Paces()
    for seconds in (9.0, 1.0):
        for _ in range(600):
            paces.streamed(variant(), 0.1, first=seconds, rest=0.0, tokens=1)
    assert paces.pace(variant(), 0.1).latency.time_to_first_token == pytest.approx(1.0, rel=0.1)


def test_absurd_times_stay_finite_and_are_bounded() -> None:
    paces = Paces()
    for seconds in (float("nan"), float("inf"), -1.0, 1e300):
        paces.streamed(variant(), 0.1, first=seconds, rest=seconds, tokens=50)
        paces.answered(variant(), 0.1, seconds=seconds, tokens=50)
    pace = paces.pace(variant(), 0.1)
    assert 0.0 <= pace.latency.time_to_first_token <= 1e3 * 0.5
    assert 0.0 <= pace.latency.per_output_token <= 1e3 * 0.02


def test_a_manifest_without_times_can_be_learned_too() -> None:
    nothing = variant(Latency(0.0, 0.0))
    paces = Paces()
    for _ in range(300):
        paces.streamed(nothing, 0.1, first=0.4, rest=99 * 0.01, tokens=100)
    assert paces.pace(nothing, 0.1).seconds(100) == pytest.approx(1.4, rel=0.2)


def test_a_new_word_of_the_manifest_and_a_variant_that_left_begin_anew() -> None:
    paces = Paces()
    for name in ("api", "other"):
        paces.streamed(variant(name=name), 0.1, first=9.0, rest=0.0, tokens=1)
    changed = variant(Latency(1.0, 0.1))
    assert paces.pace(changed, 0.1).latency == changed.latency
    paces.keep([variant().key])
    assert paces.pace(variant(), 0.1).samples > 0
    assert paces.pace(variant(name="other"), 0.1).samples == 0
