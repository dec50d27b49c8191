"""Rules of leases that are looser than the ones we have: `lease_world.py` must see each break a promise.

Each names the parts of the code that it replaces, and the checks that may notice first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

from modelfleet_core.leasing import grants, rates
from modelfleet_core.leasing.accounts import BUDGET, JUDGE, counts_requests
from modelfleet_core.leasing.grants import LeaseBook
from modelfleet_core.leasing.held_lease import DRIFT, HeldLease
from modelfleet_core.leasing.held_money import HeldMoney
from modelfleet_core.leasing.held_slots import HeldSlots
from modelfleet_core.leasing.holders import Holder
from modelfleet_core.leasing.holding import Holding
from modelfleet_core.leasing.journal import Entry, Life, LivedAccount, TakenUp
from modelfleet_core.leasing.ledger import LedgerRecord
from modelfleet_core.leasing.messages import Grant, Report, SidecarId, SlotState
from modelfleet_core.leasing.period_accounts import PeriodAccounts
from modelfleet_core.leasing.purse import Purse
from modelfleet_core.leasing.reservations import REPEATED, Refused, Reservation, Settlement, Short
from modelfleet_core.leasing.takeover import Takeover
from modelfleet_core.leasing.terms import Terms
from modelfleet_core.values import AccountId, AccountName, EndpointUrl, NanoUsd

from support.lease_checks import Check
from support.lease_world import LeaseWorld, Process


@dataclass(frozen=True, slots=True)
class Mutant:
    breaks: Collection[Check]
    """One of these notices first."""
    replaces: tuple[tuple[object, str, Any], ...]

    @contextmanager
    def applied(self) -> Iterator[None]:
        patches = [mock.patch.object(owner, name, new) for owner, name, new in self.replaces]
        for patch in patches:
            patch.start()
        try:
            yield
        finally:
            for patch in patches:
                patch.stop()


_HOLDING_APPLY = Holding.apply
_HOLDING_RESERVE = Holding.reserve
_HOLDING_SETTLE = Holding.settle
_HOLDING_LEAVE = Holding._leave
_HOLDING_FINISHING = Holding.finishing
_HOLDER_HEAR = Holder.hear
_HOLDER_KEEP_ONLY = Holder.keep_only
_BOOK_HEAR = LeaseBook.hear
_PURSE_DIVIDE = Purse.divide
_PURSE_HEAR = Purse.hear
_TAKEOVER_LIVE = Takeover.live
_WRITER = LeaseWorld._writer


# Slots.


def newest_grant(self: Holder) -> dict[EndpointUrl, int]:
    return dict(self.told)


def newest_report(self: Holder) -> dict[EndpointUrl, int]:
    return {endpoint: state.kept for endpoint, state in self.report.slots.items()}


def newest_grant_or_report(self: Holder) -> dict[EndpointUrl, int]:
    held = newest_report(self)
    last = self.last.slots if self.last is not None else {}
    return {e: max(held.get(e, 0), last[e].slots if e in last else 0) for e in held.keys() | last.keys()}


def ttl_from_receipt(self: Holding, grant: Grant, now: float) -> bool:
    applied = _HOLDING_APPLY(self, grant, now)
    if applied:
        self.lease.ends = now + grant.ttl * (1 - DRIFT)
    return applied


def endless(self: HeldLease, now: float) -> bool:
    return True


def any_order(self: Holding, grant: Grant, now: float) -> bool:
    if grant.epoch == self.epoch:
        self.applied = min(self.applied, grant.sequence - 1)
    return _HOLDING_APPLY(self, grant, now)


def any_epoch(self: Holding, grant: Grant, now: float) -> bool:
    self.epoch, self.applied = grant.epoch, min(self.applied, grant.sequence - 1)
    return _HOLDING_APPLY(self, grant, now)


def adopt_any(self: Holding, epoch: int) -> bool:
    self.epoch, self.applied = epoch, 0 if epoch != self.epoch else self.applied
    return True


def without_in_flight(self: HeldLease, now: float) -> dict[EndpointUrl, SlotState]:
    return {endpoint: SlotState(held.in_flight, held.slots) for endpoint, held in self.slots.items()}


def unseen_as_nothing(self: LeaseBook, now: float) -> bool:
    return False


def reports_of_any_epoch(self: LeaseBook, report: Report, now: float) -> bool:
    return _BOOK_HEAR(self, replace(report, epoch=self.epoch), now)


def floors_end_with_the_lease(self: Holder, stays: Callable[[EndpointUrl], bool], *, floors: bool) -> None:
    _HOLDER_KEEP_ONLY(self, stays, floors=False)


def unheard_floors_forgotten(
    self: Takeover, published: Mapping[EndpointUrl, int], blocked: Any, floor: float
) -> dict[EndpointUrl, int]:
    return _TAKEOVER_LIVE(self, published, blocked, 0)


def requests_take_no_time(self: LeaseBook) -> Terms:
    return replace(self._terms.widest, request=0.0)


def told_stays(self: Holder, report: Report, now: float) -> None:
    told, target = self.told, self.target
    _HOLDER_HEAR(self, report, now)
    self.told, self.target = told, target


def kept_stays(self: HeldSlots, slots: int, floor: int, now: float) -> None:
    """Slots that were given back, or recalled, are used on."""
    _RESIZE(self, max(slots, self.slots), max(floor, self.floor), now)


_RESIZE = HeldSlots.resize


def one_more(self: HeldLease, held: Any, now: float, tier: Any) -> int:
    return int(_MOST(self, held, now, tier) + 1)


_MOST = HeldLease.most


def one_more_free(self: HeldLease, now: float, tier: Any = None) -> dict[EndpointUrl, int]:
    return {endpoint: free + 1 for endpoint, free in _FREE(self, now, tier).items()}


_FREE = HeldLease.free


def kept_as_counted(self: Holder, report: Report, now: float) -> None:
    """What a report gives back goes on being counted."""
    before = self.report.slots
    _HOLDER_HEAR(self, report, now)
    kept = {
        e: SlotState(0, max(s.kept, before[e].kept if e in before else 0)) for e, s in report.slots.items()
    }
    self.report = replace(report, slots={**before, **kept})


def slot_never_freed(self: Holding, one: Any, now: float) -> None:
    pass


# Limits by the minute.


def freed_at_the_end(self: Holding, one: Any, now: float) -> None:
    for rate, taken in one.taken:
        rate.untake(taken)
    _HOLDING_LEAVE(self, one, now)


# Money.


def any_version(self: LeaseWorld, record: LedgerRecord) -> str | None:
    """As a merge patch: the last write wins."""
    return self.put(record)


def foreign_epochs_passed_over(self: PeriodAccounts, stored: LedgerRecord | None) -> None:
    if self._pending is not None:
        self._doubtful.append(self._pending)
    self._pending = None
    self._stored = stored
    self._opened = stored is not None


def ledger_not_awaited(self: PeriodAccounts, name: AccountName) -> int:
    return 10**9


def older_leaders_forgotten(self: Purse) -> int:
    return self._net


def granted_anew(self: Purse, sidecar: SidecarId) -> None:
    account = self._accounts.pop(sidecar, None)
    if account is not None:
        self._count(account, -1)
        self._base_net -= account.net
        self._asks.pop(sidecar, None)


def twice_the_limit(self: Purse, limit: int, covered: int, now: float) -> frozenset[SidecarId]:
    return _PURSE_DIVIDE(self, limit * 2, covered, now)


def returns_not_heard(self: Purse, sidecar: SidecarId, state: Any, now: float) -> None:
    _PURSE_HEAR(self, sidecar, replace(state, returned=0) if state is not None else None, now)


def on_settling_only(kept: Callable[[AccountName], bool]) -> Callable[..., Reservation | Refused]:
    """Reserve only in accounts that are `kept`; the others are booked when the request is settled."""

    def reserve(
        self: Holding, now: float, endpoint: EndpointUrl, amount: NanoUsd, deadline: float, **others: Any
    ) -> Reservation | Refused:
        charged = others.pop("charges")
        first = {name: charge for name, charge in charged.items() if kept(name)}
        taken = _HOLDING_RESERVE(self, now, endpoint, amount, deadline, charges=first, **others)
        if isinstance(taken, Refused):
            return taken
        one = self._open[taken.id]
        for name in charged.keys() - first.keys():
            account = self._money.present(name, now)
            if account is None:
                self.cancel(taken.id, now)
                return Refused(Short.ACCOUNT, account=name)
            one.charged.append((account, 0))
        accounts = tuple(account.id for account, _ in one.charged)
        one.reservation = replace(taken, accounts=accounts)
        return one.reservation

    return reserve


def uncharged_quotas(self: Holding, *args: Any, charges: Mapping[AccountName, int], **others: Any) -> Any:
    money = {name: charge for name, charge in charges.items() if not counts_requests(name)}
    return _HOLDING_RESERVE(self, *args, charges=money, **others)


def uncharged_judge(self: Holding, *args: Any, charges: Mapping[AccountName, int], **others: Any) -> Any:
    of_users = {name: charge for name, charge in charges.items() if name != JUDGE}
    return _HOLDING_RESERVE(self, *args, charges=of_users, **others)


def overdrawn(self: Holding, *args: Any, charges: Mapping[AccountName, int], **others: Any) -> Any:
    """Every account is charged one less than is due."""
    less = {name: max(0, charge - 1) for name, charge in charges.items()}
    return _HOLDING_RESERVE(self, *args, charges=less, **others)


def settled_at_nothing(self: Holding, reservation_id: int, actual: NanoUsd | None, now: float) -> Settlement:
    return _HOLDING_SETTLE(self, reservation_id, NanoUsd(0) if actual is None else actual, now)


def counted_twice(self: Holding, reservation_id: int, actual: NanoUsd | None, now: float) -> Settlement:
    settled = _HOLDING_SETTLE(self, reservation_id, actual, now)
    return replace(settled, first=True) if settled == REPEATED else settled


# Former starts.


def forgets_unsettled(life: Life, now: float, **others: Any) -> Holding:
    life.unsettled.clear()
    return _HOLDING_FINISHING(life, now, **others)


def forgets_spent(self: HeldMoney, key: AccountId, lived: LivedAccount) -> None:
    _RESTORE(self, key, LivedAccount(lived.granted, 0, lived.returned))


_RESTORE = HeldMoney.restore


def journal_lags(self: LeaseWorld, process: Process) -> Callable[[Entry], None]:
    """Reservations are written with the next entry only, when they may have been sent already."""
    write = _WRITER(self, process)
    waiting: list[Entry] = []

    def late(entry: Entry) -> None:
        ready = [*waiting, entry]
        waiting.clear()
        if isinstance(entry, TakenUp):
            waiting.append(ready.pop())
        for one in ready:
            write(one)

    return late


def all_kept(self: Purse, account: Any, now: float) -> int:
    """Free money is never called back."""
    return int(account.free)


_ACCOUNTS = {Check.LIMIT, Check.WATERMARK, Check.ACCOUNT, Check.BOOKS, Check.FORMER}
_SLOTS = {Check.SLOTS, Check.SERVERS, Check.MINUTE}

MUTANTS: Mapping[str, Mutant] = {
    # Those of the design.
    "held is the newest grant or the newest report": Mutant(
        _SLOTS, ((Holder, "held", newest_grant_or_report),)
    ),
    "held is the newest grant": Mutant(_SLOTS, ((Holder, "held", newest_grant),)),
    "held is the newest report": Mutant(_SLOTS, ((Holder, "held", newest_report),)),
    "the lease runs from receipt": Mutant(_SLOTS, ((Holding, "apply", ttl_from_receipt),)),
    "a new leader counts the unseen as nothing": Mutant(
        _SLOTS, ((LeaseBook, "recovering", unseen_as_nothing),)
    ),
    "grants before reports carry the new epoch": Mutant(
        {*_SLOTS, *_ACCOUNTS}, ((LeaseBook, "hear", reports_of_any_epoch),)
    ),
    "the ledger is written by merge patch": Mutant(
        {Check.FENCE, *_ACCOUNTS}, ((LeaseWorld, "store", any_version),)
    ),
    "the floor is outside of what is held": Mutant(
        _SLOTS, ((Holder, "keep_only", floors_end_with_the_lease),)
    ),
    # Slots.
    "a new leader forgets the floors of the unheard": Mutant(
        _SLOTS, ((Takeover, "live", unheard_floors_forgotten),)
    ),
    "a lease does not end": Mutant(_SLOTS, ((HeldLease, "live", endless),)),
    "grants apply in any order": Mutant({*_SLOTS, *_ACCOUNTS}, ((Holding, "apply", any_order),)),
    "any leader's grants apply": Mutant({Check.EPOCH, *_ACCOUNTS}, ((Holding, "apply", any_epoch),)),
    "a sidecar goes back to an older leader": Mutant({Check.EPOCH}, ((Holding, "adopt", adopt_any),)),
    "kept leaves requests in flight out": Mutant(_SLOTS, ((HeldLease, "states", without_in_flight),)),
    "a lease is reclaimed with requests in flight": Mutant(
        _SLOTS, ((LeaseBook, "terms", property(requests_take_no_time)),)
    ),
    "a give-back leaves what the leader told": Mutant(_SLOTS, ((Holder, "hear", told_stays),)),
    "slots that were given back are used on": Mutant(_SLOTS, ((HeldSlots, "resize", kept_stays),)),
    "recalled slots are not heard to come back": Mutant(
        {Check.LEAK, Check.LOST_SLOTS, *_SLOTS}, ((Holder, "hear", kept_as_counted),)
    ),
    "a sidecar uses one slot more than it has": Mutant(
        {Check.SERVERS, Check.SLOTS}, ((HeldLease, "most", one_more), (HeldLease, "free", one_more_free))
    ),
    "a settled request keeps its slot": Mutant({Check.LEAK}, ((Holding, "_leave", slot_never_freed),)),
    # Limits by the minute.
    "units come back at the end of a request": Mutant(
        {Check.MINUTE, Check.SLOTS}, ((Holding, "_leave", freed_at_the_end),)
    ),
    "a vanished sidecar's units come back with its slots": Mutant(
        {Check.MINUTE, Check.SLOTS}, ((grants, "LATER", 0.0), (grants, "RATE_NOTICE", 0.0))
    ),
    "a minute is taken to be shorter": Mutant({Check.MINUTE, Check.SLOTS}, ((rates, "MINUTE", 50.0),)),
    # Money.
    "an older leader goes on writing": Mutant(
        {Check.FENCE, *_ACCOUNTS}, ((PeriodAccounts, "found", foreign_epochs_passed_over),)
    ),
    "money leaves before the ledger holds it": Mutant(
        {Check.WATERMARK}, ((PeriodAccounts, "_covered", ledger_not_awaited),)
    ),
    "older leaders' grants do not count": Mutant(
        _ACCOUNTS, ((Purse, "committed", property(older_leaders_forgotten)),)
    ),
    "a vanished sidecar's money is granted anew": Mutant(_ACCOUNTS, ((Purse, "lose", granted_anew),)),
    "more is granted than the limit": Mutant({Check.LIMIT}, ((Purse, "divide", twice_the_limit),)),
    "returned money is not heard of": Mutant({Check.LOST_MONEY}, ((Purse, "hear", returns_not_heard),)),
    "money is never called back": Mutant({Check.LOST_MONEY}, ((Purse, "_kept", all_kept),)),
    "shares are charged on settling only": Mutant(
        _ACCOUNTS, ((Holding, "reserve", on_settling_only(lambda name: not name.startswith("share:"))),)
    ),
    "only the budget is charged before": Mutant(
        _ACCOUNTS, ((Holding, "reserve", on_settling_only(lambda name: name == BUDGET)),)
    ),
    "the judge asks for free": Mutant({Check.CHARGE}, ((Holding, "reserve", uncharged_judge),)),
    "quotas are not charged": Mutant({Check.CHARGE}, ((Holding, "reserve", uncharged_quotas),)),
    "a request reserves less than it may cost": Mutant(_ACCOUNTS, ((Holding, "reserve", overdrawn),)),
    "a request of unknown cost was free": Mutant({Check.BOOKS}, ((Holding, "settle", settled_at_nothing),)),
    "a request may be settled twice": Mutant({Check.REPEAT}, ((Holding, "settle", counted_twice),)),
    # Former starts.
    "a former start forgets what it left unsettled": Mutant(
        {Check.FORMER, Check.WATERMARK}, ((Holding, "finishing", forgets_unsettled),)
    ),
    "a former start forgets what it spent": Mutant({Check.FORMER}, ((HeldMoney, "restore", forgets_spent),)),
    "a journal is written after requests are sent": Mutant(
        {Check.FORMER}, ((LeaseWorld, "_writer", journal_lags),)
    ),
}
