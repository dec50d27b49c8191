"""Plays a method over the test and compares methods at equal total cost.

In: a `Scene` and `Contender`s. Out: `Run`s and their differences. Next: the experiments.

What a method is told are estimates; what it is charged and credited are the recorded costs and outcomes. A
request that gets no model counts as quality 0 and costs nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from modelfleet_lab.evaluate.scene import Scene
from modelfleet_lab.methods import FloatArray, Method

RESAMPLES = 1000
_TRIES = 5
_BEYOND = 1.02
"""By how much a further try aims past the cost in question, so that it lies between two tries."""
_NOTHING = 1e-12
_WIDEST = 3.0
"""Nor is a method told more than this multiple of the budget, or less than its inverse."""


class Purse(Enum):
    """What a method may spend on a batch."""

    EVEN = "even"
    """Its equal part of the budget, and what earlier batches left of theirs."""
    LEFT = "left"
    """All that is left of the budget: the method paces itself."""
    OWN = "own"
    """No limit: the method keeps to the budget by its own prices or accounts."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A method and how it is tuned on the past."""

    name: str
    purse: Purse
    tune: Callable[[float], Callable[[], Method]]
    """From a budget, as a share of the best single model's cost, to the method as it starts the test."""


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """One method with one budget, per test query: means over orders."""

    quality: FloatArray
    """(q,) in [0, 1]."""
    cost: FloatArray
    """(q,) USD."""
    unserved: float
    """Share of requests without a model."""


@dataclass(frozen=True, slots=True)
class Line:
    """One method at the cost in question."""

    name: str
    quality: float
    """Share of the best single model's."""
    quality_ci: tuple[float, float]
    """95 % interval; bootstrap over queries, of which the best single model sees the same."""
    cost: float
    """Share of the best single model's; differs from the cost in question only where the method can not
    spend so much, or so little."""
    unserved: float
    behind: float
    """Ours minus this one, in points: hundredths of the best single model's quality."""
    behind_ci: tuple[float, float]
    """95 % interval; paired bootstrap over queries."""

    def json(self) -> dict[str, object]:
        return {
            "quality": self.quality,
            "quality_ci": list(self.quality_ci),
            "cost": self.cost,
            "unserved": self.unserved,
            "behind": self.behind,
            "behind_ci": list(self.behind_ci),
        }


def run(scene: Scene, contender: Contender, share: float) -> Run:
    """Play the test in all orders, with `share` of the best single model's cost for each."""
    quality, cost = np.zeros(scene.queries), np.zeros(scene.queries)
    unserved = 0
    budget = share * scene.single_cost
    start = contender.tune(share)
    for batches, members in zip(scene.orders, scene.members, strict=True):
        method = start()
        paid, seen = 0.0, 0
        for k, (batch, queries) in enumerate(zip(batches, members, strict=True)):
            seen += len(queries)
            allowance = max(0.0, budget * seen / scene.queries - paid)
            money = {
                Purse.EVEN: allowance,
                Purse.LEFT: max(0.0, budget - paid),
                Purse.OWN: np.inf,
            }[contender.purse]
            choice = method.choose(replace(batch.view, money=money, now=float(k)))
            at = np.flatnonzero(choice >= 0)
            billed = batch.cost[at, choice[at]]
            paid += float(billed.sum())
            cost[queries[at]] += billed
            quality[queries[at]] += batch.quality[at, choice[at]]
            unserved += choice.size - at.size
    orders = len(scene.orders)
    return Run(quality / orders, cost / orders, unserved / (orders * scene.queries))


def at_cost(scene: Scene, contender: Contender, share: float) -> Run:
    """Return the method at a total cost of `share`, between the two nearest of a few budgets told to it."""
    told = share
    tries: list[Run] = []
    for _ in range(_TRIES):
        tries.append(run(scene, contender, told))
        spent = _share(scene, tries[-1])
        spans = [_share(scene, one) for one in tries]
        if min(spans) <= share <= max(spans):
            break
        aim = _BEYOND if spent < share else 1 / _BEYOND
        further = float(np.clip(told * share / max(spent, 1e-12) * aim, share / _WIDEST, share * _WIDEST))
        if further == told:
            break
        told = further
    return between(scene, tries, share)


def between(scene: Scene, runs: Sequence[Run], share: float) -> Run:
    """Return a random mix of the two runs whose costs are nearest to `share`, or the nearest one."""
    ordered = sorted(runs, key=lambda one: _share(scene, one))
    if share <= _share(scene, ordered[0]):
        return ordered[0]
    for low, high in itertools.pairwise(ordered):
        least, most = _share(scene, low), _share(scene, high)
        if share <= most:
            part = (share - least) / max(most - least, 1e-12)
            return Run(
                quality=(1 - part) * low.quality + part * high.quality,
                cost=(1 - part) * low.cost + part * high.cost,
                unserved=(1 - part) * low.unserved + part * high.unserved,
            )
    return ordered[-1]


def lines(scene: Scene, found: Sequence[tuple[str, Run]], *, seed: int) -> tuple[Line, ...]:
    """Return a line for each method; the first is ours, with which the others are paired."""
    single = scene.single_quality
    best = max(float(single.mean()), _NOTHING)
    draws = np.random.default_rng(seed).integers(0, scene.queries, (RESAMPLES, scene.queries))
    drawn = np.maximum(single[draws].mean(axis=1), _NOTHING)
    ours = found[0][1].quality
    result = []
    for name, one in found:
        gain = 100.0 * (ours - one.quality) / best
        result.append(
            Line(
                name=name,
                quality=float(one.quality.mean()) / best,
                quality_ci=_interval(one.quality[draws].mean(axis=1) / drawn),
                cost=_share(scene, one),
                unserved=one.unserved,
                behind=float(gain.mean()),
                behind_ci=_interval(gain[draws].mean(axis=1)),
            )
        )
    return tuple(result)


def _interval(values: FloatArray) -> tuple[float, float]:
    low, high = np.quantile(values, [0.025, 0.975])
    return float(low), float(high)


def _share(scene: Scene, one: Run) -> float:
    return scene.share(float(one.cost.sum()))
