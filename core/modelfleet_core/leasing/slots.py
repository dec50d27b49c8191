"""Stage publish: what slots are, and how whole ones are shared out.

In come live slots, wants and what is held; out go whole shares, and the endpoints to take them from.
`market.py` decides with them who gets which slot.

A rate limit of an external variant is a slot held for a minute (`rates.py`): a variant of its own with one
endpoint, whose slots are units per minute. It is wanted, granted and given back like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from modelfleet_core.leasing.messages import SidecarId
from modelfleet_core.values import RATE_MARK, EndpointUrl, VariantKey

Capacity = Mapping[VariantKey, Mapping[EndpointUrl, int]]
"""Live slots by endpoint of each variant of one fleet."""

UPSTREAM_NOTICES = 5.0
"""Seconds after which model servers have dropped the requests of a pod that is gone."""
RATE_NOTICE = 60.0
"""Seconds after which nothing that a pod sent before it was gone counts within the last minute."""


Key = TypeVar("Key", SidecarId, EndpointUrl, int)


def counts_rate(endpoint: EndpointUrl) -> bool:
    """Return whether the slots of `endpoint` are units per minute."""
    return RATE_MARK in endpoint.partition("#")[2]


def water_fill(wants: Mapping[Key, int], total: int, held: Mapping[Key, int]) -> dict[Key, int]:
    """Return the fairest whole shares of `total`: nobody gets more than it wants, or one more than
    another whose want is unmet. Among equals the one that holds more keeps the odd one."""
    shares: dict[Key, int] = {}
    left = max(0, total)
    for place, sidecar in enumerate(sorted(wants, key=lambda s: (wants[s], held.get(s, 0), s))):
        shares[sidecar] = min(wants[sidecar], left // (len(wants) - place))
        left -= shares[sidecar]
    return shares


def even_shares(wants: Mapping[Key, int], total: int, held: Mapping[Key, int]) -> dict[Key, int]:
    """Return `water_fill` with the rest spread evenly, so that idle sidecars can start at once."""
    shares = water_fill(wants, total, held)
    if not shares:
        return shares
    each, odd = divmod(max(0, total) - sum(shares.values()), len(shares))
    by_surplus = sorted(shares, key=lambda s: (shares[s] - held.get(s, 0), s))
    for place, sidecar in enumerate(by_surplus):
        shares[sidecar] += each + (1 if place < odd else 0)
    return shares


def take(count: int, room: dict[Key, int]) -> dict[Key, int]:
    """Take up to `count` slots out of `room`, always from the place with the most, so that load spreads."""
    taken: dict[Key, int] = {}
    while count > 0 and room:
        most, second, emptiest = -1, 0, next(iter(room))
        for place, slots in room.items():
            if slots > most or (slots == most and place > emptiest):
                most, second, emptiest = slots, most, place
            elif slots > second:
                second = slots
        if most <= 0:
            break
        slots = min(count, max(1, most - max(0, second)))
        room[emptiest] -= slots
        taken[emptiest] = taken.get(emptiest, 0) + slots
        count -= slots
    return taken


def floors(slots: Mapping[EndpointUrl, int], total: int) -> dict[EndpointUrl, int]:
    """Return which `total` of `slots` are the floor: one at each endpoint, then a second, and so on.

    A part of the slots has no part of the rates: the rates of others can not be known after the lease ended.
    """
    if total >= sum(slots.values()):
        return dict(slots)
    left = {endpoint: count for endpoint, count in sorted(slots.items()) if not counts_rate(endpoint)}
    total = min(total, sum(left.values()))
    floor = dict.fromkeys(left, 0)
    while total > 0:
        for endpoint, count in left.items():
            if total > 0 and floor[endpoint] < count:
                floor[endpoint] += 1
                total -= 1
    return {endpoint: count for endpoint, count in floor.items() if count}
