"""Stage publish: the money of one policy in one budget period, as the leader divides it.

In come the sidecars' accounts and the ledger's record; out go cumulative grants, what each may keep, and the
record to write before more is granted. `grants.py` puts them into leases.

    committed = max(watermark inherited, sum of net at first report) + sum of changes of net since
    net       = max(granted - returned, spent)      of one sidecar
    granted only while committed <= min(limit, every watermark that may be stored)

So whatever an earlier leader granted counts as spent until the sidecar that has it gives it back, and what a
vanished sidecar did not return is spent.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

from modelfleet_core.leasing.ledger import BudgetPeriod, LedgerRecord, watermark_for
from modelfleet_core.leasing.messages import AccountGrant, AccountState, SidecarId
from modelfleet_core.leasing.slots import water_fill
from modelfleet_core.values import NanoUsd, ObjectKey

AHEAD = 10.0
"""Seconds of recent spend that a busy sidecar holds, so that few requests wait for money."""
MEMORY = 10.0
"""Seconds over which recent spend and need fade."""
VIEW_INTERVAL = 30.0
"""Seconds between writes that only lower the watermark or bring the view of spend up to date."""


class ForeignEpochError(Exception):
    """The ledger was written by another leader: this one must stop."""


@dataclass(slots=True)
class _Account:
    """One sidecar's account. `base_*`: as it stood when this leader first heard of it."""

    granted: int
    returned: int
    spent: int
    base_net: int
    base_spent: int
    heard_at: float
    reserved: int = 0
    wanted_free: int = 0
    """Free money that waiting requests need, what it had free at its report included."""
    rate: float = 0.0
    """Recent spend, nano-USD per second."""
    need: float = 0.0
    """Recent largest sum of reserved and wanted, fading."""
    keep: int = 0
    gone: bool = False

    @property
    def net(self) -> int:
        return max(self.granted - self.returned, self.spent)

    @property
    def free(self) -> int:
        """Also money that the sidecar has not heard of yet."""
        return max(0, self.granted - self.returned - self.spent - self.reserved)


class Purse:
    """Times are seconds on the leader's monotonic clock; money is nano-USD."""

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
        self._stored = stored
        self._opened = False
        self._pending: LedgerRecord | None = None
        self._inherited = stored.watermark if stored is not None else 0
        self._inherited_spent = stored.spent if stored is not None else 0
        self._accounts: dict[SidecarId, _Account] = {}
        self._past = _Account(0, 0, 0, 0, 0, 0.0, gone=True)
        """Sums of closed accounts."""
        self._wanted_watermark = 0
        self._written_at = -math.inf
        self._doubtful: list[int] = []
        """Watermarks of writes that failed but may still arrive, until a later write overtakes them."""

    @property
    def opened(self) -> bool:
        """Whether this leader's epoch is stored."""
        return self._opened

    def hear(self, sidecar: SidecarId, state: AccountState | None, now: float) -> None:
        """Take over a sidecar's account from its newest report; None: it has none yet."""
        state = state if state is not None else _EMPTY
        account = self._accounts.get(sidecar)
        if account is None:
            net = max(state.granted - state.returned, state.spent)
            self._accounts[sidecar] = account = _Account(
                state.granted, state.returned, state.spent, net, state.spent, now
            )
        elapsed = now - account.heard_at
        fading = math.exp(-elapsed / MEMORY)
        if elapsed > 0:
            rate = max(0, state.spent - account.spent) / elapsed
            account.rate = account.rate * fading + rate * (1 - fading)
        account.heard_at = now
        account.gone = False
        account.granted = max(account.granted, state.granted)
        account.returned = max(account.returned, state.returned)
        account.spent = max(account.spent, state.spent)
        account.reserved = state.reserved
        had_free = max(0, state.granted - state.returned - state.spent - state.reserved)
        account.wanted_free = had_free + state.wanted if state.wanted > 0 else 0
        account.need = max(account.need * fading, state.reserved + account.wanted_free)

    def knows(self, sidecar: SidecarId) -> bool:
        return sidecar in self._accounts

    def granted(self, sidecar: SidecarId) -> NanoUsd:
        """Return all that was granted to a sidecar in this period, returned money included."""
        account = self._accounts.get(sidecar)
        return NanoUsd(account.granted if account is not None else 0)

    def free(self, sidecar: SidecarId) -> NanoUsd:
        """Return the money a sidecar has for new requests, what it has not heard of yet included."""
        account = self._accounts.get(sidecar)
        return NanoUsd(account.free if account is not None else 0)

    def lose(self, sidecar: SidecarId) -> None:
        """Count what a vanished sidecar did not return as spent (until it is heard again)."""
        if sidecar in self._accounts:
            self._accounts[sidecar].gone = True

    def close(self, sidecar: SidecarId) -> None:
        """Forget a sidecar that is gone for good but for its sums, so that long periods gather no accounts.

        Heard again all the same, it counts as new: twice, so that no more is granted than may be.
        """
        account = self._accounts.pop(sidecar, None)
        if account is not None:
            past = self._past
            past.base_net += account.base_net
            past.base_spent += account.base_spent
            past.granted += account.net
            past.spent += account.net

    @property
    def committed(self) -> int:
        """Upper bound of what was and may still be spent."""
        accounts = (self._past, *self._accounts.values())
        base = sum(account.base_net for account in accounts)
        return max(self._inherited, base) + sum(account.net - account.base_net for account in accounts)

    @property
    def spent(self) -> NanoUsd:
        """What was spent as far as known, and all that vanished sidecars did not return."""
        accounts = (self._past, *self._accounts.values())
        base = sum(account.base_spent for account in accounts)
        since = sum(
            (account.net if account.gone else account.spent) - account.base_spent for account in accounts
        )
        return NanoUsd(max(self._inherited_spent, base) + since)

    def divide(self, limit: NanoUsd, takers: Collection[SidecarId]) -> None:
        """Grant money on demand to `takers`, sidecars that can hear of it, and set what everyone keeps."""
        free_targets = {sidecar: self._target(sidecar) for sidecar in takers}
        asks = {
            sidecar: target - self._accounts[sidecar].free
            for sidecar, target in free_targets.items()
            if self._accounts[sidecar].free < self._least(sidecar)
        }
        left = limit - self.committed
        if sum(asks.values()) > left:  # only what waiting requests need, shared equally
            asks = {
                sidecar: max(0, self._accounts[sidecar].wanted_free - self._accounts[sidecar].free)
                for sidecar in asks
            }
        scarce = sum(asks.values()) > left  # idle money is called back
        for sidecar, account in self._accounts.items():
            if sidecar not in free_targets:
                account.keep = 0
            elif scarce:
                account.keep = account.wanted_free
            else:  # twice the target, and falling by halves, so that money does not go back and forth
                keep = int(max(account.wanted_free, 2 * AHEAD * account.rate, account.need))
                if not account.keep / 2 < keep <= account.keep:
                    account.keep = keep
        self._wanted_watermark = min(max(limit, self.committed), self.committed + sum(asks.values()))
        grantable = min(left, self._covered() - self.committed)
        for sidecar, share in water_fill(asks, grantable, {}).items():
            self._accounts[sidecar].granted += share

    def _least(self, sidecar: SidecarId) -> float:
        account = self._accounts[sidecar]
        return max(account.wanted_free, AHEAD / 2 * account.rate)

    def _target(self, sidecar: SidecarId) -> int:
        account = self._accounts[sidecar]
        return int(max(account.wanted_free, AHEAD * account.rate, account.need - account.reserved))

    def _covered(self) -> int:
        """Return the lowest watermark that the store may hold."""
        if not self._opened or self._stored is None:
            return 0
        under_way = self._pending.watermark if self._pending is not None else self._stored.watermark
        return min(self._stored.watermark, under_way, *self._doubtful)

    def due(self, limit: NanoUsd, now: float, *, exact: bool = False) -> LedgerRecord | None:
        """Return the record to write now, if any; it counts as under way until `written` or `found`.

        `exact` leaves no chunk to spare: for a leader that stops granting.
        """
        if self._pending is not None:
            return None
        watermark = self._stored.watermark if self._stored is not None else 0
        needed = max(self.committed, self._wanted_watermark)
        wanted = self.committed if exact else watermark_for(needed, watermark, limit)
        view_due = now >= self._written_at + VIEW_INTERVAL
        changed = (
            wanted > watermark
            or (wanted < watermark and (exact or view_due))
            or (self._stored is not None and self._stored.spent != self.spent and view_due)
        )
        if self._opened and not self._doubtful and not changed:
            return None
        self._pending = LedgerRecord(
            policy=self.policy,
            period=self.period.id,
            epoch=self.epoch,
            watermark=NanoUsd(wanted),
            spent=self.spent,
            version=self._stored.version if self._stored is not None else None,
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
            self._inherited = max(self._inherited, stored.watermark)
            self._inherited_spent = max(self._inherited_spent, stored.spent)
        if self._pending is not None:
            self._doubtful.append(self._pending.watermark)
        self._pending = None
        self._stored = stored
        self._opened = stored is not None and stored.epoch == self.epoch

    def grant(self, sidecar: SidecarId, limit: NanoUsd, ends_in: float) -> AccountGrant:
        """Return the account of a sidecar heard before."""
        account = self._accounts[sidecar]
        return AccountGrant(
            granted=NanoUsd(account.granted),
            keep=NanoUsd(account.keep),
            limit=limit,
            ends_in=max(0.0, ends_in),
        )


_EMPTY = AccountState(NanoUsd(0), NanoUsd(0), NanoUsd(0), NanoUsd(0), NanoUsd(0))
