"""Stage assign, now and then: a request whose best variant is another one by chance, so that feedback tells.

In: a `Prospect`, published prices, a draw. Out: the same, the drawn variant's quality leant on until it is
just the best; money, rules and slots bind as for any other, and it stays explained by its own estimate.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace

from modelfleet_core.batching.worth import worth
from modelfleet_core.estimation.exploration import explore
from modelfleet_core.values import VariantKey

from modelfleet_sidecar.prospect import Prospect

_JUST = 1e-4
"""Worth by which the drawn variant is the best."""


def explored(
    seen: Prospect,
    slot_prices: Mapping[VariantKey, float],
    money_price: float,
    free: Collection[VariantKey | None],
    draw: float,
    now: float,
) -> Prospect:
    """Return the prospect with another variant as the best, if the `draw` says so.

    `free`: variants with a free slot; `draw` is uniform in [0, 1).
    """
    candidate = seen.candidate
    prices = [slot_prices.get(variant, 0.0) for variant in candidate.variants]
    weighed = worth(candidate, prices, money_price, now)
    open_to = {j for j in weighed.usable if candidate.variants[j] in free}
    if weighed.favourite not in open_to:
        return seen
    values = [value if j in open_to else -math.inf for j, value in enumerate(weighed.values)]
    chosen = explore([value / candidate.weight for value in values], seen.policy.learning.exploration, draw)
    if chosen is None:
        return seen
    lean = list(candidate.lean or (0.0,) * len(candidate.variants))
    lean[chosen] += (values[weighed.favourite] - values[chosen] + _JUST) / candidate.weight
    return replace(seen, candidate=replace(candidate, lean=tuple(lean)), explored=candidate.variants[chosen])
