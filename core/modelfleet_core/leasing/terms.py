"""Stage publish: the widest terms of leases: how long one lasts, how long a request, how much outlasts both.

In come policies; out go the terms that a leader granted under, which the operator stores with its leadership
and gives to the next leader. That one sees only the policies of now: a sidecar that is cut off since before
they were edited goes on by the terms that it was granted.

A leader grants at once by terms that were raised and stores them with its next renewal. A successor sees the
raised policy itself, so they are missed only if they are raised, granted and lowered again, and the leader
then ends, all before one renewal.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from modelfleet_core.policy import Policy, Stale


@dataclass(frozen=True, slots=True)
class Terms:
    """Seconds and slots, each the most that any lease was granted under."""

    lease: float = 0.0
    """Seconds for which a lease lasts."""
    request: float = 0.0
    """Seconds of the longest request."""
    floor: float = 0.0
    """Slots of one sidecar that outlast its lease; infinite: all of them."""

    @staticmethod
    def of(policies: Iterable[Policy]) -> Terms:
        """Return the widest terms of `policies`."""
        terms = Terms()
        for policy in policies:
            holds_all = policy.staleness.then is Stale.HOLD
            floor = math.inf if holds_all else policy.floor(sum(tier.floor for tier in policy.tiers))
            terms = terms.widened(Terms(policy.staleness.max_age, policy.limits.max_request, floor))
        return terms

    def widened(self, other: Terms) -> Terms:
        """Return terms of which both are part."""
        return Terms(
            max(self.lease, other.lease), max(self.request, other.request), max(self.floor, other.floor)
        )

    @property
    def outlast(self) -> float:
        """Seconds after which a sidecar that hears nothing uses no more than its floor."""
        return self.lease + self.request


NARROWEST = Terms()
"""Nothing that the policies of now do not say."""
UNKNOWN = Terms(lease=600.0, request=86_400.0, floor=math.inf)
"""What holds where nobody knows: the most that a RoutingPolicy may say."""


class TermsOfEpoch:
    """The widest terms by which a sidecar may go on: those of this epoch's policies, and inherited ones."""

    def __init__(self, ttl: float, inherited: Terms) -> None:
        """`ttl`: seconds for which a lease lasts where no policy says so."""
        self._granted = Terms(lease=ttl)
        self.widest = self._granted.widened(inherited)
        self._falls_back_at: float | None = None

    def grant_by(self, policies: Iterable[Policy]) -> None:
        """From now on grants may have the terms of these policies too."""
        self._granted = self._granted.widened(Terms.of(policies))
        self.widest = self.widest.widened(self._granted)

    @property
    def inherits(self) -> bool:
        """Whether inherited terms are wider than this epoch's."""
        return self.widest != self._granted

    def fall_back(self, now: float, *, replaced: bool) -> None:
        """Drop the inherited terms once older requests are over too. `replaced`: every older lease was, by
        one of this epoch, or is over."""
        if self._falls_back_at is not None:
            if now >= self._falls_back_at:
                self.widest = self._granted
        elif replaced:
            self._falls_back_at = now + self.widest.outlast
