"""Stage publish: the accounts of all policies, as the leader keeps them.

In come policies, sidecars' accounts and ledger records; out go the records to write and what each grant says
of money. `period_accounts.py` keeps one policy's accounts in one period; `grants.py` owns the treasury.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

from modelfleet_core.leasing.accounts import BUDGET, Account, accounts_of
from modelfleet_core.leasing.holders import Follows, Holder
from modelfleet_core.leasing.ledger import BudgetPeriod, LedgerRecord, budget_period, ended, period_of
from modelfleet_core.leasing.messages import AccountGrant, AccountState, Report, SidecarId
from modelfleet_core.leasing.period_accounts import PeriodAccounts
from modelfleet_core.policy import Period, Policy
from modelfleet_core.values import AccountId, AccountName, ObjectKey, PeriodId, account_parts


class Treasury:
    """The accounts of one epoch; `at` is the leader's wall clock in UTC, `now` its monotonic one."""

    def __init__(self, epoch: int) -> None:
        self._epoch = epoch
        self._declared: dict[ObjectKey, tuple[Account, ...]] = {}
        self._periods: dict[PeriodId, PeriodAccounts] = {}
        self._present: dict[ObjectKey, dict[Period, PeriodId]] = {}
        """Periods that go on and are opened, by the length of the period."""
        self._takers: dict[ObjectKey, dict[SidecarId, float]] = {}
        self._known: dict[SidecarId, set[PeriodId]] = {}
        """Periods in which a sidecar has or may get money."""
        self._allowances: Mapping[ObjectKey, Mapping[SidecarId, float]] = {}
        self._forecasts: dict[ObjectKey, str] = {}
        self._stale: set[PeriodId] = set()
        """Periods whose money is to be divided anew."""
        self._at = datetime.min.replace(tzinfo=UTC)

    def set_policies(self, policies: Mapping[ObjectKey, Policy]) -> None:
        self._declared = {key: accounts_of(policy) for key, policy in policies.items()}
        for accounts in self._periods.values():
            self._limit(accounts)

    def set_allowances(self, allowances: Mapping[ObjectKey, Mapping[SidecarId, float]]) -> None:
        """Take over the USD per second that sidecars should spend of their policy's budget."""
        self._allowances = allowances

    def _limit(self, accounts: PeriodAccounts) -> None:
        declared = self._declared.get(accounts.policy, ())
        length = accounts.period.length
        accounts.set_limits({one.name: one.limit for one in declared if one.period is length})
        self._stale.add(accounts.period.id)

    # Ledgers.

    def unopened(self, at: datetime) -> tuple[tuple[ObjectKey, BudgetPeriod], ...]:
        """Return present periods that have no accounts yet; read their records, then `open`."""
        self._at = max(self._at, at)  # a clock put back must not reopen a period that was closed
        missing = []
        for key, declared in self._declared.items():
            for length in dict.fromkeys(account.period for account in declared):
                period = budget_period(key, length, self._at)
                if period.id not in self._periods:
                    missing.append((key, period))
        for accounts in list(self._periods.values()):
            if self._at >= accounts.period.ends:
                self._end(accounts)
        return tuple(missing)

    def _end(self, accounts: PeriodAccounts) -> None:
        """Grant no more of a period that is over; forget it once as much time has passed again."""
        period = accounts.period
        present = self._present.get(accounts.policy, {})
        if present.get(period.length) == period.id:
            del present[period.length]
            for sidecar in self._takers.get(accounts.policy, {}):
                accounts.dismiss(sidecar)
            self._stale.add(period.id)
        if self._at >= period.ends + (period.ends - period.starts):
            del self._periods[period.id]
            self._stale.discard(period.id)
            for known in self._known.values():
                known.discard(period.id)
            self._known = {sidecar: known for sidecar, known in self._known.items() if known}

    def open(
        self,
        policy: ObjectKey,
        period: BudgetPeriod,
        stored: LedgerRecord | None,
        reports: Iterable[Report],
        now: float,
    ) -> None:
        """Open a period's accounts as found in the store; raises `ForeignEpochError`."""
        accounts = PeriodAccounts(policy, period, self._epoch, stored)
        self._periods[period.id] = accounts
        self._present.setdefault(policy, {})[period.length] = period.id
        self._limit(accounts)
        for report in reports:
            if any(account_parts(key)[0] == period.id for key in report.accounts):
                self._hear(accounts, report, now)
        for sidecar, heard_at in self._takers.get(policy, {}).items():
            accounts.enrol(sidecar, heard_at)
            self._known.setdefault(sidecar, set()).add(period.id)
        if accounts.purse(BUDGET) is not None:
            self._forecasts[policy] = accounts.forecast = accounts.forecast or self._forecasts.get(policy, "")

    def due(self, now: float, *, exact: bool) -> tuple[LedgerRecord, ...]:
        records = (accounts.due(now, exact=exact) for accounts in self._periods.values())
        return tuple(record for record in records if record is not None)

    def written(self, record: LedgerRecord, version: str) -> None:
        if record.period in self._periods:
            self._periods[record.period].written(version)
            self._stale.add(record.period)

    def found(self, record: LedgerRecord, stored: LedgerRecord | None) -> None:
        if record.period in self._periods:
            self._periods[record.period].found(stored)
            self._stale.add(record.period)

    def opened(self, policy: ObjectKey) -> bool:
        """Return whether this leader's epoch is in a ledger of the policy, if it has any account."""
        declared = self._declared.get(policy)
        if declared is None:
            return False
        return not declared or any(
            accounts.opened for accounts in self._periods.values() if accounts.policy == policy
        )

    def budget(self, policy: ObjectKey, account: AccountName = BUDGET) -> PeriodAccounts | None:
        """Return the period of a policy's budget, or of another account; None: it has none, or its ledger is
        not open yet."""
        present = (self._periods[period] for period in self._present.get(policy, {}).values())
        lengths = {one.period for one in self._declared.get(policy, ()) if one.name == account}
        return next((accounts for accounts in present if accounts.period.length in lengths), None)

    def forecast(self, policy: ObjectKey) -> str:
        """Return the view of past demand that the policy's ledger holds; empty: none."""
        return self._forecasts.get(policy, "")

    def set_forecast(self, policy: ObjectKey, forecast: str) -> None:
        """Store a view of past demand with the next write of the budget's ledger."""
        self._forecasts[policy] = forecast
        accounts = self.budget(policy)
        if accounts is not None:
            accounts.forecast = forecast

    # Sidecars.

    def hear(self, report: Report, now: float) -> None:
        periods = self._known.setdefault(report.sidecar, set()) | {
            account_parts(key)[0] for key in report.accounts
        }
        for period in periods:
            accounts = self._periods.get(period)
            if accounts is not None:
                self._hear(accounts, report, now)

    def _hear(self, accounts: PeriodAccounts, report: Report, now: float) -> None:
        accounts.hear(report.sidecar, report.accounts, now)
        self._known.setdefault(report.sidecar, set()).add(accounts.period.id)
        self._stale.add(accounts.period.id)

    def lose(self, sidecar: SidecarId) -> None:
        for accounts in self._of(sidecar):
            accounts.lose(sidecar)
            self._stale.add(accounts.period.id)

    def close(self, sidecar: SidecarId) -> None:
        for accounts in self._of(sidecar):
            accounts.close(sidecar)
        self._known.pop(sidecar, None)

    def enrol(self, policy: ObjectKey, sidecar: SidecarId, heard_at: float) -> None:
        """A sidecar may be granted money of this policy from now on."""
        self._takers.setdefault(policy, {})[sidecar] = heard_at
        for period in self._present.get(policy, {}).values():
            self._periods[period].enrol(sidecar, heard_at)
            self._known.setdefault(sidecar, set()).add(period)
            self._stale.add(period)

    def dismiss(self, policy: ObjectKey, sidecar: SidecarId) -> None:
        """A sidecar may be granted no more money of this policy."""
        if self._takers.get(policy, {}).pop(sidecar, None) is not None:
            for accounts in self._of(sidecar):
                if accounts.policy == policy:
                    accounts.dismiss(sidecar)
                    self._stale.add(accounts.period.id)

    def _of(self, sidecar: SidecarId) -> Iterator[PeriodAccounts]:
        return (self._periods[period] for period in self._known.get(sidecar, ()))

    # Grants.

    @property
    def stale(self) -> bool:
        """Whether money is to be divided anew."""
        return bool(self._stale)

    def divide(self, now: float) -> set[SidecarId]:
        """Grant money where something changed; return the sidecars that should hear of it."""
        told: set[SidecarId] = set()
        for period, accounts in self._periods.items():
            if period in self._stale or accounts.scarce:
                told |= accounts.divide(now)
        self._stale.clear()
        return told

    def accounts(self, holder: Holder) -> dict[AccountId, AccountGrant]:
        """List every account the sidecar may have until its period is over and it has nothing left in it: one
        that vanished from the list and came back would be taken for new, and its money spent twice."""
        follows = holder.follows
        policy = follows.policy if isinstance(follows, Follows) else None
        allowance = math.inf
        if policy is not None and policy in self._allowances:
            allowance = self._allowances[policy].get(holder.id, math.inf)
        listed: dict[AccountId, AccountGrant] = {}
        for accounts in self._of(holder.id):
            goes_on = accounts.policy == policy and self._at < accounts.period.ends
            ends_in = (accounts.period.ends - self._at).total_seconds() if goes_on else 0.0
            listed.update(accounts.grants(holder.id, ends_in, allowance))
        for key, state in holder.report.accounts.items():
            if key not in listed:  # its ledger is not open yet, or closed
                listed[key] = self._as_it_is(key, state, policy)
        return {
            key: grant
            for key, grant in listed.items()
            if grant.ends_in > 0
            or not ended(account_parts(key)[0], self._at)
            or not _settled(holder.report.accounts.get(key), grant.granted)
        }

    def _as_it_is(self, key: AccountId, state: AccountState, policy: ObjectKey | None) -> AccountGrant:
        """Return what a sidecar is told of an account whose ledger this leader has not read."""
        period, name = account_parts(key)
        found = period_of(period)
        limit = next((one.limit for one in self._of_policy(policy) if one.name == name), None)
        if found is None or limit is None or not period.startswith(f"{policy}/") or self._at >= found.ends:
            return AccountGrant(state.granted, 0, 0, 0.0)
        return AccountGrant(state.granted, state.granted, limit, (found.ends - self._at).total_seconds())

    def _of_policy(self, policy: ObjectKey | None) -> tuple[Account, ...]:
        return self._declared.get(policy, ()) if policy is not None else ()


def _settled(state: AccountState | None, granted: int) -> bool:
    """Return whether an account has heard of all `granted` money and has nothing left to spend or settle."""
    if state is None:
        return True
    return state.reserved == 0 and state.granted == granted and granted - state.returned <= state.spent
