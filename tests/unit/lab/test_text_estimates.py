"""The plain estimator behind bootstraps: it tells kinds of text apart, and counts queries as it is told."""

from __future__ import annotations

import numpy as np
import pytest
from modelfleet_lab.methods.text_estimates import estimate, features
from support.recorded_folder import recorded


def test_estimates_tell_kinds_of_text_apart() -> None:
    data = recorded(2, n=700)
    words = features(data.prompts)
    found = estimate(words[:350], data.tasks[:350], data.quality[:350], words[350:])
    proofs = np.array(data.tasks[350:]) == "proof"
    assert found[proofs, 0].mean() < 0.35
    assert found[~proofs, 0].mean() > 0.75


def test_a_query_counted_twice_weighs_as_two() -> None:
    data = recorded(3, n=60)
    words = features(data.prompts)
    twice = np.array([*range(60), 0, 0])
    weight = np.ones(60)
    weight[0] = 3.0
    repeated = estimate(words[twice], [data.tasks[i] for i in twice], data.quality[twice], words)
    weighted = estimate(words, data.tasks, data.quality, words, weight=weight)
    assert weighted == pytest.approx(repeated, abs=1e-9)
