"""Stage publish: what operator and sidecar say to each other, as values.

Full vectors with (epoch, sequence) and cumulative counters: any message may be lost, repeated or late.
`wire.py` and `publish.py` translate them from and to protobuf.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from modelfleet_core.demand.sketch import DemandReport
from modelfleet_core.estimation.experience import NO_EXPERIENCE, Experience
from modelfleet_core.values import AccountId, EndpointUrl, VariantKey
from modelfleet_core.values import SidecarId as SidecarId  # part of every message


@dataclass(frozen=True, slots=True)
class SlotState:
    in_flight: int
    kept: int
    """max(applied grant, in flight): what the operator must go on counting as held."""


@dataclass(frozen=True, slots=True)
class Need:
    """What waiting requests would charge one account."""

    total: int
    """All of them together."""
    first: int
    """The one to be served first: less than this is of no use."""
    weight: float
    price: float
    """What the first one loses if it is not served, as `Bid` says."""


@dataclass(frozen=True, slots=True)
class AccountState:
    """One account in nano-USD, or in requests if it is a quota; cumulative except `reserved` and `need`."""

    granted: int
    spent: int
    reserved: int
    returned: int
    need: Need | None = None
    """Free money included; None: nothing waits for this account."""

    @property
    def free(self) -> int:
        """What new requests may reserve."""
        return max(0, self.granted - self.returned - self.spent - self.reserved)


@dataclass(frozen=True, slots=True)
class Bid:
    """Requests of one tier that wait for a slot of one variant, all at about the same price."""

    weight: float
    """Of their tier: heavier tiers are served first."""
    price: float
    """Weighted quality that each loses if it gets no slot; within a tier the highest is served first."""
    slots: int


@dataclass(frozen=True, slots=True)
class Want:
    """Slots of one variant that a sidecar could use now."""

    slots: int
    """Those in flight included."""
    bids: tuple[Bid, ...] = ()
    """For what exceeds the slots in flight, first served first; at most `bounds.MAX_BIDS`."""


@dataclass(frozen=True, slots=True)
class Report:
    sidecar: SidecarId
    epoch: int
    sequence: int
    applied: int
    """Highest grant sequence of `epoch` that was applied; 0: none."""
    sent_at: float
    """Seconds on the sidecar's monotonic clock that counts suspend."""
    slots: Mapping[EndpointUrl, SlotState]
    accounts: Mapping[AccountId, AccountState]
    wants: Mapping[VariantKey, Want]
    demand: DemandReport
    fleet_version: str
    policy_version: str
    leaving: bool
    estimator_version: str = ""
    learned_version: str = ""
    experience: Experience = NO_EXPERIENCE


@dataclass(frozen=True, slots=True)
class SlotGrant:
    variant: VariantKey
    slots: int
    floor: int = 0
    """The part of `slots` that does not end with the lease."""


@dataclass(frozen=True, slots=True)
class AccountGrant:
    granted: int
    """Cumulative within the period."""
    keep: int
    """The sidecar gives back free money above this and above its need; 0: all free money, needed or not."""
    limit: int
    ends_in: float
    """Seconds until the period ends."""
    allowance: float = math.inf
    """USD per second that this sidecar should spend on average; infinite: no pacing."""


@dataclass(frozen=True, slots=True)
class Ask:
    """What the first of those who wait elsewhere for a slot of a variant would pay for it, as `Bid` says."""

    weight: float
    price: float


@dataclass(frozen=True, slots=True)
class Document:
    """A manifest's content, or that of an estimator, and its hash."""

    version: str
    manifest: bytes
    """JSON; of estimators an .npz, empty where there is none any more."""


@dataclass(frozen=True, slots=True)
class Grant:
    epoch: int
    sequence: int
    """Rising within an epoch; 0 only announces the epoch."""
    answers: int
    report_sent_at: float
    """Echo of the answered report's `sent_at`: the lease ends there + `ttl`."""
    ttl: float
    slots: Mapping[EndpointUrl, SlotGrant]
    accounts: Mapping[AccountId, AccountGrant]
    slot_prices: Mapping[VariantKey, float]
    """Quality per slot-second."""
    money_price: float
    """Quality per USD."""
    fleet: Document | None
    policy: Document | None
    refusal: str
    """Why nothing is granted; empty otherwise."""
    asks: Mapping[VariantKey, Ask] = field(default_factory=dict)
    """Variants that others wait for: a slot that comes free goes back unless it is worth more here."""
    linger: Mapping[VariantKey, float] = field(default_factory=dict)
    """Seconds after which an unused slot goes back; absent: it may stay as long as the lease."""
    report_every: float = 1.0
    """Seconds between reports while nothing presses."""
    estimator: Document | None = None
    """The base, when the sidecar's version differs."""
    learned: Document | None = None
    """What was learned since the base was trained, likewise."""
