"""Stage assign, money over time: a reserve price that keeps money for requests that gain more from it.

In: the allowance and the price that the operator hands down, what requests offer for money, spend, the time.
Out: `price` (the assignment's `money_price`) and `limit` (its row on expected cost).
Next: `batching.placing`.

Formula: design of the programs, section 6, once per look, in units of quality per USD:

    carried <- min(ceiling, max(0, carried + ceiling (spend - allowance) / (one horizon's allowance)))
    price = max(published, carried)

Spend is counted as expected when a request is placed. The allowance comes from what is really left of the
budget, so wrong expectations are corrected there; and the ledger, not pacing, is the hard limit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

HORIZON = 60.0
"""Seconds. Overspending one horizon's allowance takes the price from 0 to the ceiling; unspent allowance is
carried on for at most one horizon."""
_FORGETTING = 0.99
"""What remains of the ceiling with each request that offers less."""


class Pacing:
    """State of one policy in one sidecar. Money in USD; an infinite allowance switches it off."""

    def __init__(self, horizon: float = HORIZON) -> None:
        if horizon <= 0:
            raise ValueError(f"pacing needs a horizon above 0 s, not {horizon}")
        self._horizon = horizon
        self._allowance = math.inf
        self._published = 0.0
        self._carried = 0.0
        self._ceiling = 0.0
        """Quality per USD: about the most that any request offers."""
        self._credit = 0.0
        """Allowance not spent yet; negative: overspent."""
        self._at: float | None = None

    @property
    def active(self) -> bool:
        return self._allowance != math.inf

    @property
    def price(self) -> float:
        """Quality per USD that an answer must be worth."""
        return max(self._published, self._carried)

    @property
    def limit(self) -> float:
        """USD that may be spent now above the cheapest way to answer. A single request may overdraw it, once
        it is above 0: otherwise nobody with a small allowance could ever use a dear model."""
        return max(0.0, self._credit)

    def offer(self, weighted_quality: Sequence[float], cost: Sequence[float]) -> None:
        """Learn what a request gains per USD, from its variants that could serve it."""
        if not self.active or not cost:
            return
        least = min(cost)
        rows = list(zip(weighted_quality, cost, strict=True))
        cheapest = max([quality for quality, usd in rows if usd == least])
        gains = [(quality - cheapest) / (usd - least) for quality, usd in rows if usd > least]
        self._ceiling = max(_FORGETTING * self._ceiling, max(gains, default=0.0))

    def spend(self, amount: float) -> None:
        """Book the expected cost of a request that was placed."""
        self._book(amount)

    def advance(self, now: float, allowance: float, published: float) -> None:
        """Move to `now`: what fell due since then is `allowance` USD per second."""
        self._published = published
        if allowance == math.inf:
            self._carried, self._credit, self._at = 0.0, math.inf, None
        elif self._at is None:
            self._credit, self._at = allowance * self._horizon, now
        else:
            self._book(-allowance * max(0.0, now - self._at))
            self._at = max(self._at, now)
        self._allowance = allowance

    def _book(self, excess: float) -> None:
        """Count `excess` USD of spend over allowance."""
        if self._at is None:
            return
        most = self._allowance * self._horizon
        self._credit = max(-most, min(most, self._credit - excess))
        moved = self._ceiling * excess / most if most > 0 else self._ceiling
        self._carried = min(self._ceiling, max(0.0, self._carried + moved))
