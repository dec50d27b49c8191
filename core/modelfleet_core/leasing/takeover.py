"""Stage publish: what a new leader may not grant yet, since someone unheard may hold an older lease.

In come the pods that may hold one and those that reported or are gone; out goes how many of an endpoint's
slots may be granted. A new leader grants no slot beyond what is reported until everyone who may hold a lease
has reported, is gone, or can not hold one any more. Floors do not end with a lease: they stay counted, at
every endpoint, for each pod that has neither reported nor gone.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from modelfleet_core.leasing.slots import RATE_NOTICE, UPSTREAM_NOTICES, counts_rate
from modelfleet_core.values import EndpointUrl

LATER = RATE_NOTICE - UPSTREAM_NOTICES
"""Seconds by which the rates of a pod that is gone come back later than its slots of servers."""


class Blocked(NamedTuple):
    """What older leases may still block."""

    servers: bool
    """Slots of servers may be held by pods that did not report."""
    rates: bool
    """Units per minute may be."""
    unheard: int
    """Pods that may still hold their floor."""


@dataclass(slots=True)
class Takeover:
    """Times are the leader's seconds."""

    awaited: dict[str, float]
    """Until when each pod may hold an older lease unless it reports that."""
    over: bool = False
    """Nobody is awaited any more."""
    reported: dict[EndpointUrl, int] = field(default_factory=dict)
    """Slots that were held when their sidecars first reported."""

    @staticmethod
    def of(may_hold: Collection[str] | None) -> Takeover:
        """`may_hold`: UIDs of pods that may hold an older leader's lease; None: unknown."""
        return Takeover(dict.fromkeys(may_hold, math.inf) if may_hold is not None else {"": math.inf})

    def welcome(self, kept: Mapping[EndpointUrl, int]) -> None:
        """A sidecar reported for the first time that it keeps these slots."""
        for endpoint, slots in kept.items():
            self.reported[endpoint] = self.reported.get(endpoint, 0) + slots

    def settle(self, uid: str, now: float) -> None:
        """A pod reported (an earlier start of it may have ended just now) or is gone."""
        if uid in self.awaited:
            self.awaited[uid] = min(self.awaited[uid], now + UPSTREAM_NOTICES)

    def unheard(self, now: float) -> int:
        """Return the pods that may still hold an older lease."""
        if self.over:
            return 0
        count = sum(now < until for until in self.awaited.values())
        self.over = count == 0 and all(now >= until + RATE_NOTICE for until in self.awaited.values())
        return count

    def live(
        self, published: Mapping[EndpointUrl, int], blocked: Blocked, floor: float
    ) -> dict[EndpointUrl, int]:
        """Return how many slots of each endpoint may be held. `floor`: the most that outlasts a lease."""
        if "" in self.awaited and floor:
            floor = math.inf  # of nobody knows how many pods
        live: dict[EndpointUrl, int] = {}
        for endpoint, slots in published.items():
            rate = counts_rate(endpoint)
            beyond = float(slots)
            if blocked.rates if rate else blocked.servers:
                beyond = 0.0
            elif blocked.unheard:
                beyond -= blocked.unheard * floor
            live[endpoint] = int(max(beyond, min(slots, self.reported.get(endpoint, 0))))
        return live
