"""Stage assign, one request without a window: the path while nothing binds.

In: one request's estimates and the published prices. Out: columns in the order in which the lease is to
be asked for them. Next: reserve and forward.
"""

from __future__ import annotations

from collections.abc import Sequence


def value(
    *, weight: float, quality: float, cost: float, service_time: float, slot_price: float, money_price: float
) -> float:
    """Return what an answer adds: weighted quality less what it takes from others.

    Cost in USD, service time in seconds, prices in quality per USD and per slot-second.
    """
    return weight * quality - slot_price * service_time - money_price * cost


def rank(values: Sequence[float], allowed: Sequence[bool], *, defer: float) -> tuple[int, ...]:
    """Return the allowed columns, best value first, that are worth more than waiting (`-defer`).

    Equal values keep the order of the columns; a value that is not a number is left out.
    """
    worthy = [j for j, (v, ok) in enumerate(zip(values, allowed, strict=True)) if ok and v > -defer]
    return tuple(sorted(worthy, key=lambda j: -values[j]))


def best(
    *,
    weight: float,
    quality: Sequence[float],
    cost: Sequence[float],
    service_time: Sequence[float],
    slot_price: Sequence[float],
    money_price: float,
    allowed: Sequence[bool],
    defer: float,
) -> int:
    """Return the allowed column of highest value, the first of equals; -1: none is worth more than waiting.

    Sequences are by column; plain floats are faster than arrays for so few.
    """
    top, found = -defer, -1
    columns = zip(quality, cost, service_time, slot_price, allowed, strict=True)
    for j, (q, dollars, seconds, price, may) in enumerate(columns):
        if may:
            worth = weight * q - price * seconds - money_price * dollars
            if worth > top:
                top, found = worth, j
    return found
