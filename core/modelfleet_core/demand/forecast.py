"""Stage publish, how a budget is spread over its period: by what the same hours of earlier days asked.

In: a policy's request rate, second by second. Out: USD per second to spend now. Next: `division.problem`, and
`allocation.problem`. A profile is a view kept beside the budget's ledger: no limit rests on it.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

HOURS = 24
MOST_DAYS = 7.0
"""Days that an hour's mean rests on at most: older ones fade."""
LEAST_SEEN = 1800.0
"""Seconds of an hour that must have been seen for it to count."""
LEAST_PERIOD = 1.0
"""Seconds that a budget is spread over at the very end of its period."""


@dataclass(frozen=True, slots=True)
class HourlyProfile:
    """Requests per second by hour of the day in UTC."""

    means: tuple[float, ...] = (0.0,) * HOURS
    days: tuple[float, ...] = (0.0,) * HOURS
    """What each mean rests on; 0: nothing is known of that hour."""
    hour: int = 0
    """The hour that is being seen, in hours since 1970."""
    seen: float = 0.0
    """Seconds of it."""
    requests: float = 0.0
    """In these seconds."""

    def saw(self, at: datetime, rate: float, seconds: float) -> HourlyProfile:
        """Return the profile after `seconds` until `at` with `rate` requests per second."""
        hour = int(at.timestamp() // 3600)
        begun = self if hour == self.hour else self._closed(hour)
        return replace(begun, seen=begun.seen + seconds, requests=begun.requests + rate * seconds)

    def _closed(self, hour: int) -> HourlyProfile:
        if self.seen < LEAST_SEEN:
            return replace(self, hour=hour, seen=0.0, requests=0.0)
        place = self.hour % HOURS
        days = self.days[place]
        mean = (days * self.means[place] + self.requests / self.seen) / (days + 1.0)
        return HourlyProfile(
            means=(*self.means[:place], mean, *self.means[place + 1 :]),
            days=(*self.days[:place], min(MOST_DAYS, days + 1.0), *self.days[place + 1 :]),
            hour=hour,
        )

    def expected(self) -> tuple[float, ...]:
        """Return what each hour asks, in any one unit: its mean, drawn to that of all as if by one more day.

        All the same while nothing is known.
        """
        known = [mean for mean, days in zip(self.means, self.days, strict=True) if days > 0.0]
        overall = sum(known) / len(known) if known else 0.0
        if overall <= 0.0:
            return (1.0,) * HOURS
        return tuple(
            (days * mean + overall) / (days + 1.0) for mean, days in zip(self.means, self.days, strict=True)
        )

    def text(self) -> str:
        """Return it for storage, in less than a kilobyte."""
        figures = [*self.means, *self.days, float(self.hour), self.seen, self.requests]
        return json.dumps([float(f"{figure:.6g}") if figure < 1e5 else figure for figure in figures])

    @staticmethod
    def parse(text: str) -> HourlyProfile:
        """Return what `text` wrote; raises `ValueError` if it is nothing of the kind."""
        figures = json.loads(text)
        if (
            not isinstance(figures, list)
            or len(figures) != 2 * HOURS + 3
            or not all(isinstance(f, int | float) and math.isfinite(f) and f >= 0 for f in figures)
        ):
            raise ValueError(f"not a profile of {HOURS} hours: {text[:40]!r}")
        return HourlyProfile(
            means=tuple(map(float, figures[:HOURS])),
            days=tuple(min(MOST_DAYS, float(days)) for days in figures[HOURS : 2 * HOURS]),
            hour=int(figures[-3]),
            seen=float(figures[-2]),
            requests=float(figures[-1]),
        )


def budget_rate(left: float, now: datetime, ends: datetime, profile: HourlyProfile | None = None) -> float:
    """Return the USD per second to spend at `now` of `left` USD that must last until `ends`.

    `left x expected(now) / integral of expected from now to ends`; without a profile `left / seconds left`.
    """
    if left <= 0.0:
        return 0.0
    expected = (profile or HourlyProfile()).expected()
    at = now.astimezone(UTC)
    present = expected[at.hour]
    ahead, end = 0.0, ends.astimezone(UTC)
    while at < end:
        following = at.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1)
        until = min(following, end)
        ahead += expected[at.hour] * (until - at).total_seconds()
        at = until
    return left * present / max(ahead, present * LEAST_PERIOD)
