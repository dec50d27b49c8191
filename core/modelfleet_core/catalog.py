"""What a ModelFleet declares, as typed values. Made by `manifests`; read by every later stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from modelfleet_core.values import EndpointUrl, ModelName, NanoUsd, ObjectKey, PoolName, TaskName, VariantKey

FEMTO_PER_NANO = 1_000_000
USUAL_CAPABILITIES = frozenset({"chat", "tools", "json", "completions"})
"""Of models that declare none."""
TEMPLATE_TOKENS = 96
"""Tokens that a chat template may put before a conversation where nothing else is declared: a default system
text, the date."""
MAX_TEMPLATE_TOKENS = 1_000_000


@dataclass(frozen=True, slots=True)
class Pricing:
    """Price of tokens in femto-USD per token (1 USD per million tokens = 10^9), so that costs are exact."""

    input_femto: int
    output_femto: int
    cached_femto: int | None = None
    """Of input that the server found in its prompt cache, at most `input_femto`; None: no cheaper."""

    def cost(self, input_tokens: int, output_tokens: int, cached_tokens: int = 0) -> NanoUsd:
        """Return the cost of a request, rounded up to a whole nano-USD; of its input `cached_tokens` were
        cached."""
        femto = input_tokens * self.input_femto + output_tokens * self.output_femto
        if self.cached_femto is not None:
            femto -= min(cached_tokens, input_tokens) * (self.input_femto - self.cached_femto)
        return NanoUsd(-(-femto // FEMTO_PER_NANO))


@dataclass(frozen=True, slots=True)
class Quality:
    """What the manifest says of a model's quality: a prior and, where known, its mean by task."""

    prior: float
    by_task: Mapping[TaskName, float]

    def of(self, task: TaskName | None) -> float:
        """Return the quality expected for `task` (None: not known)."""
        return self.by_task.get(task, self.prior) if task is not None else self.prior


@dataclass(frozen=True, slots=True)
class Latency:
    """Service time of one request on an uncrowded server, in seconds."""

    time_to_first_token: float
    per_output_token: float

    def service_time(self, output_tokens: float) -> float:
        return self.time_to_first_token + self.per_output_token * output_tokens


@dataclass(frozen=True, slots=True)
class Pool:
    """GPUs of one type that the fleet may use."""

    name: PoolName
    resource: str
    node_selector: Mapping[str, str]
    limit: int
    hourly_cost: float
    """USD per GPU and hour."""


@dataclass(frozen=True, slots=True)
class ScaleTarget:
    """The workload whose `/scale` the operator patches."""

    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class ServicePort:
    """The Service whose EndpointSlices name a variant's pods; `port` is a port's name or number."""

    name: str
    port: str
    scheme: str

    def host(self, namespace: str) -> str:
        """Return the name by which pods of a cluster find it."""
        return f"{self.name}.{namespace}.svc"


@dataclass(frozen=True, slots=True)
class Replicas:
    min: int
    max: int


@dataclass(frozen=True, slots=True)
class PoolPlacement:
    """A variant that runs on a pool of the cluster."""

    pool: PoolName
    gpus: int
    """Per replica."""
    target: ScaleTarget
    service: ServicePort
    replicas: Replicas
    startup: float
    """Seconds from scale-up to ready."""


@dataclass(frozen=True, slots=True)
class SecretKey:
    """One key of a Secret in the fleet's namespace: where an API key is, never the key itself."""

    name: str
    key: str

    def __str__(self) -> str:
        return f"{self.name}/{self.key}"


@dataclass(frozen=True, slots=True)
class ExternalPlacement:
    """A variant that is an endpoint elsewhere."""

    url: EndpointUrl
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    """Input and output tokens; None: not limited."""
    api_key: SecretKey | None = None
    """Of the bearer token that is sent along; None: none is."""


@dataclass(frozen=True, slots=True)
class Variant:
    """One model on one accelerator type, or at one external endpoint."""

    key: VariantKey
    placement: PoolPlacement | ExternalPlacement
    concurrency: int
    """Slots per ready replica; of an external endpoint, requests in flight in all."""
    latency: Latency


@dataclass(frozen=True, slots=True)
class RequestMapping:
    """What one model needs to have changed in a request before it is sent."""

    system_prompt: str = ""
    """Put before the conversation as (the beginning of) its system message."""
    rename: Mapping[str, str] = field(default_factory=dict)
    """Fields by the name that the server takes instead, such as max_tokens: max_completion_tokens."""
    remove: frozenset[str] = frozenset()
    """Fields that it does not take."""
    defaults: Mapping[str, object] = field(default_factory=dict)
    """Fields that are set where the caller left them out."""


@dataclass(frozen=True, slots=True)
class Model:
    name: ModelName
    served_name: str
    quality: Quality
    context_tokens: int | None
    pricing: Pricing
    variants: tuple[Variant, ...]
    capabilities: frozenset[str] | None = None
    """What it can do (`chat`, `tools`, `json`, `vision`, `completions`, `embeddings`, `responses`); None:
    not declared, so whatever chat models commonly can (chat, tools, json, completions)."""
    image_tokens: int | None = None
    """The most input tokens that it counts for one image; None: not known."""
    template_tokens: int = TEMPLATE_TOKENS
    """The most input tokens that its chat template adds to a conversation, besides those for tools."""
    request: RequestMapping = RequestMapping()

    def lacks(self, needs: frozenset[str], *, pinned: bool) -> str:
        """Return the first capability, by name, of `needs` that it has not; empty: it has them all.

        Of a model that declares none, whoever names it (`pinned`) may know better.
        """
        can = self.capabilities
        if can is None:
            if pinned:
                return ""
            can = USUAL_CAPABILITIES
        return "" if needs <= can else min(needs - can)


@dataclass(frozen=True, slots=True)
class Scaling:
    """The rhythm of allocation, in seconds."""

    interval: float
    scale_down_stabilization: float
    solve_timeout: float
    scale_up_stabilization: float = 0.0
    minimum_gain: float = 0.005
    """Share of what the fleet is worth below which a plan that starts replicas is not taken."""


class Mode(Enum):
    ACTIVE = "Active"
    ADVISORY = "Advisory"
    """Plans are made and told, but nothing is scaled."""


@dataclass(frozen=True, slots=True)
class Fleet:
    """Models that share limits."""

    key: ObjectKey
    pools: tuple[Pool, ...]
    models: tuple[Model, ...]
    hourly_budget: float | None
    """USD per hour for GPUs plus forecast spend at external endpoints; None: no limit."""
    scaling: Scaling
    mode: Mode = Mode.ACTIVE

    def variants(self) -> tuple[Variant, ...]:
        """Return all variants in the order of the manifest."""
        return tuple(variant for model in self.models for variant in model.variants)

    def model(self, name: ModelName) -> Model | None:
        return next((model for model in self.models if model.name == name), None)

    def variant(self, key: VariantKey) -> Variant | None:
        return next((variant for variant in self.variants() if variant.key == key), None)
