"""Stage publish, its answer: the prices that sidecars carry and the flows behind them.

In: `solver.divide`. Out: `Division` to the capacity service and status.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from modelfleet_core.values import ModelName, ObjectKey, VariantKey


class Termination(Enum):
    OPTIMAL = "Optimal"
    FALLBACK = "Fallback"
    """The program did not finish in time: no prices, demand served greedily by value."""


@dataclass(frozen=True, slots=True)
class Division:
    slot_prices: Mapping[VariantKey, float]
    """Weighted quality per slot-second, of every variant of the fleet."""
    money_prices: Mapping[ObjectKey, float]
    """Weighted quality per USD, of every policy with a budget rate."""
    flows: Mapping[tuple[int, ModelName], float]
    """Requests per second of each class (by its number) to each model; zero flows are absent."""
    shed: tuple[float, ...]
    """Requests per second of each class that nothing can serve or that are not worth their price."""
    termination: Termination
    objective: float
    """Weighted quality per second, less the penalty of what is shed."""
