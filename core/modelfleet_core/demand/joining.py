"""Stage observe, from merged cells to demand classes of one policy.

In: cells with their rates and sums. Out: labels of the classes they belong to, and a `DemandClass` of each.
Next: `meter` hands them to allocation and division.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from modelfleet_core.demand.cells import CellKey
from modelfleet_core.demand.classes import DemandClass, FloatArray, ModelOffer
from modelfleet_core.demand.grouping import IntArray, grouped
from modelfleet_core.policy import Policy, Tier
from modelfleet_core.values import ModelName

GONE = -2
"""Label of cells whose tier the policy does not have any more."""


@dataclass(frozen=True, slots=True, eq=False)
class CellFigures:
    """What is known of n cells of one policy."""

    keys: tuple[CellKey, ...]
    rate: FloatArray
    """(n,) requests/s."""
    sums: FloatArray
    """(n, models, FIGURES), as sketches count them."""
    models: tuple[ModelName, ...]


@dataclass(frozen=True, slots=True, eq=False)
class _Means:
    """(n, models) each; 0 where a model does not serve a cell."""

    quality: FloatArray
    cost: FloatArray
    seconds: FloatArray
    offered: npt.NDArray[np.bool_]


def labelled(policy: Policy, cells: CellFigures, most: int) -> IntArray:
    """Return the class of each cell, below `most`; or GONE with its tier."""
    tiers = [_tier(policy, key) for key in cells.keys]
    known = np.array([tier is not None for tier in tiers])
    labels = np.full(len(tiers), GONE, dtype=np.int64)
    if not known.any():
        return labels
    weight = np.array([tier.weight for tier in tiers if tier is not None])
    penalty = policy.shed_penalty * weight
    means = _means(cells.sums[known])
    labels[known] = grouped(
        cells.rate[known],
        value=np.where(means.offered, weight[:, None] * means.quality, -penalty[:, None]),
        penalty=penalty,
        cost=means.cost,
        seconds=means.seconds,
        most=most,
    )
    return labels


def joined(policy: Policy, cells: CellFigures) -> DemandClass:
    """Return one class of cells that `labelled` joined: its value, cost and time are the means of theirs."""
    tiers = [_tier(policy, key) or policy.tiers[-1] for key in cells.keys]
    weights = np.array([tier.weight for tier in tiers])
    total = float(cells.rate.sum())
    weight = float(weights @ cells.rate) / total
    means = _means(cells.sums)
    share = cells.rate[:, None] * means.offered
    heavy = share * weights[:, None]
    able, valued = share.sum(axis=0), heavy.sum(axis=0)
    quality = (heavy * means.quality).sum(axis=0) / np.where(valued > 0.0, valued, 1.0)
    cost = (share * means.cost).sum(axis=0) / np.where(able > 0.0, able, 1.0)
    seconds = (share * means.seconds).sum(axis=0) / np.where(able > 0.0, able, 1.0)
    largest = int(np.argmax(cells.rate))
    return DemandClass(
        policy=policy.key,
        tier=tiers[largest].name,
        task=cells.keys[largest][1],
        weight=weight,
        shed_penalty=policy.shed_penalty * weight,
        rate=total,
        offers={
            cells.models[j]: ModelOffer(float(quality[j]), float(cost[j]), float(seconds[j]))
            for j in np.flatnonzero(able > 0.0)
        },
    )


def _means(sums: FloatArray) -> _Means:
    count = sums[:, :, 0]
    offered = count > 0.0
    means = sums[:, :, 1:] / np.where(offered, count, 1.0)[:, :, None]
    return _Means(np.clip(means[:, :, 0], 0.0, 1.0), means[:, :, 1], means[:, :, 2], offered)


def _tier(policy: Policy, key: CellKey) -> Tier | None:
    """Return the tier of a cell; that of none is the last one, which matches everything; None: it is gone."""
    if not key[0]:
        return policy.tiers[-1]
    return next((tier for tier in policy.tiers if tier.name == key[0]), None)
