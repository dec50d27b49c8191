"""Demand as the operator sees it: classes of similar requests, their rate and what each model offers them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelfleet_core.values import ModelName, ObjectKey, TaskName, TierName


@dataclass(frozen=True, slots=True)
class ModelOffer:
    """Means of one model over the requests of a class."""

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
    weight: float
    shed_penalty: float
    """Quality times weight lost per request that is not answered."""
    rate: float
    """Requests per second."""
    offers: Mapping[ModelName, ModelOffer]
