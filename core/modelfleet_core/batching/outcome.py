"""Stages batch and assign, their answers: where a request goes, or why it waits no longer.

In: `queue`. Out: `Placed` (to forward, settle and explain) and `GivenUp` (to refuse in words).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

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
    paid: Mapping[str, tuple[float, ...]]
    """By limit of the batch that has a price, in weighted quality, (m,) what each variant would pay for it,
    above published prices; the limits are `slots` and rows by name."""

    def stopped_by(self, j: int, chosen: int) -> str:
        """Return what kept the request from variant `j`; empty: nothing, it is worth less than `chosen`.

        That is why it could not be chosen or, where it is worth more at published prices, the limit of the
        batch for which it would have paid most above what `chosen` paid: others gained more from it.
        """
        if self.excluded_by[j] or self.look.values[j] <= self.look.values[chosen]:
            return self.excluded_by[j]
        return max(self.paid, key=lambda name: self.paid[name][j] - self.paid[name][chosen], default="")


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
