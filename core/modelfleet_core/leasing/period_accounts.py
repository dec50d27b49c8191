"""Stage publish: all accounts of one policy and period, and the one ledger record that covers them.

In come the sidecars' accounts and what the store holds; out go grants, and the record to write before more is
granted. `purse.py` divides each account; `treasury.py` keeps the periods of all policies.

A record is written by compare-and-swap with this leader's epoch. What may be granted rests on the lowest
watermark that the store may hold: the newest known, the one under way, and those of writes that failed but
may still arrive.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from modelfleet_core.leasing.ledger import BudgetPeriod, LedgerRecord, Stored, watermark_for
from modelfleet_core.leasing.messages import AccountGrant, AccountState, SidecarId
from modelfleet_core.leasing.purse import Purse
from modelfleet_core.values import AccountId, AccountName, ObjectKey, account_id, account_parts

VIEW_INTERVAL = 30.0
"""Seconds between writes that only lower the watermark or bring the view of spend up to date."""

_NOTHING = Stored(0, 0)


class ForeignEpochError(Exception):
    """The ledger was written by another leader: this one must stop."""


class PeriodAccounts:
    """Times are seconds on the leader's monotonic clock."""

    def __init__(
        self, policy: ObjectKey, period: BudgetPeriod, epoch: int, stored: LedgerRecord | None
    ) -> None:
        """Take over what an older leader stored, if anything; else raises `ForeignEpochError`."""
        if stored is not None and stored.epoch >= epoch:
            raise ForeignEpochError(
                f"the ledger of {period.id} is of epoch {stored.epoch}, this leader's is {epoch}: "
                "another leads"
            )
        self.policy = policy
        self.period = period
        self.epoch = epoch
        self.forecast = stored.forecast if stored is not None else ""
        """A view that is stored with the record."""
        self._stored = stored
        self._opened = False
        self._pending: LedgerRecord | None = None
        self._doubtful: list[LedgerRecord] = []
        """Records whose writes failed but may still arrive, until a later write overtakes them."""
        self._written_at = -math.inf
        self._limits: Mapping[AccountName, int] = {}
        self._takers: dict[SidecarId, float] = {}
        self._purses: dict[AccountName, Purse] = {}
        for name, account in (stored.accounts if stored is not None else {}).items():
            self._purses[name] = Purse(account.watermark, account.spent)

    @property
    def opened(self) -> bool:
        """Whether this leader's epoch is stored."""
        return self._opened

    @property
    def scarce(self) -> bool:
        """Whether some account has less than is asked for, so that time alone changes what is granted."""
        return any(purse.scarce for purse in self._purses.values())

    def purse(self, name: AccountName) -> Purse | None:
        return self._purses.get(name)

    def set_limits(self, limits: Mapping[AccountName, int]) -> None:
        """Take over the limits of the accounts that the policy declares now; others grant nothing more."""
        self._limits = limits
        for name in limits:
            self._purse(name)

    def _purse(self, name: AccountName) -> Purse:
        purse = self._purses.get(name)
        if purse is None:
            purse = self._purses[name] = Purse(0, 0)
            for sidecar, heard_at in self._takers.items():
                purse.hear(sidecar, None, heard_at)
                purse.take(sidecar, taking=True)
        return purse

    # Sidecars.

    def hear(self, sidecar: SidecarId, accounts: Mapping[AccountId, AccountState], now: float) -> None:
        """Take over a sidecar's newest report; accounts of other periods are passed over."""
        for key in accounts:
            period, name = account_parts(key)
            if period == self.period.id:
                self._purse(name)
        for name, purse in self._purses.items():
            state = accounts.get(account_id(self.period.id, name))
            if state is not None or purse.knows(sidecar):
                purse.hear(sidecar, state, now)

    def enrol(self, sidecar: SidecarId, heard_at: float) -> None:
        """A sidecar can be granted more from now on."""
        self._takers[sidecar] = heard_at
        for purse in self._purses.values():
            if not purse.knows(sidecar):
                purse.hear(sidecar, None, heard_at)
            purse.take(sidecar, taking=True)

    def dismiss(self, sidecar: SidecarId) -> None:
        """A sidecar can be granted no more, and what it has free is called back."""
        if self._takers.pop(sidecar, None) is not None:
            for purse in self._purses.values():
                if purse.knows(sidecar):
                    purse.take(sidecar, taking=False)

    def lose(self, sidecar: SidecarId) -> None:
        """Count what a vanished sidecar did not return as spent (until it is heard again)."""
        for purse in self._purses.values():
            purse.lose(sidecar)

    def close(self, sidecar: SidecarId) -> None:
        """Forget a sidecar that is gone for good but for its sums."""
        self._takers.pop(sidecar, None)
        for purse in self._purses.values():
            purse.close(sidecar)

    # Grants.

    def divide(self, now: float) -> set[SidecarId]:
        """Grant what the store covers; return the sidecars that should hear of it at once."""
        told: set[SidecarId] = set()
        for name, purse in self._purses.items():
            told |= purse.divide(self._limits.get(name, 0), self._covered(name), now)
        return told

    def grants(
        self, sidecar: SidecarId, ends_in: float, allowance: float
    ) -> Iterator[tuple[AccountId, AccountGrant]]:
        """Yield a sidecar's accounts; `ends_in` 0: it may reserve nothing more in this period."""
        for name, purse in self._purses.items():
            if purse.knows(sidecar):
                yield (
                    account_id(self.period.id, name),
                    AccountGrant(
                        granted=purse.granted(sidecar),
                        keep=purse.keep(sidecar) if ends_in > 0 else 0,
                        limit=self._limits.get(name, 0),
                        ends_in=max(0.0, ends_in),
                        allowance=allowance,
                    ),
                )

    # The record.

    def _covered(self, name: AccountName) -> int:
        """Return the lowest watermark that the store may hold."""
        if not self._opened or self._stored is None:
            return 0
        records = [self._stored, *self._doubtful]
        if self._pending is not None:
            records.append(self._pending)
        return min(record.accounts.get(name, _NOTHING).watermark for record in records)

    def due(self, now: float, *, exact: bool = False) -> LedgerRecord | None:
        """Return the record to write now, if any; it counts as under way until `written` or `found`.

        `exact` leaves no chunk to spare: for a leader that stops granting.
        """
        if self._pending is not None:
            return None
        stored = self._stored.accounts if self._stored is not None else {}
        view_due = now >= self._written_at + VIEW_INTERVAL
        changed = view_due and self._stored is not None and self._stored.forecast != self.forecast
        accounts: dict[AccountName, Stored] = {}
        for name, purse in self._purses.items():
            before = stored.get(name, _NOTHING)
            needed = max(purse.committed, purse.needs_watermark)
            limit = self._limits.get(name, 0)
            wanted = purse.committed if exact else watermark_for(needed, before.watermark, limit)
            changed = (
                changed
                or wanted > before.watermark
                or (wanted < before.watermark and (exact or view_due))
                or (self._stored is not None and before.spent != purse.spent and view_due)
            )
            accounts[name] = Stored(wanted, purse.spent)
        if self._opened and not self._doubtful and not changed:
            return None
        self._pending = LedgerRecord(
            policy=self.policy,
            period=self.period.id,
            epoch=self.epoch,
            accounts=accounts,
            version=self._stored.version if self._stored is not None else None,
            forecast=self.forecast,
        )
        self._written_at = now
        return self._pending

    def written(self, version: str) -> None:
        """The record under way is stored, as `version`."""
        if self._pending is None:
            raise RuntimeError(f"no record of {self.period.id} is under way")
        self._stored = replace(self._pending, version=version)
        self._pending = None
        self._doubtful = []
        self._opened = True

    def found(self, stored: LedgerRecord | None) -> None:
        """After a failed write: this is what the store holds now.

        Raises `ForeignEpochError` if another leader wrote it.
        """
        if stored is not None and stored.epoch > self.epoch:
            raise ForeignEpochError(
                f"the ledger of {self.period.id} is of epoch {stored.epoch}, this leader's is {self.epoch}: "
                "another leads"
            )
        if stored is not None and stored.epoch < self.epoch:
            if self._opened:
                raise ForeignEpochError(
                    f"the ledger of {self.period.id} went back to epoch {stored.epoch} from {self.epoch}: "
                    "a leader that should have stopped goes on writing, or it was restored from a backup"
                )
            for name, account in stored.accounts.items():
                self._purse(name).inherit(account.watermark, account.spent)
        if self._pending is not None:
            self._doubtful.append(self._pending)
        self._pending = None
        self._stored = stored
        self._opened = stored is not None and stored.epoch == self.epoch
