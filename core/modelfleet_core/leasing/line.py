"""Stage publish: the line of those who wait for slots of one variant.

In come unmet bids; out comes who is served first: by weight of the tier, then by price, then by time.
`market.py` keeps one line for each variant.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterator
from itertools import groupby

from modelfleet_core.leasing.messages import Bid

DEARER = 0.25
"""An ask is told anew when it rose by this part."""

Entry = tuple[float, float, float, int, int]
"""One place in the line: -weight, -price, since when, whose (`Holder.number`), slots."""


class Line:
    """Entries, the first to be served first."""

    def __init__(self) -> None:
        self._entries: list[Entry] = []
        self.slots = 0
        """That all of them want."""

    def __bool__(self) -> bool:
        return bool(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries)

    def join(self, entries: Collection[Entry]) -> None:
        for entry in entries:
            insort(self._entries, entry)
            self.slots += entry[4]

    def leave(self, entries: Collection[Entry]) -> None:
        for entry in entries:
            del self._entries[bisect_left(self._entries, entry)]
            self.slots -= entry[4]

    def groups(self) -> Iterator[Iterator[Entry]]:
        """Return those who bid the same, group by group."""
        return (group for _, group in groupby(self._entries, key=lambda entry: entry[:2]))

    def first_of_others(self, number: int) -> Entry | None:
        """Return the first entry that is not of the sidecar `number`."""
        for entry in self._entries:
            if entry[3] != number:
                return entry
        return None


def split(bids: Collection[Bid], covered: int) -> tuple[tuple[Bid, ...], tuple[Bid, ...]]:
    """Return the bids for the first `covered` slots and those for the rest."""
    first: list[Bid] = []
    rest: list[Bid] = []
    for bid in bids:
        has = min(covered, bid.slots)
        covered -= has
        if has:
            first.append(Bid(bid.weight, bid.price, has))
        if bid.slots > has:
            rest.append(Bid(bid.weight, bid.price, bid.slots - has))
    return tuple(first), tuple(rest)


def much_above(ask: tuple[float, float], told: tuple[float, float]) -> bool:
    """Return whether an ask of weight and price is worth telling after another one."""
    return ask[0] > told[0] or (ask[0] == told[0] and ask[1] - told[1] > DEARER * abs(told[1]) + 1e-9)
