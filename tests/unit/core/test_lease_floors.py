"""Floors outlast leases, so the leader counts them until they are acknowledged as gone or their pod is."""

from __future__ import annotations

from modelfleet_core.leasing.grants import Documents, LeaseBook
from modelfleet_core.leasing.slots import UPSTREAM_NOTICES
from modelfleet_core.leasing.takeover import Blocked, Takeover
from modelfleet_core.manifests import document, parse_policy
from modelfleet_core.values import EndpointUrl, leased_endpoint, rate_key
from support.lease_values import FLEET, LARGE, LONGEST, ONE, POD_A, POLICY, TTL, hear, lease_book, report
from support.manifests import fleet_manifest, policy_manifest


def holding_book(slots: int) -> LeaseBook:
    """Return a book whose policy lets sidecars hold all slots after their lease."""
    book = lease_book({POD_A: slots})
    manifest = policy_manifest()
    del manifest["spec"]["budget"]
    manifest["spec"]["staleness"] = {"then": "Hold"}
    policy = (parse_policy(manifest), document(manifest))
    book.set_documents(Documents({FLEET: document(fleet_manifest())}, {POLICY: policy}))
    return book


def lapsed(slots: int) -> tuple[LeaseBook, float]:
    """Return a book in which ONE holds `slots` by its floor only, and the time."""
    book = holding_book(slots)
    hear(book, report(ONE, 1, wants=slots), 0)
    book.turn(0, [ONE])
    hear(book, report(ONE, 2, {POD_A: slots}, applied=1, wants=slots), 1)
    return book, 1 + TTL + LONGEST


def test_a_floor_of_a_lapsed_lease_is_held_until_model_servers_noticed_that_its_pod_is_gone() -> None:
    book, over = lapsed(4)
    book.prune(over)
    book.forget(ONE.uid, over)
    book.prune(over + UPSTREAM_NOTICES - 0.1)
    assert book.held() == {POD_A: 4}
    book.prune(over + UPSTREAM_NOTICES)
    assert book.held() == {}


def test_a_floor_that_was_recalled_before_its_lease_lapsed_is_not_granted_again_by_itself() -> None:
    book, over = lapsed(4)
    book.set_capacity({FLEET: {LARGE: {POD_A: 1}}})
    book.turn(1, [ONE])  # recalls 3
    book.prune(over)
    assert [holder.told for holder in book.holders()] == [{POD_A: 1}]


def test_a_sidecar_that_leaves_holds_nothing_by_grants_under_way() -> None:
    book, _ = lapsed(4)
    book.set_capacity({FLEET: {LARGE: {POD_A: 3}}})
    book.turn(1, [ONE])
    hear(book, report(ONE, 3, applied=1, leaving=True), 2)
    assert book.held() == {}


def test_a_new_leader_counts_the_floor_of_the_unheard_at_limits_by_the_minute_too() -> None:
    units = leased_endpoint(EndpointUrl("http://api"), rate_key(LARGE, "tokens"))
    takeover = Takeover.of(("uid-silent",))
    assert takeover.live({units: 10, POD_A: 5}, Blocked(False, False, 1), floor=4) == {units: 6, POD_A: 1}
