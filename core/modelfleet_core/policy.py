"""What a RoutingPolicy declares, as typed values. Made by `manifests`; read by operator and sidecar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum

from modelfleet_core.values import ModelName, NanoUsd, ObjectKey, TierName


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
class Share:
    """The most of a budget that some models together may spend."""

    models: frozenset[ModelName]
    fraction: Decimal
    """Of the period's limit, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Budget:
    """A hard limit of spend per period: the upper bound of a request is reserved before it is sent."""

    limit: NanoUsd
    period: Period
    shares: tuple[Share, ...] = ()


@dataclass(frozen=True, slots=True)
class Quota:
    """The most requests (attempts) that some models together may be sent per period."""

    models: frozenset[ModelName]
    requests: int
    period: Period


@dataclass(frozen=True, slots=True)
class Tenant:
    """A caller of its own: requests whose tenant header has the value `name`."""

    name: str
    fraction: Decimal
    """Of the budget's limit per period that it may spend, 0 to 1."""


@dataclass(frozen=True, slots=True)
class Tenants:
    """Callers told apart by the header `header` (lower-case name); others share what is left."""

    header: str
    declared: tuple[Tenant, ...]


class Stale(Enum):
    """What a sidecar may use after its lease ended because no operator renewed it."""

    FLOOR = "Floor"
    """The floor of each tier that declares one."""
    HOLD = "Hold"
    """All that it leased last."""
    REJECT = "Reject"
    """Nothing."""


@dataclass(frozen=True, slots=True)
class Staleness:
    max_age: float = 30.0
    """Seconds for which a lease lasts after the report that it answers."""
    then: Stale = Stale.FLOOR


class RetryOn(Enum):
    """Why a request may be tried again elsewhere; all before the first byte of an answer was passed on."""

    CONNECT = "Connect"
    """The connection was refused, or lost."""
    TIMEOUT = "Timeout"
    """No connection came about in time."""
    RATE_LIMITED = "RateLimited"
    """Status 429."""
    SERVER_ERROR = "ServerError"
    """Status 5xx, or an answer that says so or makes no sense."""


@dataclass(frozen=True, slots=True)
class Fallback:
    """When a request that failed at one endpoint is tried at another."""

    max_attempts: int = 3
    """In all; 1: never tried again."""
    retry_on: frozenset[RetryOn] = frozenset(RetryOn)


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
    floor: int = 0
    """Slots of each sidecar that requests of this tier may use after its lease ended."""

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
    staleness: Staleness = Staleness()
    quotas: tuple[Quota, ...] = ()
    tenants: Tenants | None = None
    fallback: Fallback = Fallback()

    def floor(self, leased: int) -> int:
        """Return how many of `leased` slots of one sidecar do not end with its lease."""
        match self.staleness.then:
            case Stale.HOLD:
                return leased
            case Stale.REJECT:
                return 0
            case Stale.FLOOR:
                return min(leased, sum(tier.floor for tier in self.tiers))

    def tier_of(self, headers: Mapping[str, str]) -> Tier:
        """Return the first tier that matches `headers` (lower-case names)."""
        return next((tier for tier in self.tiers if tier.matches(headers)), self.tiers[-1])

    def tenant_of(self, headers: Mapping[str, str]) -> str | None:
        """Return the declared tenant that `headers` (lower-case names) name; None: none of them."""
        if self.tenants is None:
            return None
        named = headers.get(self.tenants.header)
        return next((tenant.name for tenant in self.tenants.declared if tenant.name == named), None)
