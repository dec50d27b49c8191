"""Builders of what a method sees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from modelfleet_lab.methods import BatchView
from modelfleet_lab.methods.calibration import PastBatch


def view(
    quality: list[list[float]],
    *,
    free: list[int],
    slots: list[int] | None = None,
    cost: list[list[float]] | None = None,
    money: float = np.inf,
    weight: list[float] | None = None,
    seconds: list[list[float]] | None = None,
    quality_low: list[list[float]] | None = None,
) -> BatchView:
    """A batch of weight 1, without cost, of one second, where all may go everywhere."""
    array = np.array(quality, dtype=np.float64).reshape(len(quality), len(free))
    n, m = array.shape
    return BatchView(
        weight=np.ones(n) if weight is None else np.array(weight),
        quality=array,
        cost=np.zeros((n, m)) if cost is None else np.array(cost, dtype=np.float64),
        service_time=np.ones((n, m)) if seconds is None else np.array(seconds),
        eligible=np.ones((n, m), dtype=bool),
        free=np.array(free, dtype=np.int64),
        slots=np.array(free if slots is None else slots, dtype=np.int64),
        money=money,
        now=0.0,
        quality_low=None if quality_low is None else np.array(quality_low),
    )


def random_view(seed: int, *, n: int | None = None, m: int | None = None) -> BatchView:
    """A batch of any size, with or without enough slots and money, some cells not eligible."""
    random = np.random.default_rng(seed)
    n = int(random.integers(0, 20)) if n is None else n
    m = int(random.integers(1, 6)) if m is None else m
    quality = random.random((n, m))
    cost = random.exponential(1.0, (n, m)) * (random.random((n, m)) < 0.9)
    slots = random.integers(0, 8, m)
    return BatchView(
        weight=random.choice([1.0, 4.0], n),
        quality=quality,
        cost=cost,
        service_time=random.exponential(1.0, (n, m)),
        eligible=random.random((n, m)) < 0.8,
        free=np.minimum(slots, random.integers(-1, 8, m)),
        slots=slots,
        money=float(random.choice([0.0, 0.3, 1.0, np.inf])) * (n + 1),
        now=float(seed),
        quality_low=quality * random.random((n, m)),
    )


def past_traffic(
    seed: int, *, batches: int = 8, n: int = 50, slots: tuple[int, int, int] = (50, 50, 50)
) -> list[PastBatch]:
    """Batches over three models of rising strength and price, estimated as it turns out on average."""
    random = np.random.default_rng(seed)
    result = []
    for k in range(batches):
        hard = random.random((n, 1))
        quality = np.clip(np.array([0.9, 0.95, 1.0]) - hard * np.array([0.7, 0.45, 0.2]), 0.0, 1.0)
        cost = random.uniform(0.5, 1.5, (n, 1)) * np.array([0.1, 1.0, 5.0])
        asked = replace(view(quality.tolist(), free=list(slots), cost=cost.tolist()), now=float(k))
        outcome = (random.random((n, 3)) < quality).astype(np.float64)
        result.append(PastBatch(asked, outcome, cost * random.uniform(0.9, 1.1, (n, 3))))
    return result
