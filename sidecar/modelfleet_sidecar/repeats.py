"""Stage batch, for demand: requests that were refused a moment ago and come again.

In: refused requests and new ones. Out: whether a new one was counted as demand before. A caller that tries
again every second is one request that waits, not sixty a minute; counted anew each time it would drive up
the prices of slots that it does not even get. Keeps hashes, no text.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from modelfleet_sidecar.decision import Ask

REMEMBERED = 60.0
"""Seconds within which the same request counts as tried again."""
MOST = 10_000


class Repeats:
    """Refused requests by what they ask, oldest first."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._refused: OrderedDict[int, list[float]] = OrderedDict()

    def refused(self, ask: Ask) -> None:
        """Remember a request that was counted and is now refused."""
        key = asked_as(ask)
        times = self._refused.setdefault(key, [])
        times.append(self._clock())
        self._refused.move_to_end(key)
        while len(self._refused) > MOST:
            self._refused.popitem(last=False)

    def again(self, ask: Ask) -> bool:
        """Return whether the request was refused a moment ago; each refusal excuses one repeat."""
        if not self._refused:
            return False
        key = asked_as(ask)
        since = self._clock() - REMEMBERED
        times = [time for time in self._refused.pop(key, ()) if time > since]
        if not times:
            return False
        if times[1:]:
            self._refused[key] = times[1:]
        return True


def asked_as(ask: Ask) -> int:
    """Return a hash of what is asked, with a key that only this process has."""
    return hash((ask.call.model, ask.tier.name, tuple(ask.call.texts)))
