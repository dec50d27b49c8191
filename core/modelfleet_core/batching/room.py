"""Stage assign, what the lease allows at one moment.

In: the `Holding`. Out: a `Room` of free slots, accounts and units. Next: `placing`, which shares it out.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import field
from types import MappingProxyType

from modelfleet_core.batching.candidate import Candidate
from modelfleet_core.batching.worth import FAIR_SHARE, NO_MONEY, NO_SLOT
from modelfleet_core.health import Health
from modelfleet_core.leasing.accounts import BUDGET
from modelfleet_core.leasing.holding import Holding
from modelfleet_core.records import record
from modelfleet_core.values import AccountName, EndpointUrl, TierName, VariantKey

Leaves = Mapping[str, Mapping[VariantKey, int]]
NONE_LEFT: Leaves = MappingProxyType({})
LeaveAlone = Callable[[Collection[EndpointUrl], float], Collection[EndpointUrl]]
"""Tells which of these endpoints can not be reached just now."""


UNREACHABLE = "Unreachable"
"""Why a variant is out of the question: what the lease has free of it could not be reached a moment ago."""


def all_reached(_endpoints: Collection[EndpointUrl], _now: float) -> Collection[EndpointUrl]:
    """Leave no endpoint alone."""
    return ()


@record
class Room:
    spots: dict[VariantKey, dict[EndpointUrl, int]]
    """Free slots by endpoint of each variant that has any; `placing` counts them down."""
    accounts: Mapping[AccountName, int]
    """Free money in nano-USD, in quotas requests."""
    units: Mapping[EndpointUrl, int]
    """Free units of limits by the minute."""
    pacing: float
    """USD that may be spent above the cheapest way to answer; infinite: no pacing."""
    leased: Collection[VariantKey]
    """Variants that the lease gives any slot of, free or not."""
    leaves: Leaves = field(default_factory=dict)
    """Of a variant's free slots how many a caller leaves to others."""
    unreached: Collection[VariantKey] = ()
    """Variants with free slots only where nothing could be reached a moment ago."""

    def slots(self, variant: VariantKey) -> int:
        free = self.spots.get(variant)
        return sum(free.values()) if free else 0

    def places(self, candidate: Candidate, variant: VariantKey) -> bool:
        """Return whether `variant` has a free slot where the candidate may go."""
        free = self.spots.get(variant)
        if free is None or (self.leaves and self.kept_for_others(candidate, variant)):
            return False
        return not candidate.avoided or not all(candidate.avoids(endpoint) for endpoint in free)

    def kept_for_others(self, candidate: Candidate, variant: VariantKey) -> bool:
        """Return whether what is free of `variant` is kept for other callers."""
        left = self.left(candidate.caller, variant)
        return left > 0 and self.slots(variant) <= left

    def left(self, caller: str, variant: VariantKey) -> int:
        """Return how many free slots of `variant` are not for `caller`."""
        if not self.leaves:
            return 0
        there = self.leaves.get(caller)
        return there.get(variant, 0) if there is not None else 0

    def short(self, candidate: Candidate, j: int, coming: Mapping[AccountName, int] | None = None) -> str:
        """Return the account or the limit by the minute that variant `j` exceeds, if `coming` came back to
        accounts; empty: none. Slots and pacing are not looked at."""
        if candidate.charges:
            for name, charge in candidate.charges[j].items():
                free = self.accounts.get(name)
                if free is None or charge > free + (coming.get(name, 0) if coming else 0):
                    return account_label(name)
        if candidate.rates:
            for limit, units in candidate.rates[j].items():
                if units > self.units.get(limit, 0):
                    return rate_label(limit)
        return ""

    def excluded(self, candidate: Candidate, known: Sequence[str]) -> tuple[str, ...]:
        """Return why each variant can not be chosen now, where it is not `known` yet; empty: it can."""
        spots = self.spots
        anywhere = not self.leaves and not candidate.avoided  # where free slots are, it may have them
        whys = []
        for variant, why in zip(candidate.variants, known, strict=True):
            if not why and not (variant in spots and (anywhere or self.places(candidate, variant))):
                why = self._no_place(candidate, variant)
            whys.append(why)
        if candidate.charges or candidate.rates:
            return tuple([why or self.short(candidate, j) for j, why in enumerate(whys)])
        return tuple(whys)

    def _no_place(self, candidate: Candidate, variant: VariantKey) -> str:
        if variant in self.unreached:
            return UNREACHABLE
        kept = variant in self.spots and self.kept_for_others(candidate, variant)
        return FAIR_SHARE if kept else NO_SLOT


def room_of(
    holding: Holding,
    now: float,
    tier: TierName | None,
    leave_alone: LeaveAlone,
    pacing: float = math.inf,
    health: Health | None = None,
    leaves: Leaves = NONE_LEFT,
) -> Room:
    """Return what requests of `tier` (None: of any, while the lease is live) may use, as far as `health` lets
    them (None: wholly).

    Endpoints that can not be reached count only when there is no other endpoint at all.
    """
    free = holding.free(now, tier)
    alone = leave_alone(free.keys(), now)
    if len(alone) == len(free):
        alone = ()
    limited = None if health is None or health.calm else health
    spots: dict[VariantKey, dict[EndpointUrl, int]] = {}
    leased: set[VariantKey] = set()
    endpoints = holding.lease.slots
    for endpoint, slots in free.items():
        held = endpoints[endpoint]
        variant = held.variant
        leased.add(variant)
        if limited is not None and slots > 0:
            slots = limited.usable(variant, endpoint, slots, held.in_flight, now)
        if slots > 0 and endpoint not in alone:
            there = spots.get(variant)
            if there is None:
                spots[variant] = {endpoint: slots}
            else:
                there[endpoint] = slots
    if limited is not None:
        for variant, there in spots.items():
            if limited.one_at_a_time(variant, now):
                spots[variant] = {max(there, key=there.__getitem__): 1}
    unreached = {endpoints[endpoint].variant for endpoint in alone if free[endpoint] > 0}
    return Room(
        spots=spots,
        accounts=holding.room(now),
        units=holding.free_units(now, tier),
        pacing=pacing,
        leased=leased,
        leaves=leaves,
        unreached=unreached - spots.keys() if unreached else (),
    )


def account_label(name: AccountName) -> str:
    """Return what an account's row is called in explanations."""
    return NO_MONEY if name == BUDGET else name


def rate_label(limit: EndpointUrl) -> str:
    """Return what the row of a limit by the minute is called; its URL is nobody's business."""
    return f"rate:{limit.partition('#')[2] or limit}"
