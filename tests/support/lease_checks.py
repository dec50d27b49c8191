"""What must hold after every step in `lease_world.py`, whose truth it reads: who sent what to which server.

Sums of what each process may do are kept until something happens to it, so that a check costs little.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING

from modelfleet_core.leasing.accounts import Account
from modelfleet_core.leasing.ledger import LedgerRecord
from modelfleet_core.leasing.messages import SidecarId
from modelfleet_core.values import AccountId, AccountName, EndpointUrl, PeriodId, account_parts

if TYPE_CHECKING:
    from support.lease_world import LeaseWorld, Process


class Check(Enum):
    """Each check, and the guarantees that it speaks for."""

    SLOTS = "G1: more slots may be in use than are live"
    SERVERS = "G2: a model server has more requests in flight than it may have"
    MINUTE = "G4: more units were used within a minute than the limit allows"
    LIMIT = "G3, G4: a ledger covers more than its limit"
    ACCOUNT = "G3, G4: a sidecar spends more than it was granted"
    BOOKS = "G3, G4, G11: a sidecar's account differs from what its requests cost"
    CHARGE = "G4: a request did not charge an account that covers it"
    WATERMARK = "G3, G4: more may be spent than the ledger holds"
    REPEAT = "G11: a request that was settled twice counted twice"
    FORMER = "G3, G8: the end of a former start forgot what it had spent"
    EPOCH = "G13: an older leader was followed after a newer one"
    FENCE = "G13: an older leader wrote a ledger after a newer one"
    LEAK = "G8: something is still held or reserved though all has ended"
    LOST_SLOTS = "G8: slots can not be had any more though nobody uses them"
    LOST_MONEY = "G8: unspent money can not be had any more"


class BrokenPromiseError(AssertionError):
    """The world saw a guarantee broken: `check` says which."""

    def __init__(self, check: Check, text: str) -> None:
        super().__init__(f"{check.value}: {text}")
        self.check = check


@dataclass(slots=True)
class Allowed:
    """The most that may be in use or spent: the limit, or more while it has only just been lowered."""

    slots: dict[EndpointUrl, int]
    limits: dict[AccountName, int]
    spendable: dict[AccountId, int] = field(default_factory=dict)
    """What could be spent already when a limit was lowered."""


class Checks:
    def __init__(self, world: LeaseWorld, only: Check | None = None) -> None:
        """`only`: make no other check."""
        self.world = world
        self.only = only
        self.allowed = Allowed(dict(world.capacity), {n: a.limit for n, a in world.accounts.items()})
        self.slots_of: dict[SidecarId, dict[EndpointUrl, int]] = {}
        self.money_of: dict[SidecarId, dict[AccountId, int]] = {}
        self.stored: dict[PeriodId, LedgerRecord] = {}
        self.epochs: dict[SidecarId, int] = {}
        self.money_changed = True

    def fail(self, check: Check, text: str) -> None:
        if self.only in (None, check):
            raise BrokenPromiseError(check, text)

    # What may have changed.

    def touch(self, sidecar: SidecarId) -> None:
        """Something happened to a process, or a grant to it was sent or lost."""
        self.slots_of.pop(sidecar, None)
        self.money_of.pop(sidecar, None)
        self.money_changed = True

    def time_passed(self) -> None:
        self.slots_of.clear()

    def capacity_changes(self, endpoint: EndpointUrl, slots: int) -> None:
        """Capacity vanishes at once; what could be in use there may be until it was recalled."""
        before = self.potential().get(endpoint, 0)
        self.allowed.slots[endpoint] = max(slots, self.allowed.slots[endpoint], before)

    def limits_change(self, accounts: Mapping[AccountName, Account]) -> None:
        """What could be spent under a higher limit may still be."""
        for key, amount in self.spendable().items():
            if amount > accounts[account_parts(key)[1]].limit:
                self.allowed.spendable[key] = amount
        for name, account in accounts.items():
            self.allowed.limits[name] = max(account.limit, self.allowed.limits[name])
        self.money_changed = True

    # Slots.

    def potential(self) -> dict[EndpointUrl, int]:
        """Return the most that may ever be in use at each endpoint without a new grant."""
        total = dict.fromkeys(self.world.capacity, 0)
        for ghost in self.world.ghosts:
            total[ghost.endpoint] += 1
        for sent in self.world.sent_by_the_dead:
            total[sent.endpoint] += sent.units
        for sidecar, process in self.world.processes.items():
            most = self.slots_of.get(sidecar)
            if most is None:
                most = self.slots_of[sidecar] = self._potential_of(sidecar, process)
            for endpoint, slots in most.items():
                total[endpoint] += slots
        return total

    def _potential_of(self, sidecar: SidecarId, process: Process) -> dict[EndpointUrl, int]:
        holding, now = process.holding, process.clock(self.world.now)
        most: dict[EndpointUrl, int] = {}
        for request in process.live.values():
            if request.reservation.deadline > now:
                endpoint = request.reservation.endpoint
                most[endpoint] = most.get(endpoint, 0) + 1
        for sent in process.sent:
            most[sent.endpoint] = most.get(sent.endpoint, 0) + sent.units
        if holding.leaving:
            return most
        live = holding.live(now)
        for held_at in (holding.lease.slots, holding.lease.rates):
            for endpoint, held in held_at.items():
                slots = held.slots if live else held.floor
                if slots > most.get(endpoint, 0):
                    most[endpoint] = slots
        for grant in process.grants:
            if grant.epoch == holding.epoch and grant.sequence > holding.applied:
                live = now < grant.report_sent_at + grant.ttl
                for endpoint, granted in grant.slots.items():
                    slots = granted.slots if live else granted.floor
                    if slots > most.get(endpoint, 0):
                        most[endpoint] = slots
        return most

    def check_slots(self) -> None:
        world, allowed = self.world, self.allowed.slots
        for endpoint, most in self.potential().items():
            if most > allowed[endpoint]:
                self.fail(
                    Check.SLOTS, f"{most} of {endpoint}, {allowed[endpoint]} are live or were until just now"
                )
        for endpoint, slots in world.capacity.items():
            if allowed[endpoint] > slots:
                self._heed_recalls(endpoint, slots)

    def _heed_recalls(self, endpoint: EndpointUrl, slots: int) -> None:
        """End the exception for capacity that vanished: the leader saw its recalls heeded."""
        world = self.world
        if any(leader.book.recovering(world.now - 60.0) for leader in world.leaders):
            return
        book = world.leaders[-1].book
        if book.held().get(endpoint, 0) > slots:
            return
        if any(
            not book.knows(sidecar) and _keeps_floor(process, endpoint)
            for sidecar, process in world.processes.items()
        ):
            return  # one that the newest leader has not heard keeps a floor from an older one
        self.allowed.slots[endpoint] = slots

    def check_servers(self) -> None:
        """Count as the model servers do."""
        world, allowed = self.world, self.allowed.slots
        for endpoint, running in world.in_flight().items():
            if running > allowed[endpoint]:
                self.fail(Check.SERVERS, f"{running} at {endpoint}, {allowed[endpoint]} may be")
        for endpoint, units in world.sent_within_a_minute().items():
            if units > allowed[endpoint]:
                self.fail(Check.MINUTE, f"{units} at {endpoint}, {allowed[endpoint]} may be")

    # Money.

    def check_ledger(self) -> None:
        for period, record in self.world.ledger.items():
            before = self.stored.get(period)
            if record is before:
                continue
            if before is not None and record.epoch < before.epoch:
                self.fail(Check.FENCE, f"{period} was of epoch {before.epoch}, now {record.epoch}")
            self.stored[period] = record
            self.money_changed = True
            for name, stored in record.accounts.items():
                if stored.watermark > self.allowed.limits[name]:
                    self.fail(
                        Check.LIMIT,
                        f"{name} of {period}: {stored.watermark}, its limit is {self.allowed.limits[name]}",
                    )

    def spendable(self) -> dict[AccountId, int]:
        """Return what was spent and may be without a new grant; checks every account on the way."""
        total = dict(self.world.dead_money)
        for sidecar, process in self.world.processes.items():
            amounts = self.money_of.get(sidecar)
            if amounts is None:
                amounts = self.money_of[sidecar] = self._spendable_of(sidecar, process)
            for key, amount in amounts.items():
                total[key] = total.get(key, 0) + amount
        return total

    def _spendable_of(self, sidecar: SidecarId, process: Process) -> dict[AccountId, int]:
        holding = process.holding
        amounts: dict[AccountId, int] = {}
        for key in process.granted.keys() | process.spent.keys() | holding.accounts():
            account = holding.account(key)
            spent = process.spent.get(key, 0)
            if account is None:
                amounts[key] = max(spent, process.granted.get(key, 0))
                continue
            if account.spent + account.reserved > account.granted - account.returned:
                self.fail(Check.ACCOUNT, f"{sidecar.boot}, {key}: {account}")
            if process.former:
                if account.spent + account.reserved < spent:
                    self.fail(Check.FORMER, f"{sidecar.boot}, {key}: {account}, spent {spent}")
                continue  # what it spent counts among the dead's; it spends nothing more
            if account.spent != spent:
                self.fail(Check.BOOKS, f"{sidecar.boot}, {key}: {account}, its bill is {spent}")
            amounts[key] = max(account.granted, process.granted.get(key, 0)) - account.returned
        return {} if process.former else amounts

    def check_money(self) -> None:
        if not self.money_changed:
            return
        self.money_changed = False
        ledger = self.world.ledger
        for key, amount in self.spendable().items():
            period, name = account_parts(key)
            stored = ledger[period].accounts.get(name) if period in ledger else None
            watermark = stored.watermark if stored is not None else 0
            if amount > watermark:
                self.fail(Check.WATERMARK, f"{amount} of {key}, its ledger holds {watermark}")
            limit = self.world.accounts[name].limit
            most = self.allowed.spendable.get(key)
            if most is not None:
                self.allowed.spendable[key] = max(limit, min(most, amount))
            if amount > max(limit, most or 0):
                self.fail(Check.LIMIT, f"{amount} of {key} may be spent, its limit is {limit}")

    # Leaders.

    def check_epochs(self) -> None:
        for sidecar, process in self.world.processes.items():
            epoch = process.holding.epoch
            if process.former:
                continue  # it has no slots and gets no money, so it may start anew
            if epoch < self.epochs.get(sidecar, 0):
                self.fail(Check.EPOCH, f"{sidecar.boot} went from epoch {self.epochs[sidecar]} to {epoch}")
            self.epochs[sidecar] = epoch

    def check(self) -> None:
        """Raise if anything is broken."""
        self.check_epochs()
        self.check_slots()
        self.check_servers()
        self.check_ledger()
        self.check_money()

    # The end.

    def check_leaks(self) -> None:
        """After `settle_down`: nothing is reserved, in flight, or held by one that is gone."""
        world = self.world
        for sidecar, process in world.processes.items():
            holding = process.holding
            states = (holding.account(key) for key in holding.accounts())
            reserved = sum(state.reserved for state in states if state is not None)
            if not holding.idle() or holding.in_flight() or reserved:
                self.fail(Check.LEAK, f"{sidecar.boot}: {holding.in_flight()}, {reserved} reserved")
            if process.former:
                self.fail(Check.LEAK, f"the end of {sidecar.boot} did not come to an end")
        staying = {sidecar for sidecar, process in world.processes.items() if not process.holding.leaving}
        for holder in world.leaders[-1].book.holders():
            if holder.id not in staying and holder.held():
                self.fail(Check.LEAK, f"{holder.id.boot} is gone and holds {holder.held()}")

    def check_all_can_be_had(self) -> None:
        """After `settle_down`: one who wants all slots and all money gets them, but for what was spent."""
        world = self.world
        staying = [process for process in world.processes.values() if not process.holding.leaving]
        if not staying:
            return
        taker, book = staying[0], world.leaders[-1].book
        got = world.want_all_slots(taker)
        if got != world.capacity:
            self.fail(Check.LOST_SLOTS, f"{got} of {world.capacity}")
        if world.wall_went_back:
            return  # sidecars stay with the later period until the leader's clock reaches it again
        budget = book.budget(world.policy.key)
        if budget is None:
            self.fail(Check.LOST_MONEY, "the ledger is not open")
            return
        room = world.want_all_money(taker)
        if book.budget(world.policy.key) is not budget or not room:
            return  # a new period begins; sidecars end the old one a little before the leader does
        spent = self._spent(budget.period.id)
        for name, account in world.accounts.items():
            purse = budget.purse(name)
            if purse is None:
                continue  # of periods of another length
            left = account.limit - purse.committed + purse.free(taker.holding.sidecar)
            if room[name] < left:
                self.fail(Check.LOST_MONEY, f"{name}: {room[name]} of {left}")
            if world.failovers == 0 and not world.money_is_lost and room[name] < account.limit - spent[name]:
                self.fail(
                    Check.LOST_MONEY, f"{name}: {room[name]}, {spent[name]} of {account.limit} were spent"
                )

    def _spent(self, period: PeriodId) -> dict[AccountName, int]:
        """Return what all processes, also those that are gone, were billed in a period."""
        spent = dict.fromkeys(self.world.accounts, 0)
        bills = [self.world.dead_money, *(p.spent for p in self.world.processes.values() if not p.former)]
        for bill in bills:
            for key, amount in bill.items():
                of, name = account_parts(key)
                if of == period:
                    spent[name] += amount
        return spent


def _keeps_floor(process: Process, endpoint: EndpointUrl) -> bool:
    """Return whether a process has a floor at an endpoint, or gets one with a grant under way."""
    lease = process.holding.lease
    held = lease.slots.get(endpoint) or lease.rates.get(endpoint)
    granted = (grant.slots.get(endpoint) for grant in process.grants)
    return (held is not None and held.floor > 0) or any(one is not None and one.floor for one in granted)
