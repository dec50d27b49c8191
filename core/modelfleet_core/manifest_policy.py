"""Stage spec: a RoutingPolicy manifest becomes a `Policy`, or one `SpecError`.

In: the fields of a manifest. Out: typed values. `manifests` does the same for fleets and is what callers use.
"""

from __future__ import annotations

import re
from collections import Counter

from modelfleet_core.errors import SpecError
from modelfleet_core.manifest_fallback import read_fallback
from modelfleet_core.manifest_fields import (
    MAX_MONEY,
    MODEL_NAME,
    MODEL_RULE,
    OBJECT_NAME,
    OBJECT_RULE,
    Fields,
    key_of,
    unique,
)
from modelfleet_core.manifest_learning import read_estimator, read_judge, read_learning
from modelfleet_core.manifest_models import read_aliases, read_choice
from modelfleet_core.manifest_rules import read_default_model, read_groups, read_rules
from modelfleet_core.policy import (
    Batching,
    Budget,
    Limits,
    Objectives,
    OnOverload,
    Period,
    PodSelector,
    Policy,
    Quota,
    Share,
    Stale,
    Staleness,
    Tenant,
    Tenants,
    Tier,
)
from modelfleet_core.values import ModelName, NanoUsd, ObjectKey, TierName, nano_usd

MAX_TIERS, MAX_SHARES, MAX_QUOTAS, MAX_TENANTS = 16, 8, 16, 64
MAX_NAMED_MODELS = 64
MAX_FLOOR = 1000
MAX_REQUESTS = 1_000_000_000

HEADER = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?")
TENANT = re.compile(r"[!-~]([ -~]*[!-~])?")


def read_policy(root: Fields) -> Policy:
    key = key_of(root)
    spec = root.child("spec")
    fleet = spec.child("fleetRef").text("name", pattern=OBJECT_NAME, rule=OBJECT_RULE)
    batching = spec.child("batching")
    limits = spec.child("limits")
    staleness = _staleness(spec.child("staleness"))
    budget = _budget(spec)
    learning = read_learning(spec.child("learning"))
    return Policy(
        key=key,
        fleet=ObjectKey(key.namespace, fleet),
        pod_selector=PodSelector(spec.child("podSelector").texts("matchLabels")),
        batching=Batching(
            max_size=batching.integer("maxSize", least=1, most=1024, default=64),
            max_wait=batching.duration("maxWait", default="20ms", most="5s"),
        ),
        budget=budget,
        limits=Limits(
            max_output_tokens=limits.integer("maxOutputTokens", least=1, most=1_000_000, default=4096),
            max_request=limits.duration("maxRequest", default="10m", least="100ms", most="24h"),
            max_body=limits.bytes("maxBody", least=1024, most=256 << 20, default="16Mi"),
        ),
        tiers=_tiers(spec, staleness),
        shed_penalty=float(spec.decimal("shedPenalty", most=1000, default="0.5")),
        staleness=staleness,
        quotas=_quotas(spec),
        tenants=_tenants(spec, budget),
        fallback=read_fallback(spec.child("fallback")),
        rules=read_rules(spec),
        default_model=read_default_model(spec),
        groups=read_groups(spec),
        models=read_choice(spec),
        aliases=read_aliases(spec),
        estimator=read_estimator(spec.child("estimator")),
        learning=learning,
        judge=read_judge(spec, learning),
    )


def _staleness(fields: Fields) -> Staleness:
    return Staleness(
        max_age=fields.duration("maxAge", default="30s", least="5s", most="10m"),
        then=Stale(fields.choice("then", (then.value for then in Stale), Stale.FLOOR.value)),
    )


def _budget(spec: Fields) -> Budget | None:
    if not spec.has("budget"):
        spec.child("budget")
        return None
    budget = spec.child("budget")
    budget.choice("enforcement", ("Hard",), "Hard")
    shares = tuple(
        Share(_models(fields), fields.fraction("max"))
        for fields in budget.children("shares", most=MAX_SHARES)
    )
    if any(count > 1 for count in Counter(share.models for share in shares).values()):
        remedy = "keep the lower one"
        raise SpecError(budget.at("shares"), "two shares are for the same models", remedy)
    return Budget(
        limit=NanoUsd(nano_usd(budget.decimal("limit", most=MAX_MONEY))),
        period=_period(budget),
        shares=shares,
    )


def _period(fields: Fields) -> Period:
    return Period(fields.choice("period", (period.value for period in Period), Period.DAY.value))


def _models(fields: Fields) -> frozenset[ModelName]:
    names = fields.names("models", pattern=MODEL_NAME, rule=MODEL_RULE, most=MAX_NAMED_MODELS, longest=128)
    return frozenset(ModelName(name) for name in names)


def _quotas(spec: Fields) -> tuple[Quota, ...]:
    quotas = tuple(
        Quota(
            models=_models(fields),
            requests=fields.integer("requests", least=0, most=MAX_REQUESTS),
            period=_period(fields),
        )
        for fields in spec.children("quotas", most=MAX_QUOTAS)
    )
    if any(count > 1 for count in Counter((quota.models, quota.period) for quota in quotas).values()):
        problem, remedy = "two quotas are for the same models and period", "keep the lower one"
        raise SpecError(spec.at("quotas"), problem, remedy)
    return quotas


def _tenants(spec: Fields, budget: Budget | None) -> Tenants | None:
    if not spec.has("tenants"):
        spec.child("tenants")
        return None
    fields = spec.child("tenants")
    header = fields.text("header", pattern=HEADER, rule="the name of a header such as x-tenant", longest=128)
    fair = fields.boolean("fairShare", default=True)
    # Absent is none; a list that is there is no empty one.
    listed = fields.children("declared", least=1 if fields.has("declared") else 0, most=MAX_TENANTS)
    if listed and budget is None:
        problem, remedy = "is set although there is no budget to take a part of", "set budget or remove it"
        raise SpecError(fields.at("declared"), problem, remedy)
    if not listed and not fair:
        problem, remedy = "says nothing with fairShare false and no declared", "declare tenants or remove it"
        raise SpecError(fields.path, problem, remedy)
    declared = tuple(
        Tenant(
            name=child.text(
                "name",
                pattern=TENANT,
                rule="the header's value, printable without blanks around it",
                longest=128,
            ),
            fraction=child.fraction("max"),
        )
        for child in listed
    )
    unique(fields.at("declared"), "tenant", (tenant.name for tenant in declared))
    return Tenants(header.lower(), declared, fair)


def _tiers(spec: Fields, staleness: Staleness) -> tuple[Tier, ...]:
    declared = spec.children("tiers", most=MAX_TIERS)
    tiers = tuple(_tier(fields) for fields in declared) or (Tier(TierName("default"), 1.0, {}),)
    unique("spec.tiers", "tier", (tier.name for tier in tiers))
    for index, tier in enumerate(tiers):
        if index + 1 < len(tiers) and not tier.match_headers:
            problem = "matches everything, so that the tiers below it are never reached"
            raise SpecError(f"spec.tiers[{index}]", problem, "give it a match or make it the last")
        if tier.floor and staleness.then is not Stale.FLOOR:
            problem = f"is set although staleness.then is {staleness.then.value}"
            raise SpecError(f"spec.tiers[{index}].floor", problem, "remove it or set staleness.then to Floor")
    if tiers[-1].match_headers:
        raise SpecError(
            f"spec.tiers[{len(tiers) - 1}].match",
            "is set on the last tier, so that a request may match none",
            "remove it or add a last tier without match",
        )
    return tiers


def _tier(fields: Fields) -> Tier:
    headers = fields.child("match").texts("header", most=8)
    unique(fields.at("match.header"), "header", (name.lower() for name in headers))
    return Tier(
        name=TierName(fields.text("name", pattern=OBJECT_NAME, rule=OBJECT_RULE, longest=63)),
        weight=float(fields.decimal("weight", most=1_000_000, default="1", positive=True)),
        match_headers={name.lower(): value for name, value in headers.items()},
        floor=fields.integer("floor", least=0, most=MAX_FLOOR, default=0),
        minimum_quality=float(fields.decimal("minimumQuality", most=1, default="0")),
        latency=_objectives(fields.child("latency")),
        on_overload=OnOverload(
            fields.choice("onOverload", (what.value for what in OnOverload), OnOverload.QUEUE.value)
        ),
        models=read_choice(fields),
    )


def _objectives(fields: Fields) -> Objectives:
    first, total = (
        fields.duration(name, least="1ms", most="24h") if fields.has(name) else None
        for name in ("timeToFirstToken", "total")
    )
    if first is not None and total is not None and first > total:
        problem, remedy = f"is {first:g} s, above total {total:g} s", "lower it or raise total"
        raise SpecError(fields.at("timeToFirstToken"), problem, remedy)
    return Objectives(first, total)
