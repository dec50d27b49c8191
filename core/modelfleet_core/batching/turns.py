"""Stage batch: in which order callers have their turn, so that who sends most does not get most.

In: requests that wait, with their callers; what each caller took. Out: who goes first, and whom to turn away
when too many wait. Next: `queue` picks its batches by it.

Start-time fair queueing (Goyal, Vin and Cheng, SIGCOMM 1996), with seconds of a slot as the service:

    start  = max(virtual time, finish of the caller's last request)
    finish = start + expected seconds that it holds its slot
    virtual time = greatest start of what was placed

The smallest start goes first. So while several callers wait, each gets as many seconds of slots as any other;
one that is alone gets all, and owes nothing for it later; one that was idle has saved up nothing.

That alone would let a caller that always has something waiting take every slot, so that others would wait for
one each time. So one that has had more than its share lately leaves some slots of a variant to the others
(trunk reservation): `SPREADS` standard deviations of the slots that they use there, as if their requests came
by chance. With nobody else about it leaves none.
"""

from __future__ import annotations

import math
import zlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from modelfleet_core.batching.candidate import Candidate
from modelfleet_core.batching.room import NONE_LEFT, Leaves, Room
from modelfleet_core.batching.worth import Look
from modelfleet_core.values import VariantKey

Name = TypeVar("Name")

MOST_CALLERS = 1024
"""Told apart at a time; beyond them callers share `CROWDS` turns."""
CROWDS = 64
MEMORY = 10.0
"""Seconds over which the use of slots is averaged."""
SPREADS = 1.5
"""More would leave less to who asks for most, less would have others wait for it."""
LOOK_AGAIN = 0.05
"""Seconds for which it stands how many slots are left to others."""
FORGOTTEN = 0.02
"""Mean slots in use below which a caller is as good as not there."""


class Turns:
    """What callers have had of one sidecar."""

    def __init__(self) -> None:
        self._use = _Use()
        self._leaves = NONE_LEFT
        self._looked = -math.inf
        """When that was found out."""
        self._virtual = 0.0
        self._finish: dict[str, float] = {}
        """Of callers who had more than the virtual time tells."""
        self._forgot = -math.inf
        """When others were forgotten last."""

    def __len__(self) -> int:
        return len(self._finish)

    @property
    def known(self) -> int:
        """How many callers it is remembered of that they used slots lately."""
        return len(self._use.by_caller)

    def start(self, caller: str) -> float:
        """Return the start of a caller's next request."""
        return max(self._virtual, self._finish.get(self._known_as(caller), 0.0))

    def leaves(self, slots: Callable[[], Mapping[VariantKey, int]], now: float) -> Leaves:
        """Return how many free slots callers leave to others, by caller and variant; who is not there leaves
        none. `slots()`: of each variant in all."""
        if len(self._use.by_caller) < 2:
            return NONE_LEFT
        if now - self._looked >= LOOK_AGAIN:
            self._looked, self._leaves = now, self._use.leaves(slots(), now)
        return self._leaves

    def took(self, caller: str, variant: VariantKey, seconds: float, now: float) -> None:
        """A request of `caller` was placed that holds its slot for so long."""
        start = self.start(caller)
        self._virtual = start
        name = self._known_as(caller)
        if name is not caller and now - self._forgot >= MEMORY:
            self._forgot = now
            self._finish = {known: end for known, end in self._finish.items() if end > start}
            name = self._known_as(caller)
        self._finish[name] = start + max(0.0, seconds)
        self._use.add(name, variant, max(0.0, seconds), now)

    def _known_as(self, caller: str) -> str:
        if caller in self._finish or len(self._finish) < MOST_CALLERS:
            return caller
        return _crowd(caller)


class _Use:
    """Mean slots in use of late, by caller and variant, faded by `MEMORY` (forward decay: what is new weighs
    more, and all is divided by the weight of now)."""

    def __init__(self) -> None:
        self.by_caller: dict[str, dict[VariantKey, float]] = {}
        self._since = 0.0
        self._swept = 0.0

    def add(self, caller: str, variant: VariantKey, seconds: float, now: float) -> None:
        if now - self._swept >= MEMORY:
            self._sweep(now)
        if caller not in self.by_caller and len(self.by_caller) >= MOST_CALLERS + CROWDS:
            caller = _crowd(caller)
        used = self.by_caller.setdefault(caller, {})
        used[variant] = used.get(variant, 0.0) + seconds / MEMORY * math.exp((now - self._since) / MEMORY)

    def leaves(self, slots: Mapping[VariantKey, int], now: float) -> Leaves:
        if now - self._swept >= MEMORY:
            self._sweep(now)
        faded = math.exp((self._since - now) / MEMORY)
        share = sum(slots.values()) / max(1, len(self.by_caller))
        in_all: dict[VariantKey, float] = {}
        for used in self.by_caller.values():
            for variant, mean in used.items():
                in_all[variant] = in_all.get(variant, 0.0) + mean
        found: dict[str, dict[VariantKey, int]] = {}
        for caller, used in self.by_caller.items():
            if faded * sum(used.values()) <= share:
                continue
            left: dict[VariantKey, int] = {}
            for variant, most in slots.items():
                others = faded * (in_all.get(variant, 0.0) - used.get(variant, 0.0))
                kept = min(round(SPREADS * math.sqrt(max(0.0, others))), most - 1)
                if kept > 0:
                    left[variant] = kept
            if left:
                found[caller] = left
        return found

    def _sweep(self, now: float) -> None:
        """Forget what has faded, and count from now on."""
        faded = math.exp((self._since - now) / MEMORY)
        kept: dict[str, dict[VariantKey, float]] = {}
        for caller, used in self.by_caller.items():
            left = {variant: faded * mean for variant, mean in used.items()}
            if sum(left.values()) >= FORGOTTEN:
                kept[caller] = left
        self.by_caller, self._since, self._swept = kept, now, now


def _crowd(caller: str) -> str:
    """Return the name that many callers go by together."""
    return f"\0{zlib.crc32(caller.encode('utf-8', 'replace')) % CROWDS}"


def several(candidates: Sequence[Candidate]) -> bool:
    """Return whether there is more than one caller among them."""
    return any(one.caller != candidates[0].caller for one in candidates)


def in_turn(
    candidates: Sequence[Candidate], look: Callable[[int], Look], turns: Turns, room: Room, most: int
) -> list[int]:
    """Return at most `most` places in `candidates` of those that are to share out the room now, first first.

    No more than there is room for: each in its turn is given the best of what is left of slots and accounts.
    Which variant each gets in the end is for the program to say. Heavier tiers come first, then earlier
    starts, then who waits longest.
    """
    if not room.spots:
        return []
    free = {variant: room.slots(variant) for variant in room.spots}
    accounts, units = dict(room.accounts), dict(room.units)
    chosen: list[int] = []
    done: set[str] = set()
    """Callers that leave to others what is left: there is never more of it."""
    for i in _order(candidates, turns):
        if not free or len(chosen) == most:
            break
        candidate = candidates[i]
        if candidate.caller in done:
            continue
        if all(slots <= room.left(candidate.caller, variant) for variant, slots in free.items()):
            done.add(candidate.caller)
            continue
        for j in look(i).worthwhile:
            variant = candidate.variants[j]
            charged, rated = candidate.charged(j), candidate.rated(j)
            if (
                free.get(variant, 0) > room.left(candidate.caller, variant)
                and room.places(candidate, variant)
                and _covered(charged, accounts)
                and _covered(rated, units)
            ):
                free[variant] -= 1
                if not free[variant]:
                    del free[variant]
                for name, charge in charged.items():
                    accounts[name] -= charge
                for limit, amount in rated.items():
                    units[limit] -= amount
                chosen.append(i)
                break
    return chosen


def _order(candidates: Sequence[Candidate], turns: Turns) -> list[int]:
    begins: dict[str, float] = {}
    keyed: list[tuple[float, float, float, int]] = []
    for i in sorted(range(len(candidates)), key=lambda i: (-candidates[i].weight, candidates[i].arrived)):
        one = candidates[i]
        begin = begins.get(one.caller)
        if begin is None:
            begin = turns.start(one.caller)
        keyed.append((-one.weight, begin, one.arrived, i))
        begins[one.caller] = begin + min([one.service_time[j] for j in one.possible], default=0.0)
    return [i for _, _, _, i in sorted(keyed)]


def _covered(charges: Mapping[Name, int], left: Mapping[Name, int]) -> bool:
    return all(name in left and charge <= left[name] for name, charge in charges.items())


def to_push_out(waiting: Mapping[int, Candidate], caller: str) -> int | None:
    """Return who is to make room for a request of `caller` where no more may wait; None: nobody, turn that
    away. It is the newest of the lightest of the caller that has most waiting."""
    counts = Counter([one.caller for one in waiting.values()])
    if not counts:
        return None
    crowding = max(counts, key=lambda name: (counts[name], name))
    if counts[crowding] <= counts[caller] + 1:
        return None
    # What has failed elsewhere was accepted once: it is not turned away.
    theirs = [ticket for ticket, one in waiting.items() if one.caller == crowding and not one.avoided]
    return min(theirs, key=lambda ticket: (waiting[ticket].weight, -waiting[ticket].arrived), default=None)
