"""Stage forward, for leases: limits by the minute as slots that are held for a minute.

In comes what an external variant allows per minute; out go the units that a request takes. A unit is in use
for a minute from the request's start, however it ends, so whoever holds n units starts at most n in any
minute, and the sum over sidecars is bounded as that of slots.

    <url>#<model>/<variant>!requests    1 unit per request
    <url>#<model>/<variant>!tokens      1 unit per 1,000 tokens of the request's upper bound, rounded up
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

from modelfleet_core.catalog import ExternalPlacement, Variant
from modelfleet_core.values import EndpointUrl, VariantKey, leased_endpoint, rate_key

REQUESTS = "requests"
TOKENS = "tokens"
MINUTE = 61.0
"""Seconds for which a unit is held: a minute, and a second for clocks that run apart and late arrivals."""
TOKENS_PER_UNIT = 1_000


def rate_limits(variant: Variant) -> Mapping[VariantKey, tuple[EndpointUrl, int]]:
    """Return what the operator leases for the limits by the minute of `variant`: endpoint and units."""
    placement = variant.placement
    if not isinstance(placement, ExternalPlacement):
        return {}
    units = {
        REQUESTS: placement.requests_per_minute,
        TOKENS: placement.tokens_per_minute // TOKENS_PER_UNIT if placement.tokens_per_minute else None,
    }
    keys = {rate_key(variant.key, what): limit for what, limit in units.items() if limit is not None}
    return {key: (leased_endpoint(placement.url, key), limit) for key, limit in keys.items()}


def rate_uses(variant: Variant, tokens: int) -> Mapping[EndpointUrl, int]:
    """Return the units that a request of at most `tokens` (input and output) to `variant` takes."""
    placement = variant.placement
    if not isinstance(placement, ExternalPlacement):
        return {}
    uses: dict[EndpointUrl, int] = {}
    if placement.requests_per_minute is not None:
        uses[leased_endpoint(placement.url, rate_key(variant.key, REQUESTS))] = 1
    if placement.tokens_per_minute is not None:
        units = max(1, -(-tokens // TOKENS_PER_UNIT))
        uses[leased_endpoint(placement.url, rate_key(variant.key, TOKENS))] = units
    return uses


class HeldRate:
    """The units of one rate limit that a sidecar may use."""

    __slots__ = ("_taken", "_touched", "floor", "in_use", "slots", "variant")

    def __init__(self, variant: VariantKey) -> None:
        self.variant = variant
        self.slots = 0
        """Units leased."""
        self.floor = 0
        """The part that does not end with the lease."""
        self.in_use = 0
        self._taken: deque[Taken] = deque()
        self._touched = 0.0
        """When units were last taken or came."""

    @property
    def unused(self) -> int:
        return max(0, self.slots - self.in_use)

    @property
    def used(self) -> int:
        return self.in_use

    def resize(self, slots: int, floor: int, now: float) -> None:
        if slots > self.slots:
            self._touched = now
        self.slots = slots
        self.floor = min(floor, slots)

    def unused_since(self) -> float:
        """Return since when no unit was taken; infinite: all are in use."""
        return self._touched if self.unused else math.inf

    def unused_for(self, seconds: float, now: float) -> int:
        """Return how many units are unused if none was taken for `seconds` or longer, else 0."""
        return self.unused if self._touched + seconds <= now else 0

    def take(self, at: float, units: int) -> Taken:
        """Take units for a minute from `at`; calls are in the order of their times."""
        self._touched = at
        taken = Taken(at + MINUTE, units)
        self._taken.append(taken)
        self.in_use += units
        return taken

    def untake(self, taken: Taken) -> None:
        """Give units back early: the request was never sent."""
        self.in_use -= taken.units
        taken.units = 0

    def next_release(self) -> float | None:
        """Return when the first units in use are free again; None: none are in use."""
        return self._taken[0].until if self._taken else None

    def release(self, now: float) -> None:
        """Give back units whose minute is over."""
        while self._taken and self._taken[0].until <= now:
            self.in_use -= self._taken.popleft().units


class Taken:
    """Units in use until `until`."""

    __slots__ = ("units", "until")

    def __init__(self, until: float, units: int) -> None:
        self.until = until
        self.units = units
