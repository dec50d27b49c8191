"""Stage forward, for leases: all slots and units of rates that a sidecar may use now, and when they end.

In come grants and the policy's staleness; `holding.py` takes and leaves slots. They end with the lease, but
for their floor, and go back early where others want them and they are unused here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from modelfleet_core.leasing.held_slots import HeldSlots
from modelfleet_core.leasing.messages import Ask, Grant, SlotState, Want
from modelfleet_core.leasing.rates import HeldRate
from modelfleet_core.policy import Policy, Stale
from modelfleet_core.values import EndpointUrl, ModelName, TierName, VariantKey, is_rate

DRIFT = 0.01
"""How far two clocks may drift apart over a lease."""


class HeldLease:
    """Slots by endpoint and units by limit. Times are seconds on the sidecar's clock that counts suspend."""

    def __init__(self) -> None:
        self.ends = -math.inf
        self.leaving = False
        self.slots: dict[EndpointUrl, HeldSlots] = {}
        """Of every endpoint that is leased or that requests still use."""
        self.rates: dict[EndpointUrl, HeldRate] = {}
        self._holds = False
        """Whether all leased slots outlive the lease, for every tier."""
        self._tier_floors: Mapping[TierName, int] = {}
        self._in_flight: dict[TierName | None, int] = {}
        self._asks: Mapping[VariantKey, Ask] = {}
        self._linger: Mapping[VariantKey, float] = {}

    def follow(self, policy: Policy | None) -> None:
        """Go by `policy` from now on; None: none is known, so no slot outlives its lease."""
        then = policy.staleness.then if policy is not None else Stale.REJECT
        self._holds = then is Stale.HOLD
        tiers = policy.tiers if policy is not None and then is Stale.FLOOR else ()
        self._tier_floors = {tier.name: tier.floor for tier in tiers if tier.floor}

    def apply(self, grant: Grant, now: float) -> bool:
        """Take over the slots of a grant; return whether any changed."""
        self.ends = grant.report_sent_at + grant.ttl * (1 - DRIFT)
        self._asks = grant.asks
        self._linger = grant.linger
        granted = {} if self.leaving else grant.slots
        changed = False
        for endpoint, given in granted.items():
            held = self._at(endpoint, given.variant)
            changed = changed or held.slots != given.slots
            held.resize(given.slots, given.floor, now)
        for endpoint in (self.slots.keys() | self.rates.keys()) - granted.keys():
            changed = changed or (self.slots.get(endpoint) or self.rates[endpoint]).slots > 0
            self._resize(endpoint, 0, 0, now)
        return changed

    def alone(self) -> None:
        """Nobody hears what is given back: all slots stay until a grant says anew who waits for them."""
        self._asks = {}
        self._linger = {}

    def _at(self, endpoint: EndpointUrl, variant: VariantKey) -> HeldSlots | HeldRate:
        """Return what is held at an endpoint, to be resized."""
        if is_rate(variant):
            return self.rates.setdefault(endpoint, HeldRate(variant))
        held = self.slots.get(endpoint)
        if held is None or held.variant != variant:
            in_flight = held.in_flight if held is not None else 0
            held = self.slots[endpoint] = HeldSlots(variant)
            held.in_flight = in_flight
        return held

    def given(self) -> Mapping[VariantKey, int]:
        """Return the slots, and units, that are leased of each variant, and of each limit by the minute."""
        given: dict[VariantKey, int] = {}
        for held in self.slots.values():
            given[held.variant] = given.get(held.variant, 0) + held.slots
        return given | {rate.variant: rate.slots for rate in self.rates.values()}

    def _all(self) -> list[tuple[EndpointUrl, HeldSlots | HeldRate]]:
        return [*self.slots.items(), *self.rates.items()]

    def _resize(self, endpoint: EndpointUrl, slots: int, floor: int, now: float) -> None:
        held = self.slots.get(endpoint)
        if held is None:
            self.rates[endpoint].resize(slots, floor, now)
            return
        held.resize(slots, floor, now)
        if not held.slots and not held.in_flight:
            del self.slots[endpoint]

    def live(self, now: float) -> bool:
        """Return whether the lease gives slots now; floors apart."""
        return now < self.ends and not self.leaving

    def most(self, held: HeldSlots | HeldRate, now: float, tier: TierName | None) -> int:
        """Return how many of the slots a request of `tier` may be among."""
        if now < self.ends:
            return held.slots
        if self._holds:
            return held.floor
        left = self._tier_floors.get(tier, 0) if tier is not None else 0
        return held.floor if self._in_flight.get(tier, 0) < left else 0

    def free(self, now: float, tier: TierName | None = None) -> Mapping[EndpointUrl, int]:
        """Return the slots not in use by leased endpoint; after the lease what a floor leaves to `tier`."""
        if self.leaving:
            return {}
        if now < self.ends:
            return {endpoint: held.unused for endpoint, held in self.slots.items() if held.slots}
        return {
            endpoint: max(0, self.most(held, now, tier) - held.in_flight)
            for endpoint, held in self.slots.items()
            if held.slots
        }

    def free_units(self, now: float, tier: TierName | None = None) -> Mapping[EndpointUrl, int]:
        """Return the units not in use of every limit by the minute that is leased."""
        units = {}
        for endpoint, rate in self.rates.items():
            rate.release(now)
            if rate.slots:
                units[endpoint] = 0 if self.leaving else max(0, self.most(rate, now, tier) - rate.in_use)
        return units

    def variant_of(self, endpoint: EndpointUrl) -> VariantKey | None:
        """Return the variant behind a leased endpoint; None: not leased."""
        held = self.slots.get(endpoint)
        return held.variant if held is not None and held.slots else None

    def in_flight(self) -> Mapping[EndpointUrl, int]:
        return {endpoint: held.in_flight for endpoint, held in self.slots.items() if held.in_flight}

    def restore(self, endpoint: EndpointUrl) -> None:
        """Count a request that a former start of this sidecar left in flight."""
        held = self.slots.setdefault(endpoint, HeldSlots(VariantKey(ModelName(""), "")))
        held.in_flight += 1
        self._in_flight[None] = self._in_flight.get(None, 0) + 1

    def take(self, held: HeldSlots, tier: TierName | None) -> None:
        held.take()
        self._in_flight[tier] = self._in_flight.get(tier, 0) + 1

    def leave_slot(
        self, endpoint: EndpointUrl, tier: TierName | None, now: float, wants: Mapping[VariantKey, Want]
    ) -> bool:
        """Free a slot; return whether it goes back: it was recalled, or others pay as much for it."""
        self._in_flight[tier] -= 1
        held = self.slots[endpoint]
        held.leave(now)
        recalled = held.in_flight >= held.slots
        if not recalled and self._outbid(held.variant, wants):
            held.resize(held.slots - 1, held.floor, now)
            recalled = True
        if not held.slots and not held.in_flight:
            del self.slots[endpoint]
        return recalled

    def _outbid(self, variant: VariantKey, wants: Mapping[VariantKey, Want]) -> bool:
        """Return whether others pay for a slot as much as the best that waits here: it is their turn then."""
        ask = self._asks.get(variant)
        if ask is None:
            return False
        bids = wants[variant].bids if variant in wants else ()
        return not any((bid.weight, bid.price) > (ask.weight, ask.price) for bid in bids)

    def leave(self, now: float) -> None:
        """Give up all that is not in use."""
        self.leaving = True
        self._cut(now, {})

    def lapse(self, now: float) -> None:
        """Give an ended lease up for good: the leader may have lent its slots to others by now."""
        if now >= self.ends:
            self._cut(now, {endpoint: held.floor for endpoint, held in self._all()})

    def _cut(self, now: float, floors: Mapping[EndpointUrl, int]) -> None:
        for endpoint in (*self.slots, *self.rates):
            floor = floors.get(endpoint, 0)
            self._resize(endpoint, floor, floor, now)

    def give_back(self, now: float, wants: Mapping[VariantKey, Want]) -> bool:
        """Lower the slots that are unused for too long and, where others wait, those that nothing here waits
        for; a newer grant may raise them again. Returns whether any went."""
        if self.leaving or not (self._asks or self._linger):
            return False
        gone = False
        keep = {variant: wants[variant].slots if variant in wants else 0 for variant in self._asks}
        for _, held in self._all():
            if held.variant in keep:
                keep[held.variant] -= held.used
        for endpoint, held in self._all():
            unused = held.unused
            surplus = 0
            if held.variant in keep:
                surplus = max(0, unused - max(0, keep[held.variant]))
                keep[held.variant] -= unused - surplus
            if unused and held.variant in self._linger:
                surplus = max(surplus, held.unused_for(self._linger[held.variant], now))
            if surplus:
                self._resize(endpoint, held.slots - surplus, held.floor, now)
                gone = True
        return gone

    def next_give_back(self, now: float) -> float | None:
        """Return when `give_back` is due next; None: not before something changes."""
        if self.leaving:
            return None
        due = (
            held.unused_since() + self._linger[held.variant]
            for _, held in self._all()
            if held.variant in self._linger
        )
        first = min(due, default=math.inf)
        return max(now, first) if first < math.inf else None

    def states(self, now: float) -> dict[EndpointUrl, SlotState]:
        """Return what a report says of every endpoint and limit by the minute, leased or in use."""
        states = {
            endpoint: SlotState(in_flight=held.in_flight, kept=max(held.slots, held.in_flight))
            for endpoint, held in self.slots.items()
        }
        for endpoint, rate in list(self.rates.items()):
            rate.release(now)
            if rate.slots or rate.in_use:
                states[endpoint] = SlotState(in_flight=rate.in_use, kept=max(rate.slots, rate.in_use))
            else:
                del self.rates[endpoint]
        return states
