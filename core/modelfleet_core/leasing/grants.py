"""Stage publish, the leader's side of all leases: who holds what, and the next grant of each sidecar.

In come reports, live capacity, targets, policies and the store's ledger records; out go grants, each counted
as held before it leaves. `publish.py` of the operator moves the messages; `holding.py` is the sidecar's side.

    held[s, j] = max(kept, every grant with sequence > applied)
    sum_s held[s, j] <= live slots of j: a grant raises it only while that stays true

A lease that nobody renews is reclaimed, but for its floor, once it and the longest request are over; all of
it when its pod is gone and model servers had time to notice. `takeover.py` says what a new leader may not
grant yet, `terms.py` what it inherits. A turn looks only at sidecars and variants that something happened to.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from modelfleet_core.leasing.accounts import BUDGET
from modelfleet_core.leasing.estimators import Courier, Estimators
from modelfleet_core.leasing.exchange import Exchange
from modelfleet_core.leasing.granting import grant_next, renewal_due
from modelfleet_core.leasing.holders import Follows, Holder
from modelfleet_core.leasing.ledger import BudgetPeriod, LedgerRecord
from modelfleet_core.leasing.messages import Document, Grant, Report, SidecarId
from modelfleet_core.leasing.period_accounts import PeriodAccounts
from modelfleet_core.leasing.register import Register
from modelfleet_core.leasing.slots import RATE_NOTICE, UPSTREAM_NOTICES, Capacity, counts_rate
from modelfleet_core.leasing.takeover import LATER, Blocked, Takeover
from modelfleet_core.leasing.terms import NARROWEST, Terms, TermsOfEpoch
from modelfleet_core.leasing.treasury import Treasury
from modelfleet_core.policy import Policy
from modelfleet_core.values import AccountName, EndpointUrl, ObjectKey, VariantKey

UNHEARD = 10.0
"""Seconds without a report after which a sidecar gets no more than it has."""
MOST_UNACKNOWLEDGED = 64
"""Grants on their way to one sidecar; then it hears nothing new until it reports."""
RETIRED_FOR = 3600.0
"""Seconds for which a sidecar is remembered after all it held was reclaimed."""
REPORTS = 500.0
"""Reports per second of all sidecars together while nothing presses, at most."""
REPORT_EVERY = 1.0
"""Seconds between the reports of one sidecar while nothing presses, at least."""


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

    def __init__(
        self,
        *,
        epoch: int,
        ttl: float,
        now: float,
        may_hold: Collection[str] | None,
        inherited: Terms = NARROWEST,
    ) -> None:
        """Start an epoch. `may_hold`: UIDs of pods that may hold an older leader's lease; None: unknown.

        `ttl`: seconds for which a lease lasts where no policy says so by its `staleness`; `inherited`: the
        `terms` of the leader before.
        """
        self.epoch = epoch
        self.ttl = ttl
        self._terms = TermsOfEpoch(ttl, inherited)
        self._started_at = now
        self._takeover = Takeover.of(may_hold)
        self._blocked = Blocked(True, True, 1)
        self._documents = Documents({}, {})
        self._courier = Courier(now)
        self._prices = Prices({}, {})
        self._treasury = Treasury(epoch)
        self._exchange = Exchange()
        self._holders = Register()
        self._news: dict[int, Holder] = {}
        """Sidecars that should hear something."""
        self._look_around(now)

    # What the caller learns.

    def set_capacity(self, capacity: Mapping[ObjectKey, Capacity]) -> None:
        """Take over the live slots of every fleet."""
        self._exchange.set_capacity(capacity)
        self._set_live()
        for holder in self._holders:
            self._refit(holder)

    def _refit(self, holder: Holder) -> None:
        self._exchange.refit(holder, holder.heard_at)
        if holder.target != holder.told:
            self._news[holder.number] = holder

    def _set_live(self) -> None:
        self._exchange.set_live(
            self._takeover.live(self._exchange.published, self._blocked, self.terms.floor)
        )

    def set_documents(self, documents: Documents) -> None:
        """Take over the accepted fleets and policies."""
        self._documents = documents
        policies = {key: policy for key, (policy, _) in documents.policies.items()}
        self._terms.grant_by(policies.values())
        self._treasury.set_policies(policies)
        self._news.update((holder.number, holder) for holder in self._holders)
        for holder in self._holders:
            holder.granted = None  # its floor may be another
            self._sort_in(holder)

    def set_estimators(self, estimators: Estimators) -> None:
        """Take over the estimators of policies."""
        changed = estimators.changed(self._courier.carries)
        self._courier.carries = estimators
        for holder in self._holders:
            if isinstance(holder.follows, Follows) and holder.follows.policy in changed:
                self._news[holder.number] = holder

    def set_prices(self, prices: Prices) -> None:
        """Take over prices; they ride along with the next grants."""
        self._prices = prices

    def set_targets(self, fleet: ObjectKey, busy: Mapping[SidecarId, Mapping[VariantKey, float]]) -> None:
        """Take over how many slots of each variant each sidecar's demand is expected to keep in use."""
        self._exchange.set_targets(fleet, busy)

    def set_allowances(self, allowances: Mapping[ObjectKey, Mapping[SidecarId, float]]) -> None:
        """Take over the USD per second that each sidecar should spend, by policy, for the next grants."""
        self._treasury.set_allowances(allowances)

    def follow(self, sidecar: SidecarId, follows: Follows | str) -> None:
        """Say which policy a sidecar that has reported follows, or why it gets nothing."""
        holder = self._holders.get(sidecar)
        if holder is None or follows == holder.follows:
            return
        self._pass_over(holder)
        if isinstance(holder.follows, Follows):
            self._exchange.withdraw(holder.follows.fleet, holder)
        holder.follows = follows
        self._news[holder.number] = holder
        self._sort_in(holder)
        self._refit(holder)

    def hear(self, report: Report, now: float) -> bool:
        """Take over a report; False (and no change) if it is of another epoch or not newer than the last."""
        if report.epoch != self.epoch:
            return False
        holder = self._holders.get(report.sidecar)
        if holder is None:
            holder = self._welcome(report, now)
        elif report.sequence <= holder.report.sequence:
            return False
        holder.hear(report, now)
        self._takeover.settle(report.sidecar.uid, now)
        self._treasury.hear(report, now)
        self._exchange.recount(holder)
        self._sort_in(holder)
        if report.leaving:
            holder.target = {}
        self._exchange.weigh(holder, now)
        if holder.must_answer or holder.target != holder.told or renewal_due(holder):
            self._news[holder.number] = holder
        return True

    def _welcome(self, report: Report, now: float) -> Holder:
        holder = self._holders.welcome(report, now, lease=self.terms.lease, floors=self.terms.floor > 0)
        self._takeover.welcome(holder.told)
        if any(self._blocked):
            self._set_live()
        return holder

    def connect(self, sidecar: SidecarId) -> None:
        """A stream of a known sidecar opened: what was under way may be lost."""
        holder = self._holders.get(sidecar)
        if holder is not None:
            holder.connected = holder.must_answer = True
            holder.forget_documents()
            self._news[holder.number] = holder

    def part(self, sidecar: SidecarId) -> None:
        """A sidecar's stream ended; it may still use its lease."""
        holder = self._holders.get(sidecar)
        if holder is not None:
            holder.connected = False
            self._pass_over(holder)

    def forget(self, uid: str, now: float) -> None:
        """A pod is gone: what its sidecars held is reclaimed once its model servers noticed."""
        self._takeover.settle(uid, now)
        for sidecar in self._holders.starts(uid):
            self.replaced(sidecar, now)

    def replaced(self, sidecar: SidecarId, now: float) -> None:
        """One start of a sidecar is over, its pod may go on."""
        holder = self._holders.get(sidecar)
        if holder is not None and holder.gone_at is None:
            holder.gone_at = now + UPSTREAM_NOTICES
            self._pass_over(holder)

    def prune(self, now: float) -> None:
        """Reclaim what can not be in use any more, and pass over those who are silent."""
        if self._terms.inherits:
            self._terms.fall_back(now, replaced=self._all_replaced())
        silent_since = now - max(UNHEARD, 3 * self.report_every)
        for holder in list(self._holders):
            if holder.retired_at is not None:
                if now >= holder.retired_at + RETIRED_FOR:
                    self._holders.drop(holder)
                    self._news.pop(holder.number, None)
                    if holder.gone_at is not None:
                        self._treasury.close(holder.id)
                continue
            if holder.heard_at <= silent_since:
                self._pass_over(holder)
            over = holder.over(self.terms.request)
            if now >= over:
                # Its lease may be over and its pod gone only just now: until then it used its floor.
                gone_at = holder.gone_at if holder.gone_at is not None else math.inf
                gone = now >= gone_at
                rates_until = gone_at + LATER if gone else over + RATE_NOTICE
                self._lapse(holder, now, rates=now < rates_until, floors=not gone)
            elif holder.report.leaving and not holder.connected and not holder.counted:
                self._lapse(holder, now, rates=False, floors=False)

    def _lapse(self, holder: Holder, now: float, *, rates: bool, floors: bool) -> None:
        """Count only rates and floors of a sidecar as held any more; without any it is retired."""
        holder.keep_only(counts_rate if rates else _nowhere, floors=floors)
        self._pass_over(holder)
        self._exchange.recount(holder)
        self._exchange.weigh(holder, now)
        if holder.lapsed_at > now:
            holder.lapsed_at = now
            self._treasury.lose(holder.id)
        if not holder.counted:
            holder.retired_at = now

    def _all_replaced(self) -> bool:
        """Whether every sidecar that had an older lease has one of this epoch, or none."""
        return not any(self._blocked) and all(
            holder.retired_at is not None or holder.report.applied > 0 for holder in self._holders
        )

    def recovering(self, now: float) -> bool:
        """Return whether a sidecar that has not reported may still hold an older leader's lease."""
        oldest_ends = self._started_at + self.terms.outlast
        return now < oldest_ends and self._takeover.unheard(now) > 0

    # Ledgers.

    def unopened(self, at: datetime) -> tuple[tuple[ObjectKey, BudgetPeriod], ...]:
        """Return the budgets whose present period has no account yet; read their records, then `open`."""
        return self._treasury.unopened(at)

    def open(self, policy: ObjectKey, period: BudgetPeriod, stored: LedgerRecord | None, now: float) -> None:
        """Open the account of a period as found in the store; raises `ForeignEpochError`."""
        self._treasury.open(policy, period, stored, (holder.report for holder in self._holders), now)
        self._admit(policy)

    def due(self, now: float, *, exact: bool = False) -> tuple[LedgerRecord, ...]:
        """Return the records to write now; tell each one's fate by `written` or `found`."""
        return self._treasury.due(now, exact=exact)

    def written(self, record: LedgerRecord, version: str) -> None:
        self._treasury.written(record, version)
        self._admit(record.policy)

    def found(self, record: LedgerRecord, stored: LedgerRecord | None) -> None:
        """Writing `record` failed and the store holds `stored`; raises `ForeignEpochError`."""
        self._treasury.found(record, stored)
        self._admit(record.policy)

    def _admit(self, policy: ObjectKey) -> None:
        """Its sidecars may hear this leader once its epoch is in the policy's ledger."""
        if self._treasury.opened(policy):
            for holder in self._holders:
                follows = holder.follows
                if not holder.taking and isinstance(follows, Follows) and follows.policy == policy:
                    self._news[holder.number] = holder
                    self._sort_in(holder)
                    self._exchange.weigh(holder, holder.heard_at)

    # Views.

    @property
    def terms(self) -> Terms:
        """The widest terms that a sidecar may go on by; for the leader after this one."""
        return self._terms.widest

    def holders(self) -> tuple[Holder, ...]:
        """Return all sidecars known, also those whose slots were reclaimed."""
        return tuple(self._holders)

    def knows(self, sidecar: SidecarId) -> bool:
        return sidecar in self._holders

    def starts(self, uid: str) -> tuple[SidecarId, ...]:
        """Return the starts of one pod's sidecar that are known."""
        return self._holders.starts(uid)

    def held(self) -> Mapping[EndpointUrl, int]:
        """Return the slots that may be in use, by endpoint; also at endpoints that are not live any more."""
        return self._exchange.held

    def budget(self, policy: ObjectKey, account: AccountName = BUDGET) -> PeriodAccounts | None:
        """Return the period of a policy's budget, or of another account; None: it has none, or its ledger is
        not open yet."""
        return self._treasury.budget(policy, account)

    def forecast(self, policy: ObjectKey) -> str:
        """Return the view of past demand that the ledger of a policy's budget holds; empty: none."""
        return self._treasury.forecast(policy)

    def set_forecast(self, policy: ObjectKey, forecast: str) -> None:
        """Store a view of past demand with the next write of the budget's ledger."""
        self._treasury.set_forecast(policy, forecast)

    @property
    def report_every(self) -> float:
        """Seconds between a sidecar's reports while nothing presses."""
        return max(REPORT_EVERY, min(self._exchange.crowd / REPORTS, self.ttl / 5))

    @property
    def pressed(self) -> bool:
        """Whether a turn may do something now, other than after some time."""
        return bool(self._news) or self._exchange.pressed or self._treasury.stale

    # Who may get more.

    def _sort_in(self, holder: Holder) -> None:
        """A sidecar may get more if it is there, and its policy's ledger has this leader's epoch."""
        follows = holder.follows
        takes = (
            holder.connected
            and holder.gone_at is None
            and not holder.report.leaving
            and isinstance(follows, Follows)
            and self._treasury.opened(follows.policy)
        )
        if takes == holder.taking:
            return
        if not takes:
            self._pass_over(holder)
        elif isinstance(follows, Follows):
            holder.taking = True
            self._exchange.enter(follows.fleet, holder)
            self._treasury.enrol(follows.policy, holder.id, holder.heard_at)

    def _pass_over(self, holder: Holder) -> None:
        """A sidecar gets no more until it is sorted in again."""
        if holder.taking and isinstance(holder.follows, Follows):
            holder.taking = False
            self._exchange.leave(holder.follows.fleet, holder)
            self._exchange.weigh(holder, holder.heard_at)
            self._treasury.dismiss(holder.follows.policy, holder.id)

    def _may_hear(self, holder: Holder) -> bool:
        return not isinstance(holder.follows, Follows) or self._treasury.opened(holder.follows.policy)

    # Grants.

    def turn(self, now: float, ready: Collection[SidecarId]) -> tuple[tuple[SidecarId, Grant], ...]:
        """Divide anew and return the grants to send to those of `ready` for whom something changed.

        Each counts as held from now on, so each must be sent, in this order.
        """
        self._look_around(now)
        for sidecar in self._treasury.divide(now):
            holder = self._holders.get(sidecar)
            if holder is not None:
                self._news[holder.number] = holder
        self._news |= self._exchange.serve(
            now,
            lambda holder: holder.id in ready and holder.unacknowledged < MOST_UNACKNOWLEDGED,
            self._holders,
        )
        grants = []
        for holder in list(self._news.values()):
            if holder.connected and holder.id not in ready:
                continue  # as soon as it can
            del self._news[holder.number]
            if holder.connected and holder.unacknowledged < MOST_UNACKNOWLEDGED and self._may_hear(holder):
                grants.append((holder.id, self._grant(holder, now)))
        return tuple(grants)

    def _look_around(self, now: float) -> None:
        """Find out what older leases still block."""
        if any(self._blocked):
            unheard = self._takeover.unheard(now)
            blocked = Blocked(self.recovering(now), self.recovering(now - RATE_NOTICE), unheard)
            if blocked != self._blocked:
                self._blocked = blocked
                self._set_live()

    def _grant(self, holder: Holder, now: float) -> Grant:
        return grant_next(
            holder,
            now,
            epoch=self.epoch,
            ttl=self.ttl,
            floors=self.terms.floor > 0,
            report_every=self.report_every,
            exchange=self._exchange,
            treasury=self._treasury,
            documents=self._documents,
            courier=self._courier,
            prices=self._prices,
        )


def _nowhere(endpoint: EndpointUrl) -> bool:
    return False
