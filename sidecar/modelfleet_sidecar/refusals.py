"""Stage assign, the other outcome: why a request finds no place, and when it need not wait any longer.

In: a prospect without a place. Out: its one `Failure`, or None: it may go on waiting.
"""

from __future__ import annotations

from collections.abc import Callable

from modelfleet_core.values import usd

from modelfleet_sidecar.assign import Assigner, Lease
from modelfleet_sidecar.failures import Failure, Fault
from modelfleet_sidecar.prospect import Prospect
from modelfleet_sidecar.reasons import MONEY

BUDGET_PATIENCE = 2.0
"""Seconds that a request waits for money before it is told that the budget is exhausted."""


class Refusals:
    """Tells why. `reserved` is the nano-USD of requests in flight: money that may come back."""

    def __init__(
        self,
        *,
        lease: Lease,
        assigner: Assigner,
        reserved: Callable[[], int],
        clock: Callable[[], float],
    ) -> None:
        self._lease = lease
        self._assigner = assigner
        self._reserved = reserved
        self._clock = clock

    def given_up(self, seen: Prospect) -> Failure | None:
        """Return why a request that found no place must not wait longer; None: it may."""
        now = self._clock()
        ask = seen.ask
        if not self._lease.holding.live(now):
            return no_lease(self._lease.refusal)
        if now >= seen.latest_start:
            short = self._assigner.short_of(seen, now)
            left = max(0.0, ask.deadline - now)
            return Failure(
                Fault.DEADLINE,
                "DeadlineExceeded",
                f"no place was found within {now - ask.arrived:.3g} s: {short};"
                f" no model is expected to answer in the {left:.3g} s left",
            )
        patient = now - ask.arrived < BUDGET_PATIENCE
        if patient or self._assigner.short_of(seen, now, self._reserved()) != MONEY:
            return None
        return self.no_place(seen)

    def no_place(self, seen: Prospect) -> Failure:
        """Return the refusal of a request that does not wait."""
        now = self._clock()
        if not self._lease.holding.live(now):
            return no_lease(self._lease.refusal)
        if self._assigner.short_of(seen, now) != MONEY:
            return Failure(Fault.EXHAUSTED, "NoFreeSlot", "every leased slot is in use", retry_after=1.0)
        ends = self._lease.holding.period_ends(now)
        possible = zip(seen.reserve, seen.excluded_by, strict=True)
        cheapest = usd(min(reserve for reserve, why in possible if not why))
        return Failure(
            Fault.EXHAUSTED,
            "BudgetExhausted",
            f"the budget left does not cover the request's upper bound of {cheapest:.9f} USD at the cheapest"
            " model; lower max_tokens or wait for the next period",
            retry_after=max(1.0, ends - now) if ends is not None else 1.0,
        )


def no_lease(refusal: str) -> Failure:
    """Return the error of a sidecar that may use nothing."""
    why = refusal or "the operator has not answered yet, or its last lease has run out"
    return Failure(Fault.UNAVAILABLE, "NoLease", f"this sidecar has no lease: {why}", retry_after=2.0)
