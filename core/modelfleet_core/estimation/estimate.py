"""Stage assign, second half of knowing a request: what each model would make of it.

In: `RequestProfile` and the fleet. Out: one `Estimate` per model. Next: the assignment problem.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from modelfleet_core.catalog import Fleet
from modelfleet_core.estimation.profile import RequestProfile
from modelfleet_core.values import ModelName, NanoUsd


@dataclass(frozen=True, slots=True)
class Estimate:
    """One model's expected answer to one request."""

    model: ModelName
    quality: float
    """In [0, 1]."""
    quality_variance: float
    samples: float
    """Answers that the estimate rests on; 0: the manifest's word."""
    cost: float
    """USD, expected."""
    reserve: NanoUsd
    """No attempt costs more."""
    output_tokens: float
    """Expected; a variant's `Latency.service_time` makes seconds of it."""


class Estimator(Protocol):
    def estimate(self, profile: RequestProfile, fleet: Fleet) -> tuple[Estimate, ...]:
        """Return one estimate per model, in the order of the fleet."""
        ...
