"""Stage spec: a ModelFleet or RoutingPolicy manifest becomes typed values, or one `SpecError`.

In: a manifest as JSON or YAML gives it. Out: `Fleet`, `Policy`, or the `Document` that carries a manifest to
the sidecars, which parse it with these same functions. Next: `allocation` and `division` (operator),
`estimation` and `assignment` (sidecar). The CRDs refuse the same mistakes when a manifest is applied; here
they are checked again, because not every manifest passes an API server.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from urllib.parse import urlsplit

from modelfleet_core.catalog import (
    ExternalPlacement,
    Fleet,
    Latency,
    Mode,
    Model,
    Pool,
    PoolPlacement,
    Pricing,
    Quality,
    Replicas,
    ScaleTarget,
    Scaling,
    SecretKey,
    ServicePort,
    Variant,
)
from modelfleet_core.errors import SpecError
from modelfleet_core.leasing.messages import Document
from modelfleet_core.manifest_fields import (
    MAX_MONEY,
    MODEL_NAME,
    MODEL_RULE,
    OBJECT_NAME,
    OBJECT_RULE,
    Fields,
    key_of,
    parse_duration,
    shown,
    unique,
)
from modelfleet_core.manifest_policy import read_policy
from modelfleet_core.manifest_request import (
    read_capabilities,
    read_image_tokens,
    read_request,
    read_template_tokens,
)
from modelfleet_core.policy import ROUTED, Policy
from modelfleet_core.values import (
    EndpointUrl,
    ModelName,
    PoolName,
    TaskName,
    VariantKey,
)

__all__ = [
    "document",
    "parse_duration",
    "parse_fleet",
    "parse_policy",
    "read_fleet",
    "read_policy",
    "unknown_fields",
]

MAX_POOLS, MAX_MODELS, MAX_VARIANTS = 32, 64, 8
MAX_PER_MINUTE = 1_000_000_000
MAX_DOCUMENT_BYTES = 1 << 20
MAX_DEPTH = 24
FEMTO_PER_USD_AND_MILLION = 1_000_000_000

RESOURCE = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9._/]*[A-Za-z0-9])?")
SECRET_KEY = re.compile(r"[-_A-Za-z0-9][-._A-Za-z0-9]*")
SERVED_NAME = re.compile(r"\S(.*\S)?")
URL = re.compile(r"https?://\S+")


def parse_fleet(manifest: Mapping[str, object]) -> Fleet:
    """Return the fleet that `manifest` declares; raises `SpecError`."""
    return read_fleet(Fields(manifest, ""))


def parse_policy(manifest: Mapping[str, object]) -> Policy:
    """Return the policy that `manifest` declares; raises `SpecError`."""
    return read_policy(Fields(manifest, ""))


def unknown_fields(root: Fields) -> tuple[str, ...]:
    """Return the fields of a manifest that was read and that no one knows, such as misspelt ones."""
    return tuple(path for path in root.unread() if path.startswith("spec."))


def document(manifest: Mapping[str, object]) -> Document:
    """Return what sidecars need of `manifest` as canonical JSON, with its SHA-256 as version."""
    root = Fields(manifest, "")
    key = key_of(root)
    spec = manifest.get("spec")
    _bound_depth(spec)
    content = {
        "apiVersion": str(manifest.get("apiVersion", "")),
        "kind": str(manifest.get("kind", "")),
        "metadata": {"name": key.name, "namespace": key.namespace},
        "spec": spec,
    }
    try:
        text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
    except (TypeError, ValueError) as error:
        raise SpecError(
            "spec", f"is not JSON ({error})", "write texts, numbers, lists and objects"
        ) from error
    if len(text) > MAX_DOCUMENT_BYTES:
        raise SpecError("spec", f"is {len(text)} bytes long", f"keep it below {MAX_DOCUMENT_BYTES} bytes")
    return Document(hashlib.sha256(text).hexdigest(), text)


def read_fleet(root: Fields) -> Fleet:
    key = key_of(root)
    spec = root.child("spec")
    pools = tuple(_pool(fields) for fields in spec.children("pools", most=MAX_POOLS))
    unique("spec.pools", "pool", (pool.name for pool in pools))
    by_name = {pool.name: pool for pool in pools}
    models = tuple(_model(fields, by_name) for fields in spec.children("models", least=1, most=MAX_MODELS))
    unique("spec.models", "model", (model.name for model in models))
    budget = spec.child("budget")
    hourly = budget.decimal("hourly", most=MAX_MONEY) if budget.has("hourly") else None
    fleet = Fleet(
        key=key,
        pools=pools,
        models=models,
        hourly_budget=None if hourly is None else float(hourly),
        scaling=_scaling(spec.child("scaling")),
        mode=Mode(spec.choice("mode", [mode.value for mode in Mode], Mode.ACTIVE.value)),
    )
    _one_owner_each(fleet)
    _minimum_fits(fleet)
    return fleet


def _pool(fields: Fields) -> Pool:
    return Pool(
        name=PoolName(fields.text("name", pattern=OBJECT_NAME, rule=OBJECT_RULE, longest=63)),
        resource=fields.text(
            "resource", pattern=RESOURCE, rule="the extended resource of a node", default="nvidia.com/gpu"
        ),
        node_selector=fields.texts("nodeSelector"),
        limit=fields.integer("limit", least=0, most=100_000),
        hourly_cost=float(fields.decimal("hourlyCost", most=MAX_MONEY)),
    )


def _model(fields: Fields, pools: Mapping[PoolName, Pool]) -> Model:
    name = fields.text("name", pattern=MODEL_NAME, rule=MODEL_RULE, longest=128)
    if name == ROUTED:
        raise SpecError(
            fields.at("name"), '"auto" is refused', "choose another: clients write auto to be routed"
        )
    variants = tuple(
        _variant(item, ModelName(name), pools)
        for item in fields.children("variants", least=1, most=MAX_VARIANTS)
    )
    unique(fields.at("variants"), "variant", (variant.key.variant for variant in variants))
    external = any(isinstance(variant.placement, ExternalPlacement) for variant in variants)
    if external and not fields.has("pricing"):
        remedy = "set inputPerMTok and outputPerMTok (0 if it is free): budgets count them"
        raise SpecError(fields.at("pricing"), "is missing although a variant is external", remedy)
    quality = fields.child("quality")
    context = fields.has("contextTokens")
    return Model(
        name=ModelName(name),
        served_name=fields.text(
            "servedName",
            pattern=SERVED_NAME,
            rule="the name that the server knows",
            default=name,
            longest=256,
        ),
        quality=Quality(
            prior=float(quality.decimal("prior", most=1, default="0.5")),
            by_task={
                TaskName(task): float(value) for task, value in quality.decimals("byTask", most=1).items()
            },
        ),
        context_tokens=fields.integer("contextTokens", least=1, most=100_000_000) if context else None,
        pricing=_pricing(fields.child("pricing")) if fields.has("pricing") else Pricing(0, 0),
        variants=variants,
        capabilities=read_capabilities(fields),
        image_tokens=read_image_tokens(fields),
        template_tokens=read_template_tokens(fields),
        request=read_request(fields),
    )


def _pricing(fields: Fields) -> Pricing:
    def femto(name: str) -> int:
        return int(fields.decimal(name, most=1_000_000) * FEMTO_PER_USD_AND_MILLION)

    whole = femto("inputPerMTok")
    cached = femto("cachedInputPerMTok") if fields.has("cachedInputPerMTok") else None
    if cached is not None and cached > whole:
        problem, remedy = "is above inputPerMTok", "lower it: what is cached is not dearer"
        raise SpecError(fields.at("cachedInputPerMTok"), problem, remedy)
    return Pricing(input_femto=whole, output_femto=femto("outputPerMTok"), cached_femto=cached)


def _variant(fields: Fields, model: ModelName, pools: Mapping[PoolName, Pool]) -> Variant:
    name = fields.text("name", pattern=OBJECT_NAME, rule=OBJECT_RULE, longest=63)
    if fields.has("external") == fields.has("scaleTargetRef"):
        problem = "has both" if fields.has("external") else "has neither"
        remedy = "set exactly one of scaleTargetRef (a workload here) and external (an endpoint elsewhere)"
        raise SpecError(fields.path, f"{problem} of scaleTargetRef and external", remedy)
    limits = fields.child("limits")
    placement = _external(fields, limits) if fields.has("external") else _placement(fields, pools)
    latency = fields.child("latency")
    return Variant(
        key=VariantKey(model, name),
        placement=placement,
        concurrency=_concurrency(fields, limits),
        latency=Latency(
            time_to_first_token=latency.duration("timeToFirstToken", default="500ms", most="1h"),
            per_output_token=latency.duration("perOutputToken", default="20ms", least="0.001ms", most="1m"),
        ),
    )


def _concurrency(fields: Fields, limits: Fields) -> int:
    declared = fields.has("concurrency"), limits.has("inFlight")
    if fields.has("limits") and not fields.has("external"):
        remedy = "remove it: a pool's variant has concurrency for each replica"
        raise SpecError(limits.path, "is set on a variant that is not external", remedy)
    if fields.has("external") and declared != (False, True) and declared != (True, False):
        problem = "has both" if all(declared) else "has neither"
        remedy = "set exactly one: for an external variant they are the same"
        raise SpecError(fields.path, f"{problem} of limits.inFlight and concurrency", remedy)
    if declared[1]:
        return limits.integer("inFlight", least=1, most=100_000)
    return fields.integer("concurrency", least=1, most=100_000)


def _external(fields: Fields, limits: Fields) -> ExternalPlacement:
    for name in ("pool", "gpus", "service", "replicas", "startup"):
        if fields.has(name):
            raise SpecError(
                fields.at(name), "is set on an external variant", "remove it or use scaleTargetRef"
            )
    external = fields.child("external")
    rule = "an http or https URL such as https://api.example.com/v1, without user, query and fragment"
    url = external.text("url", pattern=URL, rule=rule, longest=2048)
    try:
        parts = urlsplit(url)
        plain = bool(parts.hostname) and parts.port != 0
    except ValueError:
        plain = False
    if not plain or parts.username or parts.password or parts.query or parts.fragment:
        raise SpecError(external.at("url"), f"{shown(url)} is refused", f"write {rule}")
    return ExternalPlacement(
        url=EndpointUrl(url.rstrip("/").removesuffix("/v1")),
        requests_per_minute=_per_minute(limits, "requestsPerMinute", least=1),
        tokens_per_minute=_per_minute(limits, "tokensPerMinute", least=1000),
        api_key=_secret_key(external.child("apiKeySecretRef")) if external.has("apiKeySecretRef") else None,
    )


def _secret_key(fields: Fields) -> SecretKey:
    return SecretKey(
        name=fields.text("name", pattern=OBJECT_NAME, rule="the name of a Secret"),
        key=fields.text(
            "key", pattern=SECRET_KEY, rule="a key of the Secret: letters, digits, '-', '_' and '.'"
        ),
    )


def _per_minute(limits: Fields, name: str, *, least: int) -> int | None:
    return limits.integer(name, least=least, most=MAX_PER_MINUTE) if limits.has(name) else None


def _placement(fields: Fields, pools: Mapping[PoolName, Pool]) -> PoolPlacement:
    name = fields.text("pool", pattern=OBJECT_NAME, rule="the name of one of spec.pools", longest=63)
    pool = pools.get(PoolName(name))
    if pool is None:
        known = ", ".join(sorted(pools)) or "there is none"
        raise SpecError(fields.at("pool"), f"{shown(name)} is no pool", f"name one of spec.pools ({known})")
    gpus = fields.integer("gpus", least=1, most=1024)
    replicas = fields.child("replicas")
    fits = pool.limit // gpus
    most = replicas.integer("max", least=0, most=100_000, default=fits)
    least = replicas.integer("min", least=0, most=100_000, default=0)
    if least > most:
        problem = f"is {least}, more than max ({most})"
        raise SpecError(replicas.at("min"), problem, "lower min, raise max or raise the pool's limit")
    target = fields.child("scaleTargetRef")
    target.choice("apiVersion", ("apps/v1",), "apps/v1")
    service = fields.child("service")
    return PoolPlacement(
        pool=pool.name,
        gpus=gpus,
        target=ScaleTarget(
            kind=target.choice("kind", ("Deployment",), "Deployment"),
            name=target.text("name", pattern=OBJECT_NAME, rule=OBJECT_RULE),
        ),
        service=ServicePort(
            name=service.text("name", pattern=OBJECT_NAME, rule=OBJECT_RULE, longest=63),
            port=service.port("port"),
            scheme=service.choice("scheme", ("http", "https"), "http"),
        ),
        replicas=Replicas(least, most),
        startup=fields.duration("startup", default="2m", most="24h"),
    )


def _scaling(fields: Fields) -> Scaling:
    return Scaling(
        interval=fields.duration("interval", default="15s", least="1s", most="1h"),
        scale_down_stabilization=fields.duration("scaleDownStabilization", default="5m", most="24h"),
        solve_timeout=fields.duration("solveTimeout", default="5s", least="100ms", most="1m"),
        scale_up_stabilization=fields.duration("scaleUpStabilization", default="0s", most="24h"),
        minimum_gain=float(fields.decimal("minimumGain", most=1, default="0.005")),
    )


def _one_owner_each(fleet: Fleet) -> None:
    """Refuse two variants that would scale one workload or count one server's slots twice."""
    owners: dict[tuple[str, str], VariantKey] = {}
    served_names = {variant.key: model.served_name for model in fleet.models for variant in model.variants}
    for variant in fleet.variants():
        placement = variant.placement
        if isinstance(placement, ExternalPlacement):
            claims: Sequence[tuple[str, str]] = [
                ("external url and servedName", f"{placement.url} {served_names[variant.key]}")
            ]
        else:
            claims = [("scaleTargetRef", placement.target.name), ("service", placement.service.name)]
        for claim in claims:
            other = owners.setdefault(claim, variant.key)
            if other != variant.key:
                problem = f"{other} and {variant.key} share the {claim[0]} {claim[1]}"
                raise SpecError("spec.models", problem, f"give each variant its own {claim[0]}")


def _minimum_fits(fleet: Fleet) -> None:
    """Refuse minimal replicas that break a pool's limit or the hourly budget: no plan could ever hold."""
    cost = Decimal(0)
    for pool in fleet.pools:
        used = sum(
            variant.placement.gpus * variant.placement.replicas.min
            for variant in fleet.variants()
            if isinstance(variant.placement, PoolPlacement) and variant.placement.pool == pool.name
        )
        cost += used * Decimal(str(pool.hourly_cost))
        if used > pool.limit:
            problem = f"minimal replicas need {used} GPUs of pool {pool.name}, whose limit is {pool.limit}"
            raise SpecError("spec.models", problem, "lower replicas.min or raise the pool's limit")
    if fleet.hourly_budget is not None and cost > Decimal(str(fleet.hourly_budget)):
        problem = f"minimal replicas cost {cost} USD an hour, the budget is {fleet.hourly_budget}"
        raise SpecError("spec.budget.hourly", problem, "lower replicas.min or raise the budget")


def _bound_depth(value: object) -> None:
    level: list[object] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for item in level
            if isinstance(item, Mapping | list)
            for child in (item.values() if isinstance(item, Mapping) else item)
        ]
        if not level:
            return
    raise SpecError(
        "spec", f"is nested more than {MAX_DEPTH} levels deep", "write only the documented fields"
    )
