"""Stage forward, the sidecar's side of a lease: what this sidecar may use now.

In come the leader's grants; out go reservations of one slot and money, and reports to the leader.
`lease.py` of the sidecar moves the messages; `grants.py` is the leader's side.

    kept = max(applied grant, in flight)                      per endpoint, as the leader must count it
    lease ends at report_sent_at + ttl x (1 - DRIFT)          on this sidecar's own clock
    spent + reserved <= granted - returned                    per budget period, always

Slots end with the lease; money ends only with its period.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from modelfleet_core.demand.sketch import DemandReport
from modelfleet_core.leasing.messages import (
    AccountState,
    Grant,
    Report,
    SidecarId,
    SlotGrant,
    SlotState,
    Want,
)
from modelfleet_core.values import EndpointUrl, NanoUsd, PeriodId, VariantKey

DRIFT = 0.01
"""How far two clocks may drift apart over a lease."""


class Refused(Enum):
    """Why nothing was reserved. More may come: `want` what is missing and wait for a change."""

    NO_LEASE = "NoLease"
    """None was granted yet, it ended, or this sidecar is leaving."""
    NO_SLOT = "NoSlot"
    """All slots that the lease gives at this endpoint are in use."""
    NO_MONEY = "NoMoney"
    """The money granted in this period does not cover the amount."""


@dataclass(frozen=True, slots=True)
class Reservation:
    """One slot at `endpoint` and `amount` of money (nothing when the policy has no budget)."""

    id: int
    endpoint: EndpointUrl
    variant: VariantKey
    period: PeriodId | None
    """The period that pays; None: the policy has no budget."""
    amount: NanoUsd
    deadline: float


@dataclass(frozen=True, slots=True)
class Settlement:
    """What settling did. `first` is False when the reservation was settled before: nothing changed."""

    first: bool
    charged: NanoUsd
    excess: NanoUsd
    """Part of `charged` above the reserve; not 0 only if a model server broke the limits sent to it."""


@dataclass(slots=True)
class _Account:
    granted: int = 0
    spent: int = 0
    reserved: int = 0
    returned: int = 0
    keep: int = 0
    limit: int = 0
    ends_at: float = 0.0

    @property
    def free(self) -> int:
        return max(0, self.granted - self.returned - self.spent - self.reserved)


class Holding:
    """The lease of one sidecar. All times are seconds on its clock that counts suspend.

    `pressing` is called when a report should leave at once: slots changed, or recalled ones came back.
    """

    def __init__(self, sidecar: SidecarId, *, pressing: Callable[[], None] = lambda: None) -> None:
        self.sidecar = sidecar
        self.epoch = 0
        self.applied = 0
        self.lease_ends = float("-inf")
        self.leaving = False
        self.budgeted = True
        """Whether the policy has a budget; without a policy money is refused."""
        self._pressing = pressing
        self._slots: dict[EndpointUrl, SlotGrant] = {}
        self._in_flight: dict[EndpointUrl, int] = {}
        self._accounts: dict[PeriodId, _Account] = {}
        self._reservations: dict[int, Reservation] = {}
        self._next_reservation = 1
        self._reports = 0
        self._wants: dict[VariantKey, Want] = {}
        self._wanted_money = 0

    def adopt(self, epoch: int) -> bool:
        """Follow the leader of `epoch` from now on; False (and no change) if it is an older one."""
        if epoch > self.epoch:
            self.epoch = epoch
            self.applied = 0
        return epoch == self.epoch

    def apply(self, grant: Grant, now: float) -> bool:
        """Take over a newer grant of the adopted epoch; False (and no change) if it is not one."""
        if grant.epoch != self.epoch or grant.sequence <= self.applied:
            return False
        before = {endpoint: granted.slots for endpoint, granted in self._slots.items()}
        self.applied = grant.sequence
        self.lease_ends = grant.report_sent_at + grant.ttl * (1 - DRIFT)
        self._slots = {} if self.leaving else dict(grant.slots)
        self._apply_accounts(grant, now)
        changed = before != {endpoint: granted.slots for endpoint, granted in self._slots.items()}
        if changed or any(
            account.free > self._kept_money(account, now) for account in self._accounts.values()
        ):
            self._pressing()
        return True

    def _apply_accounts(self, grant: Grant, now: float) -> None:
        for period, granted in grant.accounts.items():
            account = self._accounts.setdefault(period, _Account())
            account.granted = max(account.granted, granted.granted)
            account.keep = granted.keep
            account.limit = granted.limit
            account.ends_at = grant.report_sent_at + granted.ends_in
        in_use = {reservation.period for reservation in self._reservations.values()}
        for period in [period for period in self._accounts if period not in grant.accounts]:
            # The leader stops listing an account only after its period ended, so it never comes back.
            if period not in in_use:
                del self._accounts[period]
            else:
                self._accounts[period].keep = 0
                self._accounts[period].ends_at = min(self._accounts[period].ends_at, now)

    def live(self, now: float) -> bool:
        """Return whether the lease gives slots now."""
        return now < self.lease_ends and not self.leaving

    def free(self, now: float) -> Mapping[EndpointUrl, int]:
        """Return the slots not in use by leased endpoint; all 0 after the lease ended."""
        live = self.live(now)
        return {
            endpoint: max(0, granted.slots - self._in_flight.get(endpoint, 0)) if live else 0
            for endpoint, granted in self._slots.items()
        }

    def variant_of(self, endpoint: EndpointUrl) -> VariantKey | None:
        """Return the variant behind a leased endpoint; None: not leased."""
        granted = self._slots.get(endpoint)
        return granted.variant if granted is not None else None

    def in_flight(self) -> Mapping[EndpointUrl, int]:
        return dict(self._in_flight)

    def _current(self, now: float) -> tuple[PeriodId, _Account] | None:
        open_accounts = [
            (period, account) for period, account in self._accounts.items() if now < account.ends_at
        ]
        return max(open_accounts, key=lambda item: item[1].ends_at, default=None)

    def money(self, now: float) -> NanoUsd | None:
        """Return the money that can be reserved now; None: the policy has no budget."""
        if not self.budgeted:
            return None
        current = self._current(now)
        return NanoUsd(current[1].free if current is not None else 0)

    def period_ends(self, now: float) -> float | None:
        """Return when the present budget period ends; None: no account is open."""
        current = self._current(now)
        return current[1].ends_at if current is not None else None

    def periods(self) -> frozenset[PeriodId]:
        """Return the periods it has an account of."""
        return frozenset(self._accounts)

    def _kept_money(self, account: _Account, now: float) -> int:
        """Return how much free money of an account need not be given back."""
        if self.leaving or now >= account.ends_at:
            return 0
        return max(account.keep, self._wanted_money)

    def account(self, period: PeriodId) -> AccountState | None:
        """Return one account as a report would show it, without wants; None: not known (any more)."""
        account = self._accounts.get(period)
        return _state(account, 0) if account is not None else None

    def reserve(
        self, now: float, endpoint: EndpointUrl, amount: NanoUsd, deadline: float
    ) -> Reservation | Refused:
        """Take one slot at `endpoint` and `amount` of money, both or nothing.

        Until it is settled the reservation counts; after `deadline` `expire` settles it at its reserve.
        """
        granted = self._slots.get(endpoint)
        if granted is None or not self.live(now):
            return Refused.NO_LEASE
        in_flight = self._in_flight.get(endpoint, 0)
        if in_flight >= granted.slots:
            return Refused.NO_SLOT
        period: PeriodId | None = None
        if self.budgeted:
            current = self._current(now)
            if current is None or current[1].free < amount:
                return Refused.NO_MONEY
            period = current[0]
            current[1].reserved += amount
        reservation = Reservation(self._next_reservation, endpoint, granted.variant, period, amount, deadline)
        self._next_reservation += 1
        self._in_flight[endpoint] = in_flight + 1
        self._reservations[reservation.id] = reservation
        return reservation

    def settle(self, reservation_id: int, actual: NanoUsd | None) -> Settlement:
        """Book `actual` (None: not known, so the whole reserve) and free the slot and the rest."""
        reservation = self._reservations.pop(reservation_id, None)
        if reservation is None:
            return Settlement(first=False, charged=NanoUsd(0), excess=NanoUsd(0))
        charged = reservation.amount if actual is None else actual
        if reservation.period is not None:
            account = self._accounts[reservation.period]
            account.reserved -= reservation.amount
            account.spent += charged
            if account.free > max(account.keep, self._wanted_money):
                self._pressing()  # another sidecar may wait for this money
        self._leave_slot(reservation.endpoint)
        return Settlement(first=True, charged=charged, excess=NanoUsd(max(0, charged - reservation.amount)))

    def _leave_slot(self, endpoint: EndpointUrl) -> None:
        granted = self._slots.get(endpoint)
        left = self._in_flight[endpoint] - 1
        if left:
            self._in_flight[endpoint] = left
        else:
            del self._in_flight[endpoint]
        if left >= (granted.slots if granted is not None else 0):
            self._pressing()  # a recalled slot came back: another sidecar may wait for it

    def expire(self, now: float) -> tuple[tuple[Reservation, Settlement], ...]:
        """Settle every reservation past its deadline at its reserve."""
        late = [reservation for reservation in self._reservations.values() if reservation.deadline <= now]
        return tuple((reservation, self.settle(reservation.id, None)) for reservation in late)

    def leave(self) -> None:
        """Take no new reservation; slots and free money go back with the next report."""
        self.leaving = True
        self._slots = {}
        self._wants = {}
        self._wanted_money = 0

    def idle(self) -> bool:
        """Return whether nothing is reserved."""
        return not self._reservations

    def want(self, wants: Mapping[VariantKey, Want], money: NanoUsd) -> None:
        """Say what could be used now.

        `money`: what waiting requests would reserve.
        """
        if not self.leaving:
            self._wants = {variant: want for variant, want in wants.items() if want.slots > 0}
            self._wanted_money = money

    def wanted(self) -> tuple[Mapping[VariantKey, Want], NanoUsd]:
        """Return what `want` said last."""
        return dict(self._wants), NanoUsd(self._wanted_money)

    def short(self, now: float) -> bool:
        """Return whether more slots of a variant, or more money, are wanted than the lease gives."""
        given: dict[VariantKey, int] = {}
        for granted in self._slots.values():
            given[granted.variant] = given.get(granted.variant, 0) + granted.slots
        money = self.money(now)
        return any(want.slots > given.get(variant, 0) for variant, want in self._wants.items()) or (
            money is not None and self._wanted_money > money
        )

    def report(
        self,
        now: float,
        *,
        demand: DemandReport,
        fleet_version: str,
        policy_version: str,
    ) -> Report:
        """Return the next report. Free money above what the leader lets keep is given back with it."""
        if not self.live(now):
            # An ended lease is given up for good: the leader may have lent its slots to others by now.
            self._slots = {}
        current = self._current(now)
        accounts: dict[PeriodId, AccountState] = {}
        for period, account in self._accounts.items():
            is_current = current is not None and period == current[0]
            account.returned += max(0, account.free - self._kept_money(account, now))
            accounts[period] = _state(account, max(0, self._wanted_money - account.free) if is_current else 0)
        self._reports += 1
        return Report(
            sidecar=self.sidecar,
            epoch=self.epoch,
            sequence=self._reports,
            applied=self.applied,
            sent_at=now,
            slots=self.report_slots(),
            accounts=accounts,
            wants=dict(self._wants),
            demand=demand,
            fleet_version=fleet_version,
            policy_version=policy_version,
            leaving=self.leaving,
        )

    def report_slots(self) -> dict[EndpointUrl, SlotState]:
        """Return what a report says of every endpoint leased or in use."""
        states = {}
        for endpoint in self._slots.keys() | self._in_flight.keys():
            granted = self._slots.get(endpoint)
            in_flight = self._in_flight.get(endpoint, 0)
            kept = max(granted.slots if granted is not None else 0, in_flight)
            states[endpoint] = SlotState(in_flight=in_flight, kept=kept)
        return states


def _state(account: _Account, wanted: int) -> AccountState:
    return AccountState(
        granted=NanoUsd(account.granted),
        spent=NanoUsd(account.spent),
        reserved=NanoUsd(account.reserved),
        returned=NanoUsd(account.returned),
        wanted=NanoUsd(wanted),
    )
