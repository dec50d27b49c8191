"""What callers say in headers holds on every decision, and what can not be read is refused by its name."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from modelfleet_core.catalog import Fleet, Pricing, RequestMapping
from modelfleet_core.policy import ModelChoice, Objectives, OnOverload, Policy, Tenants, Tier
from modelfleet_core.values import ModelName, NanoUsd, TierName
from modelfleet_sidecar.failures import Failure, Fault
from modelfleet_sidecar.wishes import NO_WISHES, Wishes, wishes
from support.desks import BIG, SMALL, Desk
from support.sidecars import fleet_of, policy_of

S, B = ModelName("small"), ModelName("big")
ONLY_SMALL = ModelChoice(frozenset({S}))


def with_tiers(*tiers: Tier) -> Policy:
    return replace(policy_of(), tiers=tiers)


def test_headers_become_wishes() -> None:
    assert wishes({"x-tier": "gold", "content-type": "application/json"}) is NO_WISHES
    assert wishes(
        {
            "x-modelfleet-tier": "gold",
            "x-modelfleet-task": "code",
            "x-modelfleet-max-cost-usd": "0.000001",
            "x-modelfleet-min-quality": "0.7",
            "x-modelfleet-exclude": "small, big,,",
            "x-modelfleet-session": "conversation 7",
        }
    ) == Wishes("gold", "code", NanoUsd(1000), 0.7, frozenset({S, B}), "conversation 7")


@pytest.mark.parametrize(
    ("header", "value", "says"),
    [
        ("max-cost-usd", "cheap", "'cheap' is no plain decimal"),
        ("max-cost-usd", "-1", "no plain decimal"),
        ("max-cost-usd", "1e9", "no plain decimal"),
        ("max-cost-usd", "", "no plain decimal"),
        ("max-cost-usd", "9" * 1000, "no plain decimal"),
        ("min-quality", "1.01", "'1.01' is above 1"),
        ("min-quality", "nan", "no plain decimal"),
        ("exclude", ",".join(f"m{n}" for n in range(66)), "more than 64 models"),
        ("exclude", "m" * 129, "more than 128 characters"),
        ("session", "s" * 257, "257 characters long"),
        ("tier", "t" * 129, "129 characters long"),
        ("task", "t" * 129, "129 characters long"),
    ],
)
def test_a_header_that_can_not_be_read_is_refused_by_its_name(header: str, value: str, says: str) -> None:
    name = f"x-modelfleet-{header}"
    with pytest.raises(Failure) as refused:
        wishes({name: value})
    assert (refused.value.fault, refused.value.reason) == (Fault.BAD_REQUEST, "InvalidHeader")
    assert refused.value.field == name
    assert f"header {name}: " in refused.value.message
    assert says in refused.value.message
    assert len(refused.value.message) < 250


def test_naming_a_tier_buys_none_that_the_policy_gives_to_others() -> None:
    open_to_all = Tier(TierName("batch"), 0.1, {})
    policy = with_tiers(Tier(TierName("gold"), 4.0, {"x-tier": "gold"}), open_to_all)
    desk = Desk(policy)
    assert desk.ask("hi", {"x-modelfleet-tier": "gold"}).tier.name == "batch"
    assert desk.ask("hi", {"x-modelfleet-tier": "gold", "x-tier": "gold"}).tier.name == "gold"
    assert desk.ask("hi", {"x-modelfleet-tier": "batch", "x-tier": "gold"}).tier.name == "batch"
    with pytest.raises(Failure, match="has no tier 'silver'; use one of: gold, batch"):
        desk.ask("hi", {"x-modelfleet-tier": "silver"})


def test_an_alias_is_routed_or_pins_as_the_policy_says() -> None:
    aliases = {"gpt-4o": "auto", "cheap": "small", "big": "auto", "gone": "vanished"}
    desk = Desk(replace(policy_of(), aliases=aliases))
    assert desk.decide("hi", model="gpt-4o").variant.model == "big"
    assert desk.decide("hi", model="cheap").variant.model == "small"
    # An alias may bear a model's name: that name is routed then.
    assert desk.prospect("hi", model="big").candidate.excluded_by == ("", "")
    with pytest.raises(
        Failure, match=r"'vanished' is not in the fleet \(the alias 'gone' of the policy"
    ) as refused:
        desk.ask("hi", model="gone")
    assert refused.value.fault is Fault.NOT_FOUND


@pytest.mark.parametrize(
    ("policy", "word"),
    [
        (replace(policy_of(), models=ONLY_SMALL), "Policy"),
        (with_tiers(Tier(TierName("only"), 1.0, {}, models=ONLY_SMALL)), "Tier"),
    ],
)
def test_models_of_policy_and_tier_hold_for_all_requests(policy: Policy, word: str) -> None:
    desk = Desk(policy)
    assert desk.prospect("hi").candidate.excluded_by == ("", word)
    assert desk.decide("hi").variant.model == "small"
    with pytest.raises(Failure, match="ModelNotAllowed") as refused:
        desk.prospect("hi", model="big")
    assert refused.value.field == "model"
    assert desk.lease.policy is not None
    desk.lease.fleet = fleet_of([BIG])
    with pytest.raises(Failure, match="leaves this request no model of the fleet"):
        desk.prospect("hi")


def test_models_that_the_caller_excludes_are_left_out() -> None:
    desk = Desk(policy_of())
    assert desk.prospect("hi", {"x-modelfleet-exclude": "big,other"}).candidate.excluded_by == (
        "",
        "Excluded",
    )
    with pytest.raises(Failure, match="ModelNotAllowed") as refused:
        desk.prospect("hi", {"x-modelfleet-exclude": "big,small"})
    assert refused.value.field == "x-modelfleet-exclude"


def test_a_bound_of_the_cost_leaves_out_what_may_cost_more() -> None:
    free = replace(SMALL.pricing, input_femto=0, output_femto=0)
    desk = Desk(policy_of(), [replace(SMALL, pricing=free), BIG])
    bound = desk.prospect("hi").candidate.reserve[1]
    at, below = {"x-modelfleet-max-cost-usd": f"{bound / 1e9:.9f}"}, {"x-modelfleet-max-cost-usd": "0"}
    assert desk.prospect("hi", at).candidate.excluded_by == ("", "")
    assert desk.prospect("hi", below).candidate.excluded_by == ("", "MaxCost")
    with pytest.raises(Failure, match="CostAboveLimit") as refused:
        desk.prospect("hi", below, model="big")
    assert refused.value.fault is Fault.BAD_REQUEST
    assert f"may cost {bound / 1e9:.9f} USD at model 'big'" in refused.value.message


def test_a_bound_of_the_quality_leaves_out_what_is_predicted_below() -> None:
    desk = Desk(policy_of())
    worse, better = desk.prospect("hi").candidate.quality
    between = {"x-modelfleet-min-quality": f"{(worse + better) / 2:.6f}"}
    assert desk.prospect("hi", between).candidate.excluded_by == ("MinQuality", "")
    with pytest.raises(Failure, match="QualityBelowLimit") as refused:
        desk.prospect("hi", {"x-modelfleet-min-quality": "1"})
    told = figure(refused.value, r"at most (\S+), below the 1 of")
    assert better - 1e-6 < float(told) <= better
    assert desk.prospect("hi", {"x-modelfleet-min-quality": told}).candidate.excluded_by == ("MinQuality", "")


def figure(failure: Failure, pattern: str) -> str:
    """Return the figure that a refusal tells."""
    found = re.search(pattern, failure.message)
    assert found is not None, failure.message
    return found[1]


MUCH_ADDED = RequestMapping(system_prompt="Answer in plain words. " * 20)


@pytest.mark.parametrize("request_mapping", [RequestMapping(), MUCH_ADDED])
@pytest.mark.parametrize("quality", ["0", "0.9"])
def test_a_refusal_tells_the_least_cost_and_the_best_quality_that_would_do(
    request_mapping: RequestMapping, quality: str
) -> None:
    dear = replace(BIG, pricing=Pricing(5 * 10**9, 5 * 10**9))
    desk = Desk(policy_of(), [SMALL, dear])
    fleet = desk.lease.fleet
    assert fleet is not None
    desk.lease.fleet = replace(
        fleet, models=tuple(replace(model, request=request_mapping) for model in fleet.models)
    )
    asked = {"x-modelfleet-max-cost-usd": "0", "x-modelfleet-min-quality": quality}
    with pytest.raises(Failure, match="CostAboveLimit") as refused:
        desk.prospect("hi", asked)
    enough = figure(refused.value, r"may cost (\S+) USD")
    possible = desk.prospect("hi", asked | {"x-modelfleet-max-cost-usd": enough}).candidate
    assert possible.excluded_by == (("", "MaxCost") if quality == "0" else ("MinQuality", ""))
    less = f"{float(enough) - 1e-9:.9f}"
    with pytest.raises(Failure):
        desk.prospect("hi", asked | {"x-modelfleet-max-cost-usd": less})


def test_a_refusal_for_which_one_bound_is_not_enough_says_both() -> None:
    desk = Desk(policy_of())
    asked = {"x-modelfleet-max-cost-usd": "0", "x-modelfleet-min-quality": "1"}
    with pytest.raises(Failure, match="CostAboveLimit") as refused:
        desk.prospect("hi", asked)
    told = {
        "x-modelfleet-max-cost-usd": figure(refused.value, r"may cost (\S+) USD"),
        "x-modelfleet-min-quality": figure(refused.value, r"lower x-modelfleet-min-quality to (\S+) there"),
    }
    assert "" in desk.prospect("hi", told).candidate.excluded_by


def capable(fleet: Fleet, *sets: frozenset[str] | None) -> Fleet:
    models = [replace(model, capabilities=can) for model, can in zip(fleet.models, sets, strict=True)]
    return replace(fleet, models=tuple(models))


def test_models_that_lack_what_a_request_needs_are_left_out() -> None:
    desk = Desk(policy_of())
    ask = desk.ask("hi")
    call = replace(ask.call, needs=frozenset({"chat", "vision"}))
    chat, seeing = frozenset({"chat"}), frozenset({"chat", "vision"})
    plain = fleet_of([SMALL, BIG])

    def excluded(fleet: Fleet, model: str = "auto") -> tuple[str, ...]:
        desk.lease.fleet = fleet
        return desk.look(replace(ask, call=replace(call, model=model))).candidate.excluded_by

    assert excluded(capable(plain, chat, seeing)) == ("Capability:vision", "")
    # Who names a model whose capabilities nobody has declared may know better.
    assert excluded(capable(plain, None, seeing)) == ("Capability:vision", "")
    assert excluded(capable(plain, None, seeing), "small") == ("", "Pinned")
    with pytest.raises(Failure, match="NoCapableModel") as refused:
        excluded(capable(plain, chat, seeing), "small")
    assert "model 'small' lacks what the request needs" in refused.value.message
    assert "vision (big)" in refused.value.message
    with pytest.raises(Failure, match=r"every model that this request may use lacks .* vision \(none\)"):
        excluded(capable(plain, chat, None))


SLOW_BIG = replace(BIG, declared=replace(BIG.declared, ttft=900.0))


@pytest.mark.parametrize(
    ("tier", "excluded"),
    [
        (Tier(TierName("t"), 1.0, {}, minimum_quality=0.85), ("MinimumQuality", "")),
        (Tier(TierName("t"), 1.0, {}, minimum_quality=1.0), ("", "")),
        (Tier(TierName("t"), 1.0, {}, latency=Objectives(time_to_first_token=0.5)), ("", "LatencyObjective")),
        (Tier(TierName("t"), 1.0, {}, latency=Objectives(time_to_first_token=0.0001)), ("", "")),
    ],
)
def test_what_a_tier_aims_at_leaves_models_out_while_another_is_left(
    tier: Tier, excluded: tuple[str, str]
) -> None:
    desk = Desk(with_tiers(tier), [SMALL, SLOW_BIG])
    assert desk.prospect("hi").candidate.excluded_by == excluded
    assert desk.prospect("hi", model="small").candidate.excluded_by == ("", "Pinned")


def test_an_objective_for_the_whole_answer_leaves_out_what_takes_longer() -> None:
    tier = Tier(TierName("t"), 1.0, {}, latency=Objectives(total=0.5))
    decision = Desk(with_tiers(tier), [SMALL, SLOW_BIG]).decide("hi", max_tokens=10)
    assert decision.variant.model == "small"
    assert decision.considered.excluded_by == ("", "LatencyObjective")


def test_callers_are_told_apart_only_where_slots_are_shared_fairly() -> None:
    headers = {"x-tenant": "acme" + "x" * 500}
    assert Desk(policy_of()).ask("hi", headers).caller == ""
    fair = replace(policy_of(), tenants=Tenants("x-tenant"))
    assert Desk(fair).ask("hi", headers).caller == headers["x-tenant"][:128]
    assert Desk(replace(fair, tenants=Tenants("x-tenant", (), False))).ask("hi", headers).caller == ""


@pytest.mark.parametrize(("on_overload", "sheds"), [(OnOverload.SHED, True), (OnOverload.QUEUE, False)])
def test_only_a_tier_that_sheds_does_not_queue(on_overload: OnOverload, sheds: bool) -> None:
    tier = Tier(TierName("t"), 1.0, {}, on_overload=on_overload)
    assert Desk(with_tiers(tier)).prospect("hi").candidate.sheds is sheds
