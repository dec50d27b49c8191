"""What a RoutingPolicy declares, as typed values. Made by `manifests`; read by operator and sidecar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from modelfleet_core.values import NanoUsd, ObjectKey, TierName


class Period(Enum):
    """Length of a budget's period; periods start on the hour, day, Monday or first of the month in UTC."""

    HOUR = "Hour"
    DAY = "Day"
    WEEK = "Week"
    MONTH = "Month"


@dataclass(frozen=True, slots=True)
class PodSelector:
    """Labels that a pod must carry; an empty selector selects every pod of the namespace."""

    match_labels: Mapping[str, str]

    def selects(self, labels: Mapping[str, str]) -> bool:
        return all(labels.get(key) == value for key, value in self.match_labels.items())


@dataclass(frozen=True, slots=True)
class Batching:
    """The longest window: it stays shut while nothing binds and closes early when full."""

    max_size: int
    max_wait: float


@dataclass(frozen=True, slots=True)
class Budget:
    """A hard limit of spend per period: the upper bound of a request is reserved before it is sent."""

    limit: NanoUsd
    period: Period


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one request."""

    max_output_tokens: int
    max_request: float
    """Seconds; the longest allowed request, all attempts."""
    max_body: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class Tier:
    """Requests of one importance. `match_headers` (lower-case names) must all be present and equal."""

    name: TierName
    weight: float
    match_headers: Mapping[str, str]

    def matches(self, headers: Mapping[str, str]) -> bool:
        return all(headers.get(name) == value for name, value in self.match_headers.items())


@dataclass(frozen=True, slots=True)
class Policy:
    """How the requests of the selected pods are routed over one fleet."""

    key: ObjectKey
    fleet: ObjectKey
    pod_selector: PodSelector
    batching: Batching
    budget: Budget | None
    """None: spend is accounted but not limited."""
    limits: Limits
    tiers: tuple[Tier, ...]
    """First match wins; the last one matches everything."""
    shed_penalty: float
    """Quality lost by not answering, per unit of weight."""

    def tier_of(self, headers: Mapping[str, str]) -> Tier:
        """Return the first tier that matches `headers` (lower-case names)."""
        return next((tier for tier in self.tiers if tier.matches(headers)), self.tiers[-1])
