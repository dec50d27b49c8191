"""Stage publish: the standing shares of one variant, and who has less or more than its own.

In come positions as they change and the slots to share; out go those whose share is to be filled, and those
who may have slots to spare. `market.py` moves the slots.
"""

from __future__ import annotations

from collections.abc import Mapping

from modelfleet_core.leasing.holders import Holder
from modelfleet_core.leasing.position import Position
from modelfleet_core.leasing.slots import even_shares

WORTH_MOVING = 0.75
"""Standing shares are topped up by recalls only below this part of them."""


class Shares:
    """Keys are `Holder.number`."""

    def __init__(self) -> None:
        self.below: dict[int, Holder] = {}
        """Those with less than their share."""
        self.far_below: dict[int, Holder] = {}
        """Those with so much less that slots are recalled for them."""
        self.beyond: dict[int, Position] = {}
        """Those with more than their share and slots to spare."""
        self._shares: dict[int, int] = {}

    def of(self, number: int) -> int:
        """Return a sidecar's share; 0 where everything is borrowed."""
        return self._shares.get(number, 0)

    def clear(self) -> None:
        """From now on everything is borrowed."""
        self._shares, self.below, self.far_below, self.beyond = {}, {}, {}, {}

    def set(self, wants: Mapping[int, int], total: int, has: Mapping[int, int]) -> None:
        """Share out `total` slots anew; then `compare` everyone."""
        self.clear()
        self._shares = even_shares(wants, total, has)

    def compare(self, holder: Holder, position: Position | None, *, spare: bool) -> None:
        """Take over what a sidecar has. `spare`: it has slots that it neither uses nor wants."""
        if not self._shares:
            return
        number = holder.number
        share = self._shares.get(number, 0)
        slots = position.slots if position is not None else 0
        if holder.taking and slots < share:
            self.below[number] = holder
        else:
            self.below.pop(number, None)
        if holder.taking and slots < WORTH_MOVING * share:
            self.far_below[number] = holder
        else:
            self.far_below.pop(number, None)
        if position is not None and spare and slots > share:
            self.beyond[number] = position
        else:
            self.beyond.pop(number, None)
