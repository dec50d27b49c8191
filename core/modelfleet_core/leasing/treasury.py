"""Stage publish: the money of all policies, as the leader keeps it.

In come policies, sidecars' accounts and ledger records; out go the records to write and what each grant says
of money. `purse.py` divides one policy's money in one period; `grants.py` owns the treasury.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime

from modelfleet_core.leasing.holders import Follows, Holder
from modelfleet_core.leasing.ledger import BudgetPeriod, LedgerRecord, budget_period, ended
from modelfleet_core.leasing.messages import AccountGrant, AccountState, Report, SidecarId
from modelfleet_core.leasing.purse import Purse
from modelfleet_core.policy import Policy
from modelfleet_core.values import NanoUsd, ObjectKey, PeriodId


class Treasury:
    """The purses of one epoch; `at` is the leader's wall clock in UTC, `now` its monotonic one."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._policies: Mapping[ObjectKey, Policy] = {}
        self._purses: dict[PeriodId, Purse] = {}
        self._current: dict[ObjectKey, PeriodId] = {}
        self._takers: dict[ObjectKey, dict[SidecarId, float]] = {}
        self._stale: set[PeriodId] = set()
        """Purses whose money is to be divided anew."""
        self._at = datetime.min.replace(tzinfo=UTC)

    def set_policies(self, policies: Mapping[ObjectKey, Policy]) -> None:
        self._policies = policies
        self._stale.update(self._purses)

    # Ledgers.

    def unopened(self, at: datetime) -> tuple[tuple[ObjectKey, BudgetPeriod], ...]:
        """Return the budgets whose present period has no account yet; read their records, then `open`."""
        self._at = max(self._at, at)  # a clock put back must not reopen a period that was closed
        missing = []
        current: dict[ObjectKey, PeriodId] = {}
        for key, policy in self._policies.items():
            if policy.budget is not None:
                period = budget_period(key, policy.budget.period, self._at)
                if period.id in self._purses:
                    current[key] = period.id
                else:
                    missing.append((key, period))
        if current != self._current:
            self._current = current
            self._stale.update(self._purses)
        for purse in list(self._purses.values()):
            length = purse.period.ends - purse.period.starts
            if self._at >= purse.period.ends + length:
                del self._purses[purse.period.id]
        return tuple(missing)

    def open(
        self,
        policy: ObjectKey,
        period: BudgetPeriod,
        stored: LedgerRecord | None,
        reports: Iterable[Report],
        now: float,
    ) -> None:
        """Open the account of a period as found in the store; raises `ForeignEpochError`."""
        purse = Purse(policy, period, self._epoch, stored)
        self._purses[period.id] = purse
        self._current[policy] = period.id
        self._stale.add(period.id)
        for report in reports:
            if period.id in report.accounts:
                purse.hear(report.sidecar, report.accounts[period.id], now)

    def due(self, now: float, *, exact: bool) -> tuple[LedgerRecord, ...]:
        records = (purse.due(self._limit(purse), now, exact=exact) for purse in self._purses.values())
        return tuple(record for record in records if record is not None)

    def written(self, record: LedgerRecord, version: str) -> None:
        if record.period in self._purses:
            self._purses[record.period].written(version)
            self._stale.add(record.period)

    def found(self, record: LedgerRecord, stored: LedgerRecord | None) -> None:
        if record.period in self._purses:
            self._purses[record.period].found(stored)
            self._stale.add(record.period)

    def opened(self, policy: ObjectKey) -> bool:
        """Return whether this leader's epoch is in a ledger of the policy, if it has a budget."""
        known = self._policies.get(policy)
        if known is None:
            return False
        return known.budget is None or any(
            purse.opened for purse in self._purses.values() if purse.policy == policy
        )

    def purse(self, policy: ObjectKey) -> Purse | None:
        period = self._current.get(policy)
        return self._purses[period] if period is not None else None

    def _limit(self, purse: Purse) -> NanoUsd:
        known = self._policies.get(purse.policy)
        return known.budget.limit if known is not None and known.budget is not None else NanoUsd(0)

    # Sidecars.

    def hear(self, report: Report, now: float) -> None:
        for period, purse in self._purses.items():
            if period in report.accounts or purse.knows(report.sidecar):
                purse.hear(report.sidecar, report.accounts.get(period), now)
                self._stale.add(period)

    def lose(self, sidecar: SidecarId) -> None:
        for period, purse in self._purses.items():
            purse.lose(sidecar)
            self._stale.add(period)

    def close(self, sidecar: SidecarId) -> None:
        for purse in self._purses.values():
            purse.close(sidecar)

    def enrol(self, policy: ObjectKey, sidecar: SidecarId, heard_at: float) -> None:
        """A sidecar may be granted money of this policy from now on."""
        self._takers.setdefault(policy, {})[sidecar] = heard_at
        self._stale.update(period for period, purse in self._purses.items() if purse.policy == policy)

    def dismiss(self, policy: ObjectKey, sidecar: SidecarId) -> None:
        """A sidecar may be granted no more money of this policy."""
        if self._takers.get(policy, {}).pop(sidecar, None) is not None:
            self._stale.update(period for period, purse in self._purses.items() if purse.policy == policy)

    # Grants.

    @property
    def stale(self) -> bool:
        """Whether money is to be divided anew."""
        return bool(self._stale)

    def divide(self) -> set[SidecarId]:
        """Grant money where something changed; return the sidecars that should hear of it."""
        told: set[SidecarId] = set()
        for policy, period in self._current.items():
            if period not in self._stale:
                continue
            purse = self._purses[period]
            takers = self._takers.get(policy, {})
            for sidecar, heard_at in takers.items():
                if not purse.knows(sidecar):
                    purse.hear(sidecar, None, heard_at)
            purse.divide(self._limit(purse), takers.keys())
            told.update(sidecar for sidecar in takers)
        self._stale.clear()
        return told

    def accounts(self, holder: Holder) -> dict[PeriodId, AccountGrant]:
        """List every account the sidecar may have until its period is over and it has nothing left in it: one
        that vanished from the list and came back would be taken for new, and its money spent twice."""
        follows = holder.follows
        current = self._current.get(follows.policy) if isinstance(follows, Follows) else None
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


def presses(holder: Holder, accounts: Mapping[PeriodId, AccountGrant]) -> bool:
    """Return whether a sidecar should hear of its accounts at once: more was granted, free money is called
    back, or the list itself changed."""
    last = holder.last
    if last is None or last.accounts.keys() != accounts.keys():
        return True
    return any(
        account.granted != before.granted or account.keep < min(before.keep, holder.free_money(period))
        for period, account in accounts.items()
        for before in (last.accounts[period],)
    )


def _settled(state: AccountState, granted: NanoUsd) -> bool:
    """Return whether an account has heard of all `granted` money and has nothing left to spend or settle."""
    return state.reserved == 0 and state.granted == granted and granted - state.returned <= state.spent
