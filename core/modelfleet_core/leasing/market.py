"""Stage publish: the slots of one variant of one fleet, who has them and who waits for them.

In come every sidecar's slots and wants as they change; out go new targets of sidecars, for `grants.py` to
grant. Two kinds: with fewer live slots than `SPREAD` for each sidecar nothing is given in advance, slots are
borrowed and go back when unused; with more everyone has a standing share.

Who waits is served first by weight of the tier, then by price, then by time: from free slots, else from slots
that others do not use, and the rest is told to those who do (`ask`), so that a slot which comes free there
goes back unless it is worth more to them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import islice

from modelfleet_core.leasing.holders import Holder
from modelfleet_core.leasing.line import Line, much_above, split
from modelfleet_core.leasing.messages import Ask, Bid, SidecarId, Want
from modelfleet_core.leasing.position import Position
from modelfleet_core.leasing.shares import Shares
from modelfleet_core.leasing.slots import take, water_fill
from modelfleet_core.values import EndpointUrl, VariantKey

SPREAD = 4
"""Live slots for each active sidecar from which on everyone has a standing share."""
UNUSED = 0.2
"""Seconds after which a slot that is not used counts as not wanted."""
RECALL_PATIENCE = 0.5
"""Seconds for which a recalled slot counts as coming."""
LOOK_AT = 64
"""Sidecars that one turn looks at, of those that could make room."""
CONTENDED = 5.0
"""Seconds after someone waited in which slots that come free go back at once, unless wanted there."""
SOMEONE = Ask(0.0, -1.0)
"""Worth less than any bid."""


class Market:
    """One variant of one fleet. `live` are its endpoints' slots, `room(endpoint)` those that nobody holds."""

    def __init__(self, variant: VariantKey, room: Callable[[EndpointUrl], int]) -> None:
        self.variant = variant
        self.live: Mapping[EndpointUrl, int] = {}
        self.borrowed = True
        self.served_at = -math.inf
        self._room = room
        self._positions: dict[int, Position] = {}
        self._line = Line()
        self._unused: dict[int, Position] = {}
        self._unasked: dict[int, Position] = {}
        self._contended_until = -math.inf
        self._recalled: dict[int, Position] = {}
        self._shares = Shares()

    @property
    def waiting(self) -> bool:
        """Whether someone waits for a slot, or for its share."""
        return bool(self._line or self._shares.below)

    def clear(self, holder: Holder, now: float) -> bool:
        """A sidecar has and wants nothing here any more; False: what was recalled from it is still coming."""
        position = self._positions.get(holder.number)
        if position is not None and position.coming and holder.report.applied < position.moved:
            self.put(holder, 0, 0, 0, None, now)
            return False
        self.drop(holder)
        return True

    def drop(self, holder: Holder) -> None:
        """A sidecar is not known here any more."""
        position = self._positions.pop(holder.number, None)
        if position is not None:
            self._leave_line(position)
            self._unused.pop(holder.number, None)
            self._unasked.pop(holder.number, None)
            self._recalled.pop(holder.number, None)
        self._compare(holder, None)

    def put(
        self, holder: Holder, slots: int, in_flight: int, covered: int, want: Want | None, now: float
    ) -> bool:
        """Take over what a sidecar has and wants; False: nothing changed.

        `slots` it is to have, `in_flight` it uses, `covered` is the sum over endpoints of the larger one.
        """
        position = self._positions.get(holder.number)
        if position is None:
            position = self._positions[holder.number] = Position(holder)
        # What it uses is known once it reported under its newest slots here.
        settled = holder.report.applied >= position.moved
        seen = (slots, in_flight, covered, want, settled, holder.taking)
        if seen == position.seen:
            return False
        position.seen = seen
        wanted = want.slots if want is not None else 0
        waits = wanted - in_flight if wanted > in_flight else 0
        unmet = wanted - covered if holder.taking and wanted > covered else 0
        unused = covered - in_flight
        if slots > position.slots:
            position.since = now
        position.slots = slots
        position.unused = unused
        position.surplus = unused - waits if unused > waits else 0
        if waits or position.entries or position.covered:
            self._line_up(position, want, waits, unmet, now)
        if settled and position.coming:
            position.coming = 0
            self._recalled.pop(holder.number, None)
        if unused and settled and holder.taking:
            position.unused_since = min(position.unused_since, holder.heard_at)
            self._unused[holder.number] = position
        else:
            position.unused_since = math.inf
            self._unused.pop(holder.number, None)
        if slots and position.ask is None:
            self._unasked[holder.number] = position
        else:
            self._unasked.pop(holder.number, None)
        self._compare(holder, position)
        return True

    def moved(self, holder: Holder) -> None:
        """The newest grant of a sidecar changes its slots here; `put` follows."""
        position = self._positions.get(holder.number)
        if position is None:
            position = self._positions[holder.number] = Position(holder)
        position.moved = holder.sequence

    def _compare(self, holder: Holder, position: Position | None) -> None:
        spare = position is not None and position.surplus > 0 and holder.number in self._unused
        self._shares.compare(holder, position, spare=spare)

    def _line_up(self, position: Position, want: Want | None, waits: int, unmet: int, now: float) -> None:
        if not waits:
            self._leave_line(position)
            position.covered = ()
            return
        offered = want.bids if want is not None else ()
        short = waits - sum(bid.slots for bid in offered)
        if short > 0:
            offered = (*offered, Bid(0.0, 0.0, short))
        covered, rest = split(offered, waits - unmet)
        bids, _ = split(rest, unmet)  # a silent sidecar gets none, whatever it bade
        position.covered = covered
        if bids == position.bids and unmet == position.unmet:
            return
        if unmet and not position.unmet:
            position.since = now
        self._leave_line(position)
        number = position.holder.number
        position.unmet, position.bids = unmet, bids
        position.entries = tuple((-bid.weight, -bid.price, position.since, number, bid.slots) for bid in bids)
        self._line.join(position.entries)

    def _leave_line(self, position: Position) -> None:
        self._line.leave(position.entries)
        position.unmet, position.bids, position.entries = 0, (), ()

    # Standing shares.

    def share_out(
        self, takers: Mapping[int, Holder], busy: Mapping[SidecarId, Mapping[VariantKey, float]]
    ) -> None:
        """Set everyone's standing share anew. `busy`: slots that each sidecar's demand keeps in use."""
        has = {number: position.slots for number, position in self._positions.items() if number in takers}
        # What others hold, or older leases may, can not be shared: shares that no one can fill never rest.
        total = sum(max(0, self._room(endpoint)) for endpoint in self.live) + sum(has.values())
        self.borrowed = sum(self.live.values()) < SPREAD * len(takers)
        if self.borrowed or not total:
            self._shares.clear()
            return
        expected = {n: busy.get(holder.id, {}).get(self.variant, 0.0) for n, holder in takers.items()}
        wants = {number: math.ceil(slots) for number, slots in expected.items()}
        self._shares.set(wants, total, has)
        for number, holder in takers.items():
            self._compare(holder, self._positions.get(number))
        for number, position in self._positions.items():
            if number not in takers:
                self._compare(position.holder, position)

    # Decisions.

    def serve(self, now: float, ready: Callable[[Holder], bool]) -> list[Holder]:
        """Move slots; return the sidecars whose target changed or who must hear that others wait.

        Only those that are `ready` get more, and each of these must be granted it in this turn.
        """
        self.served_at = now
        touched: list[Holder] = []
        room = {endpoint: left for endpoint in self.live if (left := self._room(endpoint)) > 0}
        unserved = self._line.slots
        if room and self._line:
            unserved -= self._give(room, ready, touched)
        if room and self._shares.below:
            self._fill(room, ready, touched)
        if unserved > 0:
            unserved -= self._coming(now)
            if unserved > 0:
                unserved -= self._recall_for_line(unserved, now, touched)
            if unserved > 0:
                self._ask(now, touched)
        elif self._shares.far_below:
            self._recall_for_shares(now, touched)
        return touched

    def _give(
        self, room: dict[EndpointUrl, int], ready: Callable[[Holder], bool], touched: list[Holder]
    ) -> int:
        """Give free slots to the first in line; return how many."""
        given = 0
        left = sum(room.values())
        for equals in self._line.groups():
            if left <= 0:
                break
            group: dict[int, int] = {}
            for *_, number, slots in equals:
                if ready(self._positions[number].holder):
                    group[number] = group.get(number, 0) + slots
            earliest = {number: len(group) - place for place, number in enumerate(group)}
            shares = group if sum(group.values()) <= left else water_fill(group, left, earliest)
            for number, slots in shares.items():
                if slots:
                    self._positions[number].holder.raise_target(take(slots, room))
                    touched.append(self._positions[number].holder)
                    given += slots
                    left -= slots
        return given

    def _fill(
        self, room: dict[EndpointUrl, int], ready: Callable[[Holder], bool], touched: list[Holder]
    ) -> None:
        """Give free slots to those below their standing share."""
        left = sum(room.values())
        for number, holder in self._shares.below.items():
            if left <= 0:
                break
            if ready(holder):
                lacks = self._shares.of(number) - self._has(holder)
                slots = min(left, lacks)
                if slots > 0:
                    holder.raise_target(take(slots, room))
                    touched.append(holder)
                    left -= slots

    def _has(self, holder: Holder) -> int:
        return sum(slots for endpoint, slots in holder.target.items() if endpoint in self.live)

    def _coming(self, now: float) -> int:
        """Return the recalled slots that should be back soon."""
        return sum(
            position.coming
            for position in self._recalled.values()
            if now < position.recalled_at + RECALL_PATIENCE and position.holder.connected
        )

    def _recall_for_line(self, count: int, now: float, touched: list[Holder]) -> int:
        """Recall unused slots for those in line; return how many."""
        recalled = 0
        for position in list(islice(self._unused.values(), LOOK_AT)):
            if recalled >= count:
                break
            if position.surplus and not position.unmet:
                recalled += self._recall(position, min(position.surplus, count - recalled), now, touched)
        for position in list(islice(self._unused.values(), LOOK_AT)):
            if recalled >= count:
                break
            slots = min(self._outbid(position, now), count - recalled)
            if slots > 0:
                recalled += self._recall(position, slots, now, touched)
        return recalled

    def _outbid(self, position: Position, now: float) -> int:
        """Return how many unused slots of a sidecar that wants them are worth more to the first in line, or
        are left unused although it has more than that one."""
        entry = self._line.first_of_others(position.holder.number)
        if entry is None:
            return 0
        first = (-entry[0], -entry[1])
        dearer = sum(bid.slots for bid in position.covered if (bid.weight, bid.price) < first)
        if now < position.unused_since + UNUSED:
            return min(position.unused, dearer)
        ahead = (position.slots - self._positions[entry[3]].slots) // 2
        return min(position.unused, max(dearer, ahead))

    def _recall_for_shares(self, now: float, touched: list[Holder]) -> None:
        """Recall unused slots beyond their holders' share for those far below theirs."""
        lacking = sum(
            max(0, self._shares.of(number) - self._has(holder))
            for number, holder in islice(self._shares.far_below.items(), LOOK_AT)
        )
        lacking -= self._coming(now)
        for position in list(islice(self._shares.beyond.values(), LOOK_AT)):
            if lacking <= 0:
                break
            beyond = position.slots - self._shares.of(position.holder.number)
            slots = min(position.surplus, beyond, lacking)
            if slots > 0:
                lacking -= self._recall(position, slots, now, touched)

    def _recall(self, position: Position, count: int, now: float, touched: list[Holder]) -> int:
        """Lower the target of a sidecar by up to `count` of its unused slots; return how many."""
        holder = position.holder
        unused = {
            endpoint: left
            for endpoint in self.live
            if (left := holder.target.get(endpoint, 0) - holder.in_flight(endpoint)) > 0
        }
        taken = take(count, unused)
        holder.lower_target(taken)
        slots = sum(taken.values())
        position.coming += slots
        position.recalled_at = now
        self._recalled[holder.number] = position
        self._unused.pop(holder.number, None)
        self._shares.beyond.pop(holder.number, None)
        touched.append(holder)
        return slots

    def _ask(self, now: float, touched: list[Holder]) -> None:
        """Tell those who have slots that others wait: those who do not know, and those who wait too and would
        use a slot that comes free for what is worth much less."""
        self._contended_until = now + CONTENDED
        touched.extend(
            position.holder
            for position in islice(self._unasked.values(), LOOK_AT)
            if self._line.first_of_others(position.holder.number) is not None
        )
        for entry in islice(self._line, 1, LOOK_AT):
            position = self._positions[entry[3]]
            if position.slots and position.ask is not None:
                ask = self._ask_of_others(entry[3], now)
                if ask is not None and much_above((ask.weight, ask.price), position.ask):
                    touched.append(position.holder)

    # What a grant says.

    def tell(self, number: int, now: float) -> tuple[Ask | None, float | None]:
        """Return what a grant says: what the first of the others in line would pay, and the seconds for which
        unused slots may stay. The sidecar counts as told.

        `SOMEONE` if nobody waits but someone soon will; None: nobody waits; they may stay as long as the
        lease. What nobody wants there goes back at once because of the ask itself; a slot that was just
        granted may wait for its batch.
        """
        ask = self._ask_of_others(number, now)
        position = self._positions.get(number)
        if position is not None and (ask is not None or position.ask is not None):
            position.ask = (ask.weight, ask.price) if ask is not None else None
            if ask is not None:
                self._unasked.pop(number, None)
            elif position.slots:
                self._unasked[number] = position
        return ask, UNUSED if ask is not None or self.borrowed else None

    def _ask_of_others(self, number: int, now: float) -> Ask | None:
        entry = self._line.first_of_others(number)
        if entry is not None:
            return Ask(-entry[0], -entry[1])
        return SOMEONE if self.borrowed and now < self._contended_until else None
