"""Stage forward, for leases: what a request took of a lease, and what became of it, as values.

`holding.py` makes them; the sidecar's decisions carry a reservation's id.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from modelfleet_core.values import AccountId, AccountName, EndpointUrl, NanoUsd, VariantKey


class Short(Enum):
    """What was missing. More may come: `want` it and wait for a change."""

    LEASE = "NoLease"
    """None was granted yet, it ended (and the tier has no floor left), or this sidecar is leaving."""
    SLOT = "NoSlot"
    """All slots that the lease gives at the endpoint are in use."""
    RATE = "NoRate"
    """The limits by the minute leave too little for now."""
    ACCOUNT = "NoMoney"
    """An account does not cover the request."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Why nothing was reserved."""

    short: Short
    account: AccountName | None = None
    """The first one that does not cover the request."""
    endpoint: EndpointUrl | None = None
    """The limit by the minute that is short."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """One slot at `endpoint`, units of its limits by the minute, and `amount` in every account charged."""

    id: int
    endpoint: EndpointUrl
    variant: VariantKey
    amount: NanoUsd
    accounts: tuple[AccountId, ...]
    """In the periods of the reservation: these pay, however long the request takes."""
    deadline: float


@dataclass(frozen=True, slots=True)
class Settlement:
    """What settling did. `first` is False when the reservation was settled before: nothing changed."""

    first: bool
    charged: NanoUsd
    excess: NanoUsd
    """Part of `charged` above the reserve; not 0 only if a model server broke the limits sent to it."""
    expired: bool = False
    """It was settled at its reserve because its deadline had passed."""


REPEATED = Settlement(first=False, charged=NanoUsd(0), excess=NanoUsd(0))
EXPIRED = Settlement(first=False, charged=NanoUsd(0), excess=NanoUsd(0), expired=True)
