"""A first look at all methods: synchronous batches of recorded queries, tight slots, the same money for all.

In: `Recorded` outcomes, a seed, a tightness. Out: a `Line` per method. Next: the table of `__main__`.

Slots are fresh for every batch. What a method is told are estimates made from the past alone; what it is
charged and credited are the recorded costs and outcomes. A request that gets no model counts as quality 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
from modelfleet_core.assignment.problem import Row
from modelfleet_core.assignment.result import Prices
from modelfleet_core.assignment.solver import assign

from modelfleet_lab.methods import BatchView, FloatArray, IntArray, Method
from modelfleet_lab.methods.calibration import (
    PastBatch,
    batch_split,
    best_constant,
    calibrated_price,
    congestion_priced,
    priced,
    problem_of,
    slot_priced,
)
from modelfleet_lab.methods.per_query import Greedy, Priced, RoundRobin
from modelfleet_lab.methods.port import Port, learned_weights
from modelfleet_lab.methods.published import PublishedBatch, bootstrap_quantile
from modelfleet_lab.methods.text_estimates import Estimates, cross_fitted, estimate, features
from modelfleet_lab.outcomes import Recorded, is_past

BATCH = 100
FAVOURITES = 3
_FACTORS = (0.85, 0.95, 1.05, 1.2)
"""Budgets around the one in question, between whose results each method's is interpolated to equal cost."""
_RESAMPLES = 1000
_SOLVER_SECONDS = 0.2
"""Told to our solver as left, always: enough for prices and repair, too few for a program."""


class Certified:
    """The product's assignment, by the core's solver, with a reserve price."""

    def __init__(self, money_price: float = 0.0, *, name: str = "ours") -> None:
        self.name = name
        self._money_price = money_price
        self._warm: Prices | None = None

    def choose(self, view: BatchView) -> IntArray:
        rows = (Row("money", view.cost, view.money),) if np.isfinite(view.money) else ()
        problem = problem_of(view, rows=rows, money_price=self._money_price)
        answer = assign(problem, remaining=lambda: _SOLVER_SECONDS, warm=self._warm)
        self._warm = answer.prices
        return answer.choice


class Purse(Enum):
    """What a method may spend on a batch."""

    EVEN = "even"
    """Its equal part of the budget, and what earlier batches left of theirs."""
    OWN = "own"
    """No limit: the method keeps to the budget by its own prices or accounts."""


@dataclass(frozen=True, slots=True)
class Entry:
    purse: Purse
    tune: Callable[[float], Callable[[], Method]]
    """From a budget in USD for the whole test to the method as it starts a test."""


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """What one comparison is about."""

    models: tuple[str, ...]
    slots: IntArray
    """(m,) fresh for each batch."""
    past: tuple[PastBatch, ...]
    orders: tuple[tuple[PastBatch, ...], ...]
    """The test in several random orders, in batches; outcomes are known to the referee alone."""
    members: tuple[tuple[IntArray, ...], ...]
    """Which queries the batches of `orders` are."""
    budget: float
    """USD for one order of the test."""
    single: FloatArray
    """(q,) outcome of the best single model of the past, without limits of slots, for each test query."""
    queries: int
    constant: tuple[str, float, float]
    """The best model of the past that the budget pays for, without limits of slots: its name, its quality as
    a share of the best single's, its cost as a share of the budget."""

    @property
    def past_share(self) -> float:
        """Past queries for each query of the test."""
        return sum(b.view.size[0] for b in self.past) / sum(b.view.size[0] for b in self.orders[0])


@dataclass(frozen=True, slots=True)
class Line:
    """One method at the budget."""

    name: str
    quality: float
    """Share of the best single model's."""
    interval: tuple[float, float]
    """95 % interval of ours minus this one, in points of the best single model; paired bootstrap."""
    behind: float
    """Ours minus this one, in points."""
    cost: float
    """Share of the budget that it spent, at the interpolated point."""
    unserved: float
    """Share of requests without a model."""


def make_scene(
    data: Recorded, *, seed: int, tightness: float, share: float, orders: int, spare: float, bootstraps: int
) -> Scene:
    """Return the scene: `share` is the budget as a share of what the best single model costs on the test.

    Slots: for the three models that the best price without limits of slots asks most, what it asks divided by
    `tightness`; the others share, equally, `spare` times what is then missing for a batch to fit.
    """
    past = is_past(data.prompts, seed)
    words = features(data.prompts)
    tasks = [task for task, kept in zip(data.tasks, past.tolist(), strict=True) if kept]
    quality, cost = data.quality[past], data.cost[past]
    known = cross_fitted(words[past], tasks, quality, cost)
    told = estimate(words[past], tasks, quality, cost, words[~past])

    def refit(drawn: FloatArray) -> FloatArray:
        return estimate(words[past], tasks, quality, cost, words[~past], weight=drawn).quality

    low = bootstrap_quantile(refit, int(past.sum()), seed=seed, replicates=bootstraps)
    m = len(data.models)
    everything = np.full(m, BATCH, dtype=np.int64)
    random = np.random.default_rng(seed)
    loose = _batches(known, quality, cost, everything, None, random.permutation(len(quality)))[0]
    single = best_constant(loose).column
    budget = share * float(data.cost[~past][:, single].sum())
    train_budget = share * sum(float(batch.cost[:, single].sum()) for batch in loose)
    cheap = best_constant(loose, train_budget).column
    constant = (
        data.models[cheap],
        float(data.quality[~past][:, cheap].mean() / data.quality[~past][:, single].mean()),
        float(data.cost[~past][:, cheap].sum()) / budget,
    )
    demand = _demand(priced(loose, train_budget), loose)
    slots = _slots(demand, tightness, spare)
    laid_out = [
        _batches(told, data.quality[~past], data.cost[~past], slots, low, random.permutation(len(low)))
        for _ in range(orders)
    ]
    length = sum(len(part) for part in laid_out[0][1])
    return Scene(
        models=data.models,
        slots=slots,
        past=tuple(_with_slots(batch, slots) for batch in loose),
        orders=tuple(batches for batches, _ in laid_out),
        members=tuple(members for _, members in laid_out),
        budget=budget * length / len(low),
        single=data.quality[~past][:, single],
        queries=len(low),
        constant=constant,
    )


def entries(scene: Scene) -> tuple[Entry, ...]:
    """Return all methods, each tuned on the past for the budget that it is to keep; ours first."""
    past, scale = scene.past, scene.past_share
    rising = congestion_priced(past, scene.budget * scale)

    def always(method: Method) -> Callable[[], Method]:
        return lambda: method

    def reserve(budget: float) -> Callable[[], Method]:
        price = calibrated_price(Certified, past, budget * scale)
        return lambda: Certified(price, name="ours, reserve price alone")

    def congestion(budget: float) -> Callable[[], Method]:
        def at(price: float) -> Priced:
            return replace(rising, money_price=price)

        return always(at(calibrated_price(at, past, budget * scale)))

    def port(budget: float, *, informed: bool) -> Callable[[], Method]:
        budgets = budget * _spend_shares(priced(past, budget * scale), past)
        weights = learned_weights([batch.view for batch in past], budgets * scale) if informed else None
        requests = sum(batch.view.size[0] for batch in scene.orders[0])
        return lambda: Port(requests=requests, budgets=budgets, seed=0, weights=weights)

    return (
        Entry(Purse.EVEN, lambda budget: Certified),
        Entry(Purse.OWN, reserve),
        Entry(Purse.EVEN, lambda budget: PublishedBatch),
        Entry(Purse.EVEN, lambda budget: lambda: PublishedBatch(robust=True)),
        Entry(Purse.OWN, lambda budget: always(slot_priced(past, budget * scale))),
        Entry(Purse.OWN, congestion),
        Entry(Purse.OWN, lambda budget: always(priced(past, budget * scale))),
        Entry(Purse.OWN, lambda budget: port(budget, informed=True)),
        Entry(Purse.OWN, lambda budget: port(budget, informed=False)),
        Entry(Purse.EVEN, lambda budget: always(batch_split(past, budget * scale))),
        Entry(Purse.EVEN, lambda budget: Greedy),
        Entry(Purse.EVEN, lambda budget: always(best_constant(past, budget * scale))),
        Entry(Purse.EVEN, lambda budget: RoundRobin),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Run:
    """One method with one budget: means over orders."""

    quality: FloatArray
    """(q,) per test query."""
    cost: float
    unserved: float


def compare(scene: Scene, competing: Sequence[Entry], *, seed: int, done: Callable[[], None]) -> list[Line]:
    """Return a line for each of `competing`; the first is ours. `done` is called after each."""
    found = []
    for entry in competing:
        found.append((entry.tune(scene.budget)().name, _at_budget(scene, entry)))
        done()
    best = float(scene.single.mean())
    ours = found[0][1].quality
    random = np.random.default_rng(seed)
    draws = random.integers(0, scene.queries, (_RESAMPLES, scene.queries))
    lines = []
    for name, run in found:
        gain = 100.0 * (ours - run.quality) / best
        low, high = np.quantile(gain[draws].mean(axis=1), [0.025, 0.975])
        lines.append(
            Line(
                name=name,
                quality=float(run.quality.mean()) / best,
                interval=(float(low), float(high)),
                behind=float(gain.mean()),
                cost=run.cost / scene.budget,
                unserved=run.unserved,
            )
        )
    return lines


def _at_budget(scene: Scene, entry: Entry) -> _Run:
    """Return the method's result at a cost equal to the budget, between its two nearest budgets."""
    runs = sorted((_run(scene, entry, factor * scene.budget) for factor in _FACTORS), key=lambda r: r.cost)
    if scene.budget <= runs[0].cost:
        return runs[0]
    for low, high in itertools.pairwise(runs):
        if low.cost <= scene.budget <= high.cost:
            part = (scene.budget - low.cost) / max(high.cost - low.cost, 1e-12)
            return _Run(
                quality=(1 - part) * low.quality + part * high.quality,
                cost=scene.budget,
                unserved=(1 - part) * low.unserved + part * high.unserved,
            )
    return runs[-1]


def _run(scene: Scene, entry: Entry, budget: float) -> _Run:
    quality = np.zeros(scene.queries)
    seen = np.zeros(scene.queries)
    spent = 0.0
    unserved = 0
    start = entry.tune(budget)
    for batches, members in zip(scene.orders, scene.members, strict=True):
        method = start()
        paid = 0.0
        for k, (batch, queries) in enumerate(zip(batches, members, strict=True)):
            allowance = max(0.0, budget * (k + 1) / len(batches) - paid)
            money = allowance if entry.purse is Purse.EVEN else np.inf
            choice = method.choose(replace(batch.view, money=money, now=float(k)))
            at = np.flatnonzero(choice >= 0)
            paid += float(batch.cost[at, choice[at]].sum())
            quality[queries[at]] += batch.quality[at, choice[at]]
            seen[queries] += 1
            unserved += choice.size - at.size
        spent += paid
    # Queries beyond the last full batch of an order are in other orders; one in none counts as the mean.
    mean = quality.sum() / seen.sum()
    return _Run(
        quality=np.where(seen > 0, quality / np.maximum(seen, 1), mean),
        cost=spent / len(scene.orders),
        unserved=unserved / float(seen.sum()),
    )


def _batches(
    told: Estimates,
    quality: FloatArray,
    cost: FloatArray,
    slots: IntArray,
    low: FloatArray | None,
    order: IntArray,
) -> tuple[tuple[PastBatch, ...], tuple[IntArray, ...]]:
    """Return full batches in `order` and their members."""
    members = tuple(order[k : k + BATCH] for k in range(0, len(order) - BATCH + 1, BATCH))
    shape = (BATCH, len(slots))
    batches = tuple(
        PastBatch(
            view=BatchView(
                weight=np.ones(BATCH),
                quality=told.quality[part],
                cost=told.cost[part],
                service_time=np.ones(shape),
                eligible=np.ones(shape, dtype=bool),
                free=slots,
                slots=slots,
                money=np.inf,
                now=0.0,
                quality_low=None if low is None else low[part],
            ),
            quality=quality[part],
            cost=cost[part],
        )
        for part in members
    )
    return batches, members


def _with_slots(batch: PastBatch, slots: IntArray) -> PastBatch:
    return replace(batch, view=replace(batch.view, free=slots, slots=slots))


def _demand(method: Method, past: Sequence[PastBatch]) -> FloatArray:
    """Return (m,) how many requests of a batch `method` gives each model."""
    m = past[0].view.size[1]
    counts = np.zeros(m)
    for batch in past:
        counts += np.bincount(method.choose(batch.view), minlength=m)
    return counts / len(past)


def _slots(demand: FloatArray, tightness: float, spare: float) -> IntArray:
    favourites = np.argsort(-demand, kind="stable")[:FAVOURITES]
    slots = np.zeros(demand.size, dtype=np.int64)
    slots[favourites] = np.maximum(1, np.floor(demand[favourites] / tightness)).astype(np.int64)
    others = np.setdiff1d(np.arange(demand.size), favourites)
    missing = spare * (BATCH - slots.sum())
    slots[others] = np.ceil(max(0.0, missing) / max(1, others.size))
    return slots


def _spend_shares(method: Method, past: Sequence[PastBatch]) -> FloatArray:
    """Return (m,) the share of its spending that `method` gives each model."""
    m = past[0].view.size[1]
    spent = np.zeros(m)
    for batch in past:
        choice = method.choose(batch.view)
        at = np.flatnonzero(choice >= 0)
        spent += np.bincount(choice[at], weights=batch.cost[at, choice[at]], minlength=m)
    total = max(float(spent.sum()), 1e-12)
    result: FloatArray = spent / total
    return result
