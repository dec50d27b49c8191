"""The sidecar's estimator takes over what it can read, keeps what it had, and always has an answer."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import Any

import pytest
from modelfleet_core.estimation.asked import TrainedEstimator
from modelfleet_core.estimation.features import features
from modelfleet_core.estimation.forecast import Forecast, Question
from modelfleet_core.estimation.learning import ExperienceLog
from modelfleet_core.estimation.profile import profile
from modelfleet_core.leasing.messages import Document
from modelfleet_core.policy import Learning
from modelfleet_core.values import TaskName, VariantKey
from modelfleet_sidecar.estimates import LiveEstimator, Timing
from support.estimators import POEM, SUM, document, learned_of, poet_and_clerk
from support.sidecars import GivenLease, Spec, fleet_of, live_estimator, policy_of

FLEET = fleet_of([Spec("poet", 0.5), Spec("clerk", 0.5)])


def lease_with(*, estimator: Document | None = None, learned: Document | None = None) -> GivenLease:
    lease = GivenLease()
    lease.fleet = FLEET
    lease.estimator = estimator if estimator is not None else lease.estimator
    lease.learned = learned if learned is not None else lease.learned
    return lease


def question(text: str, *, looked_at: bool = True) -> Question:
    seen = profile([text], task=None, asked_output_tokens=None, max_output_tokens=100)
    return Question(seen, None, features(text) if looked_at else None)


def best(estimator: LiveEstimator, form: str) -> str:
    said = estimator.estimate(question(form.format(50, 3)), FLEET).estimates.models
    return max(said, key=lambda one: one.quality).model


async def test_damaged_documents_never_end_it_and_never_replace_a_good_one() -> None:
    estimator = live_estimator()
    good = poet_and_clerk()
    await estimator.take(lease_with(estimator=good))
    draw = random.Random(7)
    for _ in range(40):
        damaged = bytearray(good.manifest)
        for _ in range(draw.choice((1, 3, 30))):
            damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        cut = bytes(damaged[: draw.choice((len(damaged), draw.randrange(len(damaged))))])
        await estimator.take(lease_with(estimator=document(cut)))
        said = estimator.estimate(question(SUM.format(50, 3)), FLEET)
        assert all(0.0 <= one.quality <= 1.0 for one in said.estimates.models)
        await estimator.take(lease_with(estimator=good))
    assert (best(estimator, POEM), best(estimator, SUM)) == ("poet", "clerk")


@pytest.mark.parametrize("said", [None, math.nan, math.inf])
async def test_an_estimator_that_makes_no_sense_leaves_the_manifests_priors(
    said: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    priors = live_estimator().estimate(question("hello"), FLEET)
    estimator = live_estimator()
    await estimator.take(lease_with(estimator=poet_and_clerk()))
    assert estimator.estimate(question("hello"), FLEET).estimator_version != ""
    forecast = TrainedEstimator._forecast

    def nonsense(*what: Any) -> Forecast:
        if said is None:
            raise FloatingPointError
        found = forecast(*what)
        return replace(found, variance=[said * one for one in found.variance or ()])

    monkeypatch.setattr(TrainedEstimator, "_forecast", nonsense)
    known = estimator.estimate(question("hello"), FLEET)
    assert known.estimator_version == ""
    assert known.estimates == priors.estimates


async def test_features_are_made_only_where_something_asks_for_them() -> None:
    learns, plain = policy_of(), replace(policy_of(), learning=Learning(enabled=False))
    estimator = live_estimator()
    assert estimator.features("hello", plain) is None
    assert estimator.features("hello", learns) is not None
    await estimator.take(lease_with(estimator=poet_and_clerk()))
    assert estimator.features("hello", plain) is not None
    made_later = estimator.estimate(question("hello", looked_at=False), FLEET)
    made_before = estimator.estimate(question("hello"), FLEET)
    assert made_later.estimates == made_before.estimates


async def test_another_base_begins_what_is_learned_anew() -> None:
    experience = ExperienceLog()
    estimator = live_estimator(experience=experience)
    await estimator.take(lease_with(estimator=poet_and_clerk()))
    assert experience.estimator_version == estimator.version == poet_and_clerk().version
    await estimator.take(lease_with())
    assert experience.estimator_version == estimator.version == ""


async def test_estimates_say_what_they_were_before_scores_corrected_them() -> None:
    estimator = live_estimator()
    await estimator.take(lease_with(learned=learned_of("", {"poet": 0.1, "clerk": -0.1}, samples=40.0)))
    poet, clerk = estimator.estimate(question("hello"), FLEET).estimates.models
    assert poet.quality - poet.base == pytest.approx(0.1, abs=1e-6)
    assert clerk.quality - clerk.base == pytest.approx(-0.1, abs=1e-6)
    assert (poet.samples, clerk.samples) == (40.0, 40.0)


async def test_expected_lengths_and_costs_follow_the_model_where_the_estimator_knows_them() -> None:
    estimator = live_estimator()
    await estimator.take(lease_with(estimator=poet_and_clerk()))
    short, long = (
        estimator.estimate(question(form.format(50, 3)), FLEET).estimates.models[0] for form in (SUM, POEM)
    )
    assert short.output_tokens == pytest.approx(40.0, rel=0.5)
    assert long.output_tokens == 100.0  # no more than the request allows
    assert short.cost < long.cost
    assert short.reserve >= short.cost * 1e9


async def test_times_of_variants_that_left_the_fleet_are_forgotten() -> None:
    estimator = live_estimator()
    await estimator.take(lease_with())
    (poet, _) = FLEET.variants()
    estimator.answered(TaskName("chat"), poet.key, 0.1, 20, Timing(0.5, 2.0))
    estimator.answered(TaskName("chat"), VariantKey(poet.key.model, "gone"), 0.1, 20, Timing(None, 2.0))
    assert estimator.pace(poet, 0.1).samples == 1.0
    other = lease_with()
    other.fleet = fleet_of([Spec("clerk", 0.5)])
    await estimator.take(other)
    assert estimator.pace(poet, 0.1).samples == 0.0
