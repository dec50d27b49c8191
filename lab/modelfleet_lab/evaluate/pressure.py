"""Cost pressure: the same scarce slots, and less and less money.

In: a `Split`, budgets. Out: `Pressure`, methods at equal total cost at each budget. Next: the section
`pressure` of the evaluation. Programs and what is slow to tune are left to `capacity`, at one budget.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from modelfleet_lab.evaluate.capacity import ORDERS, SHARE
from modelfleet_lab.evaluate.referee import Line, at_cost, lines
from modelfleet_lab.evaluate.rivals import (
    CONGESTION,
    GREEDY,
    MIX,
    OURS,
    PORT_INFORMED,
    PRICED,
    SLOT_PRICES,
    UNRESERVED,
    named,
)
from modelfleet_lab.evaluate.scene import BATCH, make_scene, random_orders, without_limits
from modelfleet_lab.evaluate.slots import demand, scarce
from modelfleet_lab.evaluate.told import Split

TIGHTNESS = 1.5
BUDGETS = (0.1, 0.15, 0.25, 0.37, 0.5, 0.75, 1.0)
"""Shares of the best single model's cost."""
_METHODS = (OURS, UNRESERVED, SLOT_PRICES, CONGESTION, PRICED, PORT_INFORMED, GREEDY, MIX)


@dataclass(frozen=True, slots=True)
class Pressure:
    tightness: float
    slots: dict[str, int]
    """Of each model, for a batch; those of the section `capacity` at this tightness."""
    found: tuple[tuple[float, tuple[Line, ...]], ...]
    """Budget, as a share of the best single model's cost, and a line for each method, ours first."""

    def json(self) -> dict[str, object]:
        """Return the section; the keys of `budgets` are `0.1`, `0.37`, ..."""
        return {
            "tightness": self.tightness,
            "batch": BATCH,
            "slots": self.slots,
            "budgets": {
                f"{share:g}": {"methods": {line.name: line.json() for line in found}}
                for share, found in self.found
            },
        }


def run(
    split: Split,
    *,
    seed: int,
    tightness: float = TIGHTNESS,
    budgets: Sequence[float] = BUDGETS,
    orders: int = ORDERS,
    progress: Callable[[str], None],
) -> Pressure:
    """Compare methods at each of `budgets`, with the slots that are scarce at the usual one."""
    order = random_orders(len(split.test.quality), orders, seed=seed)
    loose = make_scene(split, without_limits(len(split.models)), order, seed=seed)
    scene = make_scene(split, scarce(demand(loose, SHARE), tightness), order, seed=seed)
    competing = named(scene, _METHODS)
    found = []
    for share in budgets:
        played = []
        for contender in competing:
            progress(f"pressure, budget {share:g}: {contender.name}")
            played.append((contender.name, at_cost(scene, contender, share)))
        found.append((share, lines(scene, played, seed=seed)))
    return Pressure(
        tightness=tightness,
        slots=dict(zip(scene.models, scene.slots.tolist(), strict=True)),
        found=tuple(found),
    )
