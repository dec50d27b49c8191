"""Stage publish, seen by others: what the capacity service tells of money and sidecars.

In: `Publisher`. Out: to planning, prices, statuses and figures, and as `Snapshot` over the wire.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from modelfleet_core.leasing.holders import Follows
from modelfleet_core.leasing.messages import SidecarId, SlotState
from modelfleet_core.values import EndpointUrl, NanoUsd, ObjectKey, PeriodId, VariantKey

Slots = Mapping[ObjectKey, Mapping[VariantKey, Mapping[EndpointUrl, int]]]
"""Slots by fleet, variant and endpoint."""


@dataclass(frozen=True, slots=True)
class Usage:
    """One policy's money in its present period. `granted`: spent or still in sidecars' hands, at most."""

    period: PeriodId
    starts: datetime
    ends: datetime
    limit: NanoUsd
    granted: NanoUsd
    spent: NanoUsd


@dataclass(frozen=True, slots=True)
class SidecarView:
    """One sidecar as the leader sees it."""

    id: SidecarId
    follows: Follows | str
    """A text says why it gets nothing."""
    report_age: float
    """Seconds."""
    connected: bool
    slots: Mapping[EndpointUrl, SlotState]
