"""Stage forward, for leases: the accounts of a sidecar, one for each period that it was granted something in.

    spent + reserved <= granted - returned        of every account and period, always

`holding.py` reserves in several at once; an account's money ends only with its period.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from modelfleet_core.leasing.journal import Granted, LivedAccount, Over
from modelfleet_core.leasing.messages import AccountGrant, AccountState, Need
from modelfleet_core.values import AccountId, AccountName, account_parts


class HeldAccount:
    """One account in one period, in its unit. Times are seconds on the sidecar's clock."""

    __slots__ = (
        "allowance",
        "ends_at",
        "granted",
        "id",
        "keep",
        "limit",
        "name",
        "reserved",
        "returned",
        "spent",
    )

    def __init__(self, account: AccountId) -> None:
        self.id = account
        self.name = account_parts(account)[1]
        self.granted = 0
        self.spent = 0
        self.reserved = 0
        self.returned = 0
        self.keep = 0
        self.limit = 0
        self.ends_at = 0.0
        self.allowance = 0.0

    @property
    def free(self) -> int:
        free = self.granted - self.returned - self.spent - self.reserved
        return free if free > 0 else 0

    def state(self, need: Need | None) -> AccountState:
        return AccountState(self.granted, self.spent, self.reserved, self.returned, need)


class HeldMoney:
    """All accounts by id, and by name those of the present period."""

    def __init__(self) -> None:
        self.by_id: dict[AccountId, HeldAccount] = {}
        self._present: dict[AccountName, HeldAccount] = {}

    def __iter__(self) -> Iterator[HeldAccount]:
        return iter(self.by_id.values())

    def present(self, name: AccountName, now: float) -> HeldAccount | None:
        """Return an account in its present period; None: nothing was granted yet."""
        account = self._present.get(name)
        return account if account is not None and now < account.ends_at else None

    def free(self, now: float) -> Mapping[AccountName, int]:
        """Return what each account has free in its present period; one that is not there has nothing."""
        return {name: account.free for name, account in self._present.items() if now < account.ends_at}

    def restore(self, key: AccountId, lived: LivedAccount) -> None:
        """Take over an account of a former start of this sidecar."""
        account = self.by_id[key] = HeldAccount(key)
        account.granted, account.spent, account.returned = lived.granted, lived.spent, lived.returned

    def apply(
        self,
        grants: Mapping[AccountId, AccountGrant],
        sent_at: float,
        now: float,
        in_use: Collection[AccountId],
    ) -> list[Granted | Over]:
        """Take over a grant that answers the report of `sent_at`; return what it raised and ended.

        Accounts `in_use` by requests stay.
        """
        changes: list[Granted | Over] = []
        for key, grant in grants.items():
            account = self.by_id.get(key)
            if account is None or grant.granted > account.granted:
                account = self.by_id.setdefault(key, HeldAccount(key))
                account.granted = grant.granted
                changes.append(Granted(key, grant.granted))
            account.keep = grant.keep
            account.limit = grant.limit
            account.ends_at = sent_at + grant.ends_in
            account.allowance = grant.allowance
        for key in [key for key in self.by_id if key not in grants]:
            # The leader stops listing an account only after its period ended, so it never comes back.
            if key not in in_use:
                del self.by_id[key]
                changes.append(Over(key))
            else:
                self.by_id[key].keep = 0
                self.by_id[key].ends_at = min(self.by_id[key].ends_at, now)
        self._present = {}
        for account in self.by_id.values():
            other = self._present.get(account.name)
            if other is None or other.ends_at < account.ends_at:
                self._present[account.name] = account
        return changes
