"""Who gets a slot when there are fewer than wanted, what the others are told, and how slots come back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pytest
from modelfleet_core.leasing.grants import Documents, LeaseBook
from modelfleet_core.leasing.market import SOMEONE
from modelfleet_core.leasing.messages import Ask, Bid, Grant, Report, SidecarId, SlotState, Want
from modelfleet_core.leasing.slots import RATE_NOTICE, UPSTREAM_NOTICES
from modelfleet_core.manifests import document, parse_policy
from modelfleet_core.policy import Stale, Staleness
from modelfleet_core.values import EndpointUrl, VariantKey, leased_endpoint, rate_key
from support.lease_queue import SlotQueue, central_waits, poisson_jobs
from support.lease_values import (
    FLEET,
    LARGE,
    LONGEST,
    POD_A,
    POD_B,
    POLICY,
    TTL,
    granted,
    hear,
    lease_book,
    report,
)
from support.manifests import policy_manifest

TOKENS = rate_key(LARGE, "tokens")
RATE = leased_endpoint(EndpointUrl("https://api.example.com"), TOKENS)


def sidecar(number: int) -> SidecarId:
    return SidecarId("ml", f"pod{number}", f"uid{number}", "1")


def said(
    number: int,
    sequence: int,
    slots: Mapping[EndpointUrl, tuple[int, int]] | None = None,
    *,
    applied: int = 0,
    wants: int = 0,
    bids: Sequence[Bid] = (),
    variant: VariantKey = LARGE,
) -> Report:
    """Return a report of the sidecar `number`; `slots`: in flight and kept."""
    return replace(
        report(sidecar(number), sequence, applied=applied),
        slots={endpoint: SlotState(*state) for endpoint, state in (slots or {}).items()},
        wants={variant: Want(wants, tuple(bids))} if wants else {},
    )


def busy_book(slots: int, sidecars: int) -> LeaseBook:
    """Return a book of sidecars 0 and on; the first has all slots in flight."""
    book = lease_book({POD_A: slots})
    for number in range(1, sidecars):
        hear(book, said(number, 1), 0)
    hear(book, said(0, 1, wants=slots), 0)
    granted(book, 0)
    hear(book, said(0, 2, {POD_A: (slots, slots)}, applied=1, wants=slots), 0)
    return book


def newest(book: LeaseBook, number: int) -> int:
    """Return the sequence of the newest grant of a sidecar."""
    return next(holder.sequence for holder in book.holders() if holder.id == sidecar(number))


def given(grants: Mapping[SidecarId, Grant]) -> dict[int, int]:
    """Return the slots in each grant by the sidecar's number."""
    return {
        int(who.pod.removeprefix("pod")): sum(slot.slots for slot in grant.slots.values())
        for who, grant in grants.items()
    }


def test_a_heavier_tier_comes_first_then_a_higher_price_then_the_longer_wait() -> None:
    book = busy_book(4, 5)
    hear(book, said(1, 2, wants=1, bids=[Bid(1.0, 0.5, 1)]), 1.0)
    hear(book, said(2, 2, wants=1, bids=[Bid(1.0, 0.5, 1)]), 0.9)
    hear(book, said(3, 2, wants=1, bids=[Bid(1.0, 0.7, 1)]), 1.1)
    hear(book, said(4, 2, wants=1, bids=[Bid(2.0, 0.1, 1)]), 1.2)
    granted(book, 2)
    served = []
    for back in range(1, 5):
        left = 4 - back
        back_to = {POD_A: (left, left)} if left else {}
        hear(book, said(0, 2 + back, back_to, applied=newest(book, 0), wants=left), 2 + back)
        served += [number for number, slots in given(granted(book, 2 + back)).items() if slots and number]
    assert served == [4, 3, 2, 1]


def test_equal_bids_get_equal_parts() -> None:
    book = lease_book({POD_A: 6})
    for number in range(3):
        hear(book, said(number, 1, wants=9, bids=[Bid(1.0, 0.0, 9)]), 0)
    assert given(granted(book, 0)) == {0: 2, 1: 2, 2: 2}


def test_few_slots_are_not_given_in_advance_and_many_are() -> None:
    few = lease_book({POD_A: 4, POD_B: 3})
    many = lease_book({POD_A: 4, POD_B: 4})
    for book in (few, many):
        for number in range(2):
            hear(book, said(number, 1), 0)
    assert given(granted(few, 0)) == {0: 0, 1: 0}
    grants = granted(many, 0)
    assert given(grants) == {0: 4, 1: 4}
    assert all(grant.linger == {} for grant in grants.values())


def test_unused_borrowed_slots_are_to_go_back_soon() -> None:
    book = lease_book({POD_A: 4})
    for number in range(2):
        hear(book, said(number, 1, wants=1 - number), 0)
    assert granted(book, 0)[sidecar(0)].linger == {LARGE: 0.2}


def test_those_who_use_slots_hear_what_others_would_pay() -> None:
    book = busy_book(4, 3)
    hear(book, said(1, 2, wants=1, bids=[Bid(1.0, 0.5, 1)]), 1)
    assert granted(book, 1)[sidecar(0)].asks == {LARGE: Ask(1.0, 0.5)}
    hear(book, said(2, 2, wants=1, bids=[Bid(1.0, 0.55, 1)]), 2)
    assert sidecar(0) not in granted(book, 2)  # it knows well enough
    hear(book, said(2, 3, wants=1, bids=[Bid(1.0, 0.8, 1)]), 3)
    assert sidecar(0) not in granted(book, 3)  # nothing waits there that it could use a slot for
    hear(book, said(0, 3, {POD_A: (4, 4)}, applied=2, wants=5, bids=[Bid(1.0, 0.6, 1)]), 3)
    assert granted(book, 3)[sidecar(0)].asks == {LARGE: Ask(1.0, 0.8)}


def test_bids_for_more_than_is_wanted_are_not_remembered() -> None:
    book = lease_book({POD_A: 4})
    for number in range(2):
        hear(book, said(number, 1), 0)
    granted(book, 0)
    hear(book, said(0, 2, applied=1, wants=2, bids=[Bid(1.0, 0.9, 8)]), 1)
    assert given(granted(book, 1)) == {0: 2}
    hear(book, said(0, 3, {POD_A: (2, 2)}, applied=2, wants=4, bids=[Bid(1.0, 0.9, 8)]), 2)
    granted(book, 2)
    hear(book, said(0, 4, applied=3), 3)
    granted(book, 3)
    hear(book, said(1, 2, applied=1, wants=9, bids=[Bid(1.0, 0.1, 9)]), 20)
    grant = granted(book, 20)[sidecar(1)]
    assert (grant.slots[POD_A].slots, grant.asks) == (4, {LARGE: SOMEONE})


def test_no_one_is_asked_for_its_own_bid() -> None:
    book = busy_book(4, 2)
    hear(book, said(0, 9, {POD_A: (4, 4)}, applied=1, wants=9, bids=[Bid(1.0, 0.9, 5)]), 5)
    assert granted(book, 5)[sidecar(0)].asks == {LARGE: SOMEONE}


def test_unused_slots_are_recalled_for_those_who_wait() -> None:
    book = busy_book(4, 2)
    hear(book, said(0, 3, {POD_A: (1, 4)}, applied=2, wants=1), 1)
    hear(book, said(1, 2, wants=2), 1)
    assert given(granted(book, 1)) == {0: 2}
    hear(book, said(0, 4, {POD_A: (1, 2)}, applied=2, wants=1), 1)
    assert given(granted(book, 1)) == {1: 2}


def test_slots_in_use_or_wanted_at_a_higher_price_are_not_recalled() -> None:
    book = busy_book(4, 2)
    hear(book, said(0, 3, {POD_A: (3, 4)}, applied=2, wants=4, bids=[Bid(1.0, 0.9, 1)]), 1)
    hear(book, said(1, 2, wants=2, bids=[Bid(1.0, 0.5, 2)]), 1)
    assert given(granted(book, 1))[0] == 4


def test_a_slot_that_is_wanted_but_left_unused_goes_to_those_who_have_less() -> None:
    book = busy_book(4, 2)
    hear(book, said(0, 3, {POD_A: (2, 4)}, applied=1, wants=4), 1)
    hear(book, said(1, 2, wants=2), 1)
    assert given(granted(book, 1))[0] == 4
    assert given(granted(book, 1.3))[0] == 2


def test_slots_given_back_are_not_granted_again_unless_wanted() -> None:
    book = busy_book(4, 2)
    hear(book, said(0, 3, {POD_A: (1, 1)}, applied=1, wants=1), 1)
    hear(book, said(1, 2, wants=2), 1)
    assert given(granted(book, 1)) == {1: 2}
    hear(book, said(0, 8, {POD_A: (1, 1)}, applied=1, wants=1), 6)
    assert given(granted(book, 6))[0] == 1


def test_a_grant_that_crosses_slots_on_their_way_back_counts_until_it_is_answered() -> None:
    book = lease_book({POD_A: 4})
    hear(book, said(1, 1), 0)
    hear(book, said(0, 1, wants=4), 0)
    granted(book, 0)
    book.connect(sidecar(0))
    assert given(granted(book, 0)) == {0: 4}  # this one is under way when the sidecar gives all back
    hear(book, said(0, 2, applied=1), 1)
    hear(book, said(1, 2, wants=4), 1)
    assert given(granted(book, 1)) == {0: 0}
    assert book.held() == {POD_A: 4}
    hear(book, said(0, 3, {POD_A: (0, 4)}, applied=2), 1)
    assert given(granted(book, 1)) == {}
    hear(book, said(0, 4, applied=3), 1)
    assert given(granted(book, 1)) == {1: 4}


def test_standing_shares_follow_expected_demand_and_move_only_when_worth_it() -> None:
    book = lease_book({POD_A: 16})
    for number in range(2):
        hear(book, said(number, 1), 0)
    assert given(granted(book, 0)) == {0: 8, 1: 8}
    for number in range(2):
        hear(book, said(number, 2, {POD_A: (0, 8)}, applied=1), 1)
    book.set_targets(FLEET, {sidecar(0): {LARGE: 9.0}, sidecar(1): {LARGE: 7.0}})
    assert given(granted(book, 2)) == {}
    book.set_targets(FLEET, {sidecar(0): {LARGE: 12.0}, sidecar(1): {LARGE: 2.0}})
    assert given(granted(book, 4)) == {1: 3}
    hear(book, said(1, 3, {POD_A: (0, 3)}, applied=2), 4)
    assert given(granted(book, 4)) == {0: 13}


def test_load_is_spread_over_endpoints() -> None:
    book = lease_book({POD_A: 4, POD_B: 4})
    for number in range(4):
        hear(book, said(number, 1, wants=2), 0)
    grants = granted(book, 0)
    assert all({slot.slots for slot in grant.slots.values()} == {1} for grant in grants.values())
    assert book.held() == {POD_A: 4, POD_B: 4}


def test_a_removed_endpoint_is_recalled_and_counts_until_its_requests_ended() -> None:
    book = busy_book(4, 1)
    book.set_capacity({FLEET: {LARGE: {POD_B: 4}}})
    assert POD_A not in granted(book, 1)[sidecar(0)].slots
    assert book.held()[POD_A] == 4
    hear(book, said(0, 3, {POD_A: (1, 1), POD_B: (0, 4)}, applied=2, wants=1), 2)
    assert book.held()[POD_A] == 1
    hear(book, said(0, 4, {POD_B: (0, 4)}, applied=2), 3)
    assert POD_A not in book.held()


def test_sidecars_report_less_often_the_more_there_are() -> None:
    book = lease_book({POD_A: 4})
    for number in range(1000):
        hear(book, said(number, 1), 0)
    assert granted(book, 0)[sidecar(0)].report_every == 2.0


def test_silent_sidecars_get_nothing_more() -> None:
    book = lease_book({POD_A: 3})
    hear(book, said(0, 1), 0)
    hear(book, said(1, 1, wants=3), 0)
    book.prune(10)
    hear(book, said(0, 2, wants=3), 10)
    assert given(granted(book, 10)) == {0: 3, 1: 0}


# Leases that end.


def policies(staleness: Staleness, floor: int = 0) -> Documents:
    manifest = policy_manifest()
    del manifest["spec"]["budget"]
    policy = parse_policy(manifest)
    tiers = (replace(policy.tiers[0], floor=floor), *policy.tiers[1:])
    policy = replace(policy, staleness=staleness, tiers=tiers)
    return Documents({FLEET: document(manifest)}, {POLICY: (policy, document(manifest))})


def test_a_lease_lasts_as_long_as_its_policy_says() -> None:
    book = lease_book({POD_A: 4})
    book.set_documents(policies(Staleness(max_age=5.0)))
    hear(book, said(0, 1, wants=4), 0)
    assert granted(book, 0)[sidecar(0)].ttl == 5.0


@pytest.mark.parametrize(
    ("then", "floor"), [(Stale.HOLD, 4), (Stale.FLOOR, 3), (Stale.REJECT, 0)], ids=lambda v: str(v)
)
def test_a_floor_outlasts_the_lease_until_the_pod_is_gone(then: Stale, floor: int) -> None:
    book = lease_book({POD_A: 4})
    book.set_documents(policies(Staleness(then=then), floor=3))
    hear(book, said(0, 1, wants=4), 0)
    assert granted(book, 0)[sidecar(0)].slots[POD_A].floor == floor
    over = TTL + LONGEST
    for now in (over, over + 1, over + 10_000):
        book.prune(now)
        assert book.held().get(POD_A, 0) == floor
    book.forget(sidecar(0).uid, now)
    book.prune(now + UPSTREAM_NOTICES)
    assert book.held() == {}


def test_a_floor_is_freed_by_a_report_without_it() -> None:
    book = lease_book({POD_A: 4})
    book.set_documents(policies(Staleness(then=Stale.HOLD)))
    hear(book, said(0, 1, wants=4), 0)
    granted(book, 0)
    book.prune(TTL + LONGEST)
    hear(book, said(0, 2, {POD_A: (0, 1)}, applied=1), TTL + LONGEST + 1)
    assert book.held() == {POD_A: 1}
    book.prune(TTL + LONGEST + 1 + TTL + LONGEST)
    assert book.held() == {POD_A: 1}


def test_a_new_leader_counts_the_floors_of_pods_that_never_report() -> None:
    book = lease_book({POD_A: 8}, epoch=2, may_hold=("uid-silent", "uid0"))
    book.set_documents(policies(Staleness(), floor=3))
    over = TTL + LONGEST
    hear(book, said(0, 1, wants=8), over + 10)
    hear(book, replace(said(0, 2, wants=8), epoch=2), over + 10)
    assert given(granted(book, over + 20)) == {0: 5}
    book.forget("uid-silent", over + 20)
    assert given(granted(book, over + 20 + RATE_NOTICE)) == {0: 8}


# Rates.


def rate_book(units: int) -> LeaseBook:
    book = lease_book({POD_A: 4})
    book.set_capacity({FLEET: {LARGE: {POD_A: 4}, TOKENS: {RATE: units}}})
    return book


def test_units_of_a_rate_are_granted_like_slots() -> None:
    book = rate_book(1000)
    hear(book, said(0, 1, wants=300, variant=TOKENS), 0)
    hear(book, said(1, 1), 0)
    slots = granted(book, 0)[sidecar(0)].slots[RATE]
    assert (slots.variant, slots.slots) == (TOKENS, 500)


def test_units_of_a_vanished_sidecar_come_back_after_the_minute_they_count_in() -> None:
    book = rate_book(3)
    hear(book, said(0, 1, wants=3, variant=TOKENS), 0)
    granted(book, 0)
    book.forget(sidecar(0).uid, 1)
    book.prune(1 + UPSTREAM_NOTICES)
    assert book.held() == {RATE: 3}
    book.prune(1 + RATE_NOTICE)
    assert book.held() == {}


def test_units_of_a_silent_sidecar_come_back_a_minute_after_its_last_request_may_have_ended() -> None:
    book = rate_book(3)
    hear(book, said(0, 1, wants=3, variant=TOKENS), 0)
    granted(book, 0)
    book.prune(TTL + LONGEST + RATE_NOTICE - UPSTREAM_NOTICES - 1)
    assert book.held() == {RATE: 3}
    book.prune(TTL + LONGEST + RATE_NOTICE)
    assert book.held() == {}


# Many sidecars, few slots.


@pytest.mark.parametrize(("sidecars", "service"), [(200, 1.0), (50, 0.5)])
def test_many_sidecars_that_borrow_wait_little_longer_than_in_one_queue(
    sidecars: int, service: float
) -> None:
    endpoints = {EndpointUrl(f"http://10.0.0.{number}:8000"): 8 for number in range(4)}
    jobs = poisson_jobs(7, rate=0.85 * 32 / service, service=service, until=60 * service)
    queue = SlotQueue(lease_book(endpoints), sidecars, delay=0.001, seed=3)
    queue.run(jobs, 32)
    central = central_waits(jobs, 32)
    assert sum(queue.waits) <= 3 * sum(central)
    assert queue.idle < 0.05
