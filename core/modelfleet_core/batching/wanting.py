"""Stage batch, upwards: what waits here would pay for slots, for the leader to compare with others.

In: `Candidate`s that wait, with their `Look`. Out: `Want`s with bids, and `Need`s of accounts.
Next: the lease's report.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelfleet_core.batching.candidate import Candidate
from modelfleet_core.batching.worth import Look
from modelfleet_core.leasing.bounds import MAX_BIDS
from modelfleet_core.leasing.messages import Bid, Need, Want
from modelfleet_core.values import AccountName, VariantKey


@dataclass(frozen=True, slots=True, eq=False)
class Claim:
    """A slot of each of some variants, though any one would do, and what the favourite charges."""

    weight: float
    bids: tuple[tuple[VariantKey, float], ...]
    """Variants and the weighted quality that is lost without a slot there; the favourite first."""
    charges: Mapping[AccountName, int]


@dataclass(frozen=True, slots=True, eq=False)
class Joint:
    """The claims of a batch, summed up: at most `MAX_BIDS` bids per variant."""

    bids: Mapping[VariantKey, tuple[Bid, ...]]
    needs: Mapping[AccountName, Need]

    def slots(self) -> dict[VariantKey, int]:
        """Return how many of each variant are claimed."""
        return {variant: sum([bid.slots for bid in bids]) for variant, bids in self.bids.items()}


def bid(candidate: Candidate, look: Look, j: int) -> float:
    """Return the weighted quality that a request loses if it gets no slot of variant `j`.

    That is what the variant is worth above the request's next best chance: for the favourite another variant
    at its published price, or no answer; for others to wait on. Both grow as time runs out.
    """
    values = look.values
    price = values[j] + look.defer
    if j == look.favourite:
        others = [values[k] for k, why in enumerate(look.excluded) if not why and k != j]
        price = max(price, values[j] - max([-candidate.shed_penalty, *others]))
    return max(0.0, price)


def claim(candidate: Candidate, look: Look, *, anything: bool) -> Claim:
    """Return what one request asks for: its favourite; with `anything`, all that is better than waiting."""
    best = look.favourite
    wanted = [best, *(j for j in look.worthwhile if j != best)] if anything else [best]
    return Claim(
        candidate.weight,
        tuple([(candidate.variants[j], bid(candidate, look, j)) for j in wanted]),
        candidate.charged(best),
    )


class Wanted:
    """What requests that wait want together, added up one by one."""

    def __init__(self) -> None:
        self._prices: dict[VariantKey, list[tuple[float, float]]] = {}
        self._needs: dict[AccountName, Need] = {}

    def add(self, one: Claim) -> None:
        for variant, price in one.bids:
            self._prices.setdefault(variant, []).append((one.weight, price))
        for name, charge in one.charges.items():
            self._need(name, Need(charge, charge, one.weight, one.bids[0][1]))

    def add_all(self, joint: Joint) -> None:
        for variant, some in joint.bids.items():
            prices = self._prices.setdefault(variant, [])
            for one in some:
                prices += [(one.weight, one.price)] * one.slots
        for name, need in joint.needs.items():
            self._need(name, need)

    def _need(self, name: AccountName, mine: Need) -> None:
        known = self._needs.get(name)
        self._needs[name] = mine if known is None else _joined(known, mine)

    def together(self) -> Joint:
        return Joint({variant: bids(prices) for variant, prices in self._prices.items()}, self._needs)

    def wants(
        self, in_flight: Mapping[VariantKey, int]
    ) -> tuple[Mapping[VariantKey, Want], Mapping[AccountName, Need]]:
        """Return what could be used now, slots `in_flight` included, and what the waiting would charge."""
        prices = self._prices
        return {
            variant: Want(
                in_flight.get(variant, 0) + len(prices.get(variant, ())), bids(prices.get(variant, []))
            )
            for variant in {**in_flight, **prices}
        }, self._needs


def _joined(known: Need, mine: Need) -> Need:
    first = mine if (mine.weight, mine.price) > (known.weight, known.price) else known
    return Need(known.total + mine.total, first.first, first.weight, first.price)


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
