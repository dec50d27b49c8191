"""Stage publish: one account in one period, as the leader divides it over sidecars.

In come the sidecars' accounts and what the ledger covers; out go cumulative grants and what each may keep.
`period_accounts.py` keeps the ledger; amounts are nano-USD, or requests if the account is a quota.

    committed = max(watermark inherited, sum of net at first report) + sum of changes of net since
    net       = max(granted - returned, spent)      of one sidecar
    granted only while committed <= min(limit, every watermark that may be stored)

So whatever an earlier leader granted counts as spent until the sidecar that has it gives it back, and what a
vanished sidecar did not return is spent. What is scarce is granted in whole needs: who bids more first, then
who waits for longer; what one holds and can not use is called back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from modelfleet_core.leasing.messages import AccountState, Need, SidecarId

AHEAD = 10.0
"""Seconds of recent spend that a busy sidecar holds, so that few requests wait for money."""
MEMORY = 10.0
"""Seconds over which recent spend and need fade."""
UNUSED = 1.0
"""Seconds after which scarce money that is free although requests wait for it lacks something else there."""
BARRED = 2.0
"""Seconds for which others come first then."""


@dataclass(slots=True)
class _Account:
    """One sidecar's account."""

    granted: int
    returned: int
    spent: int
    heard_at: float
    reserved: int = 0
    need: Need | None = None
    rate: float = 0.0
    """Recent spend per second."""
    recent: float = 0.0
    """Recent largest sum of what was reserved and needed, fading."""
    keep: int = 0
    gone: bool = False
    taking: bool = False
    waits_since: float = math.inf
    """Since when it lacks money; infinite: it does not."""
    used_at: float = 0.0
    """When it last got money or reserved some."""
    barred_until: float = 0.0

    @property
    def net(self) -> int:
        return max(self.granted - self.returned, self.spent)

    @property
    def counted(self) -> int:
        """What counts as spent."""
        return self.net if self.gone else self.spent

    @property
    def free(self) -> int:
        """Also money that the sidecar has not heard of yet."""
        return max(0, self.granted - self.returned - self.spent - self.reserved)

    @property
    def needed(self) -> int:
        """Free money that waiting requests need."""
        return self.need.total if self.need is not None else 0

    @property
    def lacks(self) -> int:
        """What the first waiting request needs beyond what is free."""
        return max(0, self.need.first - self.free) if self.need is not None else 0


class Purse:
    """Times are seconds on the leader's monotonic clock."""

    def __init__(self, watermark: int, spent: int) -> None:
        """Take over what an older leader stored."""
        self._inherited = watermark
        self._inherited_spent = spent
        self._accounts: dict[SidecarId, _Account] = {}
        # Running sums over all accounts, those that were closed included.
        self._base_net = self._net = self._base_spent = self._counted = 0
        self._limit = 0
        self._asks: dict[SidecarId, int] = {}
        self._heard: set[SidecarId] = set()
        """Whose account may have changed since the last `divide`."""
        self.scarce = False
        """Whether less is left than is asked for."""
        self.needs_watermark = 0
        """What the ledger should cover for all that is asked for."""

    @property
    def committed(self) -> int:
        """Upper bound of what was and may still be spent."""
        return max(self._inherited, self._base_net) + self._net - self._base_net

    @property
    def spent(self) -> int:
        """What was spent as far as known, and all that vanished sidecars did not return."""
        return max(self._inherited_spent, self._base_spent) + self._counted - self._base_spent

    def inherit(self, watermark: int, spent: int) -> None:
        """Another leader stored more meanwhile."""
        self._inherited = max(self._inherited, watermark)
        self._inherited_spent = max(self._inherited_spent, spent)

    def knows(self, sidecar: SidecarId) -> bool:
        return sidecar in self._accounts

    def granted(self, sidecar: SidecarId) -> int:
        """Return all that was granted to a sidecar, returned money included."""
        account = self._accounts.get(sidecar)
        return account.granted if account is not None else 0

    def keep(self, sidecar: SidecarId) -> int:
        account = self._accounts.get(sidecar)
        return account.keep if account is not None else 0

    def free(self, sidecar: SidecarId) -> int:
        """Return the money a sidecar has for new requests, what it has not heard of yet included."""
        account = self._accounts.get(sidecar)
        return account.free if account is not None else 0

    def hear(self, sidecar: SidecarId, state: AccountState | None, now: float) -> None:
        """Take over a sidecar's account from its newest report; None: it has none yet."""
        state = state if state is not None else _EMPTY
        account = self._accounts.get(sidecar)
        if account is None:
            net = max(state.granted - state.returned, state.spent)
            account = _Account(state.granted, state.returned, state.spent, now)
            self._accounts[sidecar] = account
            self._base_net += net
            self._base_spent += state.spent
        else:
            self._count(account, -1)
        elapsed = now - account.heard_at
        fading = math.exp(-elapsed / MEMORY)
        if elapsed > 0:
            rate = max(0, state.spent - account.spent) / elapsed
            account.rate = account.rate * fading + rate * (1 - fading)
        if state.spent + state.reserved > account.spent + account.reserved:
            account.used_at = now
        account.heard_at = now
        account.gone = False
        account.granted = max(account.granted, state.granted)
        account.returned = max(account.returned, state.returned)
        account.spent = max(account.spent, state.spent)
        account.reserved = state.reserved
        account.need = state.need
        account.recent = max(account.recent * fading, state.reserved + account.needed)
        self._count(account, 1)
        self._heard.add(sidecar)

    def take(self, sidecar: SidecarId, *, taking: bool) -> None:
        """Say whether a sidecar heard before can hear of more money; else all free money is called back."""
        account = self._accounts[sidecar]
        if account.taking != taking:
            account.taking = taking
            self._heard.add(sidecar)

    def lose(self, sidecar: SidecarId) -> None:
        """Count what a vanished sidecar did not return as spent (until it is heard again)."""
        account = self._accounts.get(sidecar)
        if account is not None:
            self._count(account, -1)
            account.gone = True
            account.need = None
            self._count(account, 1)
            self._heard.add(sidecar)

    def close(self, sidecar: SidecarId) -> None:
        """Forget a sidecar that is gone for good but for its sums, so that long periods gather no accounts.

        Heard again all the same, it counts as new: twice, so that no more is granted than may be.
        """
        account = self._accounts.pop(sidecar, None)
        if account is not None:
            self._counted += account.net - account.counted
            self._heard.discard(sidecar)
            self._asks.pop(sidecar, None)

    def _count(self, account: _Account, sign: int) -> None:
        self._net += sign * account.net
        self._counted += sign * account.counted

    # Dividing.

    def divide(self, limit: int, covered: int, now: float) -> frozenset[SidecarId]:
        """Grant on demand and set what everyone keeps; return who should hear of it at once.

        `covered`: the least watermark that the store may hold. Only accounts heard since the last call are
        looked at, and while money is scarce all.
        """
        changed = limit != self._limit
        self._limit = limit
        for sidecar in self._heard:
            self._look_at(sidecar, now)
        left = limit - self.committed
        was_scarce = self.scarce
        self.scarce = sum(self._asks.values()) > left
        everyone = changed or self.scarce or was_scarce
        looked_at = self._accounts.keys() if everyone else self._heard & self._accounts.keys()
        before = {sidecar: self._accounts[sidecar].keep for sidecar in looked_at}
        asks = self._asks
        if self.scarce:
            asks = {sidecar: self._accounts[sidecar].needed for sidecar in asks}
        self.needs_watermark = min(max(limit, self.committed), self.committed + sum(asks.values()))
        told = self._grant(min(left, covered - self.committed), now)
        for sidecar in looked_at:
            account = self._accounts[sidecar]
            account.keep = self._kept(account, now)
            lowered = account.keep < before[sidecar] or (self.scarce and not was_scarce)
            if lowered and account.keep < account.free and (self.scarce or not account.taking):
                told.add(sidecar)
        self._heard = set()
        return frozenset(told)

    def _look_at(self, sidecar: SidecarId, now: float) -> None:
        """Note what a sidecar asks for."""
        account = self._accounts.get(sidecar)
        self._asks.pop(sidecar, None)
        if account is None:
            return
        least = max(account.needed, AHEAD / 2 * account.rate)
        if account.taking and account.free < least:
            target = int(max(account.needed, AHEAD * account.rate, account.recent - account.reserved))
            self._asks[sidecar] = target - account.free
        if account.taking and account.lacks:
            account.waits_since = min(account.waits_since, now)
        else:
            account.waits_since = math.inf

    def _grant(self, grantable: int, now: float) -> set[SidecarId]:
        if sum(self._asks.values()) <= grantable:
            shares = dict(self._asks)
        else:
            shares = _whole_needs(
                ((sidecar, self._accounts[sidecar]) for sidecar in self._asks), grantable, self._coming(), now
            )
        for sidecar, share in shares.items():
            account = self._accounts[sidecar]
            self._count(account, -1)
            account.granted += share
            self._count(account, 1)
            account.used_at = now
            self._look_at(sidecar, now)
        return set(shares)

    def _coming(self) -> int:
        """Return the free money that was called back and is not here yet."""
        if not self.scarce:
            return 0
        return sum(
            max(0, account.free - account.keep) for account in self._accounts.values() if account.taking
        )

    def _kept(self, account: _Account, now: float) -> int:
        if not account.taking:
            return 0
        if not self.scarce:  # twice the target, and falling by halves, so that it does not go back and forth
            keep = int(max(account.needed, 2 * AHEAD * account.rate, account.recent))
            return account.keep if account.keep / 2 < keep <= account.keep else keep
        if account.need is None or account.lacks:
            return 0  # a part of a need is of no use
        if now - account.used_at >= UNUSED:  # its requests lack something else, such as a slot
            account.barred_until = now + BARRED
            account.used_at = now
            return 0
        return account.needed if now >= account.barred_until else 0


def _whole_needs(
    asking: Iterable[tuple[SidecarId, _Account]], grantable: int, coming: int, now: float
) -> dict[SidecarId, int]:
    """Return what each of `asking` gets of `grantable`: what its first request needs, then whole multiples.

    Who does not fit lets others pass, unless what is `coming` back makes it fit.
    """
    shares: dict[SidecarId, int] = {}
    queue = sorted(
        ((sidecar, account, account.need) for sidecar, account in asking if account.need is not None),
        key=lambda one: (
            now < one[1].barred_until,
            -one[2].weight,
            -one[2].price,
            one[1].waits_since,
            one[0],
        ),
    )
    for sidecar, account, _ in queue:  # the first waiting request of each
        if 0 < account.lacks <= grantable:
            shares[sidecar] = account.lacks
            grantable -= account.lacks
        elif grantable < account.lacks <= grantable + coming:
            return shares
    for place, (sidecar, account, need) in enumerate(queue):  # the rest in equal parts
        given = shares.get(sidecar, 0)
        if account.free + given < need.first:
            continue
        one = max(1, need.first)
        needs = max(1, grantable // (len(queue) - place) // one)
        more = min(needs * one, need.total - account.free - given)
        if 0 < more <= grantable:
            shares[sidecar] = given + more
            grantable -= more
    return shares


_EMPTY = AccountState(0, 0, 0, 0)
