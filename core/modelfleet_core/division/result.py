"""Stage publish, its answer: the prices that sidecars carry, the flows behind them, and each one's part.

In: `solver.divide`. Out: `Division` to the lease book and status.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

import numpy as np

from modelfleet_core.demand.classes import FloatArray
from modelfleet_core.division.dual import Prices
from modelfleet_core.values import ModelName, ObjectKey, SidecarId, VariantKey


class Termination(Enum):
    CONVERGED = "Converged"
    LIMITED = "Limited"
    """The steps ended before the minimum: prices are usable, `gap` says how good."""


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """What each of S sidecars would use if the flows were followed."""

    sidecars: tuple[SidecarId, ...]
    variants: tuple[VariantKey, ...]
    slots: FloatArray
    """(S, variants): busy slots."""
    policies: tuple[ObjectKey, ...]
    """Those with a budget rate."""
    money: FloatArray
    """(S, policies) USD/s; a column sums to the policy's budget rate where anyone asks."""
    asks: FloatArray
    """(S, policies) requests/s; 0: the sidecar does not follow the policy, or is idle."""

    def by_sidecar(self) -> dict[SidecarId, dict[VariantKey, float]]:
        """Return the busy slots of the variants that anyone uses; 0 where absent."""
        used = np.flatnonzero(self.slots.sum(axis=0))
        keys = [self.variants[v] for v in used]
        rows = self.slots[:, used].tolist()
        return {
            sidecar: dict(zip(keys, row, strict=True))
            for sidecar, row in zip(self.sidecars, rows, strict=True)
        }

    def allowances(self) -> dict[ObjectKey, dict[SidecarId, float]]:
        """Return the USD/s of those who ask."""
        return {
            policy: {self.sidecars[s]: float(self.money[s, p]) for s in np.flatnonzero(self.asks[:, p])}
            for p, policy in enumerate(self.policies)
        }


@dataclass(frozen=True, slots=True, eq=False)
class Division:
    slot_prices: Mapping[VariantKey, float]
    """Weighted quality per slot-second, of every variant of the fleet."""
    money_prices: Mapping[ObjectKey, float]
    """Weighted quality per USD, of every policy with a budget rate."""
    flows: Mapping[tuple[int, ModelName], float]
    """Requests per second of each class (by its number) to each model, within all limits; no zeros."""
    shed: tuple[float, ...]
    """Requests per second of each class that nothing can serve or that are not worth their price."""
    objective: float
    """Weighted quality per second of `flows`, less the penalty of what is shed."""
    bound: float
    """No flows within the limits are worth more."""
    termination: Termination
    prices: Prices
    """The same by model, to start the next division from."""
    targets: Targets | None
    """None: the problem did not say who asks."""

    @property
    def gap(self) -> float:
        return self.bound - self.objective
