"""Stage publish: what one sidecar has and wants of one variant.

In come its reports and grants; `market.py` keeps one position for each sidecar, `shares.py` compares them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from modelfleet_core.leasing.holders import Holder
from modelfleet_core.leasing.line import Entry
from modelfleet_core.leasing.messages import Bid


@dataclass(slots=True)
class Position:
    """What one sidecar has and wants of a variant."""

    holder: Holder
    slots: int = 0
    """That it is to have."""
    unused: int = 0
    """Of those it may use, as of its newest report."""
    surplus: int = 0
    """Of the unused, those it does not want."""
    unmet: int = 0
    bids: tuple[Bid, ...] = ()
    """For what is unmet, first served first."""
    covered: tuple[Bid, ...] = ()
    """For what it has unused slots for."""
    since: float = 0.0
    unused_since: float = math.inf
    ask: tuple[float, float] | None = None
    """Weight and price it was told last."""
    coming: int = 0
    """Slots recalled from it that its reports do not show yet, since `recalled_at`."""
    moved: int = 0
    """Sequence of the newest grant that changed its slots here."""
    recalled_at: float = -math.inf
    entries: tuple[Entry, ...] = ()
    seen: tuple[object, ...] = ()
    """What `put` was told last."""
