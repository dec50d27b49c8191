"""All methods as contenders: ours, and every method of the field, each tuned on the past for its budget.

In: a `Scene`. Out: `Contender`s, ours first. Next: `referee`. Sources and changes: `docs/methods.md`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache

import numpy as np

from modelfleet_lab.evaluate.referee import Contender, Purse
from modelfleet_lab.evaluate.scene import Scene
from modelfleet_lab.methods import FloatArray, Method
from modelfleet_lab.methods.calibration import (
    PastBatch,
    batch_split,
    best_constant,
    calibrated_price,
    congestion_priced,
    priced,
    slot_priced,
)
from modelfleet_lab.methods.certified import Certified, Paced, Reserve, reserve
from modelfleet_lab.methods.per_query import Greedy, Priced, RoundRobin
from modelfleet_lab.methods.port import Port, learned_weights
from modelfleet_lab.methods.published import PublishedBatch
from modelfleet_lab.methods.shares import Shares, best_shares

OURS = "ours"
UNRESERVED = "ours, no reserve price"
UNROWED = "ours, reserve price alone"
GREEDY = "greedy in arrival order"
PRICED = "per-query price"
CONGESTION = "congestion prices"
SLOT_PRICES = "constant slot prices"
PORT = "PORT"
PORT_INFORMED = "PORT, weights from past traffic"
SPLIT = "BatchSplit"
PUBLISHED = "published batch"
ROBUST = "published batch, robust"
MIX = "constants mix"
CONSTANT = "best constant model"
ROBIN = "round robin"
_STEP = 1.5
"""Between budgets for which the rise of congestion prices is tuned: it changes slowly, and takes long."""


def contenders(scene: Scene) -> tuple[Contender, ...]:
    """Return all methods; the robust mode only where the scene has quantiles of bootstraps.

    All prices are calibrated on the scene's past, with its slots, for the share of its best single model's
    cost that the test will have.
    """
    past = scene.past

    def money(share: float) -> float:
        return share * scene.past_single_cost

    @cache
    def held(share: float) -> Reserve:
        return reserve(past, money(share))

    @cache
    def price(share: float) -> Priced:
        return priced(past, money(share))

    @cache
    def shape(step: int) -> Priced:
        return congestion_priced(past, money(_STEP**step))

    @cache
    def rising(share: float) -> Priced:
        near = shape(round(math.log(share, _STEP)))

        def at(price: float) -> Priced:
            return replace(near, money_price=price)

        return at(calibrated_price(at, past, money(share)))

    @cache
    def fixed(share: float) -> Priced:
        return slot_priced(past, money(share))

    @cache
    def split(share: float) -> Method:
        return batch_split(past, money(share))

    @cache
    def port(share: float, informed: bool) -> tuple[FloatArray, FloatArray | None]:
        shares = _spending(price(share), past)
        weights = learned_weights([b.view for b in past], shares * money(share)) if informed else None
        return shares * share * scene.single_cost, weights

    def start_port(share: float, informed: bool) -> Callable[[], Method]:
        budgets, weights = port(share, informed)
        return lambda: Port(requests=scene.queries, budgets=budgets, seed=0, weights=weights)

    def mix(share: float) -> Callable[[], Method]:
        shares = best_shares(past, money(share))
        return lambda: Shares(shares)

    def always(method: Method) -> Callable[[], Method]:
        return lambda: method

    found = [
        Contender(OURS, Purse.LEFT, lambda share: lambda: Paced(scene.queries, held(share))),
        Contender(UNRESERVED, Purse.EVEN, lambda share: Certified),
        Contender(UNROWED, Purse.OWN, lambda share: lambda: Certified(held(share).prices[0])),
        Contender(PUBLISHED, Purse.EVEN, lambda share: PublishedBatch),
        Contender(ROBUST, Purse.EVEN, lambda share: lambda: PublishedBatch(robust=True)),
        Contender(SLOT_PRICES, Purse.OWN, lambda share: always(fixed(share))),
        Contender(CONGESTION, Purse.OWN, lambda share: always(rising(share))),
        Contender(PRICED, Purse.OWN, lambda share: always(price(share))),
        Contender(PORT_INFORMED, Purse.OWN, lambda share: start_port(share, True)),
        Contender(PORT, Purse.OWN, lambda share: start_port(share, False)),
        Contender(SPLIT, Purse.EVEN, lambda share: always(split(share))),
        Contender(GREEDY, Purse.EVEN, lambda share: Greedy),
        Contender(MIX, Purse.OWN, mix),
        Contender(CONSTANT, Purse.EVEN, lambda share: always(best_constant(past, money(share)))),
        Contender(ROBIN, Purse.EVEN, lambda share: RoundRobin),
    ]
    known = all(batch.view.quality_low is not None for order in scene.orders for batch in order)
    return tuple(one for one in found if known or one.name != ROBUST)


def named(scene: Scene, names: Sequence[str]) -> tuple[Contender, ...]:
    """Return those of the contenders that are asked for, in that order, without those the scene lacks."""
    known = {one.name: one for one in contenders(scene)}
    return tuple(known[name] for name in names if name in known)


def _spending(method: Method, past: Sequence[PastBatch]) -> FloatArray:
    """Return (m,) the share of its spending that `method` gives each model."""
    m = past[0].view.size[1]
    spent = np.zeros(m)
    for batch in past:
        choice = method.choose(batch.view)
        at = np.flatnonzero(choice >= 0)
        spent += np.bincount(choice[at], weights=batch.cost[at, choice[at]], minlength=m)
    result: FloatArray = spent / max(float(spent.sum()), 1e-12)
    return result
