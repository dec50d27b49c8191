"""Stage assign, what is left alone: a breaker for each variant, and for each endpoint of one.

In: how attempts ended, the time, from `health`. Out: whether an attempt may go there, and when the next one
may. Next: `batching.room` leaves out what is shut.

    closed     -> open       `failures` failures among the last 2 x `failures` attempts of the last minute
    open       -> half open  after `open_for` seconds
    half open  -> closed     the probe, one attempt at a time, got an answer
    half open  -> open       the probe failed

A probe that says nothing for `open_for` seconds lets another one go too: whichever ends first decides.

What began before a breaker's last change says nothing of it: so late failures do not open it again, and late
answers do not close it.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Collection
from enum import Enum

from modelfleet_core.policy import Breaker as Bounds
from modelfleet_core.values import EndpointUrl, VariantKey

WINDOW = 60.0
"""Seconds for which a failure counts."""


class State(Enum):
    CLOSED = "Closed"
    HALF_OPEN = "HalfOpen"
    """One attempt at a time may find out whether it works again."""
    OPEN = "Open"


class Breaker:
    """Of one thing that attempts may fail at. Times are seconds on one clock that never goes back."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._ends: deque[tuple[float, bool, EndpointUrl]] = deque(maxlen=2 * bounds.failures)
        """When attempts ended, whether they failed, and where."""
        self._changed = -math.inf
        self._open = False
        self._probes: set[int] = set()
        """Attempts that are under way while it is half open."""
        self._probed = -math.inf
        """When the last of them began."""

    @property
    def probe_at(self) -> float:
        """When the next attempt may go there, unless a probe is under way."""
        return self._changed + self._bounds.open_for if self._open else -math.inf

    def state(self, now: float) -> State:
        if not self._open:
            return State.CLOSED
        return State.HALF_OPEN if now >= self.probe_at else State.OPEN

    def room(self, now: float) -> float:
        """Return how many attempts may go there now."""
        if not self._open:
            return math.inf
        probing = self._probes and now < self._probed + self._bounds.open_for
        return 1 if now >= self.probe_at and not probing else 0

    def took(self, attempt: int, now: float) -> None:
        """An attempt goes there now."""
        if self.room(now) == 1:
            self._probes.add(attempt)
            self._probed = now

    def ended(self, attempt: int, began: float, now: float, *, failed: bool, at: EndpointUrl) -> None:
        """An attempt that began at `began` got an answer, or failed, at this endpoint."""
        if self._open:
            if attempt in self._probes:
                self._change(now, opens=failed)
            return
        if self.outdates(attempt, began):
            return
        self._ends.append((now, failed, at))
        if failed and sum(bad for when, bad, _ in self._ends if when > now - WINDOW) >= self._bounds.failures:
            self._change(now, opens=True)

    def outdates(self, attempt: int, began: float) -> bool:
        """Return whether it changed since an attempt began, so that its end says nothing any more."""
        return began < self._changed and attempt not in self._probes

    def lost(self, under_way: Callable[[int], bool]) -> None:
        """Give up probes that are not under way any more: they ended without a word."""
        if self._probes:
            self._probes = {probe for probe in self._probes if under_way(probe)}

    def eventful(self, now: float) -> bool:
        """Return whether there is anything to know: it is open, or something failed there lately."""
        return self._open or any(bad and when > now - WINDOW for when, bad, _ in self._ends)

    def forget(self, endpoint: EndpointUrl) -> None:
        """What failed at this endpoint is its own fault."""
        kept = [end for end in self._ends if end[2] != endpoint]
        self._ends.clear()
        self._ends.extend(kept)

    def _change(self, now: float, *, opens: bool) -> None:
        self._open, self._changed = opens, now
        self._probes.clear()
        self._ends.clear()


class Breakers:
    """Those of a sidecar's variants and endpoints. Endpoints open first: one bad pod shuts no variant."""

    def __init__(self, bounds: Bounds) -> None:
        self._bounds = bounds
        self._variants: dict[VariantKey, Breaker] = {}
        self._endpoints: dict[EndpointUrl, Breaker] = {}

    @property
    def calm(self) -> bool:
        """Whether nothing failed lately: all may go everywhere."""
        return not self._variants and not self._endpoints

    @property
    def bounds(self) -> Bounds:
        return self._bounds

    def follow(self, bounds: Bounds) -> None:
        """Go by other bounds from now on; what was known is forgotten."""
        if bounds != self._bounds:
            self._bounds = bounds
            self._variants.clear()
            self._endpoints.clear()

    def room(self, variant: VariantKey, endpoint: EndpointUrl, now: float) -> float:
        """Return how many attempts may go to an endpoint now."""
        return min([one.room(now) for one in self._both(variant, endpoint)], default=math.inf)

    def probe_at(self, variant: VariantKey, endpoint: EndpointUrl) -> float:
        """Return when the next attempt may go there, unless one is probing."""
        return max([one.probe_at for one in self._both(variant, endpoint)], default=-math.inf)

    def half_open(self, variant: VariantKey, now: float) -> bool:
        """Return whether one attempt in all may go to a variant now."""
        one = self._variants.get(variant)
        return one is not None and one.state(now) is State.HALF_OPEN

    def state(self, variant: VariantKey, endpoints: Collection[EndpointUrl], now: float) -> State:
        """Return a variant's state: its own, or that of its endpoints where all of them are worse."""
        own = self._variants.get(variant)
        states = [own.state(now)] if own is not None else [State.CLOSED]
        known = [self._endpoints.get(endpoint) for endpoint in endpoints]
        if known:
            order = list(State)
            theirs = [State.CLOSED if one is None else one.state(now) for one in known]
            states.append(min(theirs, key=order.index))
            return max(states, key=order.index)
        return states[0]

    def took(self, variant: VariantKey, endpoint: EndpointUrl, attempt: int, now: float) -> None:
        """An attempt goes to an endpoint now."""
        for one in self._both(variant, endpoint):
            one.took(attempt, now)

    def ended(
        self,
        variant: VariantKey,
        endpoint: EndpointUrl,
        attempt: int,
        began: float,
        now: float,
        *,
        failed: bool,
    ) -> None:
        """An attempt got an answer, or failed."""
        if failed:
            self._endpoints.setdefault(endpoint, Breaker(self._bounds))
            self._variants.setdefault(variant, Breaker(self._bounds))
        theirs, own = self._endpoints.get(endpoint), self._variants.get(variant)
        if theirs is not None:
            if theirs.outdates(attempt, began):
                return
            before = theirs.state(now)
            theirs.ended(attempt, began, now, failed=failed, at=endpoint)
            if own is not None and before is State.CLOSED and theirs.state(now) is State.OPEN:
                own.forget(endpoint)
                return
        if own is not None:
            own.ended(attempt, began, now, failed=failed, at=endpoint)

    def lost(self, under_way: Callable[[int], bool]) -> None:
        """Give up probes that are not under way any more: they ended without a word."""
        for one in (*self._variants.values(), *self._endpoints.values()):
            one.lost(under_way)

    def tidy(self, endpoints: Collection[EndpointUrl], now: float) -> None:
        """Forget all other endpoints, and of what is closed all that had no failure lately."""
        self._endpoints = {
            key: one for key, one in self._endpoints.items() if key in endpoints and one.eventful(now)
        }
        self._variants = {key: one for key, one in self._variants.items() if one.eventful(now)}

    def _both(self, variant: VariantKey, endpoint: EndpointUrl) -> list[Breaker]:
        found = (self._variants.get(variant), self._endpoints.get(endpoint))
        return [one for one in found if one is not None]
