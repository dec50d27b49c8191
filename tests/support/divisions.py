"""Random division programs of every kind: slack, tight, without slots or money, with ties and gaps."""

from __future__ import annotations

import numpy as np
from modelfleet_core.division.arrays import Arrays
from modelfleet_core.values import ModelName, ObjectKey


def arrays(seed: int, classes: int = 16, models: int = 12, policies: int = 2) -> Arrays:
    random = np.random.default_rng(seed)
    busy = random.integers(0, 120 if seed % 3 else 6, models).astype(float)
    size = np.sort(random.uniform(0.2, 1, models))
    quality = np.clip(0.8 * size + random.normal(0, 0.1, (classes, models)), 0, 1)
    if seed % 7 == 0:
        quality = np.round(quality, 1)
    seconds = size * random.uniform(1, 6, (classes, 1)) * random.uniform(0.8, 1.2, (classes, models))
    cost = size**3 * random.uniform(0.0005, 0.02, (classes, 1)) * (random.uniform(size=models) < 0.7)
    offered = random.uniform(size=(classes, models)) < (1.0 if seed % 2 else 0.8)
    weight = random.choice([1.0, 4.0], classes)
    rate = random.uniform(0, 1, classes) ** 3
    rate *= (
        random.choice([0.3, 0.8, 1.0, 1.2, 3.0]) * busy.sum() / max(1e-9, float(rate @ seconds.mean(axis=1)))
    )
    dear = float(rate @ cost.mean(axis=1)) / max(1, policies)
    return Arrays(
        models=tuple(ModelName(f"m{j}") for j in range(models)),
        policies=tuple(ObjectKey("ml", f"p{p}") for p in range(policies)),
        rate=rate,
        penalty=0.5 * weight,
        weight=weight,
        value=np.where(offered, quality * weight[:, None], 0.0),
        seconds=np.where(offered, seconds, 0.0),
        cost=np.where(offered, cost, 0.0),
        offered=offered,
        budget=random.integers(-1, policies, classes),
        busy=busy,
        money=dear * random.choice([0.0, 0.2, 0.5, 1.0, 5.0], policies),
    )
