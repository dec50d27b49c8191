"""Stage assign, the other outcome in words: why a request finds no place.

In: a `GivenUp` of the core's queue. Out: the caller's one `Failure`.
"""

from __future__ import annotations

from modelfleet_core.batching.outcome import GivenUp, Why
from modelfleet_core.batching.worth import NO_MONEY, NO_SLOT
from modelfleet_core.leasing.accounts import BUDGET
from modelfleet_core.values import AccountName, usd

from modelfleet_sidecar.assign import Lease
from modelfleet_sidecar.failures import Failure, Fault


def refused(given_up: GivenUp, lease: Lease, now: float) -> Failure:
    """Return why a request is not placed."""
    candidate = given_up.candidate
    match given_up.why:
        case Why.NO_LEASE:
            return no_lease(lease.refusal)
        case Why.TOO_LATE:
            left = max(0.0, candidate.deadline - now)
            return Failure(
                Fault.DEADLINE,
                "DeadlineExceeded",
                f"no place was found within {now - candidate.arrived:.3g} s: {given_up.short};"
                f" no model is expected to answer in the {left:.2g} s left",
            )
        case Why.NO_SLOT:
            lacks = "every leased slot is in use"
            if given_up.short != NO_SLOT:
                lacks = f"{given_up.short} leaves too little for now"
            return Failure(Fault.EXHAUSTED, "NoFreeSlot", lacks, retry_after=1.0)
        case Why.NO_MONEY:
            return _no_money(given_up, lease, now)


def _no_money(given_up: GivenUp, lease: Lease, now: float) -> Failure:
    candidate = given_up.candidate
    account = BUDGET if given_up.short == NO_MONEY else AccountName(given_up.short)
    ends = lease.holding.period_ends(now, account)
    possible = zip(candidate.reserve, candidate.excluded_by, strict=True)
    cheapest = usd(min(reserve for reserve, why in possible if not why))
    left = f"the budget left does not cover the request's bound of {cheapest:.9f} USD at the cheapest model"
    if account != BUDGET:
        left = f"what is left of {account} does not cover the request at any model"
    return Failure(
        Fault.EXHAUSTED,
        "BudgetExhausted",
        f"{left}; lower max_tokens or wait for the next period",
        retry_after=max(1.0, ends - now) if ends is not None else 1.0,
    )


def no_lease(refusal: str) -> Failure:
    """Return the error of a sidecar that may use nothing."""
    why = refusal or "the operator has not answered yet, or its last lease has run out"
    return Failure(Fault.UNAVAILABLE, "NoLease", f"this sidecar has no lease: {why}", retry_after=2.0)
