"""Stage batch, its question: one request that wants a place, and what each variant would make of it.

In: estimates of a request, from the sidecar's `prospect` or a simulation. Out: a `Candidate`. Next: `queue`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import field
from types import MappingProxyType

from modelfleet_core.records import record
from modelfleet_core.values import AccountName, EndpointUrl, NanoUsd, TierName, VariantKey, base_url

SETTLED_BY = 10.0
"""Seconds after its deadline by which a forwarded request has long been settled: the net below that."""
SHED_AFTER = 0.1
"""Seconds that a request which is not to queue waits: what the leader needs to lend a slot that is free."""


_NO_CHARGES: Mapping[AccountName, int] = MappingProxyType({})
_NO_RATES: Mapping[EndpointUrl, int] = MappingProxyType({})


@record
class Candidate:
    """One request over the m variants of its fleet, in the fleet's order. Times are on one clock."""

    variants: tuple[VariantKey, ...]
    tier: TierName
    weight: float
    shed_penalty: float
    """Weighted quality lost by not answering."""
    arrived: float
    deadline: float
    longest: float
    """Seconds that the policy gives any request."""
    quality: tuple[float, ...]
    """(m,) in [0, 1]."""
    cost: tuple[float, ...]
    """(m,) expected USD."""
    service_time: tuple[float, ...]
    """(m,) seconds that it holds a slot."""
    reserve: tuple[NanoUsd, ...]
    """(m,) upper bound of its cost."""
    excluded_by: tuple[str, ...]
    """(m,) why the variant can never serve this request; empty: it could. At least one could."""
    routed: bool = False
    """Its caller asks the model, in time of its own, and settles later."""
    charges: tuple[Mapping[AccountName, int], ...] = ()
    """(m,) what each variant charges which accounts (`leasing.accounts.charges`); empty: none anywhere."""
    rates: tuple[Mapping[EndpointUrl, int], ...] = ()
    """(m,) units of limits by the minute (`leasing.rates.rate_uses`); empty: none anywhere."""
    lean: tuple[float, ...] = ()
    """(m,) added to quality where variants are compared: what the policy prefers; empty: nothing."""
    avoided: frozenset[EndpointUrl] = frozenset()
    """Endpoints, or base URLs for all endpoints there, that have failed this request: it goes elsewhere."""
    caller: str = ""
    """Among callers slots are shared fairly."""
    sheds: bool = False
    """It does not queue: without a place it is refused `SHED_AFTER` it arrived."""
    within: float = math.inf
    """Seconds since it arrived in which it should be answered: variants that are expected to take longer are
    out of the question while another is not."""
    preferred: EndpointUrl | None = None
    """Where its prompt is cached: of its variant's endpoints it goes there, if a slot is free."""
    compared: tuple[float, ...] = field(init=False)
    """(m,) quality with `lean`: what variants are chosen by, while `quality` is what is told."""
    possible: tuple[int, ...] = field(init=False)
    """Variants that are not excluded, in order."""
    latest_start: float = field(init=False)
    """When even the fastest variant would come too late, or it has waited as long as it may."""

    def __post_init__(self) -> None:
        possible = tuple([j for j, why in enumerate(self.excluded_by) if not why])
        fastest = 0.0
        if not self.routed:  # else it is enough to be placed by the deadline
            fastest = min([self.service_time[j] for j in possible], default=0.0)
        compared = self.quality
        if self.lean:
            compared = tuple([gain + more for gain, more in zip(self.quality, self.lean, strict=True)])
        object.__setattr__(self, "compared", compared)
        object.__setattr__(self, "possible", possible)
        latest = self.deadline - fastest
        if self.sheds:
            latest = min(latest, self.arrived + SHED_AFTER)
        object.__setattr__(self, "latest_start", latest)

    def avoids(self, endpoint: EndpointUrl) -> bool:
        """Return whether `endpoint` has failed this request before."""
        return endpoint in self.avoided or base_url(endpoint) in self.avoided

    def held_until(self, now: float) -> float:
        """Return when a reservation made now is given up by itself."""
        return now + self.longest if self.routed else self.deadline + SETTLED_BY

    def charged(self, j: int) -> Mapping[AccountName, int]:
        """Return what variant `j` reserves in which accounts."""
        return self.charges[j] if self.charges else _NO_CHARGES

    def rated(self, j: int) -> Mapping[EndpointUrl, int]:
        """Return the units of limits by the minute that variant `j` takes."""
        return self.rates[j] if self.rates else _NO_RATES
