"""Leases keep their promises whatever happens to messages, sidecars, leaders, capacity and the ledger.

Looser rules are tried too: the same world must see each of them break a promise.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from modelfleet_core.leasing import grants
from modelfleet_core.leasing.accounts import BUDGET
from modelfleet_core.leasing.grants import LeaseBook
from modelfleet_core.leasing.held_lease import DRIFT, HeldLease
from modelfleet_core.leasing.holders import Holder
from modelfleet_core.leasing.holding import Holding
from modelfleet_core.leasing.messages import Grant, Need, SidecarId, SlotState, Want
from modelfleet_core.leasing.period_accounts import PeriodAccounts
from modelfleet_core.leasing.purse import Purse
from modelfleet_core.values import AccountName, EndpointUrl
from support.lease_world import LARGE, POLICY, SHARE, SMALL, TENANT, BrokenPromiseError, LeaseWorld

pytestmark = pytest.mark.property
STEPS = 400
SEEDS = st.integers(0, 2**32)


def run(seed: int, steps: int = STEPS) -> LeaseWorld:
    world = LeaseWorld(seed)
    for _ in range(steps):
        world.step()
    return world


def run_many(seeds: int) -> None:
    for seed in range(seeds):
        run(seed)


@settings(max_examples=80, deadline=None)
@given(SEEDS)
def test_limits_hold_over_any_history(seed: int) -> None:
    run(seed)


@settings(max_examples=40, deadline=None)
@given(SEEDS)
def test_nothing_is_left_held_or_reserved_after_all_has_ended(seed: int) -> None:
    world = run(seed, steps=200)
    book = world.settle_down()
    for process in world.processes.values():
        assert process.holding.idle()
        assert process.holding.in_flight() == {}
        for key in process.holding.accounts():
            account = process.holding.account(key)
            assert account is not None
            assert account.reserved == 0
    staying = {sidecar for sidecar, process in world.processes.items() if not process.holding.leaving}
    for holder in book.holders():
        assert holder.held() == {} or holder.id in staying


@settings(max_examples=40, deadline=None)
@given(SEEDS)
@example(816303)
def test_all_slots_and_all_money_left_can_be_had_after_all_has_ended(seed: int) -> None:
    world = run(seed, steps=200)
    book = world.settle_down()
    staying = [process for process in world.processes.values() if not process.holding.leaving]
    if not staying:
        return
    taker = staying[0]
    taker.holding.want({LARGE: Want(100), SMALL: Want(100)}, {})
    world.rounds(3)  # the others' slots are recalled, come back, and are granted
    free = taker.holding.free(taker.clock(world.now))
    assert {e: free.get(e, 0) for e in world.capacity} == world.capacity
    budget = book.budget(POLICY)
    assert budget is not None
    taker.holding.want(
        {}, {name: Need(account.limit, 1, 1.0, 1.0) for name, account in world.accounts.items()}
    )
    world.rounds(10)
    now = taker.clock(world.now)
    # Else a new period begins; sidecars end the old one a little before the leader does.
    if book.budget(POLICY) is budget and taker.holding.period_ends(now) is not None:
        for name in (BUDGET, SHARE, TENANT):
            purse, limit = budget.purse(name), world.accounts[name].limit
            assert purse is not None
            room = limit - purse.committed + purse.free(taker.holding.sidecar)
            assert taker.holding.room(now)[name] == room


def test_limits_hold_though_sidecars_that_are_gone_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    closed: list[object] = []
    close = Purse.close

    def counted(self: Purse, sidecar: SidecarId) -> None:
        closed.append(sidecar)
        close(self, sidecar)

    monkeypatch.setattr(grants, "RETIRED_FOR", 20.0)
    monkeypatch.setattr(Purse, "close", counted)
    run_many(25)
    assert closed


def newest_grant_only(self: Holder) -> dict[EndpointUrl, int]:
    return dict(self.told)


def newest_report_only(self: Holder) -> dict[EndpointUrl, int]:
    return {endpoint: state.kept for endpoint, state in self.report.slots.items()}


def ttl_from_receipt(self: Holding, grant: Grant, now: float) -> bool:
    applied = _APPLY(self, grant, now)
    if applied:
        self.lease.ends = now + grant.ttl * (1 - DRIFT)
    return applied


def any_order(self: Holding, grant: Grant, now: float) -> bool:
    if grant.epoch == self.epoch:
        self.applied = min(self.applied, grant.sequence - 1)
    return _APPLY(self, grant, now)


def any_epoch(self: Holding, grant: Grant, now: float) -> bool:
    self.epoch, self.applied = grant.epoch, min(self.applied, grant.sequence - 1)
    return _APPLY(self, grant, now)


def kept_without_in_flight(self: HeldLease, now: float) -> dict[EndpointUrl, SlotState]:
    return {endpoint: SlotState(held.in_flight, held.slots) for endpoint, held in self.slots.items()}


def unseen_counts_as_nothing(self: LeaseBook, now: float) -> bool:
    return False


def reclaim_after_ttl(self: LeaseBook, now: float) -> None:
    self._longest = 0.0
    _PRUNE(self, now)


def ledger_not_awaited(self: PeriodAccounts, name: AccountName) -> int:
    return 10**9


def older_leaders_forgotten(self: Purse) -> int:
    return self._net


def vanished_money_granted_anew(self: Purse, sidecar: SidecarId) -> None:
    account = self._accounts.pop(sidecar, None)
    if account is not None:
        self._count(account, -1)
        self._base_net -= account.base_net
        self._asks.pop(sidecar, None)


def limits_twice_as_high(self: Purse, limit: int, covered: int, now: float) -> frozenset[SidecarId]:
    return _DIVIDE(self, limit * 2, covered * 2, now)


_APPLY = Holding.apply
_PRUNE = LeaseBook.prune
_DIVIDE = Purse.divide

LOOSER: Mapping[str, tuple[type, str, object, str]] = {
    "held is the newest grant": (Holder, "held", newest_grant_only, "G1"),
    "held is the newest report": (Holder, "held", newest_report_only, "G1"),
    "the lease runs from receipt": (Holding, "apply", ttl_from_receipt, "G1"),
    "grants apply in any order": (Holding, "apply", any_order, "G1"),
    "any leader's grants apply": (Holding, "apply", any_epoch, "G[13]"),
    "kept leaves requests in flight out": (HeldLease, "states", kept_without_in_flight, "G1"),
    "a new leader counts the unseen as nothing": (LeaseBook, "recovering", unseen_counts_as_nothing, "G1"),
    "a lease is reclaimed with requests in flight": (LeaseBook, "prune", reclaim_after_ttl, "G1"),
    "money leaves before the ledger holds it": (PeriodAccounts, "_covered", ledger_not_awaited, "G[34]"),
    "older leaders' grants do not count": (Purse, "committed", property(older_leaders_forgotten), "G[34]"),
    "a vanished sidecar's money is granted anew": (Purse, "lose", vanished_money_granted_anew, "G[34]"),
    "more is granted than the limit": (Purse, "divide", limits_twice_as_high, "G[34]"),
}


@pytest.mark.parametrize("looser", LOOSER)
def test_a_looser_rule_breaks_a_promise(looser: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, name, replacement, promise = LOOSER[looser]
    monkeypatch.setattr(owner, name, replacement)
    with pytest.raises(BrokenPromiseError, match=promise):
        run_many(400)
