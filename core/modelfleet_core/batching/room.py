"""Stage assign, what the lease allows at one moment.

In: the `Holding`. Out: a `Room` of free slots, accounts and units. Next: `placing`, which shares it out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from modelfleet_core.batching.candidate import Candidate
from modelfleet_core.batching.worth import NO_MONEY
from modelfleet_core.leasing.accounts import BUDGET
from modelfleet_core.leasing.holding import Holding
from modelfleet_core.values import AccountName, EndpointUrl, TierName, VariantKey


@dataclass(frozen=True, slots=True, eq=False)
class Room:
    spots: dict[VariantKey, dict[EndpointUrl, int]]
    """Free slots by variant and endpoint; `placing` counts them down."""
    accounts: Mapping[AccountName, int]
    """Free money in nano-USD, in quotas requests."""
    units: Mapping[EndpointUrl, int]
    """Free units of limits by the minute."""
    pacing: float
    """USD that may be spent above the cheapest way to answer; infinite: no pacing."""
    leased: frozenset[VariantKey]
    """Variants that the lease gives any slot of, free or not."""

    def slots(self, variant: VariantKey) -> int:
        free = self.spots.get(variant)
        return sum(free.values()) if free else 0

    def short(self, candidate: Candidate, j: int, coming: Mapping[AccountName, int] | None = None) -> str:
        """Return the account or the limit by the minute that variant `j` exceeds, if `coming` came back to
        accounts; empty: none. Slots and pacing are not looked at."""
        for name, charge in candidate.charged(j).items():
            free = self.accounts.get(name)
            if free is None or charge > free + (coming.get(name, 0) if coming else 0):
                return account_label(name)
        for limit, units in candidate.rated(j).items():
            if units > self.units.get(limit, 0):
                return rate_label(limit)
        return ""


def room_of(
    holding: Holding,
    now: float,
    tier: TierName | None,
    leave_alone: Callable[[EndpointUrl, float], bool],
    pacing: float = math.inf,
) -> Room:
    """Return what requests of `tier` (None: of any, while the lease is live) may use.

    Endpoints that can not be reached count only when there is no other endpoint at all.
    """
    free = holding.free(now, tier)
    alone = {endpoint for endpoint in free if leave_alone(endpoint, now)}
    if len(alone) == len(free):
        alone = set()
    spots: dict[VariantKey, dict[EndpointUrl, int]] = {}
    leased: set[VariantKey] = set()
    for endpoint, slots in free.items():
        variant = holding.variant_of(endpoint)
        if variant is None:
            continue
        leased.add(variant)
        if slots > 0 and endpoint not in alone:
            spots.setdefault(variant, {})[endpoint] = slots
    return Room(
        spots=spots,
        accounts=holding.room(now),
        units=holding.free_units(now, tier),
        pacing=pacing,
        leased=frozenset(leased),
    )


def account_label(name: AccountName) -> str:
    """Return what an account's row is called in explanations."""
    return NO_MONEY if name == BUDGET else name


def rate_label(limit: EndpointUrl) -> str:
    """Return what the row of a limit by the minute is called; its URL is nobody's business."""
    return f"rate:{limit.partition('#')[2] or limit}"
