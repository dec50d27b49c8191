"""Stages allocate and publish: what slots can carry.

In: the fleet's latencies and numbers of slots. Out: comparable slots of each model. Next: the programs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from modelfleet_core.catalog import Fleet
from modelfleet_core.values import VariantKey

_TYPICAL_OUTPUT_TOKENS = 256
_BETA = 0.5


def speeds(fleet: Fleet) -> Mapping[VariantKey, float]:
    """Return how many slots of its model's first variant one slot of each variant replaces.

    Service times in `ModelOffer` are those of the model's first variant.
    """
    result = {}
    for model in fleet.models:
        for variant in model.variants:
            reference = model.variants[0].latency.service_time(_TYPICAL_OUTPUT_TOKENS)
            own = variant.latency.service_time(_TYPICAL_OUTPUT_TOKENS)
            result[variant.key] = reference / own if own > 0 else 1.0
    return result


def utilisation(slots: float) -> float:
    """Return the share of `slots` to plan with: random arrivals need spare ones, fewer in larger groups.

    Square-root staffing, `1 - beta / sqrt(slots)`; 0 without slots.
    """
    return 1.0 - _BETA / math.sqrt(max(1.0, slots)) if slots > 0 else 0.0
