"""Figures of one policy, without any training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from modelfleet_lab.evaluate import streams
from modelfleet_lab.evaluate.figures import CURVE_NAMES, measure, versus
from modelfleet_lab.evaluate.protocol import Protocol, split
from modelfleet_lab.evaluate.streams import NAMES, play
from modelfleet_lab.evaluate.sweeps import constants, priced
from modelfleet_lab.evaluate.told import Side, Split
from support.recorded_folder import recorded


def protocol(n: int = 120) -> Protocol:
    return split(recorded(4, n=n), 0)


def test_figures_are_those_of_the_whole_test_and_repeat_by_seed() -> None:
    asked = protocol()
    policy = priced(asked.test.quality, asked.test.cost).played(asked.test.quality, asked.test.cost)
    first, again = (measure(asked, policy, estimated=asked.test.quality, resamples=50) for _ in range(2))
    assert first.named == again.named
    cost, quality = policy.cost.mean(axis=1), policy.quality.mean(axis=1)
    at = np.interp(0.5 * asked.single_cost, [0.0, *cost], [0.0, *quality])
    assert first.named["r50"].value == pytest.approx(at / asked.single_quality)
    assert first.named["auc"].value == 1.0
    assert first.named["brier"].value == 0.0


def test_a_policy_is_as_good_as_itself_in_every_resample() -> None:
    asked = protocol()
    policy = constants(asked.test.size, 4).played(asked.test.quality, asked.test.cost)
    found = measure(asked, policy, estimated=None, resamples=50)
    differences = versus(found, found)
    assert {differences[name].value for name in CURVE_NAMES} == {0.0}
    assert differences["r50"].interval == (0.0, 0.0)


def test_where_nothing_costs_anything_shares_of_cost_have_no_meaning() -> None:
    asked = protocol()
    free = replace(asked, test=replace(asked.test, cost=np.zeros_like(asked.test.cost)))
    policy = constants(free.test.size, 4).played(free.test.quality, free.test.cost)
    found = measure(free, policy, estimated=None, resamples=50)
    assert found.named["k95"].json("k95") == {"k95": None, "k95_ci": None}
    best = free.test.quality.mean(axis=0).max()
    assert found.named["r50"].value == pytest.approx(best / free.single_quality)


def test_methods_with_a_budget_are_played_at_many_and_repeat_by_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "BUDGETS", (0.1, 0.5, 1.0))
    asked = protocol(60)
    past = Side(asked.past.quality, asked.past.cost, asked.past.quality, asked.past.cost)
    test = Side(asked.test.quality, asked.test.cost, asked.test.quality, asked.test.cost)
    told = Split(asked.data.models, past, test)
    first, again = (play(told, seed=3, tell=lambda what: None) for _ in range(2))
    assert set(first) == set(NAMES) - {"published_robust"}
    for name, policy in first.items():
        assert (policy.quality == again[name].quality).all()
        assert (np.diff(policy.cost.mean(axis=1)) > 0).all()
        assert policy.curve.cost[-1] <= 1.2 * asked.single_cost
