"""Scarce slots: what a batch gains where everybody's favourites are asked for more than they have.

In: a `Split`, tightness T, a budget. Out: `Capacity`, all methods at equal total cost. Next: the section
`capacity` of the evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modelfleet_lab.evaluate.referee import Line, at_cost, lines
from modelfleet_lab.evaluate.rivals import (
    GREEDY,
    MIX,
    OURS,
    PRICED,
    SLOT_PRICES,
    UNRESERVED,
    contenders,
    named,
)
from modelfleet_lab.evaluate.scene import BATCH, make_scene, random_orders, without_limits
from modelfleet_lab.evaluate.slots import demand, scarce
from modelfleet_lab.evaluate.told import Split

TIGHTNESS = (1.5, 3.0)
SHARE = 0.37
ORDERS = 2
_QUICK = (OURS, UNRESERVED, SLOT_PRICES, PRICED, GREEDY, MIX)


@dataclass(frozen=True, slots=True)
class Tight:
    """One tightness."""

    tightness: float
    slots: dict[str, int]
    """Of each model, for a batch."""
    asked: dict[str, float]
    """What a batch asks of the favourites where slots do not bind, the most first."""
    lines: tuple[Line, ...]
    """Ours first."""

    def json(self) -> dict[str, object]:
        behind = {line.name: line for line in self.lines}
        return {
            "slots": self.slots,
            "asked": self.asked,
            "batch_minus_greedy": behind[GREEDY].behind,
            "batch_minus_greedy_ci": list(behind[GREEDY].behind_ci),
            "batch_minus_per_query_price": behind[PRICED].behind,
            "batch_minus_per_query_price_ci": list(behind[PRICED].behind_ci),
            "methods": {line.name: line.json() for line in self.lines},
        }


@dataclass(frozen=True, slots=True)
class Capacity:
    share: float
    """The budget, as a share of the best single model's cost."""
    orders: int
    """Random orders that figures are means over."""
    found: tuple[Tight, ...]
    """All methods, with slots that fit all requests within the budget."""
    fewest: tuple[Tight, ...]
    """The quick methods, with as few slots as hold a batch at all."""

    def json(self) -> dict[str, object]:
        """Return the section; the keys of `tightness` and `fewest_slots` are `1.5`, `3`, ..."""
        return {
            "share": self.share,
            "batch": BATCH,
            "orders": self.orders,
            "tightness": {f"{tight.tightness:g}": tight.json() for tight in self.found},
            "fewest_slots": {f"{tight.tightness:g}": tight.json() for tight in self.fewest},
        }


def run(
    split: Split,
    *,
    seed: int,
    tightness: Sequence[float] = TIGHTNESS,
    share: float = SHARE,
    orders: int = ORDERS,
    progress: Callable[[str], None],
) -> Capacity:
    """Compare methods at `share` of the best single model's cost, at each tightness."""
    order = random_orders(len(split.test.quality), orders, seed=seed)
    loose = make_scene(split, without_limits(len(split.models)), order, seed=seed)
    wanted = demand(loose, share)

    def compare(tight: float, *, fewest: bool) -> Tight:
        scene = make_scene(split, scarce(wanted, tight, fewest=fewest), order, seed=seed)
        played = []
        for contender in named(scene, _QUICK) if fewest else contenders(scene):
            progress(f"capacity, T = {tight:g}{', fewest slots' if fewest else ''}: {contender.name}")
            played.append((contender.name, at_cost(scene, contender, share)))
        return Tight(
            tightness=tight,
            slots=dict(zip(scene.models, scene.slots.tolist(), strict=True)),
            asked={scene.models[j]: float(wanted.requests[j]) for j in wanted.favourites},
            lines=lines(scene, played, seed=seed),
        )

    return Capacity(
        share=share,
        orders=orders,
        found=tuple(compare(tight, fewest=False) for tight in tightness),
        fewest=tuple(compare(tight, fewest=True) for tight in tightness),
    )
