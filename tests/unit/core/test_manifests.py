"""A manifest becomes exactly what it says, or one error that names the field and the way out."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from decimal import Decimal

import pytest
from modelfleet_core.catalog import ExternalPlacement, PoolPlacement, SecretKey
from modelfleet_core.errors import SpecError
from modelfleet_core.manifest_fields import Fields
from modelfleet_core.manifests import (
    document,
    parse_duration,
    parse_fleet,
    parse_policy,
    read_fleet,
    read_policy,
    unknown_fields,
)
from modelfleet_core.policy import (
    EVERY_MODEL,
    Breaker,
    EstimatorChoice,
    Fallback,
    Judge,
    Learning,
    ModelChoice,
    Objectives,
    OnOverload,
    Period,
    Policy,
    Quota,
    RetryOn,
    Share,
    Stale,
    Staleness,
    Tenant,
    Tenants,
    Timeouts,
)
from modelfleet_core.values import ModelName, NanoUsd, ObjectKey
from support.manifests import (
    Manifest,
    fleet_manifest,
    full_fleet_manifest,
    full_policy_manifest,
    policy_manifest,
)


def test_a_fleet_becomes_what_its_manifest_says() -> None:
    fleet = parse_fleet(fleet_manifest())
    large, frontier = fleet.models
    assert fleet.key == ObjectKey("ml", "chat")
    assert fleet.hourly_budget == 60
    assert (fleet.scaling.interval, fleet.scaling.scale_down_stabilization) == (15, 300)
    assert (fleet.pools[0].hourly_cost, fleet.pools[0].node_selector) == (2.9, {"gpu": "h100"})
    assert (large.served_name, large.quality.prior, large.quality.by_task) == (
        "org/large",
        0.74,
        {"math": 0.61},
    )
    placement = large.variants[0].placement
    assert isinstance(placement, PoolPlacement)
    assert (placement.gpus, placement.replicas.max, placement.startup) == (2, 4, 240)
    assert large.variants[0].latency.time_to_first_token == 0.25
    assert frontier.served_name == "frontier"
    assert isinstance(frontier.variants[0].placement, ExternalPlacement)
    assert frontier.variants[0].placement.url == "https://api.example.com"


def test_prices_are_exact_to_the_last_token() -> None:
    pricing = parse_fleet(fleet_manifest()).models[0].pricing
    assert pricing.cost(1_000_000, 0) == NanoUsd(400_000_000)
    assert pricing.cost(0, 3) == NanoUsd(1800)


def test_a_policy_becomes_what_its_manifest_says() -> None:
    policy = parse_policy(policy_manifest())
    assert policy.fleet == ObjectKey("ml", "chat")
    assert policy.budget is not None
    assert (policy.budget.limit, policy.budget.period) == (NanoUsd(60 * 10**9), Period.HOUR)
    assert (policy.limits.max_body, policy.limits.max_request) == (1 << 20, 120)
    assert [tier.name for tier in policy.tiers] == ["gold", "bronze"]
    assert policy.tier_of({"x-tier": "gold"}).weight == 4
    assert policy.tier_of({"x-tier": "unknown"}).weight == 0.5


def test_accounts_and_staleness_become_what_the_manifest_says() -> None:
    policy = parse_policy(full_policy_manifest())
    assert policy.budget is not None
    assert policy.tenants is not None
    frontier = frozenset({ModelName("frontier")})
    assert policy.budget.shares == (Share(frontier, Decimal("0.15")),)
    assert policy.quotas == (Quota(frontier, 100, Period.DAY),)
    assert policy.tenants.fair_share
    assert policy.tenants.declared == (Tenant("acme", Decimal("0.2")),)
    assert policy.tenant_of({"x-tenant": "acme"}) == "acme"
    assert policy.tenant_of({"x-tenant": "Acme"}) is None
    assert policy.tenant_of({}) is None
    assert policy.staleness == Staleness(40.0, Stale.FLOOR)
    assert [tier.floor for tier in policy.tiers] == [2, 0]


def test_what_requests_may_use_and_aim_at_becomes_what_the_manifest_says() -> None:
    full, bare = parse_policy(full_policy_manifest()), parse_policy(policy_manifest())
    large, frontier, small = ModelName("large"), ModelName("frontier"), ModelName("small")
    assert full.models == ModelChoice(frozenset({large, frontier}), frozenset({small}))
    assert full.aliases == {"gpt-4o": "auto", "cheap": "large"}
    gold = full.tiers[0]
    assert gold.models == ModelChoice(frozenset({large}), frozenset({frontier}))
    assert (gold.minimum_quality, gold.latency) == (0.8, Objectives(0.8, 10.0))
    assert gold.on_overload is OnOverload.SHED
    assert (bare.models, bare.aliases, bare.tenants) == (EVERY_MODEL, {}, None)
    assert [tier.on_overload for tier in bare.tiers] == [OnOverload.QUEUE] * 2
    assert bare.tiers[0].latency == Objectives()


def test_tenants_need_neither_a_budget_nor_a_declaration_to_share_fairly() -> None:
    manifest = policy_manifest()
    del manifest["spec"]["budget"]
    manifest["spec"]["tenants"] = {"header": "X-Tenant"}
    assert parse_policy(manifest).tenants == Tenants("x-tenant")


def test_cached_input_has_a_price_of_its_own_that_is_not_higher() -> None:
    manifest = full_fleet_manifest()
    pricing = parse_fleet(manifest).models[1].pricing
    assert pricing.cached_femto == 1_250_000_000
    assert pricing.cost(1_000_000, 0, cached_tokens=400_000) == NanoUsd(2_000_000_000)
    assert parse_fleet(fleet_manifest()).models[1].pricing.cached_femto is None
    manifest["spec"]["models"][1]["pricing"]["cachedInputPerMTok"] = "2.6"
    with pytest.raises(SpecError, match="is above inputPerMTok") as refused:
        parse_fleet(manifest)
    assert refused.value.path.endswith("models[1].pricing.cachedInputPerMTok")


@pytest.mark.parametrize(
    ("then", "floors"), [("Floor", [0, 1, 2, 2]), ("Hold", [0, 1, 2, 3]), ("Reject", [0] * 4)]
)
def test_what_outlives_a_lease_is_never_more_than_was_leased(then: str, floors: list[int]) -> None:
    manifest = policy_manifest()
    manifest["spec"]["staleness"] = {"then": then}
    if then == "Floor":
        manifest["spec"]["tiers"][0]["floor"] = 2
    policy = parse_policy(manifest)
    assert [policy.floor(leased) for leased in range(4)] == floors


def test_limits_of_an_external_variant_become_what_the_manifest_says() -> None:
    variant = parse_fleet(full_fleet_manifest()).models[1].variants[0]
    assert isinstance(variant.placement, ExternalPlacement)
    assert variant.concurrency == 16
    assert (variant.placement.requests_per_minute, variant.placement.tokens_per_minute) == (500, 200_000)
    assert variant.placement.api_key == SecretKey("frontier", "token")


def test_fallback_becomes_what_the_manifest_says() -> None:
    connect = frozenset({RetryOn.CONNECT, RetryOn.RATE_LIMITED})
    assert parse_policy(full_policy_manifest()).fallback == Fallback(
        max_attempts=2,
        retry_on=connect,
        timeouts=Timeouts(
            connect=0.5, first_token=20.0, between_tokens=5.0, min_tokens_per_second=1.5, total=120.0
        ),
        breaker=Breaker(failures=3, open_for=10.0),
    )
    assert parse_policy(policy_manifest()).fallback == Fallback(
        max_attempts=3, retry_on=frozenset(RetryOn), timeouts=Timeouts(), breaker=Breaker()
    )


def test_estimator_and_learning_become_what_the_manifest_says() -> None:
    full, bare = parse_policy(full_policy_manifest()), parse_policy(policy_manifest())
    assert full.estimator == EstimatorChoice("chat-estimator", 0.2, 0.5)
    assert full.learning == Learning(True, 0.02, 86_400.0)
    assert bare.estimator == EstimatorChoice(None, 0.0, None)
    assert bare.learning == Learning(True, 0.0, 604_800.0)
    assert not policy_with("learning", {"enabled": False}).learning.enabled


def policy_with(part: str, value: object) -> Policy:
    manifest = policy_manifest()
    manifest["spec"][part] = value
    return parse_policy(manifest)


def test_a_judge_becomes_what_the_manifest_says() -> None:
    model = Judge(0.02, model=ModelName("frontier"), limit=NanoUsd(5 * 10**9), period=Period.WEEK)
    assert parse_policy(full_policy_manifest()).judge == model
    assert policy_with("judge", {"plugin": "mine", "share": "100%"}).judge == Judge(1.0, plugin="mine")
    assert parse_policy(policy_manifest()).judge is None


JUDGE_BUDGET = {"limit": 1}


@pytest.mark.parametrize(
    ("judge", "learning", "field", "says"),
    [
        ({"share": "2%"}, True, "spec.judge", "exactly one"),
        ({"model": "large", "plugin": "mine", "share": "2%"}, True, "spec.judge", "exactly one"),
        ({"model": "large", "share": "2%"}, True, "spec.judge.budget.limit", "set it"),
        ({"model": "large", "budget": JUDGE_BUDGET}, True, "spec.judge.share", "set it"),
        ({"model": "large", "share": "101%", "budget": JUDGE_BUDGET}, True, "spec.judge.share", '"100%"'),
        ({"model": "a b", "share": "2%", "budget": JUDGE_BUDGET}, True, "spec.judge.model", "write"),
        ({"plugin": "../mine", "share": "2%"}, True, "spec.judge.plugin", "modelfleet.judges"),
        ({"plugin": "mine", "share": "2%", "budget": JUDGE_BUDGET}, True, "spec.judge.budget", "remove it"),
        ({"plugin": "mine", "share": "2%"}, False, "spec.judge", "learning.enabled"),
    ],
)
def test_a_judge_that_can_not_be_is_refused_with_what_to_write(
    judge: object, learning: bool, field: str, says: str
) -> None:
    manifest = policy_manifest()
    manifest["spec"] |= {"judge": judge, "learning": {"enabled": learning}}
    with pytest.raises(SpecError) as refused:
        parse_policy(manifest)
    assert refused.value.path == field
    assert says in refused.value.remedy


@pytest.mark.parametrize(
    ("part", "value", "field", "says"),
    [
        ("estimator", {"ref": {}}, "spec.estimator.ref.name", "set it"),
        ("estimator", {"minConfidence": "1.1"}, "spec.estimator.minConfidence", "up to 1"),
        ("estimator", {"kappa": "none"}, "spec.estimator.kappa", "or auto"),
        ("learning", {"enabled": "yes"}, "spec.learning.enabled", "true or false"),
        ("learning", {"exploration": "6%"}, "spec.learning.exploration", '"5%"'),
        ("learning", {"halfLife": "7d"}, "spec.learning.halfLife", "168h"),
        ("learning", {"halfLife": "1s"}, "spec.learning.halfLife", "from 1h"),
    ],
)
def test_an_estimator_or_learning_that_can_not_be_is_refused_with_what_to_write(
    part: str, value: object, field: str, says: str
) -> None:
    manifest = policy_manifest()
    manifest["spec"][part] = value
    with pytest.raises(SpecError) as refused:
        parse_policy(manifest)
    assert refused.value.path == field
    assert says in refused.value.remedy


def test_a_policy_that_names_only_its_fleet_takes_every_default() -> None:
    policy = parse_policy({"metadata": {"name": "p"}, "spec": {"fleetRef": {"name": "chat"}}})
    assert policy.budget is None
    assert (policy.batching.max_size, policy.batching.max_wait) == (64, 0.02)
    assert (policy.limits.max_output_tokens, policy.limits.max_body) == (4096, 16 << 20)
    assert [(tier.name, tier.weight) for tier in policy.tiers] == [("default", 1.0)]
    assert policy.pod_selector.selects({"any": "pod"})


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("250ms", 0.25), ("1m30s", 90), ("1.5h", 5400), ("0s", 0), ("0.5ms", 0.0005), ("168h", 604800)],
)
def test_a_duration_is_read_in_seconds(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "5", "7d", "-5s", "1 s", "s", 5, None, "١s", "1" * 30 + "s"])
def test_what_is_no_duration_is_refused_with_an_example(text: object) -> None:
    with pytest.raises(SpecError, match="250ms"):
        parse_duration(text)


def test_a_duration_in_days_is_refused_with_the_way_to_write_it() -> None:
    with pytest.raises(SpecError, match="7d is 168h"):
        parse_duration("7d")


def _variant(manifest: Manifest) -> Manifest:
    found: Manifest = manifest["spec"]["models"][0]["variants"][0]
    return found


def _external(manifest: Manifest) -> Manifest:
    found: Manifest = manifest["spec"]["models"][1]["variants"][0]
    return found


def _keyed(manifest: Manifest, **ref: str) -> None:
    _external(manifest)["external"]["apiKeySecretRef"] = ref


@pytest.mark.parametrize(
    ("change", "path", "says"),
    [
        (lambda m: _variant(m).update(pool="a100"), "spec.models[0].variants[0].pool", "h100"),
        (lambda m: _variant(m).update(replicas={"min": 3, "max": 2}), "replicas.min", "more than max"),
        (lambda m: _variant(m).update(external={"url": "http://x"}), "variants[0]", "exactly one"),
        (lambda m: _variant(m).pop("scaleTargetRef"), "variants[0]", "exactly one"),
        (lambda m: _variant(m).pop("concurrency"), "concurrency", "is missing"),
        (lambda m: _variant(m).update(gpus=0), "gpus", "from 1"),
        (lambda m: _variant(m).update(gpus=10**5000), "gpus", "huge"),
        (lambda m: m["spec"]["budget"].update(hourly=10**5000), "hourly", "huge"),
        (lambda m: _variant(m).update(gpus=True), "gpus", "whole number"),
        (lambda m: _variant(m).update(replicas={"min": 5, "max": 5}), "spec.models", "limit is 8"),
        (lambda m: m["spec"]["pools"][0].update(hourlyCost=2.9), "hourlyCost", 'quote the decimal: "2.9"'),
        (lambda m: m["spec"]["pools"].append(m["spec"]["pools"][0]), "spec.pools", "twice"),
        (lambda m: m["spec"]["models"].append(m["spec"]["models"][1]), "spec.models", "twice"),
        (lambda m: m["spec"]["models"][1].pop("pricing"), "models[1].pricing", "external"),
        (lambda m: m["spec"]["models"][1].update(name="auto"), "models[1].name", "auto"),
        (lambda m: m["spec"]["models"][0]["quality"].update(prior="1.2"), "quality.prior", "up to 1"),
        (lambda m: m["spec"].update(models=[]), "spec.models", "1 to 64"),
        (lambda m: m["spec"].update(scaling={"interval": "7d"}), "scaling.interval", "168h"),
        (lambda m: m["metadata"].update(name="Not A Name"), "metadata.name", "lower-case"),
        (lambda m: m.pop("spec"), "spec.models", "0 entries"),
        (lambda m: _variant(m).update(limits={"inFlight": 4}), "variants[0].limits", "not external"),
        (lambda m: _external(m).update(limits={"inFlight": 4}), "models[1].variants[0]", "has both"),
        (lambda m: _external(m).pop("concurrency"), "models[1].variants[0]", "has neither"),
        (lambda m: _external(m).update(limits={"tokensPerMinute": 999}), "tokensPerMinute", "from 1000"),
        (lambda m: _external(m).update(limits={"requestsPerMinute": 0}), "requestsPerMinute", "from 1"),
        (lambda m: _keyed(m, name="frontier"), "external.apiKeySecretRef.key", "is missing"),
        (lambda m: _keyed(m, name="../frontier", key="token"), "apiKeySecretRef.name", "Secret"),
        (lambda m: _keyed(m, name="frontier", key=".."), "apiKeySecretRef.key", "Secret"),
        (lambda m: _keyed(m, name="frontier", key="a/b"), "apiKeySecretRef.key", "Secret"),
    ],
)
def test_a_wrong_fleet_is_refused_at_the_field(
    change: Callable[[Manifest], object], path: str, says: str
) -> None:
    manifest = fleet_manifest()
    change(manifest)
    with pytest.raises(SpecError) as refused:
        parse_fleet(manifest)
    assert path in refused.value.path
    assert says in str(refused.value)


def test_minimal_replicas_that_cost_more_than_the_budget_are_refused() -> None:
    manifest = fleet_manifest()
    manifest["spec"]["budget"] = {"hourly": "11"}
    _variant(manifest)["replicas"] = {"min": 2}
    with pytest.raises(SpecError, match=r"minimal replicas cost 11\.6 USD an hour"):
        parse_fleet(manifest)


def _second_external(name: str, **fields: object) -> Manifest:
    """Return a fleet with another model at the external URL of the first one."""
    manifest = fleet_manifest()
    models = manifest["spec"]["models"]
    models.append(copy.deepcopy(models[1]) | {"name": name} | fields)
    return manifest


def test_one_external_api_may_serve_several_models() -> None:
    fleet = parse_fleet(_second_external("frontier-mini"))
    assert [model.name for model in fleet.models] == ["large", "frontier", "frontier-mini"]


def test_one_model_of_an_external_api_is_counted_once() -> None:
    with pytest.raises(SpecError, match=r"share the external url and servedName https://api\.example\.com"):
        parse_fleet(_second_external("twin", servedName="frontier"))


@pytest.mark.parametrize("shared", ["scaleTargetRef", "service"])
def test_two_variants_never_share_a_workload_or_its_slots(shared: str) -> None:
    manifest = fleet_manifest()
    other = fleet_manifest()["spec"]["models"][0]
    other["name"] = "other"
    for field in {"scaleTargetRef", "service"} - {shared}:
        other["variants"][0][field]["name"] = "other"
    manifest["spec"]["models"].append(other)
    with pytest.raises(SpecError, match=f"share the {shared} large"):
        parse_fleet(manifest)


@pytest.mark.parametrize(
    "url",
    [
        "ftp://x",
        "https://",
        "https://user:pw@x/v1",
        "https://x/v1?key=1",
        "http://[::1",
        "http://x:99999/v1",
        5,
    ],
)
def test_an_external_url_is_plain(url: object) -> None:
    manifest = fleet_manifest()
    manifest["spec"]["models"][1]["variants"][0]["external"]["url"] = url
    with pytest.raises(SpecError, match=r"external\.url"):
        parse_fleet(manifest)


@pytest.mark.parametrize(
    ("change", "path", "says"),
    [
        (lambda s: s.pop("fleetRef"), "spec.fleetRef.name", "is missing"),
        (lambda s: s["tiers"].reverse(), "spec.tiers[0]", "never reached"),
        (lambda s: s["tiers"].pop(), "spec.tiers[0].match", "last tier"),
        (lambda s: s["tiers"][1].update(name="gold"), "spec.tiers", "twice"),
        (lambda s: s["tiers"][1].update(weight=0), "weight", "above 0"),
        (lambda s: s["tiers"][0]["match"]["header"].update({"x-tier": "a"}), "match.header", "twice"),
        (lambda s: s["batching"].update(maxWait="6s"), "maxWait", "0s to 5s"),
        (lambda s: s["budget"].update(period="Year"), "period", "Hour or Day or Week or Month"),
        (lambda s: s["budget"].update(enforcement="Soft"), "enforcement", "Hard"),
        (lambda s: s["budget"].pop("limit"), "spec.budget.limit", "is missing"),
        (lambda s: s["limits"].update(maxBody="1Gi"), "maxBody", "16Mi"),
        (lambda s: s.update(podSelector={"matchLabels": {"a": 1}}), "matchLabels", "quote"),
        (lambda s: s.update(tiers="gold"), "spec.tiers", "list"),
        (lambda s: s.update(staleness={"maxAge": "1s"}), "staleness.maxAge", "5s to 10m"),
        (lambda s: s.update(staleness={"then": "Wait"}), "staleness.then", "Floor or Hold or Reject"),
        (lambda s: s.update(fallback={"maxAttempts": 0}), "fallback.maxAttempts", "from 1"),
        (lambda s: s.update(fallback={"retryOn": "Connect"}), "fallback.retryOn", "list"),
        (
            lambda s: s.update(fallback={"timeouts": {"connect": "3s", "total": "2s"}}),
            "fallback.timeouts.total",
            "lower connect",
        ),
        (
            lambda s: s.update(fallback={"timeouts": {"firstToken": "1d"}}),
            "fallback.timeouts.firstToken",
            "duration",
        ),
        (
            lambda s: s.update(fallback={"timeouts": {"minTokensPerSecond": -1}}),
            "fallback.timeouts.minTokensPerSecond",
            "0",
        ),
        (lambda s: s.update(fallback={"breaker": {"failures": 0}}), "fallback.breaker.failures", "from 1"),
        (lambda s: s.update(fallback={"breaker": {"openFor": "2h"}}), "fallback.breaker.openFor", "1h"),
        (lambda s: s.update(fallback={"retryOn": ["Never"]}), "fallback.retryOn[0]", "Connect or Timeout"),
        (lambda s: s.update(fallback={"retryOn": ["Connect", "Connect"]}), "fallback.retryOn", "twice"),
        (
            lambda s: s.update(staleness={"then": "Hold"}) or s["tiers"][0].update(floor=1),
            "tiers[0].floor",
            "Hold",
        ),
        (lambda s: s["tiers"][0].update(floor=-1), "tiers[0].floor", "from 0"),
        (lambda s: s["budget"].update(shares=[{"models": ["a"]}]), "shares[0].max", "is missing"),
        (lambda s: s["budget"].update(shares=[{"models": ["a"], "max": 15}]), "shares[0].max", "15%"),
        (lambda s: s["budget"].update(shares=[{"models": ["a"], "max": "101%"}]), "shares[0].max", "100%"),
        (lambda s: s["budget"].update(shares=[{"models": [], "max": "1%"}]), "shares[0].models", "1 to 64"),
        (lambda s: s["budget"].update(shares=[{"models": "a", "max": "1%"}]), "shares[0].models", "list"),
        (lambda s: s["budget"].update(shares=[{"models": [5], "max": "1%"}]), "models[0]", "letters"),
        (lambda s: s["budget"].update(shares=[{"models": ["a", "a"], "max": "1%"}]), "models", "twice"),
        (
            lambda s: s["budget"].update(shares=[{"models": ["a"], "max": f"{n}%"} for n in (1, 2)]),
            "spec.budget.shares",
            "same models",
        ),
        (lambda s: s.update(quotas=[{"models": ["a"], "requests": -1}]), "quotas[0].requests", "from 0"),
        (
            lambda s: s.update(quotas=[{"models": ["a"], "requests": n} for n in (1, 2)]),
            "spec.quotas",
            "same models and period",
        ),
        (lambda s: s.update(tenants={"header": "x", "declared": []}), "tenants.declared", "1 to 64"),
        (lambda s: s.update(tenants={"header": "x", "fairShare": False}), "spec.tenants", "says nothing"),
        (lambda s: s.update(tenants={"header": "x", "fairShare": 1}), "tenants.fairShare", "true or false"),
        (lambda s: s.update(tenants={"header": "x tenant"}), "tenants.header", "header"),
        (
            lambda s: s.update(tenants={"header": "x", "declared": [{"name": " a", "max": "1%"}]}),
            "declared[0].name",
            "printable",
        ),
        (
            lambda s: (
                s.pop("budget")
                and s.update(tenants={"header": "x", "declared": [{"name": "a", "max": "1%"}]})
            ),
            "tenants.declared",
            "no budget",
        ),
        (lambda s: s.update(aliases={"auto": "large"}), "spec.aliases", "routed anyway"),
        (lambda s: s.update(aliases={"a b": "large"}), "spec.aliases", "is refused"),
        (lambda s: s.update(aliases={"gpt-4o": "a b"}), "spec.aliases.gpt-4o", "auto or a model"),
        (lambda s: s.update(aliases={"gpt-4o": 4}), "spec.aliases", "quote texts"),
        (lambda s: s.update(aliases={f"a{n}": "auto" for n in range(65)}), "spec.aliases", "at most 64"),
        (lambda s: s.update(models={"allow": ["a"], "deny": ["a"]}), "spec.models", "does not deny"),
        (lambda s: s["tiers"][0].update(models={"allow": []}), "tiers[0].models.allow", "1 to 64"),
        (lambda s: s["tiers"][0].update(minimumQuality=0.5), "tiers[0].minimumQuality", "not quoted"),
        (lambda s: s["tiers"][0].update(minimumQuality="1.5"), "tiers[0].minimumQuality", "up to 1"),
        (lambda s: s["tiers"][0].update(onOverload="Wait"), "tiers[0].onOverload", "Queue or Shed"),
        (lambda s: s["tiers"][0].update(latency={"total": "0s"}), "tiers[0].latency.total", "from 1ms"),
        (
            lambda s: s["tiers"][0].update(latency={"timeToFirstToken": "2s", "total": "1s"}),
            "tiers[0].latency.timeToFirstToken",
            "above total",
        ),
    ],
)
def test_a_wrong_policy_is_refused_at_the_field(
    change: Callable[[Manifest], object], path: str, says: str
) -> None:
    manifest = policy_manifest()
    change(manifest["spec"])
    with pytest.raises(SpecError) as refused:
        parse_policy(manifest)
    assert path in refused.value.path
    assert says in str(refused.value)


def test_misspelt_fields_are_named() -> None:
    manifest = policy_manifest()
    manifest["spec"]["budget"]["limt"] = "5"
    manifest["spec"]["tiers"][0]["wieght"] = 2
    root = Fields(manifest, "")
    read_policy(root)
    assert set(unknown_fields(root)) == {"spec.budget.limt", "spec.tiers[0].wieght"}


def test_a_correct_fleet_has_no_unknown_field() -> None:
    root = Fields(fleet_manifest(), "")
    read_fleet(root)
    assert unknown_fields(root) == ()


def test_a_document_carries_the_manifest_and_changes_its_version_only_with_its_content() -> None:
    manifest = fleet_manifest()
    first = document(manifest)
    manifest["metadata"]["resourceVersion"] = "77"
    manifest["status"] = {"sidecars": 3}
    assert document(manifest) == first
    assert parse_fleet(json.loads(first.manifest)) == parse_fleet(manifest)
    manifest["spec"]["budget"]["hourly"] = "61"
    assert document(manifest).version != first.version


@pytest.mark.parametrize("spec", [{"a": float("nan")}, {"a": {1, 2}}, {"a": "x" * (1 << 20)}])
def test_a_document_that_is_no_bounded_json_is_refused(spec: object) -> None:
    with pytest.raises(SpecError, match="spec"):
        document({"metadata": {"name": "a"}, "spec": spec})


def test_a_document_nested_without_end_is_refused() -> None:
    spec: list[object] = []
    for _ in range(5000):
        spec = [spec]
    with pytest.raises(SpecError, match="deep"):
        document({"metadata": {"name": "a"}, "spec": spec})
