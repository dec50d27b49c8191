"""Whatever waits and whatever the lease holds, decisions take no slot and no money that is not there."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from modelfleet_core.batching.placing import Placer
from modelfleet_core.batching.solving import solve
from modelfleet_core.catalog import Pricing
from modelfleet_core.estimation.profile import read
from modelfleet_core.leasing.messages import SlotGrant
from modelfleet_core.policy import ModelChoice, Objectives, OnOverload, Tier
from modelfleet_core.values import EndpointUrl, ModelName, NanoUsd, TierName
from modelfleet_sidecar.assign import decision_of
from modelfleet_sidecar.chat import parse_fields
from modelfleet_sidecar.decision import Ask, Decision
from modelfleet_sidecar.failures import Failure, Fault
from modelfleet_sidecar.lease import boot_clock
from modelfleet_sidecar.prospect import Prospect, prospect
from modelfleet_sidecar.sessions import Sessions
from modelfleet_sidecar.unreachable import Unreachable
from support.sidecars import GivenLease, Spec, fleet_of, live_estimator, policy_of

pytestmark = pytest.mark.property

PRICES = st.integers(0, 3).map(lambda usd: Pricing(usd * 10**9, usd * 2 * 10**9))
SPECS = st.lists(
    st.tuples(st.floats(0.0, 1.0), st.integers(0, 4), PRICES, st.none() | st.integers(20, 400)),
    min_size=1,
    max_size=4,
)
ASKED = st.lists(
    st.tuples(st.booleans(), st.none() | st.integers(1, 300), st.integers(0, 60), st.booleans()),
    min_size=1,
    max_size=25,
)


@settings(max_examples=200, deadline=None)
@given(SPECS, ASKED, st.none() | st.integers(0, 2_000_000), st.floats(0.0, 50.0), st.floats(0.0, 5000.0))
def test_decisions_never_take_more_than_the_lease(
    models: list[tuple[float, int, Pricing, int | None]],
    asked: list[tuple[bool, int | None, int, bool]],
    money: int | None,
    slot_price: float,
    money_price: float,
) -> None:
    specs = [
        Spec(f"m{index}", quality, pricing=pricing, context_tokens=context)
        for index, (quality, _, pricing, context) in enumerate(models)
    ]
    slots = {
        EndpointUrl(f"http://{spec.name}/{copy}"): SlotGrant(spec.key, count)
        for spec, (_, count, _, _) in zip(specs, models, strict=True)
        for copy in range(2)
    }
    lease = lease_of(specs, slots, money)
    lease.slot_prices = {spec.key: slot_price for spec in specs}
    lease.money_price = money_price
    placer = Placer(lease.holding, leave_alone=Unreachable(boot_clock).leave_alone)
    placer.set_prices(lease.slot_prices, money_price)
    waiting = [
        seen for number, one in enumerate(asked) if (seen := prospect_of(lease, number, one)) is not None
    ]
    decisions: list[Decision | None] = []
    for together in (waiting[:1], waiting[1:2], waiting[2:3], waiting[3:]):
        now = boot_clock()
        batch = placer.pose(range(len(together)), [seen.candidate for seen in together], now)
        placed = placer.commit(solve(batch, lambda: 0.05), now, lambda ticket: ticket % 7 != 6)
        decisions += [
            None if one is None else decision_of(one, seen, now)
            for one, seen in zip(placed, together, strict=True)
        ]
    taken = [decision for decision in decisions if decision is not None]
    for endpoint, count in Counter(decision.endpoint for decision in taken).items():
        assert count <= slots[endpoint].slots
    if money is not None:
        assert sum(decision.reserved for decision in taken) <= money
    for decision, seen in zip(decisions, waiting, strict=True):
        if decision is not None:
            allowed(decision, seen)


def allowed(decision: Decision, seen: Prospect) -> None:
    """The chosen variant was eligible, its token limit fits, and its reserve covers that limit."""
    j = seen.candidate.variants.index(decision.variant)
    assert not seen.candidate.excluded_by[j]
    assert 1 <= decision.max_output_tokens <= seen.policy.limits.max_output_tokens
    bound = decision.pricing.cost(seen.profile.input_tokens_bound, decision.max_output_tokens)
    assert bound <= decision.reserved
    assert decision.certificate.bound >= decision.certificate.objective - 1e-9


NAMES = st.sampled_from([ModelName(f"m{index}") for index in range(3)])
CHOICES = st.builds(ModelChoice, st.none() | st.frozensets(NAMES, min_size=1), st.frozensets(NAMES))
WISHED = st.fixed_dictionaries(
    {},
    optional={
        "max_cost": st.integers(0, 2_000).map(NanoUsd),
        "min_quality": st.floats(0.0, 1.0),
        "exclude": st.frozensets(NAMES, max_size=2),
        "caller": st.sampled_from(["", "a", "b"]),
        "avoided": st.just(frozenset({EndpointUrl("http://m0/0")})),
    },
)
TIERS = st.builds(
    Tier,
    st.just(TierName("drawn")),
    st.sampled_from([0.5, 1.0, 4.0]),
    st.just({}),
    minimum_quality=st.floats(0.0, 1.0),
    latency=st.builds(Objectives, st.none() | st.floats(0.001, 1.0), st.none() | st.floats(0.001, 1.0)),
    on_overload=st.sampled_from(OnOverload),
    models=CHOICES,
)
ESTIMATOR = live_estimator()
CACHED = st.none() | st.tuples(st.integers(0, 2), st.integers(0, 1), st.integers(1, 100_000))


@settings(max_examples=150, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0.0, 1.0), st.integers(0, 2), PRICES), min_size=3, max_size=3),
    st.lists(st.tuples(TIERS, WISHED, CACHED, st.integers(0, 60)), min_size=1, max_size=15),
    CHOICES,
    st.integers(0, 200_000),
)
def test_what_callers_wish_and_sessions_cached_break_no_limit(
    models: list[tuple[float, int, Pricing]],
    asked: list[tuple[Tier, dict[str, Any], tuple[int, int, int] | None, int]],
    choice: ModelChoice,
    money: int,
) -> None:
    specs = [
        Spec(f"m{index}", quality, pricing=replace(pricing, cached_femto=pricing.input_femto // 2))
        for index, (quality, _, pricing) in enumerate(models)
    ]
    slots = {
        EndpointUrl(f"http://{spec.name}/{copy}"): SlotGrant(spec.key, count)
        for spec, (_, count, _) in zip(specs, models, strict=True)
        for copy in range(2)
    }
    lease = lease_of(specs, slots, money)
    assert lease.fleet is not None
    assert lease.policy is not None
    policy = replace(lease.policy, models=choice)
    waiting: list[Prospect] = []
    refusals: list[Failure] = []
    for tier, wished, visit, words in asked:
        call = parse_fields({"messages": [{"role": "user", "content": "word " * words}]})
        now = boot_clock()
        ask = Ask(call, read(call.texts), tier, None, now, now + 20.0, **wished)
        cached = None
        if visit is not None:
            spec, copy, tokens = specs[visit[0]], visit[1], visit[2]
            sessions = Sessions()
            sessions.went("", "s", spec.key, EndpointUrl(f"http://{spec.name}/{copy}"), tokens, now)
            cached = sessions.cached("", "s", ask.reading.input_tokens, now)
        try:
            seen = prospect(ask, lease.fleet, policy, ESTIMATOR, cached=cached)
        except Failure as failure:
            refusals.append(failure)
            continue
        plain = prospect(ask, lease.fleet, policy, ESTIMATOR)
        assert seen.candidate.reserve == plain.candidate.reserve
        assert all(cost >= 0 for cost in seen.candidate.cost)
        assert all(seconds > 0 for seconds in seen.candidate.service_time)
        waiting.append(seen)
    assert all(one.fault in (Fault.BAD_REQUEST, Fault.UNAVAILABLE) for one in refusals)
    placer = Placer(lease.holding)
    taken: list[Decision] = []
    for together in (waiting[:1], waiting[1:3], waiting[3:]):
        now = boot_clock()
        batch = placer.pose(range(len(together)), [seen.candidate for seen in together], now)
        for placed, seen in zip(placer.commit(solve(batch, lambda: 0.05), now), together, strict=True):
            if placed is not None:
                decision = decision_of(placed, seen, now)
                allowed(decision, seen)
                permitted(decision, seen)
                taken.append(decision)
    for endpoint, count in Counter(decision.endpoint for decision in taken).items():
        assert count <= slots[endpoint].slots
    assert sum(decision.reserved for decision in taken) <= money


def permitted(decision: Decision, seen: Prospect) -> None:
    """Policy, tier and caller let the model be used, and the caller's bounds hold."""
    ask, model = seen.ask, decision.variant.model
    assert seen.policy.models.permits(model)
    assert ask.tier.models.permits(model)
    assert model not in ask.exclude
    assert decision.endpoint not in ask.avoided
    assert ask.max_cost is None or decision.reserved <= ask.max_cost
    assert decision.quality >= ask.min_quality


def lease_of(specs: list[Spec], slots: dict[EndpointUrl, SlotGrant], money: int | None) -> GivenLease:
    lease = GivenLease()
    lease.fleet = fleet_of(specs)
    lease.policy = policy_of(budget=None if money is None else NanoUsd(money))
    lease.grant(slots, money=None if money is None else NanoUsd(money))
    return lease


def prospect_of(lease: GivenLease, number: int, one: tuple[bool, int | None, int, bool]) -> Prospect | None:
    """Return the prospect of one drawn request; None: it fits no model."""
    gold, limit, words, pinned = one
    assert lease.fleet is not None
    assert lease.policy is not None
    name = lease.fleet.models[number % len(lease.fleet.models)].name if pinned else "auto"
    fields: dict[str, object] = {"model": name, "messages": [{"role": "user", "content": "word " * words}]}
    if limit is not None:
        fields["max_tokens"] = limit
    now = boot_clock()
    tier = lease.policy.tiers[0 if gold else 1]
    assert tier.name == TierName("gold" if gold else "bronze")
    call = parse_fields(fields)
    asked = Ask(call, read(call.texts), tier, None, now, now + 20.0)
    try:
        return prospect(asked, lease.fleet, lease.policy, live_estimator())
    except Failure:
        return None
