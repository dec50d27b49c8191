"""Builders of splits for batch experiments: sums, which all can do, and proofs, which large models can."""

from __future__ import annotations

import numpy as np
from modelfleet_lab.evaluate.told import Side, Split

MODELS = ("small", "middle", "large", "other")


def split(seed: int, n: int = 720) -> Split:
    """Return three fifths past, the rest test; what is told is right on average."""
    random = np.random.default_rng(seed)
    past = 3 * n // 5
    return Split(MODELS, _side(random, past), _side(random, n - past))


def _side(random: np.random.Generator, n: int) -> Side:
    hard = random.random(n) < 0.5
    chance = np.where(hard[:, None], [0.2, 0.5, 0.9, 0.3], [0.9, 0.95, 0.95, 0.6])
    cost = np.where(hard, 2.0, 1.0)[:, None] * np.array([0.001, 0.004, 0.02, 0.002])
    return Side(
        quality=(random.random((n, 4)) < chance).astype(np.float64),
        cost=cost * random.uniform(0.8, 1.2, (n, 4)),
        told_quality=np.clip(chance + random.normal(0.0, 0.05, (n, 4)), 0.0, 1.0),
        told_cost=cost,
    )
