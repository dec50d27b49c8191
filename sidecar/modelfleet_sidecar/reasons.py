"""Stage assign, in words: why a variant was chosen, and why others could not be.

In: what was considered for one request. Out: its `Reason`, which headers, metrics and explanations show.
"""

from __future__ import annotations

from modelfleet_sidecar.chat import AUTO
from modelfleet_sidecar.decision import Certificate, Considered, Reason
from modelfleet_sidecar.prospect import Prospect

SLOTS, MONEY, TOO_LATE, TOO_DEAR = "NoFreeSlot", "Budget", "TooLate", "TooDear"
"""Why a variant could not be chosen now; other words in `excluded_by` hold however long a request waits."""


def reason_of(
    seen: Prospect, j: int, favourite: int, considered: Considered, certificate: Certificate
) -> Reason:
    """Return why variant `j` was chosen; `favourite` would be if nothing were short."""
    if seen.ask.call.model != AUTO:
        return Reason.PINNED
    if sum(seen.possible) == 1:
        return Reason.ONLY_ELIGIBLE
    if j == favourite:
        return Reason.BUDGET_BINDS if _spared(j, considered) else Reason.BEST_VALUE
    if considered.excluded_by[favourite] == SLOTS:
        return Reason.SLOTS_BIND
    dear = considered.excluded_by[favourite] == MONEY or MONEY in certificate.binding
    return Reason.BUDGET_BINDS if dear else Reason.SLOTS_BIND


def _spared(j: int, considered: Considered) -> bool:
    """Return whether the price of money alone made `j` better than a dearer variant."""
    _, cost, _, _, value = considered.figures
    regardless = value + considered.money_price * cost
    return any(
        regardless[k] > regardless[j] and cost[k] > cost[j]
        for k, why in enumerate(considered.excluded_by)
        if why in ("", TOO_DEAR)
    )
