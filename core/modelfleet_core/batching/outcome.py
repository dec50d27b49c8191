"""Stages batch and assign, their answers: where a request goes, or why it waits no longer.

In: `queue`. Out: `Placed` (to forward, settle and explain) and `GivenUp` (to refuse in words).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from modelfleet_core.assignment import explain
from modelfleet_core.assignment.result import Termination
from modelfleet_core.batching.candidate import Candidate
from modelfleet_core.batching.worth import Look
from modelfleet_core.leasing.reservations import Reservation
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


@dataclass(frozen=True, slots=True, eq=False)
class Weighed:
    """What was known of one request's m variants when it was placed."""

    look: Look
    slot_prices: tuple[float, ...]
    """(m,) published, quality per slot-second."""
    money_price: float
    """Quality per USD."""
    excluded_by: tuple[str, ...]
    """(m,) why a variant could not be chosen; empty: it could."""
    batch: explain.Batch | None
    """The program it was part of; None: it was placed by prices alone. It is large: do not keep it."""
    number: int
    """In the batch."""

    def paid(self) -> tuple[float, ...]:
        """Return what each variant would have paid for limits of the batch, above published prices, in
        weighted quality."""
        if self.batch is None:
            return (0.0,) * len(self.excluded_by)
        seen = self.batch.explain(self.number)
        return tuple((seen.batch_slot_paid + seen.row_paid.sum(axis=0)).tolist())

    def stopped_by(self) -> tuple[str, ...]:
        """Return for each variant what kept the request from it: why it could not be chosen, or the limit of
        the batch of which others took the rest; empty: nothing, it was chosen or is worth less."""
        if self.batch is None:
            return self.excluded_by
        stopped = self.batch.explain(self.number).stopped_by
        return tuple(why or limit for why, limit in zip(self.excluded_by, stopped, strict=True))


@dataclass(frozen=True, slots=True, eq=False)
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


@dataclass(frozen=True, slots=True, eq=False)
class GivenUp:
    """A request that waits no longer; nothing is held for it."""

    ticket: int
    candidate: Candidate
    why: Why
    short: str
    """What it lacked: `worth.NO_SLOT`, `worth.NO_MONEY`, another account or a limit by the minute."""


Outcome = Placed | GivenUp
