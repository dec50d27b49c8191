"""A conversation goes where its prompt is cached, while that is worth something and nothing binds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from modelfleet_core.catalog import Pricing
from modelfleet_core.leasing.messages import SlotGrant
from modelfleet_core.policy import Tenants
from modelfleet_core.values import EndpointUrl, NanoUsd
from modelfleet_sidecar.sessions import FORGOTTEN, KEPT_FOR, MOST_SESSIONS, Sessions
from support.desks import BIG, SMALL, Desk
from support.sidecars import policy_of

ONE, TWO = EndpointUrl("http://one"), EndpointUrl("http://two")
SESSION = {"x-modelfleet-session": "s"}


def test_what_is_cached_is_at_most_the_last_prompt_and_fades() -> None:
    sessions = Sessions()
    assert sessions.cached("", "s", 100, 0.0) is None
    sessions.went("", "s", BIG.key, ONE, 80, 0.0)
    now = sessions.cached("", "s", 100, 0.0)
    assert now is not None
    assert (now.variant, now.endpoint, now.tokens, now.part) == (BIG.key, ONE, 80.0, 0.8)
    later = sessions.cached("", "s", 100, KEPT_FOR)
    assert later is not None
    assert later.tokens == pytest.approx(80 / 2.718281828)
    shorter = sessions.cached("", "s", 10, 0.0)
    assert shorter is not None
    assert shorter.part == 1.0
    assert sessions.cached("", "s", 100, FORGOTTEN + 1) is None
    assert sessions.cached("other", "s", 100, 0.0) is None


def test_a_cached_prompt_saves_what_the_price_says_and_part_of_the_first_token() -> None:
    sessions = Sessions()
    sessions.went("", "s", BIG.key, ONE, 1000, 0.0)
    cached = sessions.cached("", "s", 2000, 0.0)
    assert cached is not None
    assert cached.saved_cost(Pricing(10**9, 10**9, 10**8)) == pytest.approx(1000 * 0.9e-6)
    assert cached.saved_cost(Pricing(10**9, 10**9)) == 0.0
    assert cached.saved_seconds(0.8) == pytest.approx(0.2)


def test_only_so_many_sessions_are_remembered() -> None:
    sessions = Sessions()
    for number in range(MOST_SESSIONS + 5):
        sessions.went("", str(number), BIG.key, ONE, 10, 0.0)
    assert len(sessions) == MOST_SESSIONS
    assert sessions.cached("", "4", 10, 0.0) is None
    assert sessions.cached("", "5", 10, 0.0) is not None


def two_replicas(desk: Desk, *, one: int = 8, two: int = 4) -> None:
    desk.lease.grant({ONE: SlotGrant(BIG.key, one), TWO: SlotGrant(BIG.key, two)}, money=NanoUsd(10**12))


async def test_a_session_stays_at_its_endpoint_while_a_slot_is_free_there() -> None:
    desk = Desk(policy_of(), [BIG])
    two_replicas(desk, one=2, two=1)
    first = await desk.decided("hello there", SESSION)
    assert first.endpoint == ONE
    desk.router.release([first])
    two_replicas(desk, one=1, two=8)
    again = await desk.decided("hello there, and more", SESSION)
    assert again.endpoint == ONE
    # The slot is in use: stickiness is given up.
    assert (await desk.decided("hello there, and more yet", SESSION)).endpoint == TWO
    assert (await desk.decided("hello there")).endpoint == TWO


async def test_a_session_stays_with_its_model_among_equals_and_leaves_it_for_a_better_one() -> None:
    twin = replace(BIG, name="twin")
    desk = Desk(policy_of(), [BIG, twin])
    first = await desk.decided("hello there", SESSION, model="twin")
    desk.router.release([first])
    assert (await desk.decided("hello there")).variant.model == "big"
    assert (await desk.decided("hello there, and more", SESSION)).variant.model == "twin"
    desk = Desk(policy_of(), [SMALL, BIG])
    desk.router.release([await desk.decided("hello there", SESSION, model="small")])
    assert (await desk.decided("hello there, and more", SESSION)).variant.model == "big"


async def test_the_bound_of_the_cost_stays_that_without_a_cache() -> None:
    priced = replace(BIG, pricing=Pricing(10**9, 10**9, 0))
    desk = Desk(policy_of(), [priced])
    text = "hello there " * 50
    plain = await desk.decided(text, SESSION)
    desk.router.release([plain])
    stuck = await desk.decided(text, SESSION)
    assert stuck.reserved == plain.reserved
    assert stuck.expected_cost < plain.expected_cost


async def test_sessions_of_callers_are_their_own() -> None:
    twin = replace(BIG, name="twin")
    desk = Desk(replace(policy_of(), tenants=Tenants("x-tenant")), [BIG, twin])
    desk.router.release([await desk.decided("hello", SESSION | {"x-tenant": "a"}, model="twin")])
    assert (await desk.decided("hello", SESSION | {"x-tenant": "b"})).variant.model == "big"
    assert (await desk.decided("hello", SESSION | {"x-tenant": "a"})).variant.model == "twin"
