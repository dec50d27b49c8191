"""Stage batch, upwards: what waits here would pay for slots, for the leader to compare with others.

In: `Candidate`s that wait, with their `Look`. Out: `Want`s with bids, and money. Next: the lease's report.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from modelfleet_core.batching.candidate import Candidate
from modelfleet_core.batching.worth import Look
from modelfleet_core.leasing.bounds import MAX_BIDS
from modelfleet_core.leasing.messages import Bid, Want
from modelfleet_core.values import NanoUsd, VariantKey


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """A slot of each of some variants, though any one would do, and money."""

    weight: float
    bids: tuple[tuple[VariantKey, float], ...]
    """Variants and the weighted quality that is lost without a slot there."""
    money: NanoUsd


def claim(candidate: Candidate, look: Look, *, anything: bool) -> Claim:
    """Return what one request asks for: its favourite; with `anything`, all that is better than waiting on.

    A bid is what the variant is worth above the request's next best chance: for the favourite another
    variant at its published price, or no answer; for others to wait on. Both grow as time runs out.
    """
    values, best = look.values, look.favourite
    others = [values[j] for j, why in enumerate(look.excluded) if not why and j != best]
    chance = max([-candidate.shed_penalty, *others])
    bids = [(candidate.variants[best], max(0.0, values[best] - chance, values[best] + look.defer))]
    if anything:
        bids += [(candidate.variants[j], values[j] + look.defer) for j in look.worthwhile if j != best]
    return Claim(candidate.weight, tuple(bids), candidate.reserve[best])


def wants(
    claims: Iterable[Claim], in_flight: Mapping[VariantKey, int]
) -> tuple[Mapping[VariantKey, Want], NanoUsd]:
    """Return what could be used now, slots `in_flight` included, and what the waiting would reserve."""
    prices: dict[VariantKey, list[tuple[float, float]]] = {}
    money = 0
    for one in claims:
        money += one.money
        for variant, price in one.bids:
            prices.setdefault(variant, []).append((one.weight, price))
    return {
        variant: Want(in_flight.get(variant, 0) + len(prices.get(variant, ())), bids(prices.get(variant, [])))
        for variant in {**in_flight, **prices}
    }, NanoUsd(money)


def bids(prices: list[tuple[float, float]]) -> tuple[Bid, ...]:
    """Return (weight, price) pairs, one per slot, as at most MAX_BIDS bids, first served first.

    Neighbours within a tier become one bid at their mean price; with too many tiers the lightest do, at the
    lowest of theirs.
    """
    tiers: dict[float, list[float]] = {}
    for weight, price in sorted(prices, reverse=True):
        tiers.setdefault(weight, []).append(price)
    while len(tiers) > MAX_BIDS:
        lightest = min(tiers)
        joined = tiers.pop(lightest)
        tiers[lightest] = [min(joined)] * (len(joined) + len(tiers.pop(min(tiers))))
    spare = MAX_BIDS - len(tiers)
    size = 1 if len(prices) <= MAX_BIDS else -(-len(prices) // spare) if spare else len(prices)
    return tuple(
        Bid(weight, sum(part) / len(part), len(part))
        for weight, tier in tiers.items()
        for start in range(0, len(tier), size)
        for part in [tier[start : start + size]]
    )
