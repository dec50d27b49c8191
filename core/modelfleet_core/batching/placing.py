"""Stage assign, its middle: from candidates to a batch, and from its solution to reservations.

In: candidates, the lease's `Holding`, published prices. Out: for each a `Placed`, or None: no place now.
Next: `queue`, which lets the others wait.

`pose` reads the lease, `solving.solve` may run in a thread, `commit` reserves, exactly: what changed
meanwhile is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from modelfleet_core.assignment.problem import LARGEST
from modelfleet_core.assignment.result import Termination
from modelfleet_core.batching.candidate import Candidate
from modelfleet_core.batching.outcome import Certificate, Placed, Why
from modelfleet_core.batching.room import LeaveAlone, Room, all_reached, room_of
from modelfleet_core.batching.solving import Batch, Carried, Solved, by_prices, weighed
from modelfleet_core.batching.turns import Turns
from modelfleet_core.batching.worth import FAILED, NO_SLOT, Look, look, paced, worth
from modelfleet_core.health import Health, Shut
from modelfleet_core.leasing.holding import Holding
from modelfleet_core.leasing.reservations import Reservation
from modelfleet_core.pacing import Pacing
from modelfleet_core.values import AccountName, TierName, VariantKey, account_parts

SHUT_PATIENCE = 10.0
"""Seconds that a request waits at most while all that could serve it is shut, or not leased."""


class Placer:
    """Places requests within one lease."""

    def __init__(
        self, holding: Holding, *, leave_alone: LeaveAlone = all_reached, health: Health | None = None
    ) -> None:
        """`health` says what to use of the lease; None: all of it."""
        self._holding = holding
        self._health = health
        self._leave_alone = leave_alone
        self._published: Mapping[VariantKey, float] = {}
        self._calm: Mapping[VariantKey, float] = {}
        """As published before a caller took more than its share."""
        self._published_money = 0.0
        self._pacing = Pacing()
        self._carried: Carried | None = None
        self.turns = Turns()
        """What callers have had."""

    def set_prices(self, slots: Mapping[VariantKey, float], money: float) -> None:
        """Take over published prices: quality per slot-second by variant, and per USD."""
        self._published = slots
        self._published_money = money

    def pace(self, now: float) -> float:
        """Move pacing to `now` and return the price of money."""
        self._pacing.advance(now, self._holding.allowance(now), self._published_money)
        return self._pacing.price

    def offer(self, candidate: Candidate) -> None:
        """Learn from a new request what money gains."""
        if self._pacing.active:
            weight, quality, cost = candidate.weight, candidate.compared, candidate.cost
            self._pacing.offer(
                [weight * quality[j] for j in candidate.possible], [cost[j] for j in candidate.possible]
            )

    def place(self, ticket: int, candidate: Candidate, now: float, *, aside: bool = False) -> Placed | None:
        """Place a request by published prices with its favourite; None: a limit keeps it from there.

        `aside`: nobody's, so that no caller leaves a slot to it.
        """
        prices, money_price = self.slot_prices((candidate,), now), self.pace(now)
        left = self._left(candidate, now)
        values, excluded, _, j = worth(left, prices, money_price, now, spare=self._pacing.limit)
        if j < 0 or excluded[j] or not abs(values[j]) <= LARGEST:
            return None
        room = self._room(now, candidate.tier)
        excluded = room.excluded(candidate, excluded)
        held = self._reserve(candidate, j, room, now, aside=aside) if not excluded[j] else None
        if held is None:
            return None
        self._pacing.spend(candidate.cost[j])
        return Placed(
            ticket=ticket,
            candidate=candidate,
            column=j,
            reservation=held,
            weighed=by_prices(values, j, prices, money_price, excluded),
            certificate=Certificate(values[j], values[j], 0.0, Termination.OPTIMAL, (), 0.0),
            batch_size=1,
        )

    def slot_prices(self, candidates: Sequence[Candidate], now: float) -> tuple[float, ...]:
        """Return the prices of slots for requests that are decided on together.

        Published prices tell what everybody's demand makes of slots. While one caller takes more than its
        share, others pay no more than before it did: they are not to move to lesser models for its sake.
        """
        variants = candidates[0].variants if candidates else ()
        crowding = self.turns.leaves(lambda: self._usable(now), now)
        if not crowding:
            self._calm = self._published
        elif any(one.caller not in crowding for one in candidates):
            published, calm = self._published, self._calm
            return tuple([min(published.get(variant, 0.0), calm.get(variant, 0.0)) for variant in variants])
        return tuple([self._published.get(variant, 0.0) for variant in variants])

    def look(self, candidate: Candidate, now: float, *, waits: bool = True) -> Look:
        """Return what one request is worth where, at present prices."""
        prices, money_price = self.slot_prices((candidate,), now), self.pace(now)
        candidate = self._left(candidate, now)
        if waits and not paced(candidate, now):
            return look(candidate, prices, money_price, now, dear_at=self._published_money)
        return look(candidate, prices, money_price, now, waits=waits, spare=self._pacing.limit)

    def _left(self, candidate: Candidate, now: float) -> Candidate:
        """Return the candidate without variants that are shut, or have failed it wherever they are leased.

        It would wait for them in vain. Where nothing else is left it waits for them, or another endpoint.
        """
        shut = self.shut(now)
        if shut:
            whys = [
                why or (shut[variant].why if variant in shut else "")
                for variant, why in zip(candidate.variants, candidate.excluded_by, strict=True)
            ]
            if not all(whys):
                candidate = replace(candidate, excluded_by=tuple(whys))
        if not candidate.avoided:
            return candidate
        leased: dict[VariantKey, bool] = {}
        for endpoint in self._holding.free(now, candidate.tier):
            variant = self._holding.variant_of(endpoint)
            if variant is not None:
                leased[variant] = leased.get(variant, False) or not candidate.avoids(endpoint)
        failed = [
            why or ("" if leased.get(variant, True) else FAILED)
            for variant, why in zip(candidate.variants, candidate.excluded_by, strict=True)
        ]
        return candidate if all(failed) else replace(candidate, excluded_by=tuple(failed))

    def shut(self, now: float) -> Mapping[VariantKey, Shut]:
        """Return the leased variants that nothing may be sent to now."""
        if self._health is None or self._health.calm:
            return {}
        return self._health.shut(self._holding.lease.slots, now)

    def shut_until(self, candidate: Candidate, shut: Mapping[VariantKey, Shut], now: float) -> Shut | None:
        """Return the variant that a request may use first, where all that are leased are `shut`; None: not
        all are."""
        possible = [candidate.variants[j] for j in candidate.possible]
        theirs = [variant for variant in possible if variant in shut]
        if not theirs:
            return None
        if len(theirs) < len(possible):
            leased = self._leased()
            if any(leased.get(variant) for variant in possible if variant not in shut):
                return None
        if len(theirs) < len(candidate.possible) and now - candidate.arrived < SHUT_PATIENCE:
            return None  # something else may be lent, once others have done with it
        return min([shut[variant] for variant in theirs], key=lambda one: one.until)

    def room(self, now: float, candidate: Candidate | None = None) -> Room:
        """Return what may be used now; after the lease what its floor leaves to the candidate's tier."""
        self.pace(now)
        return self._room(now, candidate.tier if candidate is not None else None)

    def _room(self, now: float, tier: TierName | None) -> Room:
        leaves = self.turns.leaves(lambda: self._usable(now), now)
        return room_of(self._holding, now, tier, self._leave_alone, self._pacing.limit, self._health, leaves)

    def _leased(self) -> Mapping[VariantKey, int]:
        slots: dict[VariantKey, int] = {}
        for held in self._holding.lease.slots.values():
            slots[held.variant] = slots.get(held.variant, 0) + held.slots
        return slots

    def _usable(self, now: float) -> Mapping[VariantKey, int]:
        """Return the slots of each leased variant, in flight or free, that may be in use now."""
        health = self._health
        if health is None or health.calm:
            return self._leased()
        slots: dict[VariantKey, int] = {}
        for endpoint, held in self._holding.lease.slots.items():
            free = max(0, held.slots - held.in_flight)
            free = health.usable(held.variant, endpoint, free, held.in_flight, now)
            slots[held.variant] = slots.get(held.variant, 0) + held.in_flight + free
        return {variant: 1 if health.one_at_a_time(variant, now) else most for variant, most in slots.items()}

    def full(self, caller: str, now: float) -> bool:
        """Return whether no slot at all is free for `caller`; after the lease floors are each tier's."""
        if not self._holding.live(now):
            return False
        room = self.room(now)
        return all(room.slots(variant) <= room.left(caller, variant) for variant in room.spots)

    def placeable(self, seen: Sequence[tuple[Candidate, Look]], now: float) -> list[bool]:
        """Return for each request whether the lease could take it now, looking at it alone."""
        live = self._holding.live(now)
        everyone = self.room(now)
        return [
            any(
                not why and room.places(candidate, variant) and not room.short(candidate, j)
                for j, (variant, why) in enumerate(zip(candidate.variants, look.excluded, strict=True))
            )
            for candidate, look in seen
            for room in (everyone if live else self.room(now, candidate),)
        ]

    def reserved(self) -> Mapping[AccountName, int]:
        """Return what requests in flight hold of each account: it may come back."""
        reserved: dict[AccountName, int] = {}
        for account in self._holding.accounts():
            state, (_, name) = self._holding.account(account), account_parts(account)
            if state is not None:
                reserved[name] = reserved.get(name, 0) + state.reserved
        return reserved

    def short_of(
        self, candidate: Candidate, now: float, coming: Mapping[AccountName, int] | None = None
    ) -> str:
        """Return what keeps a request waiting, if `coming` came back: an account, a limit, or NO_SLOT."""
        return self._short_of(candidate, self.room(now, candidate), coming)

    @staticmethod
    def _short_of(candidate: Candidate, room: Room, coming: Mapping[AccountName, int] | None = None) -> str:
        shorts = [room.short(candidate, j, coming) for j in candidate.possible]
        return NO_SLOT if not all(shorts) or not shorts else shorts[0]

    def shared_room(self, now: float) -> Room | None:
        """Return what may be used now where that is the same for every request; None: tiers have floors."""
        return self.room(now) if self._holding.live(now) else None

    def no_place(self, candidate: Candidate, now: float, room: Room | None) -> tuple[Why, str]:
        """Return why a request that does not wait finds no place, and what it lacks; `room`: that of all."""
        room = room if room is not None else self.room(now, candidate)
        short = self._short_of(candidate, room)
        if not self._holding.live(now) and not room.spots:
            return Why.NO_LEASE, short
        limited = short != NO_SLOT and not short.startswith("rate:")
        return (Why.NO_MONEY if limited else Why.NO_SLOT), short

    def pose(
        self,
        tickets: Sequence[int],
        candidates: Sequence[Candidate],
        now: float,
        *,
        looks: Sequence[Look] | None = None,
    ) -> Batch:
        """Return a batch of requests over the same variants; without `looks` they are refused, not to wait.

        After the lease floors are each tier's own: pose one request at a time then.
        """
        variants = candidates[0].variants if candidates else ()
        if any(one.variants is not variants and one.variants != variants for one in candidates):
            raise ValueError("a batch is of one fleet; renew the candidates of another one first")
        live = self._holding.live(now)
        room = self.room(now, None if live or not candidates else candidates[0])
        return Batch(
            tickets=tuple(tickets),
            candidates=tuple(candidates),
            looks=tuple(looks) if looks is not None else None,
            slot_prices=self.slot_prices(candidates, now),
            money_price=self._pacing.price,
            room=room,
            free=tuple([room.slots(variant) for variant in variants]),
            posed_at=now,
            carried=self._carried,
        )

    def commit(
        self,
        solved: Solved,
        now: float,
        wanted: Callable[[int], bool] = lambda _ticket: True,
        *,
        part: slice = slice(None),
    ) -> list[Placed | None]:
        """Reserve what was chosen, for each ticket that is still `wanted`; None: no place for it now.

        A large batch may be committed in parts, at times of their own.
        """
        batch = solved.batch
        if solved.prices is not None and batch.looks is not None:
            self._carried = solved.prices
        if not batch.candidates:
            return []
        # Solving took its time: others may have settled meanwhile.
        room = self.room(now, None if self._holding.live(now) else batch.candidates[0])
        outcomes: list[Placed | None] = []
        for i in range(len(batch.tickets))[part]:
            ticket, candidate, placed = batch.tickets[i], batch.candidates[i], None
            if solved.columns[i] and wanted(ticket):
                for column in solved.columns[i]:
                    held = self._reserve(candidate, column, room, now)
                    if held is not None:
                        self._pacing.spend(candidate.cost[column])
                        placed = Placed(
                            ticket=ticket,
                            candidate=candidate,
                            column=column,
                            reservation=held,
                            weighed=weighed(solved, i),
                            certificate=solved.certificate,
                            batch_size=len(batch.tickets),
                        )
                        break
            outcomes.append(placed)
        return outcomes

    def _reserve(
        self, candidate: Candidate, column: int, room: Room, now: float, *, aside: bool = False
    ) -> Reservation | None:
        """Take a slot where most are free, and what it charges; None: something is gone meanwhile."""
        variant = candidate.variants[column]
        free = room.spots.get(variant)
        if free is None or room.kept_for_others(candidate, variant):
            return None
        open_to = [one for one in free if not candidate.avoids(one)] if candidate.avoided else free
        if not open_to:
            return None
        endpoint = candidate.preferred
        if endpoint is None or endpoint not in open_to:
            endpoint = max(open_to, key=free.__getitem__)
        held = self._holding.reserve(
            now,
            endpoint,
            candidate.reserve[column],
            candidate.held_until(now),
            charges=candidate.charged(column),
            tier=candidate.tier,
            rates=candidate.rated(column),
        )
        if not isinstance(held, Reservation):
            return None
        if self._health is not None:
            self._health.took(variant, endpoint, held.id, now)
        if not aside:
            self.turns.took(candidate.caller, variant, candidate.service_time[column], now)
        free[endpoint] -= 1
        if not free[endpoint]:
            del free[endpoint]
            if not free:
                del room.spots[variant]
        return held
