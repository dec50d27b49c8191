"""Sharing live slots: water filling, idle slots and where they lie."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from modelfleet_core.leasing.messages import SidecarId
from modelfleet_core.leasing.slots import even_shares, place, water_fill
from modelfleet_core.values import EndpointUrl

A, B, C = (SidecarId("ml", name, name, "1") for name in "abc")
X, Y = EndpointUrl("http://x"), EndpointUrl("http://y")


def test_wants_are_met_from_the_smallest_up() -> None:
    assert water_fill({A: 1, B: 9, C: 9}, 9, {}) == {A: 1, B: 4, C: 4}


def test_the_odd_slot_stays_where_it_is() -> None:
    assert water_fill({A: 5, B: 5}, 5, {A: 3, B: 2}) == {A: 3, B: 2}
    assert water_fill({A: 5, B: 5}, 5, {A: 2, B: 3}) == {A: 2, B: 3}


def test_slots_that_nobody_wants_are_spread_evenly() -> None:
    assert even_shares({A: 0, B: 0, C: 4}, 10, {}) == {A: 2, B: 2, C: 6}
    assert even_shares({}, 10, {}) == {}


def test_few_slots_move_when_shares_change() -> None:
    placed = place({A: 3, B: 3}, {X: 4, Y: 2}, {A: {X: 4}, B: {Y: 2}})
    assert placed == {A: {X: 3}, B: {Y: 2, X: 1}}


def test_new_slots_go_to_the_emptiest_endpoint() -> None:
    assert place({A: 4}, {X: 4, Y: 4}, {}) == {A: {X: 2, Y: 2}}


@given(
    st.dictionaries(st.sampled_from([A, B, C]), st.integers(0, 12)),
    st.dictionaries(st.sampled_from([X, Y]), st.integers(0, 9), min_size=1),
    st.dictionaries(
        st.sampled_from([A, B, C]), st.dictionaries(st.sampled_from([X, Y]), st.integers(0, 9)), max_size=3
    ),
)
def test_shares_are_fair_and_never_more_than_is_live(
    wants: dict[SidecarId, int],
    live: dict[EndpointUrl, int],
    present: dict[SidecarId, dict[EndpointUrl, int]],
) -> None:
    total = sum(live.values())
    filled = water_fill(wants, total, {})
    assert sum(filled.values()) == min(total, sum(wants.values()))
    unmet = [filled[s] for s in wants if filled[s] < wants[s]]
    assert all(max(filled.values()) <= share + 1 for share in unmet)
    shares = even_shares(wants, total, {})
    assert not wants or sum(shares.values()) == total
    placed = place(shares, live, present)
    for endpoint, slots in live.items():
        assert sum(parts.get(endpoint, 0) for parts in placed.values()) <= slots
    assert {s: sum(parts.values()) for s, parts in placed.items()} == shares
