"""Demand as the operator sees it: classes of similar requests, their rate and what each model offers them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from modelfleet_core.values import ModelName, ObjectKey, TaskName, TierName

if TYPE_CHECKING:  # messages.py imports this package for the demand in reports
    from modelfleet_core.values import SidecarId

FloatArray = npt.NDArray[np.float64]


class ModelOffer(NamedTuple):
    """Means of one model over the requests of a class. A tuple: every request makes some."""

    quality: float
    cost_usd: float
    service_time: float
    """Seconds that a request holds a slot of the model's fastest variant."""


@dataclass(frozen=True, slots=True)
class DemandClass:
    """Requests of one policy, tier and task; a model absent from `offers` may not serve them."""

    policy: ObjectKey
    tier: TierName
    task: TaskName
    """The cluster that most of its requests come from, as `cells.cluster` names it."""
    weight: float
    shed_penalty: float
    """Quality times weight lost per request that is not answered."""
    rate: float
    """Requests per second."""
    offers: Mapping[ModelName, ModelOffer]


@dataclass(frozen=True, slots=True, eq=False)
class SharedDemand:
    """Demand classes, and which sidecar asks how much of each."""

    classes: tuple[DemandClass, ...]
    """K of them."""
    sidecars: tuple[SidecarId, ...]
    """S of them: all that were heard and follow a policy."""
    rates: FloatArray
    """(S, K), requests per second; columns sum to the classes' rates."""

    def of(self, policies: Collection[ObjectKey]) -> SharedDemand:
        """Return the part that these policies' sidecars ask for, without those that ask for nothing."""
        columns = [k for k, demand in enumerate(self.classes) if demand.policy in policies]
        rates = self.rates[:, columns]
        rows = np.flatnonzero(rates.sum(axis=1) > 0.0)
        return SharedDemand(
            classes=tuple(self.classes[k] for k in columns),
            sidecars=tuple(self.sidecars[s] for s in rows),
            rates=rates[rows],
        )
