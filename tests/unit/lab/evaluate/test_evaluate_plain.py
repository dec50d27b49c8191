"""Plain estimators, and that none of them loses for want of tuning."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from modelfleet_lab.evaluate import estimators, plain
from modelfleet_lab.evaluate.estimators import Known
from modelfleet_lab.evaluate.protocol import part_of
from modelfleet_lab.methods import FloatArray
from support.recorded_folder import recorded


def past(n: int = 60) -> Known:
    data = recorded(7, n=n)
    return estimators.known(data, part_of(data, np.ones(n, dtype=bool)))


def with_features(seen: Known, x: FloatArray) -> Known:
    return replace(seen, x=x)


def test_the_nearest_query_is_the_query_itself() -> None:
    seen = with_features(past(), np.random.default_rng(0).normal(size=(60, 5)))
    quality = seen.part.quality
    found = plain.nearest(seen, seen, 1)
    assert np.abs(found - quality).max() < 2e-3
    everyone = plain.nearest(seen, seen, 1000)
    assert np.allclose(everyone, quality.mean(axis=0))


def test_of_models_that_the_nearest_queries_call_equal_the_better_one_overall_comes_first() -> None:
    seen = with_features(past(), np.random.default_rng(0).normal(size=(60, 5)))
    overall = seen.part.quality.mean(axis=0)
    found = plain.nearest(seen, seen, 1)
    both = (seen.part.quality[:, 0] == 1.0) & (seen.part.quality[:, 2] == 1.0)
    assert overall[2] > overall[0]
    assert both.any()
    assert (found[both, 2] > found[both, 0]).all()


def test_plain_ridge_tells_kinds_of_text_apart() -> None:
    seen = past(200)
    found = plain.ridge(seen, seen, seen.part.cost)
    hard = np.array(seen.part.tasks) == "proof"
    assert found[hard, 0].mean() < found[~hard, 0].mean() - 0.3
    assert found.min() >= 0.0
    assert found.max() <= 1.0


def test_plain_ridge_is_as_strong_as_noise_asks_for() -> None:
    seen = past(200)
    noise = with_features(seen, np.random.default_rng(1).normal(size=(200, 150)))
    weak = plain._ridge(noise.x, noise.part.quality, noise.x, [(False, 1.0)])[False, 1.0]
    tuned = plain.ridge(noise, noise, noise.part.cost)
    assert np.ptp(tuned, axis=0).max() < 0.25 * np.ptp(weak, axis=0).max()


def test_ridge_solves_its_normal_equations() -> None:
    random = np.random.default_rng(2)
    x, new = random.normal(size=(40, 3)) * [1.0, 5.0, 0.1] + 2.0, random.normal(size=(6, 3))
    quality = 0.5 + 0.05 * random.normal(size=(40, 2))
    found = plain._ridge(x, quality, new, [(False, 3.0), (True, 3.0)])
    for scaled, spread in ((False, np.ones(3)), (True, x.std(axis=0))):
        z = (x - x.mean(axis=0)) / spread
        slopes = np.linalg.solve(z.T @ z + 3.0 * np.eye(3), z.T @ (quality - quality.mean(axis=0)))
        wanted = quality.mean(axis=0) + (new - x.mean(axis=0)) / spread @ slopes
        assert np.allclose(found[scaled, 3.0], np.clip(wanted, 0.0, 1.0))
