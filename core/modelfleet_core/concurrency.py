"""Stage assign, how much of a lease is used: the requests that one endpoint takes at a time without harm.

In: how long answers took, and 429s, from `health`. Out: a limit from 1 to the leased slots. Next:
`batching.room` counts no more slots than that as free.

    an answer while the limit binds     limit + 1 / limit: about one more for each `limit` answers
    429                                 half of what was in flight; with Retry-After nothing before that
    answers take `TOLERANCE` times what they used to
                                        `DECREASE` of what was in flight

What began before the last decrease says nothing of the limit since. Times are compared in logarithms with a
moving low quantile (a sixth) of answers of about as many tokens, in steps of bounded size, so that outliers
move little. An endpoint that stays slower is taken as it is after some 70 answers, and the limit grows again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

TOLERANCE = 4.0
DECREASE = 0.8
REFUSED = 0.5
UNNOTICED = 0.05
"""Seconds that an answer may take longer than usual, whatever the factor."""
BASE_UP, BASE_DOWN = 0.02, 0.1
"""Steps of the base: it settles where a sixth of the answers are below."""
RECENT_STEP = 0.15
"""Of the median of recent answers."""
WARM = 16
"""Answers of a size before they are compared."""


@dataclass(slots=True)
class _Base:
    """What answers of one size usually take."""

    logarithm: float
    answers: int = 0

    def move(self, logarithm: float) -> None:
        self.answers += 1
        gap = logarithm - self.logarithm
        self.logarithm += min(gap, BASE_UP) if gap > 0 else max(gap, -BASE_DOWN)


class Concurrency:
    """The limit of one endpoint. Times are seconds on one clock."""

    def __init__(self) -> None:
        self._limit = math.inf
        self._since = -math.inf
        """When it was last lowered."""
        self._bases: dict[int, _Base] = {}
        """By the binary length of the tokens of an answer."""
        self._recent = 0.0
        """Median of recent answers' seconds over their base, as a logarithm."""
        self.backs_off_until = -math.inf
        """It wants no request before."""

    @property
    def bound(self) -> bool:
        """Whether there is a limit below any number of slots."""
        return self._limit < math.inf

    def limit(self, slots: int) -> int:
        """Return how many of its leased slots to use at a time, at least one."""
        return max(1, min(slots, int(min(self._limit, slots))))

    def refused(self, began: float, now: float, in_flight: int, back_off: float | None) -> None:
        """It answered 429 while so many requests were in flight, this one included; `back_off`: the seconds
        for which it wants none, None: it did not say."""
        if back_off is not None:
            self.backs_off_until = max(self.backs_off_until, now + back_off)
        self._lower(began, now, in_flight, REFUSED)

    def answered(self, began: float, now: float, tokens: int, in_flight: int, slots: int) -> None:
        """An answer of so many tokens is whole; so many of `slots` were in flight, this one included."""
        seconds = now - began
        logarithm = math.log(max(seconds, 1e-6))
        base = self._bases.setdefault(tokens.bit_length(), _Base(logarithm))
        usual = base.logarithm
        base.move(logarithm)
        if began < self._since:
            return
        if base.answers > WARM:
            above = logarithm - usual if seconds - math.exp(usual) > UNNOTICED else 0.0
            gap = above - self._recent
            self._recent += max(-RECENT_STEP, min(RECENT_STEP, gap))
            if self._recent > math.log(TOLERANCE):
                self._lower(began, now, in_flight, DECREASE)
                return
        if self._limit < math.inf and in_flight >= int(self._limit):
            self._limit += 1.0 / self._limit
            if self._limit >= slots:
                self._limit = math.inf

    def _lower(self, began: float, now: float, in_flight: int, factor: float) -> None:
        if began < self._since:
            return
        self._limit = max(1.0, min(self._limit, float(in_flight)) * factor)
        self._since = now
        self._recent = 0.0
