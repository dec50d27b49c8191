"""Stages batch and assign, their answers: where a request goes, or why it waits no longer.

In: `queue`. Out: `Placed` (to forward, settle and explain) and `GivenUp` (to refuse in words).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from modelfleet_core.assignment.result import Termination
from modelfleet_core.batching.candidate import Candidate
from modelfleet_core.leasing.reservations import Reservation
from modelfleet_core.records import record
from modelfleet_core.values import VariantKey


@dataclass(frozen=True, slots=True)
class Certificate:
    """How good a batch's assignment is: none has an objective above `bound`."""

    objective: float
    bound: float
    gap: float
    termination: Termination
    binding: tuple[str, ...]
    seconds: float
    """That solving took."""


@record
class Weighed:
    """What was known of one request's m variants when it was placed, and what stood against each."""

    values: Sequence[float]
    """(m,) weighted quality less published prices."""
    favourite: int
    """What would have been chosen if nothing were short."""
    slot_prices: tuple[float, ...]
    """(m,) published, quality per slot-second."""
    money_price: float
    """Quality per USD."""
    excluded_by: tuple[str, ...]
    """(m,) why a variant could not be chosen; empty: it could."""
    paid: tuple[float, ...]
    """(m,) weighted quality that it would have paid for limits of the batch, above published prices."""
    stopped_by: tuple[str, ...]
    """(m,) why it could not be chosen, or the limit of the batch of which others took the rest; empty:
    neither, it was chosen or is worth less."""


@record
class Placed:
    """A request with its variant, slot and money; held until the reservation is settled."""

    ticket: int
    candidate: Candidate
    column: int
    reservation: Reservation
    weighed: Weighed
    certificate: Certificate
    batch_size: int

    @property
    def variant(self) -> VariantKey:
        return self.candidate.variants[self.column]


class Why(Enum):
    """Why a request is not placed."""

    NO_LEASE = "NoLease"
    TOO_LATE = "TooLate"
    """No variant is expected to answer in time any more."""
    NO_SLOT = "NoSlot"
    NO_MONEY = "NoMoney"
    """Not even what is reserved now, if all of it came back, covers its cheapest variant."""
    SHUT = "Shut"
    """All that could serve it is shut, and for longer than it is to wait."""


@dataclass(frozen=True, slots=True, eq=False)
class GivenUp:
    """A request that waits no longer; nothing is held for it."""

    ticket: int
    candidate: Candidate
    why: Why
    short: str
    """What it lacked: `worth.NO_SLOT`, `worth.NO_MONEY`, another account or a limit by the minute; or why it
    is shut out (`health.Shut`)."""
    until: float | None = None
    """When something that is shut may be tried again; None: nothing is."""


Outcome = Placed | GivenUp
