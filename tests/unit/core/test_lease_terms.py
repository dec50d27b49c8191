"""A new leader waits for leases, requests and floors that were granted before their policy was lowered."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from modelfleet_core.leasing.grants import Documents, LeaseBook
from modelfleet_core.leasing.slots import RATE_NOTICE
from modelfleet_core.leasing.terms import UNKNOWN, Terms
from modelfleet_core.manifests import document, parse_policy
from modelfleet_core.policy import Policy
from support.lease_values import FLEET, LARGE, LONGEST, ONE, POD_A, POLICY, TTL, TWO, granted, hear, report
from support.manifests import fleet_manifest, policy_manifest


def policy_with(*, age: float = TTL, request: float = LONGEST, floor: int = 0, then: str = "Floor") -> Policy:
    manifest = policy_manifest()
    del manifest["spec"]["budget"]
    manifest["spec"]["staleness"] = {"maxAge": f"{age:g}s", "then": then}
    manifest["spec"]["limits"]["maxRequest"] = f"{request:g}s"
    if then == "Floor":
        manifest["spec"]["tiers"][0]["floor"] = floor
    return parse_policy(manifest)


def set_policy(book: LeaseBook, policy: Policy) -> None:
    fleet = document(fleet_manifest())
    book.set_documents(Documents({FLEET: fleet}, {POLICY: (policy, document(policy_manifest()))}))


def successor(*policies: Policy, slots: int = 10, now: float = 0.0) -> LeaseBook:
    """Return the book of a leader that awaits ONE and TWO, after one that saw all `policies`."""
    before = LeaseBook(epoch=1, ttl=TTL, now=0.0, may_hold=())
    for policy in policies:
        set_policy(before, policy)
    book = LeaseBook(epoch=2, ttl=TTL, now=now, may_hold=(ONE.uid, TWO.uid), inherited=before.terms)
    set_policy(book, policies[-1])
    book.set_capacity({FLEET: {LARGE: {POD_A: slots}}})
    return book


def slots_of_one(book: LeaseBook, now: float) -> int:
    """Return the slots of ONE, which reported at 0 and now wants all, while nobody hears TWO."""
    hear(book, report(ONE, 1, epoch=2), 0)
    hear(book, report(ONE, 2, epoch=2, wants=100), now)
    said = granted(book, now)[ONE].slots
    return said[POD_A].slots if POD_A in said else 0


@pytest.mark.parametrize("wide", [{"age": 500.0}, {"request": 900.0}], ids=["maxAge", "maxRequest"])
def test_a_leader_waits_for_leases_granted_before_their_policy_was_lowered(wide: Mapping[str, float]) -> None:
    wider = policy_with(age=wide.get("age", TTL), request=wide.get("request", LONGEST))
    over = wide.get("age", TTL) + wide.get("request", LONGEST)
    assert slots_of_one(successor(wider, policy_with()), over - 0.1) == 0
    assert slots_of_one(successor(wider, policy_with()), over) == 10
    assert slots_of_one(successor(policy_with()), TTL + LONGEST) == 10


@pytest.mark.parametrize(
    ("wide", "free"),
    [(policy_with(floor=4), 6), (policy_with(then="Hold"), 0), (policy_with(then="Reject"), 10)],
    ids=["floor", "hold", "reject"],
)
def test_a_leader_leaves_the_unheard_the_floor_that_they_were_granted(wide: Policy, free: int) -> None:
    assert slots_of_one(successor(wide, policy_with(then="Reject")), TTL + LONGEST) == free


def test_a_floor_that_was_raised_since_counts_too() -> None:
    assert slots_of_one(successor(policy_with(floor=1), policy_with(floor=3)), TTL + LONGEST) == 7


def test_what_a_sidecar_reports_that_then_is_cut_off_stays_its_floor_by_older_terms() -> None:
    book = successor(policy_with(floor=4), policy_with(then="Reject"))
    hear(book, report(TWO, 1, {POD_A: 4}, epoch=2), 0)
    book.part(TWO)
    book.prune(TTL + LONGEST)
    assert book.held() == {POD_A: 4}


def test_requests_of_a_sidecar_that_reported_once_may_be_as_long_as_they_were_allowed_to_be() -> None:
    book = successor(policy_with(request=900), policy_with())
    hear(book, report(TWO, 1, {POD_A: 4}, epoch=2), 0)
    book.part(TWO)
    book.prune(TTL + 900 - 0.1)
    assert book.held() == {POD_A: 4}
    book.prune(TTL + 900)
    assert book.held() == {}


def test_terms_stay_inherited_until_everyone_has_a_lease_of_this_epoch_and_older_requests_are_over() -> None:
    book = successor(policy_with(request=900, floor=4), policy_with())
    older, present = Terms(TTL, 900, 4), Terms(TTL, LONGEST, 0)
    for sidecar in (ONE, TWO):
        hear(book, report(sidecar, 1, epoch=2, wants=5), 0)
        book.connect(sidecar)
    now = RATE_NOTICE + 10
    granted(book, now)
    book.prune(now)
    hear(book, report(ONE, 2, {POD_A: 5}, epoch=2, applied=1, wants=5), now)
    book.prune(now + 900 + TTL)
    assert book.terms == older, "TWO may not have heard of the lower terms"
    now += 2000
    hear(book, report(TWO, 2, epoch=2, applied=1), now)
    book.prune(now)
    book.prune(now + TTL + 900 - 0.1)
    assert book.terms == older
    book.prune(now + TTL + 900)
    assert book.terms == present


def test_terms_stay_inherited_while_a_pod_is_neither_heard_nor_gone() -> None:
    book = successor(policy_with(floor=4), policy_with())
    slots_of_one(book, 200)
    hear(book, report(ONE, 3, {POD_A: 6}, epoch=2, applied=1), 201)
    for now in (201, 2001, 4001):
        book.turn(now, [ONE])
        book.prune(now)
    assert book.terms.floor == 4
    book.forget(TWO.uid, 4001)
    for now in (4100, 4101, 4100 + TTL + LONGEST):
        book.turn(now, [ONE])
        book.prune(now)
    assert book.terms.floor == 0


def test_unknown_terms_are_the_widest_that_a_policy_may_have() -> None:
    widest = policy_with(age=600, request=86_400, then="Hold")
    assert Terms.of([widest]) == UNKNOWN
    assert math.isinf(UNKNOWN.floor)
