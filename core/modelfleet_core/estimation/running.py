"""Stage assign, what recent requests were like: a mean and a variance that forget.

In: values one by one. Out: `Running`. Next: `estimate`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

_STEP = 1 / 128
"""Share of the newest value: the last few hundred values count."""
_LEAST_SPREAD = 0.02


@dataclass(frozen=True, slots=True)
class Running:
    mean: float
    variance: float

    def after(self, value: float) -> Running:
        """Return the moments once `value` has been seen too."""
        off = value - self.mean
        return Running(
            mean=self.mean + _STEP * off, variance=(1.0 - _STEP) * (self.variance + _STEP * off * off)
        )

    def rank(self, value: float) -> float:
        """Return about the share of values below `value`, as if they were normal; rising, in [0, 1]."""
        spread = max(_LEAST_SPREAD, math.sqrt(self.variance))
        return 0.5 * (1.0 + math.tanh(0.85 * (value - self.mean) / spread))
