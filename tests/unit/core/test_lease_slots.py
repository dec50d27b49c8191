"""Sharing live slots: water filling, idle slots, where they lie and which of them outlast a lease."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from modelfleet_core.leasing.messages import SidecarId
from modelfleet_core.leasing.slots import even_shares, floors, take, water_fill
from modelfleet_core.values import EndpointUrl

A, B, C = (SidecarId("ml", name, name, "1") for name in "abc")
X, Y = EndpointUrl("http://x"), EndpointUrl("http://y")
RATE = EndpointUrl("https://api#model/api!tokens")


def test_wants_are_met_from_the_smallest_up() -> None:
    assert water_fill({A: 1, B: 9, C: 9}, 9, {}) == {A: 1, B: 4, C: 4}


def test_the_odd_slot_stays_where_it_is() -> None:
    assert water_fill({A: 5, B: 5}, 5, {A: 3, B: 2}) == {A: 3, B: 2}
    assert water_fill({A: 5, B: 5}, 5, {A: 2, B: 3}) == {A: 2, B: 3}


def test_slots_that_nobody_wants_are_spread_evenly() -> None:
    assert even_shares({A: 0, B: 0, C: 4}, 10, {}) == {A: 2, B: 2, C: 6}
    assert even_shares({}, 10, {}) == {}


def test_new_slots_are_taken_from_the_emptiest_endpoint() -> None:
    assert take(4, {X: 4, Y: 4}) == {X: 2, Y: 2}
    assert take(3, {X: 1, Y: 4}) == {Y: 3}
    assert take(9, {X: 1, Y: 4}) == {X: 1, Y: 4}


def test_many_units_of_a_rate_are_taken_at_once() -> None:
    assert take(10**9, {RATE: 2 * 10**9}) == {RATE: 10**9}


def test_the_floor_lies_at_as_many_endpoints_as_possible_and_has_no_part_of_a_rate() -> None:
    assert floors({X: 4, Y: 1, RATE: 100}, 2) == {X: 1, Y: 1}
    assert floors({X: 4, Y: 1, RATE: 100}, 4) == {X: 3, Y: 1}
    assert floors({X: 4, Y: 1, RATE: 100}, 105) == {X: 4, Y: 1, RATE: 100}
    assert floors({X: 4}, 0) == {}


@given(
    st.dictionaries(st.sampled_from([A, B, C]), st.integers(0, 12)),
    st.dictionaries(st.sampled_from([X, Y]), st.integers(0, 9), min_size=1),
    st.integers(0, 20),
)
def test_shares_are_fair_and_never_more_than_is_live(
    wants: dict[SidecarId, int], live: dict[EndpointUrl, int], count: int
) -> None:
    total = sum(live.values())
    filled = water_fill(wants, total, {})
    assert sum(filled.values()) == min(total, sum(wants.values()))
    unmet = [filled[s] for s in wants if filled[s] < wants[s]]
    assert all(max(filled.values()) <= share + 1 for share in unmet)
    shares = even_shares(wants, total, {})
    assert not wants or sum(shares.values()) == total
    taken = take(count, dict(live))
    assert sum(taken.values()) == min(count, total)
    assert all(0 < slots <= live[endpoint] for endpoint, slots in taken.items())
    assert sum(floors(live, count).values()) == min(count, total)
