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
    """Return how many slots of its model's fastest variant one slot of each variant replaces, at most 1.

    Service times in `ModelOffer` are those of the model's fastest variant.
    """
    result: dict[VariantKey, float] = {}
    for model in fleet.models:
        times = {v.key: v.latency.service_time(_TYPICAL_OUTPUT_TOKENS) for v in model.variants}
        fastest = min(times.values(), default=0.0)
        result |= {key: fastest / own if own > 0 else 1.0 for key, own in times.items()}
    return result


def utilisation(slots: float) -> float:
    """Return the share of `slots` to plan with: random arrivals need spare ones, fewer in larger groups.

    Square-root staffing, `1 - beta / sqrt(slots)`; 0 without slots.
    """
    return 1.0 - _BETA / math.sqrt(max(1.0, slots)) if slots > 0 else 0.0
