"""Stage publish, the leader's side of all leases: who holds what, and the next grant of each sidecar.

In come reports, live capacity, policies and the store's ledger records; out go grants, each counted as held
before it leaves. `publish.py` of the operator moves the messages; `holding.py` is the sidecar's side.

    held[s, j] = max(kept, every grant with sequence > applied)
    sum_s held[s, j] <= live slots of j: a grant raises it only while that stays true

A lease that nobody renews is reclaimed after ttl + longest request, or when its pod is gone and its model
servers had time to notice. A new leader grants no slot beyond what is reported until everyone who may hold
a lease has reported, is gone, or can not hold one any more.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from modelfleet_core.leasing.holders import Follows, Holder, held_by
from modelfleet_core.leasing.ledger import BudgetPeriod, LedgerRecord, budget_period, ended
from modelfleet_core.leasing.messages import (
    AccountGrant,
    AccountState,
    Document,
    Grant,
    Report,
    SidecarId,
    SlotGrant,
)
from modelfleet_core.leasing.purse import Purse
from modelfleet_core.leasing.slots import Capacity, SlotDivider
from modelfleet_core.policy import Policy
from modelfleet_core.values import EndpointUrl, NanoUsd, ObjectKey, PeriodId, VariantKey

UPSTREAM_NOTICES = 5.0
"""Seconds after which model servers have dropped the requests of a pod that is gone."""
UNHEARD = 10.0
"""Seconds without a report after which a sidecar gets no more than it has."""
RENEWALS = 10
"""A lease is renewed this often before it would end."""
MOST_UNACKNOWLEDGED = 64
"""Grants on their way to one sidecar; then it hears nothing new until it reports."""
RETIRED_FOR = 3600.0
"""Seconds for which a sidecar is remembered after all it held was reclaimed."""


@dataclass(frozen=True, slots=True)
class Prices:
    """Published prices: quality per slot-second by fleet and variant, and quality per USD by policy."""

    slots: Mapping[ObjectKey, Mapping[VariantKey, float]]
    money: Mapping[ObjectKey, float]


@dataclass(frozen=True, slots=True)
class Documents:
    """What sidecars are sent of the manifests, and the policies parsed."""

    fleets: Mapping[ObjectKey, Document]
    policies: Mapping[ObjectKey, tuple[Policy, Document]]


class LeaseBook:
    """All leases of one epoch. `now` is the leader's monotonic clock; `at` its wall clock in UTC.

    The caller sets what changed, opens the ledgers that `unopened` names, writes those that `due` names, and
    calls `turn` for the grants to send.
    """

    def __init__(self, *, epoch: int, ttl: float, now: float, may_hold: Collection[str] | None) -> None:
        """Start an epoch. `may_hold`: UIDs of pods that may hold an older leader's lease; None: unknown."""
        self.epoch = epoch
        self.ttl = ttl
        self._started_at = now
        self._awaited = dict.fromkeys(may_hold, math.inf) if may_hold is not None else {"": math.inf}
        self._reported: dict[EndpointUrl, int] = {}
        self._capacity: Mapping[ObjectKey, Capacity] = {}
        self._documents = Documents({}, {})
        self._prices = Prices({}, {})
        self._holders: dict[SidecarId, Holder] = {}
        self._longest = 0.0
        """Seconds of the longest request that any policy allowed in this epoch."""
        self._purses: dict[PeriodId, Purse] = {}
        self._current: dict[ObjectKey, PeriodId] = {}
        self._at = datetime.min.replace(tzinfo=UTC)
        self._divider = SlotDivider()

    # What the caller learns.

    def set_capacity(self, capacity: Mapping[ObjectKey, Capacity]) -> None:
        """Take over the live slots of every fleet."""
        self._capacity = capacity

    def set_documents(self, documents: Documents) -> None:
        """Take over the accepted fleets and policies."""
        self._documents = documents
        requests = (policy.limits.max_request for policy, _ in documents.policies.values())
        self._longest = max(self._longest, *requests, 0.0)

    def set_prices(self, prices: Prices) -> None:
        self._prices = prices

    def follow(self, sidecar: SidecarId, follows: Follows | str) -> None:
        """Say which policy a sidecar that has reported follows, or why it gets nothing."""
        self._holders[sidecar].follows = follows

    def hear(self, report: Report, now: float) -> bool:
        """Take over a report; False (and no change) if it is of another epoch or not newer than the last."""
        if report.epoch != self.epoch:
            return False
        holder = self._holders.get(report.sidecar)
        if holder is None:
            kept = {endpoint: state.kept for endpoint, state in report.slots.items()}
            for endpoint, slots in kept.items():
                self._reported[endpoint] = self._reported.get(endpoint, 0) + slots
            holder = Holder(report.sidecar, report, now, "its pod is not looked up yet", report.applied, kept)
            self._holders[report.sidecar] = holder
        elif report.sequence <= holder.report.sequence:
            return False
        holder.hear(report, now)
        if report.sidecar.uid in self._awaited:
            # An earlier start of the same pod may have ended just now.
            self._awaited[report.sidecar.uid] = min(self._awaited[report.sidecar.uid], now + UPSTREAM_NOTICES)
        for period, purse in self._purses.items():
            if period in report.accounts or purse.knows(report.sidecar):
                purse.hear(report.sidecar, report.accounts.get(period), now)
        return True

    def connect(self, sidecar: SidecarId) -> None:
        """A stream of a known sidecar opened: what was under way may be lost."""
        holder = self._holders.get(sidecar)
        if holder is not None:
            holder.connected = holder.must_answer = True
            holder.fleet_sent = holder.policy_sent = ""

    def part(self, sidecar: SidecarId) -> None:
        """A sidecar's stream ended; it may still use its lease."""
        holder = self._holders.get(sidecar)
        if holder is not None:
            holder.connected = False

    def forget(self, uid: str, now: float) -> None:
        """A pod is gone: what its sidecars held is reclaimed once its model servers noticed."""
        if uid in self._awaited:
            self._awaited[uid] = min(self._awaited[uid], now + UPSTREAM_NOTICES)
        for holder in self._holders.values():
            if holder.id.uid == uid:
                self.replaced(holder.id, now)

    def replaced(self, sidecar: SidecarId, now: float) -> None:
        """One start of a sidecar is over, its pod may go on."""
        holder = self._holders.get(sidecar)
        if holder is not None and holder.gone_at is None:
            holder.gone_at = now + UPSTREAM_NOTICES

    def prune(self, now: float) -> None:
        """Reclaim what can not be in use any more."""
        for holder in list(self._holders.values()):
            if holder.retired_at is not None:
                if now >= holder.retired_at + RETIRED_FOR:
                    del self._holders[holder.id]
                    if holder.gone_at is not None:
                        for purse in self._purses.values():
                            purse.close(holder.id)
                continue
            left = holder.report.leaving and not holder.connected and not holder.held()
            gone = holder.gone_at is not None and now >= holder.gone_at
            if left or gone or now >= holder.heard_at + self.ttl + self._longest:
                holder.reclaim(now)
                for purse in self._purses.values():
                    purse.lose(holder.id)

    def recovering(self, now: float) -> bool:
        """Return whether a sidecar that has not reported may still hold an older leader's lease."""
        return now < self._started_at + self.ttl + self._longest and any(
            now < until for until in self._awaited.values()
        )

    # Ledgers.

    def unopened(self, at: datetime) -> tuple[tuple[ObjectKey, BudgetPeriod], ...]:
        """Return the budgets whose present period has no account yet; read their records, then `open`."""
        self._at = max(self._at, at)  # a clock put back must not reopen a period that was closed
        missing = []
        self._current = {}
        for key, (policy, _) in self._documents.policies.items():
            if policy.budget is not None:
                period = budget_period(key, policy.budget.period, self._at)
                if period.id in self._purses:
                    self._current[key] = period.id
                else:
                    missing.append((key, period))
        for purse in list(self._purses.values()):
            length = purse.period.ends - purse.period.starts
            if self._at >= purse.period.ends + length:
                del self._purses[purse.period.id]
        return tuple(missing)

    def open(self, policy: ObjectKey, period: BudgetPeriod, stored: LedgerRecord | None, now: float) -> None:
        """Open the account of a period as found in the store; raises `ForeignEpochError`."""
        purse = Purse(policy, period, self.epoch, stored)
        self._purses[period.id] = purse
        self._current[policy] = period.id
        for holder in self._holders.values():
            if period.id in holder.report.accounts:
                purse.hear(holder.id, holder.report.accounts[period.id], now)

    def due(self, now: float, *, exact: bool = False) -> tuple[LedgerRecord, ...]:
        """Return the records to write now; tell each one's fate by `written` or `found`."""
        records = (purse.due(self._limit(purse), now, exact=exact) for purse in self._purses.values())
        return tuple(record for record in records if record is not None)

    def written(self, record: LedgerRecord, version: str) -> None:
        if record.period in self._purses:
            self._purses[record.period].written(version)

    def found(self, record: LedgerRecord, stored: LedgerRecord | None) -> None:
        """Writing `record` failed and the store holds `stored`; raises `ForeignEpochError`."""
        if record.period in self._purses:
            self._purses[record.period].found(stored)

    def _limit(self, purse: Purse) -> NanoUsd:
        known = self._documents.policies.get(purse.policy)
        budget = known[0].budget if known is not None else None
        return budget.limit if budget is not None else NanoUsd(0)

    # Views.

    def holders(self) -> tuple[Holder, ...]:
        """Return all sidecars known, also those whose slots were reclaimed."""
        return tuple(self._holders.values())

    def purse(self, policy: ObjectKey) -> Purse | None:
        """Return a policy's money in the present period; None: no budget, or its ledger is not open yet."""
        period = self._current.get(policy)
        return self._purses[period] if period is not None else None

    # Grants.

    def turn(self, now: float, ready: Collection[SidecarId]) -> tuple[tuple[SidecarId, Grant], ...]:
        """Divide anew and return the grants to send to those of `ready` for whom something changed.

        Each counts as held from now on, so each must be sent, in this order.
        """
        takers = [
            (holder, holder.follows)
            for holder in self._holders.values()
            if self._takes(holder, now) and isinstance(holder.follows, Follows)
        ]
        live = self._live(now)
        held = held_by(self._holders.values())
        taking = {holder.id for holder, _ in takers}
        for holder in self._holders.values():
            if holder.id not in taking:
                holder.stay_within_told()
        by_fleet: dict[ObjectKey, list[Holder]] = {}
        for holder, follows in takers:
            by_fleet.setdefault(follows.fleet, []).append(holder)
        self._divider.divide(self._capacity, by_fleet, live, held, now)
        self._divide_money(takers)
        grants = []
        for holder in self._holders.values():
            heeds = holder.unacknowledged < MOST_UNACKNOWLEDGED and self._may_hear(holder)
            if holder.id in ready and holder.connected and heeds:
                grant = self._grant(holder, live, held)
                if grant is not None:
                    grants.append((holder.id, grant))
        return tuple(grants)

    def _takes(self, holder: Holder, now: float) -> bool:
        return (
            holder.connected
            and holder.gone_at is None
            and not holder.report.leaving
            and self._may_hear(holder)
            and now < holder.heard_at + UNHEARD
        )

    def _may_hear(self, holder: Holder) -> bool:
        """Return whether this leader's epoch is in the ledger of the holder's policy."""
        if not isinstance(holder.follows, Follows):
            return True
        known = self._documents.policies.get(holder.follows.policy)
        if known is None:
            return False
        opened = (purse.opened for purse in self._purses.values() if purse.policy == holder.follows.policy)
        return known[0].budget is None or any(opened)

    def _live(self, now: float) -> dict[EndpointUrl, int]:
        """Return the slots that may be held at each endpoint."""
        live: dict[EndpointUrl, int] = {}
        recovering = self.recovering(now)
        for capacity in self._capacity.values():
            for endpoints in capacity.values():
                for endpoint, slots in endpoints.items():
                    most = min(slots, self._reported.get(endpoint, 0)) if recovering else slots
                    live[endpoint] = max(live.get(endpoint, 0), most)
        return live

    def _divide_money(self, takers: Iterable[tuple[Holder, Follows]]) -> None:
        by_policy: dict[ObjectKey, list[Holder]] = {}
        for holder, follows in takers:
            by_policy.setdefault(follows.policy, []).append(holder)
        for policy, period in self._current.items():
            purse = self._purses[period]
            holders = by_policy.get(policy, [])
            for holder in holders:
                if not purse.knows(holder.id):
                    purse.hear(holder.id, None, holder.heard_at)
            purse.divide(self._limit(purse), [holder.id for holder in holders])

    def _grant(
        self, holder: Holder, live: Mapping[EndpointUrl, int], held: dict[EndpointUrl, int]
    ) -> Grant | None:
        """Return the holder's next grant, counted as held; None: nothing new to say and no renewal due."""
        has = holder.held()
        variants = self._variants(holder.follows)
        slots: dict[EndpointUrl, SlotGrant] = {}
        for endpoint, target in holder.target.items():
            room = live.get(endpoint, 0) - held.get(endpoint, 0)
            # While more is held than is live only recalls go out: not even a lost grant is made again.
            most = has.get(endpoint, 0) + room if room >= 0 else holder.told.get(endpoint, 0)
            count = min(target, most)
            if count > 0 and endpoint in variants:
                slots[endpoint] = SlotGrant(variants[endpoint], count)
        fleet, policy = self._documents_for(holder)
        follows = holder.follows if isinstance(holder.follows, Follows) else None
        grant = Grant(
            epoch=self.epoch,
            sequence=holder.sequence + 1,
            answers=holder.report.sequence,
            report_sent_at=holder.report.sent_at,
            ttl=self.ttl,
            slots=slots,
            accounts=self._accounts(holder, follows),
            slot_prices=self._prices.slots.get(follows.fleet, {}) if follows is not None else {},
            money_price=self._prices.money.get(follows.policy, 0.0) if follows is not None else 0.0,
            fleet=fleet,
            policy=policy,
            refusal=holder.follows if isinstance(holder.follows, str) else "",
        )
        if not (holder.must_answer or self._news(holder, grant)):
            return None
        for endpoint, granted in slots.items():
            held[endpoint] = held.get(endpoint, 0) + max(0, granted.slots - has.get(endpoint, 0))
        holder.tell(grant)
        return grant

    def _variants(self, follows: Follows | str) -> dict[EndpointUrl, VariantKey]:
        if not isinstance(follows, Follows):
            return {}
        capacity = self._capacity.get(follows.fleet, {})
        return {endpoint: variant for variant, endpoints in capacity.items() for endpoint in endpoints}

    def _documents_for(self, holder: Holder) -> tuple[Document | None, Document | None]:
        """Return the fleet's and the policy's document where the sidecar has neither got nor been sent it."""
        if not isinstance(holder.follows, Follows):
            return None, None
        fleet = self._documents.fleets.get(holder.follows.fleet)
        policy = self._documents.policies[holder.follows.policy][1]
        if fleet is not None and fleet.version in (holder.report.fleet_version, holder.fleet_sent):
            fleet = None
        return fleet, None if policy.version in (holder.report.policy_version, holder.policy_sent) else policy

    def _accounts(self, holder: Holder, follows: Follows | None) -> dict[PeriodId, AccountGrant]:
        """List every account the sidecar may have until its period is over and it has nothing left in it: one
        that vanished from the list and came back would be taken for new, and its money spent twice."""
        current = self._current.get(follows.policy) if follows is not None else None
        accounts: dict[PeriodId, AccountGrant] = {}
        for period in {
            *holder.report.accounts,
            *(p for p, purse in self._purses.items() if purse.knows(holder.id)),
        }:
            state = holder.report.accounts.get(period)
            purse = self._purses.get(period)
            granted = (
                purse.granted(holder.id)
                if purse is not None
                else (state.granted if state is not None else NanoUsd(0))
            )
            if period == current and purse is not None:
                ends_in = (purse.period.ends - self._at).total_seconds()
                accounts[period] = purse.grant(holder.id, self._limit(purse), ends_in)
            elif not (ended(period, self._at) and (state is None or _settled(state, granted))):
                accounts[period] = AccountGrant(granted, NanoUsd(0), NanoUsd(0), 0.0)
        return accounts

    def _news(self, holder: Holder, grant: Grant) -> bool:
        last = holder.last
        if last is None or grant.report_sent_at - last.report_sent_at >= self.ttl / RENEWALS:
            return True
        says = (grant.slots, grant.slot_prices, grant.money_price, grant.refusal, grant.accounts.keys())
        said = (last.slots, last.slot_prices, last.money_price, last.refusal, last.accounts.keys())
        if says != said or grant.fleet is not None or grant.policy is not None:
            return True
        return any(
            (account.granted, account.limit) != (before.granted, before.limit)
            or account.keep < min(before.keep, holder.free_money(period))
            for period, account in grant.accounts.items()
            for before in (last.accounts[period],)
        )


def _settled(state: AccountState, granted: NanoUsd) -> bool:
    """Return whether an account has heard of all `granted` money and has nothing left to spend or settle."""
    return state.reserved == 0 and state.granted == granted and granted - state.returned <= state.spent
