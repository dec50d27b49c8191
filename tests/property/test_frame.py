"""What is remembered of a fleet and a policy says of each request what looking anew would say."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st
from modelfleet_core.batching.candidate import Candidate
from modelfleet_core.estimation.profile import read
from modelfleet_core.leasing.accounts import accounts_of, charges
from modelfleet_core.policy import (
    Budget,
    Judge,
    ModelChoice,
    Period,
    Policy,
    Quota,
    Rule,
    RuleMatch,
    Share,
    Tenant,
    Tenants,
)
from modelfleet_core.rules import Matched
from modelfleet_core.values import ModelName, NanoUsd
from modelfleet_sidecar.chat import parse_fields
from modelfleet_sidecar.decision import Ask
from modelfleet_sidecar.eligible import barred
from modelfleet_sidecar.failures import Failure
from modelfleet_sidecar.frame import Frame
from modelfleet_sidecar.prospect import prospect
from support.sidecars import Spec, fleet_of, live_estimator, policy_of

NAMES = tuple(ModelName(name) for name in "abc")
FLEET = fleet_of([Spec(name, quality=0.5 + 0.1 * n, context_tokens=400) for n, name in enumerate(NAMES)])
ESTIMATOR = live_estimator()
some = st.frozensets(st.sampled_from(NAMES))
few = st.frozensets(st.sampled_from(NAMES), max_size=2)
choices = st.builds(ModelChoice, st.none() | some, few)
rules = st.builds(Rule, st.just("rule"), st.just(RuleMatch()), allow=st.none() | some, deny=few)


@st.composite
def policies(draw: st.DrawFn) -> Policy:
    plain = policy_of(max_output_tokens=draw(st.integers(1, 300)))
    shares = tuple(Share(models, Decimal("0.5")) for models in draw(st.lists(some, max_size=2, unique=True)))
    quotas = tuple(
        Quota(models, 10, Period.DAY) for models in draw(st.lists(some.filter(bool), max_size=2, unique=True))
    )
    gold, bronze = plain.tiers
    return replace(
        plain,
        budget=draw(st.none() | st.just(Budget(NanoUsd(10**9), Period.DAY, shares))),
        quotas=quotas,
        tenants=Tenants("x-team", (Tenant("red", Decimal("0.5")), Tenant("blue", Decimal("0.1")))),
        judge=draw(st.none() | st.just(Judge(0.1, NAMES[0], NanoUsd(10**6)))),
        models=draw(choices),
        tiers=(replace(gold, models=draw(choices)), bronze),
        rules=(draw(rules),),
    )


@st.composite
def asks(draw: st.DrawFn) -> Callable[[Policy], Ask]:
    body: dict[str, object] = {
        "model": draw(st.sampled_from(("auto", "auto", "auto", "a", "b"))),
        "messages": [{"role": "user", "content": "why? " * draw(st.integers(1, 80))}],
    }
    if draw(st.booleans()):
        body["max_tokens"] = draw(st.integers(1, 400))
    if draw(st.booleans()):
        body["response_format"] = {"type": "json_object"}
    call = parse_fields(body)
    tier, ruled, judging = draw(st.integers(0, 1)), draw(st.booleans()), draw(st.booleans())
    tenant, exclude = draw(st.sampled_from((None, "red", "blue"))), draw(few)
    least, routed = draw(st.sampled_from((0.0, 0.0, 0.6))), draw(st.booleans())

    def of(policy: Policy) -> Ask:
        return Ask(
            call,
            read(call.texts),
            policy.tiers[tier],
            None,
            0.0,
            9.0,
            tenant=tenant,
            matched=Matched(policy.rules[0], ()) if ruled else None,
            judging=judging,
            routed=routed,
            min_quality=least,
            exclude=exclude,
        )

    return of


@settings(max_examples=150, deadline=None)
@given(policies(), st.lists(asks(), min_size=1, max_size=4))
def test_a_frame_that_is_used_again_says_what_a_new_look_would_say(
    policy: Policy, made: list[Callable[[Policy], Ask]]
) -> None:
    frame, reserve = Frame(FLEET, policy), [NanoUsd(7), NanoUsd(8), NanoUsd(9)]
    for make in (*made, *made):
        ask = make(policy)
        assert frame.barred(ask) == tuple(barred(model, ask, policy) for model in FLEET.models)
        accounts = accounts_of(policy)
        anew = [
            charges(accounts, name, ask.tenant, amount, judging=ask.judging)
            for name, amount in zip(NAMES, reserve, strict=True)
        ]
        assert list(frame.charges(ask, reserve)) == (anew if accounts else [])


@settings(max_examples=150, deadline=None)
@given(policies(), st.lists(asks(), min_size=1, max_size=4))
def test_the_short_way_to_a_candidate_leads_to_the_same_as_the_long_one(
    policy: Policy, made: list[Callable[[Policy], Ask]]
) -> None:
    """A bound that no cost reaches has every model looked at by itself, and changes nothing."""
    frame = Frame(FLEET, policy)
    for make in (*made, *made):
        ask = make(policy)
        assert look(ask, frame) == look(replace(ask, max_cost=NanoUsd(10**18)), Frame(FLEET, policy))


def look(ask: Ask, frame: Frame) -> object:
    """Return all that the core would decide on, or why there is nothing."""
    try:
        seen = prospect(ask, FLEET, frame.policy, ESTIMATOR, frame=frame)
    except Failure as failure:
        return failure.reason, failure.message
    return seen.output_limit, [getattr(seen.candidate, one.name) for one in fields(Candidate)]
