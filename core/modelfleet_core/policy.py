"""What a RoutingPolicy declares, as typed values. Made by `manifests`; read by operator and sidecar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum

from modelfleet_core.values import ModelName, NanoUsd, ObjectKey, TaskName, TierName

NOTHING = NanoUsd(0)
LONGEST_CALLER = 128
"""Characters by which callers are told apart."""
ROUTED = "auto"
"""Asked for instead of a model: the sidecar chooses."""


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
    declared: tuple[Tenant, ...] = ()
    fair_share: bool = True
    """Whether a sidecar serves its tenants in turn, whoever sends most; False: first come, first served."""


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


@dataclass(frozen=True, slots=True)
class RuleMatch:
    """All that is set must hold; without anything it holds for every request."""

    any_keyword: tuple[str, ...] = ()
    """Words or phrases of which one must be in the text, whole and in any case."""
    all_keywords: tuple[str, ...] = ()
    regex: str = ""
    """RE2 syntax, found anywhere in the text."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Lower-case names, all present and equal."""
    min_tokens: int | None = None
    """Expected input tokens, inclusive."""
    max_tokens: int | None = None
    script: str = ""
    """Unicode script that most letters of the text are of, such as Han; empty: any."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What a policy says of the requests that it matches; the first rule that matches is the one."""

    name: str
    match: RuleMatch
    task: TaskName | None = None
    params: Mapping[str, object] = field(default_factory=dict)
    """Fields of the OpenAI request, set where the caller left them out."""
    allow: frozenset[ModelName] | None = None
    """None: all models."""
    deny: frozenset[ModelName] = frozenset()
    prefer: frozenset[ModelName] = frozenset()
    bonus: float = 0.0
    """Quality added to those of `prefer` when the models are compared."""


@dataclass(frozen=True, slots=True)
class EstimatorChoice:
    """Where estimates of quality come from and how far they are trusted."""

    ref: str | None = None
    """ConfigMap in the policy's namespace with `estimator.npz`; None: the manifest's priors."""
    min_confidence: float = 0.0
    """Below it the matching rule's models, else `Policy.default_model`, decide. 0: never."""
    kappa: float | None = None
    """Standard deviations taken off an estimate; None: as calibrated with the estimator."""


@dataclass(frozen=True, slots=True)
class Learning:
    enabled: bool = True
    exploration: float = 0.0
    """Share of requests, at most 5 %, that go to a model drawn among those worth nearly as much."""
    half_life: float = 604_800.0
    """Seconds after which evidence counts half."""


@dataclass(frozen=True, slots=True)
class Judge:
    """What scores a share of the answers: a model, paid from an account of its own, or a plug-in."""

    share: float
    """Of the requests that sidecars forward, 0 to 1."""
    model: ModelName | None = None
    """None: `plugin` scores."""
    limit: NanoUsd = NOTHING
    """Of what `model` may cost in each period; the budget is not charged."""
    period: Period = Period.DAY
    plugin: str = ""
    """Name of an entry point that is installed beside the sidecar; empty: `model` scores."""


@dataclass(frozen=True, slots=True)
class Groups:
    """An attribute of callers by which routing is compared; values that are not declared are one group."""

    header: str
    """Lower-case name."""
    values: tuple[str, ...]


class RetryOn(Enum):
    """Why a request may be tried again elsewhere; all before the first byte of an answer was passed on."""

    CONNECT = "Connect"
    """The connection was refused, or lost."""
    TIMEOUT = "Timeout"
    """No connection came about in time, or the answer exceeded one of `Timeouts`."""
    RATE_LIMITED = "RateLimited"
    """Status 429."""
    SERVER_ERROR = "ServerError"
    """Status 5xx, or an answer that says so or makes no sense."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Bounds of one attempt, in seconds; the request's own deadline holds besides."""

    connect: float = 2.0
    first_token: float = 30.0
    """Of a stream: until its first content."""
    between_tokens: float = 15.0
    """Of a stream: between two pieces."""
    min_tokens_per_second: float = 2.0
    """Of a stream after its first content, while the server is waited for; 0: not watched."""
    total: float = 300.0


@dataclass(frozen=True, slots=True)
class Breaker:
    """When a variant that fails is left alone."""

    failures: int = 5
    """So many, among the last twice as many attempts of a minute, open it."""
    open_for: float = 30.0
    """Seconds until one request probes it."""


@dataclass(frozen=True, slots=True)
class Fallback:
    """When a request that failed at one endpoint is tried at another."""

    max_attempts: int = 3
    """In all; 1: never tried again."""
    retry_on: frozenset[RetryOn] = frozenset(RetryOn)
    timeouts: Timeouts = Timeouts()
    breaker: Breaker = Breaker()


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of one request."""

    max_output_tokens: int
    max_request: float
    """Seconds; the longest allowed request, all attempts."""
    max_body: int
    """Bytes."""


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """Which models may be used."""

    allow: frozenset[ModelName] | None = None
    """None: all models."""
    deny: frozenset[ModelName] = frozenset()

    def permits(self, model: ModelName) -> bool:
        return (self.allow is None or model in self.allow) and model not in self.deny


EVERY_MODEL = ModelChoice()


class OnOverload(Enum):
    """What becomes of a request that finds no place."""

    QUEUE = "Queue"
    """It waits until its deadline."""
    SHED = "Shed"
    """It is refused at once, with advice when to come back."""


@dataclass(frozen=True, slots=True)
class Objectives:
    """What the answers of a tier should take at most, in seconds; models that are expected to take longer are
    left out while another is left."""

    time_to_first_token: float | None = None
    total: float | None = None


@dataclass(frozen=True, slots=True)
class Tier:
    """Requests of one importance. `match_headers` (lower-case names) must all be present and equal."""

    name: TierName
    weight: float
    match_headers: Mapping[str, str]
    floor: int = 0
    """Slots of each sidecar that requests of this tier may use after its lease ended."""
    minimum_quality: float = 0.0
    """Predicted quality below which a model is left out while another is left."""
    latency: Objectives = Objectives()
    on_overload: OnOverload = OnOverload.QUEUE
    models: ModelChoice = EVERY_MODEL

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
    rules: tuple[Rule, ...] = ()
    """First match decides."""
    default_model: ModelName | None = None
    """Answers where estimates are not trusted; None: they are always used."""
    estimator: EstimatorChoice = EstimatorChoice()
    learning: Learning = Learning()
    judge: Judge | None = None
    groups: Groups | None = None
    """None: tenants are the groups."""
    models: ModelChoice = EVERY_MODEL
    """What requests may use at all."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Names that clients may ask for, each with what it stands for: `auto` or a model."""

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

    def caller_of(self, headers: Mapping[str, str]) -> str:
        """Return what requests with `headers` (lower-case names) share fairly by; empty: nothing."""
        if self.tenants is None or not self.tenants.fair_share:
            return ""
        return headers.get(self.tenants.header, "")[:LONGEST_CALLER]

    def group_of(self, headers: Mapping[str, str]) -> str:
        """Return the group that `headers` (lower-case names) put a request into; empty: none declared."""
        if self.groups is None:
            return self.tenant_of(headers) or ""
        named = headers.get(self.groups.header, "")
        return named if named in self.groups.values else ""
