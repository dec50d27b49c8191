"""What the field does instead: the rules that the demo compares with.

In: what each model offers a request, and which models have a free slot. Out: the model to ask. Each rule
knows what the product knows beforehand (the same qualities and costs, from the same past traffic), and the
in-flight requests of all servers, which no rule in the field sees across pods. Next: `calibration` sets the
price, `router` plays them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Offer:
    """What one model is expected to make of a request."""

    model: str
    quality: float
    cost: float
    """USD."""


class Rule(Protocol):
    """Chooses a model for one request at a time."""

    @property
    def name(self) -> str: ...

    def choose(self, offers: Sequence[Offer], free: Mapping[str, int]) -> str | None:
        """Return the model to ask now; None: wait until a slot is free."""
        ...


@dataclass(frozen=True, slots=True)
class BestSingle:
    """All requests to one model, which has all GPUs; its servers queue what is too much."""

    model: str

    @property
    def name(self) -> str:
        return f"best single ({self.model})"

    def choose(self, offers: Sequence[Offer], free: Mapping[str, int]) -> str | None:
        return self.model


class RoundRobin:
    """Each request to the next model in turn; the servers queue what is too much."""

    name = "round robin"

    def __init__(self) -> None:
        self._turn = 0

    def choose(self, offers: Sequence[Offer], free: Mapping[str, int]) -> str | None:
        self._turn += 1
        return offers[self._turn % len(offers)].model


class Greedy:
    """The best model that has a free slot."""

    name = "per-query greedy"

    def choose(self, offers: Sequence[Offer], free: Mapping[str, int]) -> str | None:
        ready = [offer for offer in offers if free.get(offer.model, 0) > 0]
        return max(ready, key=lambda offer: offer.quality).model if ready else None


@dataclass(frozen=True, slots=True)
class Priced:
    """The model with a free slot that has most quality left after its cost, at one price of money for all
    queries.
    """

    price: float
    """Quality per USD."""

    name = "per-query price"

    def choose(self, offers: Sequence[Offer], free: Mapping[str, int]) -> str | None:
        ready = [offer for offer in offers if free.get(offer.model, 0) > 0]
        return max(ready, key=lambda offer: offer.quality - self.price * offer.cost).model if ready else None
