"""Stage assign, in words: why a variant was chosen.

In: what the core weighed for one request. Out: its `Reason`, which headers, metrics and explanations show.
"""

from __future__ import annotations

from modelfleet_core.batching.outcome import Placed
from modelfleet_core.batching.worth import NO_MONEY, NO_SLOT, TOO_DEAR

from modelfleet_sidecar.calls import AUTO
from modelfleet_sidecar.decision import Reason
from modelfleet_sidecar.prospect import Prospect


def reason_of(seen: Prospect, placed: Placed) -> Reason:
    """Return why the variant was chosen."""
    candidate, excluded_by = placed.candidate, placed.weighed.excluded_by
    favourite = placed.weighed.favourite
    if seen.ask.call.model != AUTO:
        return Reason.PINNED
    if seen.low_confidence:
        return Reason.LOW_CONFIDENCE
    if seen.explored == placed.variant:
        return Reason.EXPLORED
    if candidate.excluded_by.count("") == 1:
        return Reason.ONLY_ELIGIBLE
    if placed.column == favourite:
        return Reason.BUDGET_BINDS if _spared(placed) else Reason.BEST_VALUE
    if excluded_by[favourite] == NO_SLOT:
        return Reason.SLOTS_BIND
    dear = excluded_by[favourite] == NO_MONEY or NO_MONEY in placed.certificate.binding
    return Reason.BUDGET_BINDS if dear else Reason.SLOTS_BIND


def _spared(placed: Placed) -> bool:
    """Return whether the price of money alone made the choice better than a dearer variant."""
    weighed, cost = placed.weighed, placed.candidate.cost
    if not weighed.money_price:
        return False
    regardless = [value + weighed.money_price * usd for value, usd in zip(weighed.values, cost, strict=True)]
    j = placed.column
    return any(
        regardless[k] > regardless[j] and cost[k] > cost[j]
        for k, why in enumerate(weighed.excluded_by)
        if why in ("", TOO_DEAR)
    )
