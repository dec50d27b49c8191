"""Stage publish, whether what was learned still helps, and whether models answer as they used to.

In: sums over scored answers as they come. Out: `Standing`. Next: `merging` acts on it, the policy's status
tells.

Answers are taken in windows of `_WINDOW`; each was estimated before its score was known, with and without
what was learned. Two cumulative sums of standardised windows (Page 1954, Biometrika 41, 100) raise the
alarm: of the excess of squared error over the base's, and, on both sides, of the mean residual less its
running mean. With the allowance k = 0.5 and the threshold h = 8 a stream without change would raise one in
about 19,000 windows if mean and spread were known (Siegmund's approximation); they are estimated, and of
simulated streams of 100 windows about one in a hundred is told to drift and none is rolled back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np
import numpy.typing as npt

from modelfleet_core.estimation.experience import Scored

FloatArray = npt.NDArray[np.float64]

_WINDOW = 50.0
_ALLOWANCE = 0.5
_THRESHOLD = 8.0
_TOLERATED = 0.001
"""Excess of squared error that is not worth a roll-back."""
_SPREAD, _SPREAD_WINDOWS = 0.03, 4.0
"""Deviation of a window's excess as expected before any, and windows' worth of that expectation."""
_SETTLED = 16.0
"""Windows until the running mean is one to compare with."""
_REMEMBERED = 40.0
"""Windows over which means and spreads follow."""


class Verdict(Enum):
    STEADY = "Steady"
    DRIFT = "Drift"
    """Scores moved away from estimates, or estimates from scores."""
    ROLLED_BACK = "RolledBack"
    """What was learned did worse than the base and is not used."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What is remembered of the windows; plain figures, so that it can be kept."""

    windows: float = 0.0
    excess: float = 0.0
    """Cumulative sum on squared errors."""
    excess_square: float = _SPREAD_WINDOWS * _SPREAD * _SPREAD
    excess_weight: float = _SPREAD_WINDOWS
    rise: float = 0.0
    fall: float = 0.0
    """Cumulative sums on residuals."""
    level: float = 0.0
    """Running mean of residuals."""
    open: tuple[float, ...] = (0.0,) * len(Scored)
    """Sums of the window that is not full."""
    used_error: float = 0.0
    """Running mean of squared errors."""
    base_error: float = 0.0

    def after(self, scored: FloatArray) -> tuple[Watch, Verdict]:
        """Return what to remember once `scored` (len(Scored),) has come too, and what that shows."""
        sums = np.array(self.open) + scored
        weight = float(sums[Scored.WEIGHT])
        if weight < _WINDOW:
            return replace(self, open=tuple(sums.tolist())), Verdict.STEADY
        used, base = float(sums[Scored.USED_ERROR]) / weight, float(sums[Scored.BASE_ERROR]) / weight
        residual = float(sums[Scored.SCORE] - sums[Scored.USED]) / weight
        step = max(1.0 / (self.windows + 1.0), 1.0 / _REMEMBERED)
        # The spread of this window counts from the next one on: an outlier must not excuse itself.
        spread = math.sqrt(self.excess_square / self.excess_weight)
        fade = 1.0 - 1.0 / _REMEMBERED
        off = used - base
        noise = math.sqrt(max(used - residual * residual, 1e-4) / weight)
        moved = (residual - self.level) / noise if self.windows >= _SETTLED else 0.0
        seen = replace(
            self,
            windows=self.windows + 1.0,
            excess=max(0.0, self.excess + (off - _TOLERATED) / spread - _ALLOWANCE),
            excess_square=fade * self.excess_square + (off - self.used_error + self.base_error) ** 2,
            excess_weight=fade * self.excess_weight + 1.0,
            rise=max(0.0, self.rise + moved - _ALLOWANCE),
            fall=max(0.0, self.fall - moved - _ALLOWANCE),
            level=self.level + step * (residual - self.level),
            open=(0.0,) * len(Scored),
            used_error=self.used_error + step * (used - self.used_error),
            base_error=self.base_error + step * (base - self.base_error),
        )
        if seen.excess > _THRESHOLD:
            return seen, Verdict.ROLLED_BACK
        if max(seen.rise, seen.fall) > _THRESHOLD:
            return seen, Verdict.DRIFT
        return seen, Verdict.STEADY


@dataclass(frozen=True, slots=True)
class Standing:
    """How estimates stand against scores."""

    verdict: Verdict
    samples: float
    """Scored answers that were watched since the last alarm or change of base."""
    used_error: float
    """Mean squared error of the estimates that routing went by, recent ones."""
    base_error: float
    """The same without what was learned."""
    residual: float
    """Mean of score less estimate, recent ones."""
