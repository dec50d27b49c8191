"""Stage assign, what one request is worth where, and what it loses by waiting.

In: a `Candidate`, published prices, the time. Out: a `Look`. Next: `placing` and `wanting`.

    value_j = weight quality_j - slot_price_j service_time_j - money_price cost_j
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from modelfleet_core.assignment import single
from modelfleet_core.assignment.problem import LARGEST
from modelfleet_core.batching.candidate import Candidate

NO_SLOT, NO_MONEY, TOO_LATE, TOO_DEAR, PACING = "NoFreeSlot", "Budget", "TooLate", "TooDear", "Pacing"
"""Why a variant can not be chosen now; other words in `excluded_by` hold however long a request waits."""

PATIENCE = 5.0
"""Seconds that a request waits at most for its favourite while another model has a slot for it; no longer
than the favourite would take to answer."""
REGRET = 0.1
"""Part of the regret for a missed favourite that counts from the start."""
WORTH_IT = 1e-6
"""Quality by which the same answer is better now than later."""


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """One request at one moment, over its m variants."""

    values: tuple[float, ...]
    """(m,) weighted quality less published prices."""
    excluded: tuple[str, ...]
    """(m,) why the variant is out of the question now, whatever is free; empty: it is not."""
    favourite: int
    """What would be chosen if nothing were short."""
    defer: float
    """Loss of giving it no place now."""

    @property
    def worthwhile(self) -> tuple[int, ...]:
        """Variants that are worth more than waiting, best first; equal ones in the fleet's order."""
        return single.rank(self.values, [not why for why in self.excluded], defer=self.defer)


def look(
    candidate: Candidate,
    slot_prices: Sequence[float],
    money_price: float,
    now: float,
    *,
    waits: bool = True,
    spare: float = math.inf,
) -> Look:
    """Look at one request; what does not find a place `waits`, or else is refused.

    `spare`: USD that pacing lets spend above the cheapest way to answer; at 0 only cheapest ways are left.

    A slot that nobody takes is lost, money is not: so a price of slots never stands against serving at all,
    but what costs more at the price of money than no answer loses is left to other requests.
    """
    weight, cost = candidate.weight, candidate.cost
    left = math.inf if candidate.routed else candidate.deadline - now
    kept: list[float] = []
    values: list[float] = []
    excluded: list[str] = []
    usable: list[int] = []
    columns = zip(
        candidate.quality, cost, candidate.service_time, slot_prices, candidate.excluded_by, strict=True
    )
    for j, (quality, usd, seconds, slot_price, why) in enumerate(columns):  # one pass: every request pays it
        keeps = weight * quality - money_price * usd
        kept.append(keeps)
        values.append(keeps - slot_price * seconds)
        if not why:
            if seconds <= left:
                usable.append(j)
            else:
                why = TOO_LATE
        excluded.append(why)
    if usable and (money_price > 0 or spare <= 0):
        least = min(-candidate.shed_penalty, max([kept[j] for j in usable]))
        cheapest = min([cost[j] for j in usable]) if spare <= 0 else math.inf
        for j in usable:
            excluded[j] = TOO_DEAR if kept[j] < least else PACING if cost[j] > cheapest else ""
        usable = [j for j in usable if not excluded[j]]
    anyway = usable or [j for j, why in enumerate(candidate.excluded_by) if not why] or range(len(values))
    return Look(
        values=tuple(values),
        excluded=tuple(excluded),
        favourite=max(anyway, key=values.__getitem__, default=-1),
        defer=_defer(candidate, values, usable, now, waits),
    )


def _defer(
    candidate: Candidate, values: Sequence[float], usable: Sequence[int], now: float, waits: bool
) -> float:
    """Return the loss of giving the request no place now.

    What waits gets its favourite or, with a chance that grows to 1 meanwhile, nothing. So it goes to its
    favourite at once, and to others the sooner the less it loses by it. Of those that want the same slot the
    one goes first that has waited longest, or whose next best is worth least (`REGRET` says how these weigh).
    Published prices may all be above what any answer is worth: they choose among models, and keep no request
    from a slot nobody else takes.
    """
    nothing = -candidate.shed_penalty
    sane = [j for j in usable if abs(values[j]) <= LARGEST]
    if not sane:
        return -nothing
    best = max(sane, key=values.__getitem__)
    others = [values[j] for j in sane if j != best]
    worst = min(nothing, values[best], *others)
    patience = min(PATIENCE, candidate.service_time[best], candidate.latest_start - candidate.arrived)
    waited = max(0.0, now - candidate.arrived)
    chance = waited / patience if waits and waited < patience else 1.0
    regret = max(0.0, values[best] - max([nothing, *others]))
    return WORTH_IT - (1.0 - chance) * (values[best] - REGRET * regret) - chance * worst
