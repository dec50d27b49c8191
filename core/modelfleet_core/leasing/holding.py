"""Stage forward, the sidecar's side of a lease: what this sidecar may use now.

In come the leader's grants; out go reservations of one slot, units of rates and money, and reports to the
leader. `lease.py` of the sidecar moves the messages; `grants.py` is the leader's side.

    kept = max(applied grant less what was given back, in flight)    per endpoint, as the leader counts it
    lease ends at report_sent_at + ttl x (1 - DRIFT)                 on this sidecar's own clock
    spent + reserved <= granted - returned                           per account and period, always

Slots end with the lease, but for their floor; money ends only with its period.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from modelfleet_core.demand.sketch import DemandReport
from modelfleet_core.leasing.accounts import BUDGET, counts_requests
from modelfleet_core.leasing.held_lease import HeldLease
from modelfleet_core.leasing.held_money import HeldAccount, HeldMoney
from modelfleet_core.leasing.journal import Ended, Entry, Life, Reported, TakenUp
from modelfleet_core.leasing.messages import AccountState, Grant, Need, Report, SidecarId, Want
from modelfleet_core.leasing.rates import HeldRate, Taken
from modelfleet_core.leasing.reservations import EXPIRED, REPEATED, Refused, Reservation, Settlement, Short
from modelfleet_core.policy import Policy
from modelfleet_core.values import (
    AccountId,
    AccountName,
    EndpointUrl,
    ModelName,
    NanoUsd,
    TierName,
    VariantKey,
)

MOST_EXPIRED = 10_000
"""Reservations remembered as expired, for callers that settle late."""

_NO_RATES: Mapping[EndpointUrl, int] = MappingProxyType({})
_UNKNOWN = VariantKey(ModelName(""), "")
"""Of requests that a former start left: their variant does not matter any more."""
_NO_LEASE = Refused(Short.LEASE)
_NO_SLOT = Refused(Short.SLOT)


@dataclass(slots=True)
class _Open:
    """A reservation that is not settled, and what it took."""

    reservation: Reservation
    charged: list[tuple[HeldAccount, int]]
    taken: list[tuple[HeldRate, Taken]]
    tier: TierName | None


class Holding:
    """The lease of one sidecar. All times are seconds on its clock that counts suspend.

    `pressing` is called when a report should leave at once: slots changed, or recalled ones came back.
    `record` is called with all that changes accounts, before anyone outside can see it.
    """

    def __init__(
        self,
        sidecar: SidecarId,
        *,
        pressing: Callable[[], None] = lambda: None,
        record: Callable[[Entry], None] | None = None,
    ) -> None:
        self.sidecar = sidecar
        self.epoch = 0
        self.applied = 0
        self.lease = HeldLease()
        self.pressing = pressing
        self._record = record
        self._budgeted = True
        self._money = HeldMoney()
        self._open: dict[int, _Open] = {}
        self._expired: deque[int] = deque(maxlen=MOST_EXPIRED)
        self._next_reservation = 1
        self._reports = 0
        self._wants: dict[VariantKey, Want] = {}
        self._needs: dict[AccountName, Need] = {}

    @classmethod
    def finishing(
        cls, life: Life, now: float, *, settles_at: float, record: Callable[[Entry], None] | None = None
    ) -> Holding:
        """Return a holding that finishes a former start of this sidecar, which ended without a farewell.

        What that left unsettled keeps its slots until `settles_at`, when model servers must have noticed, and
        then settles at its reserve; limits by the minute stay used for their minute; all else goes back.
        """
        held = cls(life.sidecar, record=record)
        held.lease.leaving = True
        held._reports = life.reports
        for key, lived in life.accounts.items():
            held._money.restore(key, lived)
        for taken in life.unsettled.values():
            charged = [(held._money.by_id[key], amount) for key, amount in taken.amounts.items()]
            for account, amount in charged:
                account.reserved += amount
            accounts = tuple(taken.amounts)
            reservation = Reservation(
                taken.reservation, taken.endpoint, _UNKNOWN, NanoUsd(0), accounts, settles_at
            )
            held._open[taken.reservation] = _Open(reservation, charged, [], None)
            held.lease.restore(taken.endpoint)
        for limit, seconds in life.rates.items():
            rate = held.lease.rates[limit] = HeldRate(_UNKNOWN)
            for units in seconds.values():
                rate.take(units.at, units.units)
            rate.release(now)
        return held

    # Grants.

    def follow(self, policy: Policy | None) -> None:
        """Go by `policy` from now on; None: none is known, so no slot outlives its lease."""
        self._budgeted = policy is None or policy.budget is not None
        self.lease.follow(policy)

    def adopt(self, epoch: int) -> bool:
        """Follow the leader of `epoch` from now on; False (and no change) if it is an older one."""
        if epoch > self.epoch:
            self.epoch = epoch
            self.applied = 0
        return epoch == self.epoch

    def alone(self) -> None:
        """No leader hears this sidecar until the next grant: what comes free stays here, not with nobody."""
        self.lease.alone()

    def apply(self, grant: Grant, now: float) -> bool:
        """Take over a newer grant of the adopted epoch; False (and no change) if it is not one."""
        if grant.epoch != self.epoch or grant.sequence <= self.applied:
            return False
        self.applied = grant.sequence
        changed = self.lease.apply(grant, now)
        in_use = {account.id for one in self._open.values() for account, _ in one.charged}
        changes = self._money.apply(grant.accounts, grant.report_sent_at, now, in_use)
        if self._record is not None:
            for change in changes:
                self._record(change)
        if changed or any(account.free > self._kept(account, now) for account in self._money):
            self.pressing()
        return True

    # What may be used.

    @property
    def leaving(self) -> bool:
        return self.lease.leaving

    def live(self, now: float) -> bool:
        """Return whether the lease gives slots now; floors apart."""
        return self.lease.live(now)

    def free(self, now: float, tier: TierName | None = None) -> Mapping[EndpointUrl, int]:
        """Return the slots not in use by leased endpoint; after the lease what a floor leaves to `tier`."""
        return self.lease.free(now, tier)

    def free_units(self, now: float, tier: TierName | None = None) -> Mapping[EndpointUrl, int]:
        """Return the units not in use of every limit by the minute that is leased."""
        return self.lease.free_units(now, tier)

    def variant_of(self, endpoint: EndpointUrl) -> VariantKey | None:
        """Return the variant behind a leased endpoint; None: not leased."""
        return self.lease.variant_of(endpoint)

    def in_flight(self) -> Mapping[EndpointUrl, int]:
        return self.lease.in_flight()

    def room(self, now: float) -> Mapping[AccountName, int]:
        """Return what each account has free now; one that is not there has nothing."""
        return self._money.free(now)

    def money(self, now: float) -> NanoUsd | None:
        """Return the money of the budget that can be reserved now; None: the policy has no budget."""
        if not self._budgeted:
            return None
        account = self._money.present(BUDGET, now)
        return NanoUsd(account.free if account is not None else 0)

    def allowance(self, now: float) -> float:
        """Return the USD per second that should be spent on average; infinite: no pacing."""
        account = self._money.present(BUDGET, now)
        return account.allowance if account is not None else math.inf

    def period_ends(self, now: float, account: AccountName = BUDGET) -> float | None:
        """Return when an account's present period ends; None: it has none."""
        present = self._money.present(account, now)
        return present.ends_at if present is not None else None

    def limit(self, now: float, account: AccountName) -> int | None:
        """Return an account's limit in the present period, over all sidecars; None: it has none."""
        present = self._money.present(account, now)
        return present.limit if present is not None else None

    def accounts(self) -> frozenset[AccountId]:
        """Return the accounts it has, also those of periods that are over."""
        return frozenset(self._money.by_id)

    def account(self, account: AccountId) -> AccountState | None:
        """Return one account as a report would show it, without need; None: not known (any more)."""
        held = self._money.by_id.get(account)
        return held.state(None) if held is not None else None

    # Reservations.

    def reserve(
        self,
        now: float,
        endpoint: EndpointUrl,
        amount: NanoUsd,
        deadline: float,
        *,
        charges: Mapping[AccountName, int],
        tier: TierName | None = None,
        rates: Mapping[EndpointUrl, int] = _NO_RATES,
    ) -> Reservation | Refused:
        """Take one slot at `endpoint`, `charges` of each account and the units `rates`: all or nothing.

        `amount`: upper bound of the cost, `charges` of the accounts that count money. Until it is settled the
        reservation counts; after `deadline` `expire` settles it at its reserve.
        """
        lease = self.lease
        held = lease.slots.get(endpoint)
        if held is None or lease.leaving:
            return _NO_LEASE
        most = lease.most(held, now, tier)
        if held.in_flight >= most:
            return _NO_SLOT if most else _NO_LEASE
        for limit, units in rates.items():
            rate = lease.rates.get(limit)
            if rate is not None:
                rate.release(now)
            if rate is None or rate.in_use + units > lease.most(rate, now, tier):
                return Refused(Short.RATE, endpoint=limit)
        charged: list[tuple[HeldAccount, int]] = []
        for name, charge in charges.items():
            account = self._money.present(name, now)
            if account is None or account.free < charge:
                return Refused(Short.ACCOUNT, account=name)
            charged.append((account, charge))
        number = self._next_reservation
        self._next_reservation = number + 1
        for account, charge in charged:
            account.reserved += charge
        lease.take(held, tier)
        reservation = Reservation(
            number, endpoint, held.variant, amount, tuple([account.id for account, _ in charged]), deadline
        )
        taken = [(lease.rates[limit], lease.rates[limit].take(now, units)) for limit, units in rates.items()]
        self._open[number] = _Open(reservation, charged, taken, tier)
        if self._record is not None:
            amounts = {account.id: charge for account, charge in charged}
            self._record(TakenUp(number, endpoint, amounts, rates, now))
        return reservation

    def settle(self, reservation_id: int, actual: NanoUsd | None, now: float) -> Settlement:
        """Book `actual` (None: not known, so the whole reserve), in quotas one request, and free the rest."""
        one = self._open.pop(reservation_id, None)
        if one is None:
            return EXPIRED if reservation_id in self._expired else REPEATED
        amount = one.reservation.amount
        charged = amount if actual is None else actual
        booked: dict[AccountId, int] = {}
        for account, reserved in one.charged:
            account.reserved -= reserved
            cost = reserved if actual is None or counts_requests(account.name) else actual
            account.spent += cost
            booked[account.id] = cost
        if self._record is not None:
            self._record(Ended(reservation_id, booked))
        self._leave(one, now)
        return Settlement(first=True, charged=charged, excess=NanoUsd(max(0, charged - amount)))

    def cancel(self, reservation_id: int, now: float) -> Settlement:
        """Give back all that a request took which was never sent."""
        one = self._open.pop(reservation_id, None)
        if one is None:
            return EXPIRED if reservation_id in self._expired else REPEATED
        for account, reserved in one.charged:
            account.reserved -= reserved
        for rate, taken in one.taken:
            rate.untake(taken)
        if self._record is not None:
            self._record(Ended(reservation_id, {}))
        self._leave(one, now)
        return Settlement(first=True, charged=NanoUsd(0), excess=NanoUsd(0))

    def _leave(self, one: _Open, now: float) -> None:
        """Free the slot; press for a report if another sidecar may wait for what came free."""
        goes_back = self.lease.leave_slot(one.reservation.endpoint, one.tier, now, self._wants)
        if goes_back or any(account.free > self._kept(account, now) for account, _ in one.charged):
            self.pressing()

    def expire(self, now: float) -> tuple[tuple[Reservation, Settlement], ...]:
        """Settle every reservation past its deadline at its reserve."""
        late = [one.reservation for one in self._open.values() if one.reservation.deadline <= now]
        self._expired.extend(reservation.id for reservation in late)
        return tuple((reservation, self.settle(reservation.id, None, now)) for reservation in late)

    def idle(self) -> bool:
        """Return whether nothing is reserved."""
        return not self._open

    def holds(self, reservation_id: int) -> bool:
        """Return whether a reservation is not settled yet."""
        return reservation_id in self._open

    def has_money(self) -> bool:
        """Return whether any account has something free."""
        return any(account.free for account in self._money)

    # Giving back.

    def leave(self, now: float) -> None:
        """Take no new reservation; slots and free money go back with the next report."""
        self.lease.leave(now)
        self._wants = {}
        self._needs = {}

    def give_back(self, now: float) -> bool:
        """Lower the slots that are unused for too long and, where others wait, those that nothing here waits
        for, as `want` said; a newer grant may raise them again. Returns whether any went."""
        gone = self.lease.give_back(now, self._wants)
        if gone:
            self.pressing()
        return gone

    def next_give_back(self, now: float) -> float | None:
        """Return when `give_back` is due next; None: not before something changes."""
        return self.lease.next_give_back(now)

    def _kept(self, account: HeldAccount, now: float) -> int:
        """Return how much free money of an account need not be given back."""
        if self.leaving or now >= account.ends_at or account.keep <= 0:
            return 0
        need = self._needs.get(account.name)
        return account.keep if need is None else max(account.keep, need.total)

    # Reports.

    def want(self, wants: Mapping[VariantKey, Want], needs: Mapping[AccountName, Need]) -> None:
        """Say what could be used now, and what waiting requests would charge."""
        if not self.leaving:
            self._wants = {variant: want for variant, want in wants.items() if want.slots > 0}
            self._needs = {name: need for name, need in needs.items() if need.total > 0}

    def wanted(self) -> tuple[Mapping[VariantKey, Want], Mapping[AccountName, Need]]:
        """Return what `want` said last."""
        return dict(self._wants), dict(self._needs)

    def short(self, now: float) -> bool:
        """Return whether more slots of a variant, or more money, are wanted than the lease gives."""
        given = self.lease.given()
        if any(want.slots > given.get(variant, 0) for variant, want in self._wants.items()):
            return True
        room = self.room(now)
        return any(need.total > room.get(name, 0) for name, need in self._needs.items())

    def report(self, now: float, *, demand: DemandReport, fleet_version: str, policy_version: str) -> Report:
        """Return the next report. Free money above what the leader lets keep is given back with it."""
        self.lease.lapse(now)
        accounts: dict[AccountId, AccountState] = {}
        returned: dict[AccountId, int] = {}
        for account in self._money:
            surplus = account.free - self._kept(account, now)
            if surplus > 0:
                account.returned += surplus
                returned[account.id] = account.returned
            need = self._needs.get(account.name) if now < account.ends_at else None
            accounts[account.id] = account.state(need)
        self._reports += 1
        if self._record is not None:
            self._record(Reported(self._reports, returned))
        return Report(
            sidecar=self.sidecar,
            epoch=self.epoch,
            sequence=self._reports,
            applied=self.applied,
            sent_at=now,
            slots=self.lease.states(now),
            accounts=accounts,
            wants=dict(self._wants),
            demand=demand,
            fleet_version=fleet_version,
            policy_version=policy_version,
            leaving=self.leaving,
        )
