"""Stage assign, what one request is worth where, and what it loses by waiting.

In: a `Candidate`, published prices, the time. Out: a `Worth`, or a `Look`. Next: `placing` and `wanting`.

    value_j = weight quality_j - slot_price_j service_time_j - money_price cost_j
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from modelfleet_core.assignment.problem import LARGEST
from modelfleet_core.batching.candidate import Candidate
from modelfleet_core.records import record

NO_SLOT, NO_MONEY, TOO_LATE, TOO_DEAR, PACING = "NoFreeSlot", "Budget", "TooLate", "TooDear", "Pacing"
"""Why a variant can not be chosen now; other words in `excluded_by` hold however long a request waits."""
FAILED = "EndpointFailed"
"""The same: every endpoint of it that is leased has failed this very request."""
FAIR_SHARE = "FairShare"
"""Why it can not be chosen now: what is free of it is kept for callers who had less than their share."""
LATENCY = "LatencyObjective"
"""Why a variant is left out which is expected to answer later than it should, while others are not."""

PATIENCE = 5.0
"""Seconds that a request waits at most for its favourite while another model has a slot for it; no longer
than the favourite would take to answer."""
REGRET = 0.1
"""Part of the regret for a missed favourite that counts from the start."""
WORTH_IT = 1e-6
"""Quality by which the same answer is better now than later."""


class Worth(NamedTuple):
    """One request at one moment, over its m variants."""

    values: Sequence[float]
    """(m,) weighted quality less published prices."""
    excluded: tuple[str, ...]
    """(m,) why the variant is out of the question now, whatever is free; empty: it is not."""
    usable: Sequence[int]
    """Those that are not."""
    favourite: int
    """What would be chosen if nothing were short; -1: there are no variants."""


@record
class Look:
    """The same, and what it is against waiting."""

    values: Sequence[float]
    excluded: tuple[str, ...]
    favourite: int
    defer: float
    """Loss of giving it no place now."""

    @property
    def worthwhile(self) -> tuple[int, ...]:
        """Variants that are worth more than waiting, best first; equal ones in the fleet's order."""
        values = self.values
        worthy = [j for j, why in enumerate(self.excluded) if not why and values[j] > -self.defer]
        return tuple(sorted(worthy, key=lambda j: -values[j]))


def paced(candidate: Candidate, now: float) -> bool:
    """Return whether pacing may keep a waiting request from dear variants: it puts off, but sheds nothing.
    Of what has waited for long, only the published price of money and the ledger keep money back."""
    return now - candidate.arrived < min(PATIENCE, (candidate.latest_start - candidate.arrived) / 2)


def worth(
    candidate: Candidate,
    slot_prices: Sequence[float],
    money_price: float,
    now: float,
    *,
    spare: float = math.inf,
    dear_at: float | None = None,
) -> Worth:
    """Return what one request is worth where.

    `spare`: USD that pacing lets spend above the cheapest way to answer; at 0 only cheapest ways are left.
    `dear_at`: price of money by which an answer can be too dear to be given; None: `money_price`.

    A slot that nobody takes is lost, money is not: so a price of slots never stands against serving at all,
    but what costs more at the price of money than no answer loses is left to other requests.
    """
    weight, cost, seconds = candidate.weight, candidate.cost, candidate.service_time
    kept = [weight * gain - money_price * usd for gain, usd in zip(candidate.compared, cost, strict=True)]
    values = kept
    if any(slot_prices):
        columns = zip(kept, slot_prices, seconds, strict=True)
        values = [keeps - slot_price * needs for keeps, slot_price, needs in columns]
    excluded = candidate.excluded_by
    usable = candidate.possible
    left = math.inf if candidate.routed else candidate.deadline - now
    if late := [j for j in usable if not seconds[j] <= left]:
        excluded = _also(excluded, late, TOO_LATE)
        usable = tuple([j for j in usable if not excluded[j]])
    if candidate.within != math.inf:
        left = candidate.within - (now - candidate.arrived)
        slow = [j for j in usable if seconds[j] > left]
        if slow and len(slow) < len(usable):
            excluded = _also(excluded, slow, LATENCY)
            usable = tuple([j for j in usable if not excluded[j]])
    if usable and (money_price > 0 or spare <= 0):
        if dear_at is not None:
            kept = [weight * gain - dear_at * usd for gain, usd in zip(candidate.compared, cost, strict=True)]
        least = min(-candidate.shed_penalty, max([kept[j] for j in usable]))
        dear = [j for j in usable if kept[j] < least]
        ahead: list[int] = []
        if spare <= 0:
            cheapest = min([cost[j] for j in usable])
            ahead = [j for j in usable if cost[j] > cheapest]
        if dear or ahead:
            excluded = _also(_also(excluded, dear, TOO_DEAR), ahead, PACING)
            usable = tuple([j for j in usable if not excluded[j]])
    anyway = usable or candidate.possible or range(len(values))
    return Worth(values, excluded, usable, max(anyway, key=values.__getitem__, default=-1))


def look(
    candidate: Candidate,
    slot_prices: Sequence[float],
    money_price: float,
    now: float,
    *,
    waits: bool = True,
    spare: float = math.inf,
    dear_at: float | None = None,
) -> Look:
    """Look at one request as `worth` does; what does not find a place `waits`, or else is refused."""
    values, excluded, usable, favourite = worth(
        candidate, slot_prices, money_price, now, spare=spare, dear_at=dear_at
    )
    return Look(values, excluded, favourite, _defer(candidate, values, usable, now, waits))


def _also(excluded: tuple[str, ...], columns: Sequence[int], why: str) -> tuple[str, ...]:
    """Exclude more columns; what is known of one stays."""
    changed = list(excluded)
    for j in columns:
        changed[j] = changed[j] or why
    return tuple(changed)


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
    sane = [(values[j], -j) for j in usable if -LARGEST <= values[j] <= LARGEST]
    if not sane:
        return -nothing
    sane.sort()
    best, column = sane[-1]
    worst = min(nothing, sane[0][0])
    patience = min(PATIENCE, candidate.service_time[-column], candidate.latest_start - candidate.arrived)
    waited = max(0.0, now - candidate.arrived)
    chance = waited / patience if waits and waited < patience else 1.0
    second = max(nothing, sane[-2][0]) if len(sane) > 1 else nothing
    regret = max(0.0, best - second)
    return WORTH_IT - (1.0 - chance) * (best - REGRET * regret) - chance * worst
