"""Stage allocate, from the target to what can be asked for now.

In: target replicas. Out: replicas that fit beside the pods that still exist. Next: `reasons`, then scale.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modelfleet_core.allocation.limits import Limits
from modelfleet_core.values import VariantKey


def step(
    within: Limits, target: Mapping[VariantKey, int], *, order: Sequence[VariantKey], external: float
) -> dict[VariantKey, int]:
    """Return `target` with only those starts that fit while what stops still holds its GPUs and its cost.

    Counted are the larger of asked and target, and lingering pods; so a plan may be applied in any order,
    and a held scale-down leaves it valid. Starts are granted in `order`, one replica of each in turn.
    `external` is the forecast spend elsewhere in USD per hour.
    """
    asked = {key: min(count, within.variants[key].now) for key, count in target.items()}
    held = {key: v.now + v.lingering for key, v in within.variants.items()}
    growing = [key for key in order if target[key] > asked[key]]
    while growing:
        for key in tuple(growing):
            more = held | {key: held[key] + 1}
            pool = within.variants[key].placement.pool
            if (
                asked[key] < target[key]
                and pool not in within.over(more)
                and within.affordable(more, external)
            ):
                held = more
                asked[key] += 1
            else:
                growing.remove(key)
    return asked
