"""Stage publish: divides the live slots of one variant over sidecars and its endpoints.

In come what each sidecar wants and holds; out go whole slots per sidecar and endpoint, never more than are
live. `grants.py` turns these targets into grants as recalled slots come back.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from modelfleet_core.leasing.holders import Holder, held_by
from modelfleet_core.leasing.messages import SidecarId
from modelfleet_core.values import EndpointUrl, ObjectKey, VariantKey

REBALANCE = 1.0
"""Seconds between even spreadings of slots that nobody wants."""

Capacity = Mapping[VariantKey, Mapping[EndpointUrl, int]]
"""Live slots by endpoint of each variant of one fleet."""


class SlotDivider:
    """Sets the sidecars' targets, moving slots only when someone lacks its fair share, capacity or sidecars
    changed, or it is time to spread idle slots evenly."""

    def __init__(self) -> None:
        self._divided: dict[tuple[ObjectKey, VariantKey], tuple[dict[EndpointUrl, int], set[SidecarId]]] = {}
        self._even_at = -math.inf

    def divide(
        self,
        capacity: Mapping[ObjectKey, Capacity],
        takers: Mapping[ObjectKey, Sequence[Holder]],
        live: Mapping[EndpointUrl, int],
        held: Mapping[EndpointUrl, int],
        now: float,
    ) -> None:
        """Set `target` of all `takers`, given by fleet. What others hold of `held` is not divided."""
        even = now >= self._even_at
        if even:
            self._even_at = now + REBALANCE
        for fleet, holders in takers.items():
            targets: dict[SidecarId, dict[EndpointUrl, int]] = {holder.id: {} for holder in holders}
            theirs = held_by(holders)
            for variant, endpoints in capacity.get(fleet, {}).items():
                free = {
                    endpoint: max(0, live[endpoint] - held.get(endpoint, 0) + theirs.get(endpoint, 0))
                    for endpoint in endpoints
                }
                wants = {holder.id: holder.wanted(variant) for holder in holders}
                standing = {holder.id: _part(holder.target, endpoints) for holder in holders}
                known = (free, set(targets))
                if even or self._divided.get((fleet, variant)) != known or not _fair(standing, wants, free):
                    told = {holder.id: _part(holder.told, endpoints) for holder in holders}
                    standing = place(even_shares(wants, sum(free.values()), _sums(told)), free, told)
                    self._divided[fleet, variant] = known
                for sidecar, slots in standing.items():
                    targets[sidecar].update(slots)
            for holder in holders:
                holder.target = targets[holder.id]


def water_fill(
    wants: Mapping[SidecarId, int], total: int, held: Mapping[SidecarId, int]
) -> dict[SidecarId, int]:
    """Return the fairest whole shares of `total`: nobody gets more than it wants, or one more than
    another whose want is unmet. Among equals the one that holds more keeps the odd one."""
    shares: dict[SidecarId, int] = {}
    left = max(0, total)
    for place, sidecar in enumerate(sorted(wants, key=lambda s: (wants[s], held.get(s, 0), s))):
        shares[sidecar] = min(wants[sidecar], left // (len(wants) - place))
        left -= shares[sidecar]
    return shares


def even_shares(
    wants: Mapping[SidecarId, int], total: int, held: Mapping[SidecarId, int]
) -> dict[SidecarId, int]:
    """Return `water_fill` with the rest spread evenly, so that idle sidecars can start at once."""
    shares = water_fill(wants, total, held)
    if not shares:
        return shares
    each, odd = divmod(max(0, total) - sum(shares.values()), len(shares))
    by_surplus = sorted(shares, key=lambda s: (shares[s] - held.get(s, 0), s))
    for place, sidecar in enumerate(by_surplus):
        shares[sidecar] += each + (1 if place < odd else 0)
    return shares


def place(
    shares: Mapping[SidecarId, int],
    live: Mapping[EndpointUrl, int],
    present: Mapping[SidecarId, Mapping[EndpointUrl, int]],
) -> dict[SidecarId, dict[EndpointUrl, int]]:
    """Lay each sidecar's share out over endpoints, moving as few slots as possible from where they are.

    `present` are the slots each sidecar has now; the shares' sum must not exceed that of `live`. Moved slots
    go to the emptiest endpoints, so that load spreads.
    """
    free = dict(live)
    placed: dict[SidecarId, dict[EndpointUrl, int]] = {}
    for sidecar in sorted(shares):
        left = shares[sidecar]
        placed[sidecar] = {}
        for endpoint, slots in sorted(present.get(sidecar, {}).items()):
            stays = min(slots, left, free.get(endpoint, 0))
            if stays > 0:
                placed[sidecar][endpoint] = stays
                free[endpoint] -= stays
                left -= stays
    for sidecar in sorted(shares):
        for _ in range(shares[sidecar] - sum(placed[sidecar].values())):
            emptiest = max(free, key=lambda endpoint: (free[endpoint], endpoint))
            free[emptiest] -= 1
            placed[sidecar][emptiest] = placed[sidecar].get(emptiest, 0) + 1
    return placed


def _part(slots: Mapping[EndpointUrl, int], endpoints: Collection[EndpointUrl]) -> dict[EndpointUrl, int]:
    return {endpoint: count for endpoint, count in slots.items() if endpoint in endpoints}


def _sums(slots: Mapping[SidecarId, Mapping[EndpointUrl, int]]) -> dict[SidecarId, int]:
    return {sidecar: sum(counts.values()) for sidecar, counts in slots.items()}


def _fair(
    standing: Mapping[SidecarId, Mapping[EndpointUrl, int]],
    wants: Mapping[SidecarId, int],
    free: Mapping[EndpointUrl, int],
) -> bool:
    """Return whether everyone has its fair share of what it wants."""
    sums = _sums(standing)
    return all(
        sums[sidecar] >= share for sidecar, share in water_fill(wants, sum(free.values()), sums).items()
    )
