"""Stage publish, seen by others: what the capacity service tells of money and sidecars.

In: the lease book and live capacity. Out: to planning, prices, statuses and figures, and as `Snapshot`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from modelfleet_core.leasing.accounts import BUDGET, accounts_of
from modelfleet_core.leasing.grants import Documents, LeaseBook
from modelfleet_core.leasing.holders import Follows
from modelfleet_core.leasing.messages import SidecarId, SlotState
from modelfleet_core.leasing.slots import Capacity
from modelfleet_core.values import AccountName, EndpointUrl, NanoUsd, ObjectKey, PeriodId, VariantKey

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


def leased(capacity: Mapping[ObjectKey, Capacity], held: Mapping[EndpointUrl, int]) -> Slots:
    """Return the slots held at each live endpoint."""
    return {
        fleet: {
            variant: {endpoint: held.get(endpoint, 0) for endpoint in endpoints}
            for variant, endpoints in variants.items()
        }
        for fleet, variants in capacity.items()
    }


def usage(
    book: LeaseBook, documents: Documents, policy: ObjectKey, account: AccountName = BUDGET
) -> Usage | None:
    """Return the money of a policy's budget, or of its judge's account, in the present period; None: it has
    none or its ledger is not open."""
    accounts = book.budget(policy, account)
    purse = accounts.purse(account) if accounts is not None else None
    declared = accounts_of(documents.policies[policy][0]) if policy in documents.policies else ()
    limits = [one.limit for one in declared if one.name == account]
    if accounts is None or purse is None or not limits:
        return None
    return Usage(
        period=accounts.period.id,
        starts=accounts.period.starts,
        ends=accounts.period.ends,
        limit=NanoUsd(limits[0]),
        granted=NanoUsd(purse.committed),
        spent=NanoUsd(purse.spent),
    )


def sidecars(book: LeaseBook, now: float) -> tuple[SidecarView, ...]:
    """Return all sidecars that hold something or may soon."""
    return tuple(
        SidecarView(holder.id, holder.follows, now - holder.heard_at, holder.connected, holder.report.slots)
        for holder in book.holders()
        if holder.retired_at is None
    )


def followers(book: LeaseBook) -> dict[SidecarId, ObjectKey]:
    """Return the policy of each sidecar that follows one and is not gone."""
    return {
        holder.id: holder.follows.policy
        for holder in book.holders()
        if holder.retired_at is None and isinstance(holder.follows, Follows)
    }
