"""Stage publish: divides the live slots of one variant over sidecars and its endpoints.

In come what each sidecar wants and holds; out go whole slots per sidecar and endpoint, never more than are
live. `grants.py` turns these targets into grants as recalled slots come back.
"""

from __future__ import annotations

from collections.abc import Mapping

from modelfleet_core.leasing.messages import SidecarId
from modelfleet_core.values import EndpointUrl


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
