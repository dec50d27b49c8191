"""Stage assign, the other outcome in words: why a request finds no place.

In: a `GivenUp` of the core's queue. Out: the caller's one `Failure`.
"""

from __future__ import annotations

from modelfleet_core.batching.outcome import GivenUp, Why
from modelfleet_core.batching.worth import NO_MONEY, NO_SLOT
from modelfleet_core.health import RATE_LIMITED
from modelfleet_core.leasing.accounts import BUDGET
from modelfleet_core.values import AccountName, VariantKey, usd

from modelfleet_sidecar.assign import Lease
from modelfleet_sidecar.failures import Failure, Fault

MOST_AWAY = 60.0
"""Seconds that a caller is told to stay away for want of slots: nobody knows what is free a minute later."""


def refused(given_up: GivenUp, lease: Lease, now: float) -> Failure:
    """Return why a request is not placed."""
    candidate = given_up.candidate
    match given_up.why:
        case Why.NO_LEASE:
            return no_lease(lease.refusal)
        case Why.TOO_LATE:
            left = max(0.0, candidate.deadline - now)
            said = f"no model is expected to answer in the {left:.2g} s left"
            if given_up.short != NO_SLOT or not any(lease.holding.free(now).values()):
                said = f"no place was found within {now - candidate.arrived:.3g} s: {given_up.short}; {said}"
            return Failure(Fault.DEADLINE, "DeadlineExceeded", said)
        case Why.NO_SLOT:
            lacks = "every leased slot is in use"
            if given_up.short != NO_SLOT:
                lacks = f"{given_up.short} leaves too little for now"
            return Failure(
                Fault.EXHAUSTED,
                "NoFreeSlot",
                lacks,
                retry_after=_comes_free(given_up, lease, now),
                limit="" if given_up.short == NO_SLOT else given_up.short,
            )
        case Why.SHUT:
            return _shut(given_up, now)
        case Why.NO_MONEY:
            return _no_money(given_up, lease, now)


def _comes_free(given_up: GivenUp, lease: Lease, now: float) -> float:
    """Return seconds after which one more is likely to find a slot or, of a limit by the minute, units.

    Slots of a variant come free one by one, each after its service time over their number.
    """
    candidate = given_up.candidate
    if given_up.short.startswith("rate:"):
        limits = {limit for j in candidate.possible for limit in candidate.rated(j)}
        ends = [rate.next_release() for name, rate in lease.holding.lease.rates.items() if name in limits]
        return min([MOST_AWAY, *(max(1.0, end - now) for end in ends if end is not None)])
    slots: dict[VariantKey, int] = {}
    for held in lease.holding.lease.slots.values():
        slots[held.variant] = slots.get(held.variant, 0) + held.slots
    able = [(candidate.service_time[j], slots.get(candidate.variants[j], 0)) for j in candidate.possible]
    return min([MOST_AWAY, *(max(1.0, seconds / leased) for seconds, leased in able if leased)])


def _shut(given_up: GivenUp, now: float) -> Failure:
    after = max(0.0, (given_up.until or now) - now)
    if given_up.short == RATE_LIMITED:
        said = f"every model server that could answer wants no request for {after:.3g} s"
        return Failure(Fault.EXHAUSTED, RATE_LIMITED, said, retry_after=after)
    return Failure(
        Fault.UNAVAILABLE,
        given_up.short,
        f"every model that could answer failed too often lately; one is tried again in {after:.3g} s",
        retry_after=after,
    )


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
        limit=account,
    )


def overloaded(waiting: int, seconds: float) -> Failure:
    """Return the error of a request that may not even wait, since as many do as will take `seconds`."""
    return Failure(
        Fault.EXHAUSTED,
        "Overloaded",
        f"{waiting} requests wait for a free slot already, and no other caller has more of them",
        retry_after=min(MOST_AWAY, max(1.0, seconds)),
    )


def no_lease(refusal: str) -> Failure:
    """Return the error of a sidecar that may use nothing."""
    why = refusal or "the operator has not answered yet, or its last lease has run out"
    return Failure(Fault.UNAVAILABLE, "NoLease", f"this sidecar has no lease: {why}", retry_after=2.0)
