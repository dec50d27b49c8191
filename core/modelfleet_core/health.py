"""Stage assign, what experience leaves of the lease: breakers, limits of concurrency, what servers ask for.

In: how attempts ended, from the sidecar's `forward`. Out: how many slots of an endpoint may be used, and what
is shut until when. Next: `batching.room` and `batching.placing` go by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from modelfleet_core.breaker import Breakers, State
from modelfleet_core.concurrency import Concurrency
from modelfleet_core.leasing.held_slots import HeldSlots
from modelfleet_core.policy import Breaker
from modelfleet_core.values import EndpointUrl, VariantKey

BREAKER_OPEN, RATE_LIMITED = "BreakerOpen", "RateLimited"
"""Why a variant is shut: too much failed there, or its servers asked to be left alone for a while."""
PROBING = 1.0
"""Seconds after which to look again where a probe is under way."""
MAX_KNOWN = 4096
"""Endpoints that are remembered between two `tidy`."""


@dataclass(frozen=True, slots=True)
class Shut:
    """What nothing may be sent to now."""

    why: str
    until: float


class Health:
    """Of all endpoints of one sidecar. Times are seconds on one clock."""

    def __init__(self) -> None:
        self._breakers = Breakers(Breaker())
        self._limits: dict[EndpointUrl, Concurrency] = {}
        self._limited = False
        """Whether any limit binds or backs off, as far as known."""

    @property
    def calm(self) -> bool:
        """Whether every slot may be used."""
        return self._breakers.calm and not self._limited

    def follow(self, bounds: Breaker) -> None:
        """Go by a policy's breaker from now on."""
        self._breakers.follow(bounds)

    # What happened. An attempt is known by its reservation, and began at `began`.

    def took(self, variant: VariantKey, endpoint: EndpointUrl, attempt: int, now: float) -> None:
        """An attempt was given a slot."""
        if not self._breakers.calm:
            self._breakers.took(variant, endpoint, attempt, now)

    def works(
        self, variant: VariantKey, endpoint: EndpointUrl, attempt: int, began: float, now: float
    ) -> None:
        """A server answered, or found a fault with the request alone."""
        if not self._breakers.calm:
            self._breakers.ended(variant, endpoint, attempt, began, now, failed=False)

    def failed(
        self, variant: VariantKey, endpoint: EndpointUrl, attempt: int, began: float, now: float
    ) -> None:
        """An attempt failed by the server's fault."""
        self._breakers.ended(variant, endpoint, attempt, began, now, failed=True)

    def refused(
        self, endpoint: EndpointUrl, began: float, now: float, in_flight: int, back_off: float | None
    ) -> None:
        """A server answered 429, with so many requests in flight there."""
        self._limit(endpoint).refused(began, now, in_flight, back_off)
        self._limited = True

    def answered(
        self, endpoint: EndpointUrl, began: float, now: float, tokens: int, in_flight: int, slots: int
    ) -> None:
        """An answer of so many tokens is whole."""
        limit = self._limit(endpoint)
        limit.answered(began, now, tokens, in_flight, slots)
        self._limited = self._limited or limit.bound

    def _limit(self, endpoint: EndpointUrl) -> Concurrency:
        limit = self._limits.get(endpoint)
        if limit is None:
            if len(self._limits) >= MAX_KNOWN:
                self._limits.clear()
            limit = self._limits[endpoint] = Concurrency()
        return limit

    # What may be used.

    def usable(
        self, variant: VariantKey, endpoint: EndpointUrl, free: int, in_flight: int, now: float
    ) -> int:
        """Return how many of the free slots of an endpoint may be used now."""
        limit = self._limits.get(endpoint)
        if limit is not None:
            if now < limit.backs_off_until:
                return 0
            if limit.bound:
                free = min(free, limit.limit(free + in_flight) - in_flight)
        return int(max(0, min(free, self._breakers.room(variant, endpoint, now))))

    def one_at_a_time(self, variant: VariantKey, now: float) -> bool:
        """Return whether only one attempt in all may go to a variant now."""
        return self._breakers.half_open(variant, now)

    def shut(self, leased: Mapping[EndpointUrl, HeldSlots], now: float) -> Mapping[VariantKey, Shut]:
        """Return the variants of which no leased endpoint may be sent anything, and until when at least."""
        if self.calm:
            return {}
        shut: dict[VariantKey, Shut | None] = {}
        for endpoint, slots in leased.items():
            variant = slots.variant
            before = shut.get(variant)
            if not slots.slots or (before is None and variant in shut):
                continue
            found = self._shut(variant, endpoint, now)
            if found is None or before is None or found.until < before.until:
                shut[variant] = found
        return {variant: found for variant, found in shut.items() if found is not None}

    def _shut(self, variant: VariantKey, endpoint: EndpointUrl, now: float) -> Shut | None:
        if self._breakers.room(variant, endpoint, now) <= 0:
            probe_at = self._breakers.probe_at(variant, endpoint)
            return Shut(BREAKER_OPEN, probe_at if probe_at > now else now + PROBING)
        limit = self._limits.get(endpoint)
        until = limit.backs_off_until if limit is not None else -math.inf
        return Shut(RATE_LIMITED, until) if now < until else None

    # Now and then.

    def tidy(
        self, leased: Mapping[EndpointUrl, HeldSlots], under_way: Callable[[int], bool], now: float
    ) -> None:
        """Forget what is not leased any more or had no trouble for long; `under_way` tells whether an attempt
        is."""
        self._breakers.lost(under_way)
        self._breakers.tidy(leased.keys(), now)
        self._limits = {key: one for key, one in self._limits.items() if key in leased}
        self._limited = any(one.bound or now < one.backs_off_until for one in self._limits.values())

    def states(
        self, leased: Mapping[EndpointUrl, HeldSlots], now: float
    ) -> Mapping[VariantKey, tuple[State, int]]:
        """Return each leased variant's state, and how many of its slots may be used at a time."""
        theirs: dict[VariantKey, list[EndpointUrl]] = {}
        usable: dict[VariantKey, int] = {}
        for endpoint, held in leased.items():
            if held.slots:
                theirs.setdefault(held.variant, []).append(endpoint)
                limit = self._limits.get(endpoint)
                most = held.slots if limit is None else limit.limit(held.slots)
                usable[held.variant] = usable.get(held.variant, 0) + most
        return {
            variant: (self._breakers.state(variant, endpoints, now), usable[variant])
            for variant, endpoints in theirs.items()
        }
