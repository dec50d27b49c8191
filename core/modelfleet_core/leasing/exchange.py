"""Stage publish: the slots of all fleets, held and live, and the markets where sidecars trade them.

In come live slots and each sidecar's news; out go the sidecars whose target changed. Sums are kept by
difference: `serve` looks only at markets that something happened to. `grants.py` owns the exchange.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping

from modelfleet_core.leasing.holders import Follows, Holder
from modelfleet_core.leasing.market import Market
from modelfleet_core.leasing.messages import Ask, SidecarId, SlotGrant, Want
from modelfleet_core.leasing.slots import Capacity, floors, take
from modelfleet_core.values import EndpointUrl, ObjectKey, VariantKey

RETRY = 0.1
"""Seconds after which those who wait are looked at again though nothing happened."""
SHARE_EVERY = 1.0
"""Seconds between changes of standing shares that only follow demand."""
SHARE_PACE = 5e-4
"""Seconds between changes of standing shares as sidecars come and go, for each sidecar."""
FEW = 50
"""Sidecars up to which standing shares change with each that comes or goes."""


class _Fleet:
    """The markets of one fleet and who may get slots there."""

    def __init__(self) -> None:
        self.markets: dict[VariantKey, Market] = {}
        self.at: dict[EndpointUrl, Market] = {}
        self.takers: dict[int, Holder] = {}
        self.busy: Mapping[SidecarId, Mapping[VariantKey, float]] = {}
        self.crowd_changed = True
        self.demand_changed = False
        self.shared_at = -math.inf

    def share_due(self, now: float) -> bool:
        if self.crowd_changed:
            crowd = len(self.takers)
            return crowd <= FEW or now >= self.shared_at + SHARE_PACE * crowd
        return self.demand_changed and now >= self.shared_at + SHARE_EVERY


class Exchange:
    """Times are the leader's seconds."""

    def __init__(self) -> None:
        self.held: dict[EndpointUrl, int] = {}
        """Slots that may be in use, also at endpoints that are not live any more."""
        self.published: dict[EndpointUrl, int] = {}
        self.live: Mapping[EndpointUrl, int] = {}
        """Slots that may be held; fewer than published while older leases may be out."""
        self._fleets: dict[ObjectKey, _Fleet] = {}
        self._over: set[EndpointUrl] = set()
        """Endpoints where more may be held than may be."""
        self._stirred: dict[Market, None] = {}
        self._waiting: dict[Market, None] = {}

    @property
    def pressed(self) -> bool:
        """Whether `serve` may do something now, other than after some time."""
        return bool(self._stirred)

    @property
    def crowd(self) -> int:
        """Sidecars that may get slots."""
        return sum(len(fleet.takers) for fleet in self._fleets.values())

    def room(self, endpoint: EndpointUrl) -> int:
        """Return how many more slots may be held at an endpoint; negative: too many are."""
        return self.live.get(endpoint, 0) - self.held.get(endpoint, 0)

    # What the caller learns.

    def set_capacity(self, capacity: Mapping[ObjectKey, Capacity]) -> None:
        """Take over the published slots; the caller then calls `set_live`, and `refit` for every sidecar."""
        self.published = {}
        for variants in capacity.values():
            for endpoints in variants.values():
                for endpoint, slots in endpoints.items():
                    self.published[endpoint] = max(self.published.get(endpoint, 0), slots)
        for key in capacity.keys() | self._fleets.keys():
            self._set_fleet(self._fleets.setdefault(key, _Fleet()), capacity.get(key, {}))

    def _set_fleet(self, fleet: _Fleet, capacity: Capacity) -> None:
        fleet.crowd_changed = True
        fleet.at = {}
        for variant in fleet.markets.keys() - capacity.keys():
            market = fleet.markets.pop(variant)
            self._stirred.pop(market, None)
            self._waiting.pop(market, None)
        for variant, endpoints in capacity.items():
            market = fleet.markets.setdefault(variant, Market(variant, self.room))
            market.live = endpoints
            fleet.at.update(dict.fromkeys(endpoints, market))
            self._stirred[market] = None

    def set_live(self, live: Mapping[EndpointUrl, int]) -> None:
        """Take over how many slots may be held at each endpoint."""
        ended = self.live.keys() - live.keys()
        self.live = live
        self._over.update(e for e in ended | live.keys() if self.room(e) < 0)
        for fleet in self._fleets.values():
            self._stirred.update(dict.fromkeys(fleet.markets.values()))

    def set_targets(self, fleet: ObjectKey, busy: Mapping[SidecarId, Mapping[VariantKey, float]]) -> None:
        """Take over how many slots each sidecar's demand is expected to keep in use."""
        known = self._fleets.setdefault(fleet, _Fleet())
        known.busy = busy
        known.demand_changed = True

    def enter(self, fleet: ObjectKey, holder: Holder) -> None:
        """A sidecar may get slots from now on."""
        known = self._fleets.setdefault(fleet, _Fleet())
        known.takers[holder.number] = holder
        known.crowd_changed = True

    def leave(self, fleet: ObjectKey, holder: Holder) -> None:
        """A sidecar may get no more slots."""
        known = self._fleets.get(fleet)
        if known is not None and known.takers.pop(holder.number, None) is not None:
            known.crowd_changed = True

    def withdraw(self, fleet: ObjectKey, holder: Holder) -> None:
        """A sidecar does not follow this fleet any more."""
        self.leave(fleet, holder)
        for market in holder.traded:
            market.drop(holder)
        holder.traded = ()

    def recount(self, holder: Holder) -> None:
        """Bring the sums up to date with what a sidecar may hold."""
        held, before = holder.held(), holder.counted
        if held == before:
            return
        fleet = self._fleets.get(holder.follows.fleet) if isinstance(holder.follows, Follows) else None
        changes = [(e, more) for e, slots in held.items() if (more := slots - before.get(e, 0))]
        changes += [(e, -slots) for e, slots in before.items() if e not in held]
        for endpoint, more in changes:
            total = self.held.get(endpoint, 0) + more
            if total:
                self.held[endpoint] = total
            else:
                self.held.pop(endpoint, None)
            if more > 0:
                if total > self.live.get(endpoint, 0):
                    self._over.add(endpoint)
            elif fleet is not None and (market := fleet.at.get(endpoint)) is not None:
                if not holder.taking or total - more > self.live.get(endpoint, 0):
                    fleet.crowd_changed = True  # there is more to share than there was
                if market.waiting:
                    self._stirred[market] = None
        holder.counted = held

    def weigh(self, holder: Holder, now: float) -> None:
        """Bring the markets up to date with what a sidecar has, uses and wants."""
        if not isinstance(holder.follows, Follows):
            return
        fleet = self._fleets.setdefault(holder.follows.fleet, _Fleet())
        at, states, wants = fleet.at, holder.report.slots, holder.report.wants
        sums: dict[Market, list[int]] = {}
        want_of: dict[Market, Want] = {}
        for variant, want in wants.items():
            market = fleet.markets.get(variant)
            if market is not None:
                sums[market] = [0, 0, 0]
                want_of[market] = want
        target = holder.target
        for endpoint, slots in target.items():
            market = at.get(endpoint)
            if market is not None:
                state = states.get(endpoint)
                used = state.in_flight if state is not None else 0
                counts = sums.get(market)
                if counts is None:
                    sums[market] = [slots, used, slots if slots > used else used]
                else:
                    counts[0] += slots
                    counts[1] += used
                    counts[2] += slots if slots > used else used
        for endpoint, state in states.items():
            if state.in_flight and endpoint not in target:
                market = at.get(endpoint)
                if market is not None:
                    counts = sums.setdefault(market, [0, 0, 0])
                    counts[1] += state.in_flight
                    counts[2] += state.in_flight
        left = [market for market in holder.traded if market not in sums and not market.clear(holder, now)]
        for market, (slots, used, covered) in sums.items():
            if market.put(holder, slots, used, covered, want_of.get(market), now) and market.waiting:
                self._stirred[market] = None
        holder.traded = (*sums, *left)

    def granted(self, holder: Holder, before: Mapping[EndpointUrl, int], now: float) -> None:
        """Bring sums and markets up to date with a grant; `before` it the sidecar was told these slots."""
        told, counted = holder.told, holder.counted
        changed = [endpoint for endpoint, slots in told.items() if before.get(endpoint) != slots]
        for endpoint in changed:
            more = told[endpoint] - counted.get(endpoint, 0)
            if more > 0:
                counted[endpoint] = told[endpoint]
                total = self.held[endpoint] = self.held.get(endpoint, 0) + more
                if total > self.live.get(endpoint, 0):
                    self._over.add(endpoint)
        changed += [endpoint for endpoint in before if endpoint not in told]
        fleet = self._fleets.get(holder.follows.fleet) if isinstance(holder.follows, Follows) else None
        if fleet is not None:
            for market in {fleet.at[endpoint]: None for endpoint in changed if endpoint in fleet.at}:
                self._weigh_at(market, holder, now)

    def _weigh_at(self, market: Market, holder: Holder, now: float) -> None:
        """Bring one market up to date with a grant that changes a sidecar's slots there."""
        target, states = holder.target, holder.report.slots
        slots = used = covered = 0
        for endpoint in market.live:
            count = target.get(endpoint, 0)
            state = states.get(endpoint)
            in_flight = state.in_flight if state is not None else 0
            slots += count
            used += in_flight
            covered += count if count > in_flight else in_flight
        market.moved(holder)
        if market not in holder.traded:
            holder.traded = (*holder.traded, market)
        if (
            market.put(holder, slots, used, covered, holder.report.wants.get(market.variant), now)
            and market.waiting
        ):
            self._stirred[market] = None

    def refit(self, holder: Holder, now: float) -> None:
        """Aim at no slot that the sidecar's fleet does not have, at none if it follows no fleet or leaves."""
        fleet = self._fleets.get(holder.follows.fleet) if isinstance(holder.follows, Follows) else None
        at = fleet.at if fleet is not None and not holder.report.leaving else {}
        holder.granted = None
        if not holder.target.keys() <= at.keys():
            holder.target = {e: slots for e, slots in holder.target.items() if e in at}
        self.weigh(holder, now)

    # Decisions.

    def serve(
        self, now: float, ready: Callable[[Holder], bool], holders: Iterable[Holder]
    ) -> dict[int, Holder]:
        """Move slots; return the sidecars that should hear of it. Only those that are `ready` get more."""
        touched: dict[int, Holder] = {}
        for endpoint in list(self._over):
            self._recall_excess(endpoint, now, touched, holders)
        for fleet in self._fleets.values():
            if fleet.share_due(now):
                fleet.shared_at = now
                fleet.crowd_changed = fleet.demand_changed = False
                for market in fleet.markets.values():
                    market.share_out(fleet.takers, fleet.busy)
                    if market.waiting:
                        self._stirred[market] = None
        retried = [market for market in self._waiting if now >= market.served_at + RETRY]
        stirred = dict.fromkeys((*self._stirred, *retried))
        self._stirred = {}
        for market in stirred:
            for holder in market.serve(now, ready):
                touched[holder.number] = holder
            if market.waiting:
                self._waiting[market] = None
            else:
                self._waiting.pop(market, None)
        return touched

    def _recall_excess(
        self,
        endpoint: EndpointUrl,
        now: float,
        touched: dict[int, Holder],
        holders: Iterable[Holder],
    ) -> None:
        """Recall slots of an endpoint until no more are left than may be held; unused ones first."""
        if self.room(endpoint) >= 0:
            self._over.discard(endpoint)
            return
        there = {holder.number: holder for holder in holders if endpoint in holder.target}
        excess = sum(h.target[endpoint] for h in there.values()) - self.live.get(endpoint, 0)
        if excess <= 0:
            return
        unused = {number: h.target[endpoint] - h.in_flight(endpoint) for number, h in there.items()}
        recalled = take(excess, unused)
        left = {number: h.target[endpoint] - recalled.get(number, 0) for number, h in there.items()}
        for number, slots in take(excess - sum(recalled.values()), left).items():
            recalled[number] = recalled.get(number, 0) + slots
        for number, slots in recalled.items():
            there[number].lower_target({endpoint: slots})
            self.weigh(there[number], now)
            touched[number] = there[number]

    # What a grant says.

    def grantable(
        self, holder: Holder, floor: Callable[[int], int] | None
    ) -> Mapping[EndpointUrl, SlotGrant]:
        """Return the slots of a sidecar's next grant: its target, as far as there is room.

        `floor` returns how many of all its slots outlast its lease; None: none do.
        """
        fleet = self._fleets.get(holder.follows.fleet) if isinstance(holder.follows, Follows) else None
        if fleet is None:
            return {}
        if holder.granted is not None and holder.target == holder.told:
            return holder.granted
        at, told = fleet.at, holder.told
        slots: dict[EndpointUrl, int] = {}
        for endpoint, target in holder.target.items():
            before = told.get(endpoint, 0)
            if target > before:
                # While more is held than is live only recalls go out: not even a lost grant is made again.
                room = self.room(endpoint)
                most = max(before, holder.counted.get(endpoint, 0) + room) if room >= 0 else before
                target = min(target, most)
            if target > 0 and endpoint in at:
                slots[endpoint] = target
        floor_at = floors(slots, floor(sum(slots.values()))) if floor is not None else {}
        last = holder.last.slots if holder.last is not None else {}
        grants: dict[EndpointUrl, SlotGrant] = {}
        for endpoint, count in slots.items():
            variant, least = at[endpoint].variant, floor_at.get(endpoint, 0) if floor_at else 0
            same = last.get(endpoint)
            if same is None or same.slots != count or same.floor != least or same.variant != variant:
                same = SlotGrant(variant, count, least)
            grants[endpoint] = same
        return grants

    def asks(self, holder: Holder, now: float) -> tuple[dict[VariantKey, Ask], dict[VariantKey, float]]:
        """Return who waits for what a sidecar has, and how long its unused slots may stay; it is told so."""
        asks: dict[VariantKey, Ask] = {}
        linger: dict[VariantKey, float] = {}
        for market in holder.traded:
            ask, unused = market.tell(holder.number, now)
            if ask is not None:
                asks[market.variant] = ask
            if unused is not None:
                linger[market.variant] = unused
        return asks, linger
