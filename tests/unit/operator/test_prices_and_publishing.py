"""Prices follow demand and money; what changes is published, once, documents before endpoints."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest
from modelfleet_core.demand import DemandClass, ModelOffer, SharedDemand
from modelfleet_core.demand.forecast import HourlyProfile
from modelfleet_core.leasing.messages import Document, SidecarId
from modelfleet_core.leasing.slots import Capacity
from modelfleet_core.policy import Policy
from modelfleet_core.values import ModelName, NanoUsd, ObjectKey, PeriodId, TaskName, TierName, VariantKey
from modelfleet_operator import prices
from modelfleet_operator.capacity_views import Usage
from modelfleet_operator.health import Health
from modelfleet_operator.prices import Pricing
from modelfleet_operator.publishing import Publishing
from modelfleet_operator.world import World
from support.manifests import fleet_manifest, policy_manifest
from support.snapshots import event, observed, pod_object, slice_object

CHAT, ASSISTANT = ObjectKey("ml", "chat"), ObjectKey("ml", "assistant")
LARGE, API = VariantKey(ModelName("large"), "h100"), VariantKey(ModelName("frontier"), "api")
ONE, TWO = (SidecarId("ml", name, name, "1") for name in ("one", "two"))
NOW = datetime(2026, 11, 22, 10, 30, tzinfo=UTC)


class _Sink:
    """Remembers what it was told, in order."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.capacity: Mapping[ObjectKey, Capacity] = {}
        self.policy_of: Callable[[SidecarId], tuple[ObjectKey, ObjectKey] | str] | None = None

    def set_capacity(self, capacity: Mapping[ObjectKey, Capacity]) -> None:
        self.told.append("capacity")
        self.capacity = capacity

    def set_documents(
        self, fleets: Mapping[ObjectKey, Document], policies: Mapping[ObjectKey, tuple[Policy, Document]]
    ) -> None:
        self.told.append(f"documents {len(fleets)} {len(policies)}")

    def set_policy_of(self, policy_of: Callable[[SidecarId], tuple[ObjectKey, ObjectKey] | str]) -> None:
        self.told.append("policy_of")
        self.policy_of = policy_of

    def forget(self, uid: str) -> None:
        self.told.append(f"forget {uid}")


def test_only_what_changed_is_published_and_documents_come_first() -> None:
    observer = observed(fleet_manifest(), policy_manifest())
    world, sink = World(observer), _Sink()
    publishing = Publishing(world, sink)
    publishing.publish(world.now())
    assert sink.told == ["documents 1 1", "capacity", "policy_of"]
    sink.told.clear()
    publishing.publish(world.now())
    assert sink.told == []
    observer.apply(event(slice_object("large", "10.0.0.1")))
    publishing.publish(world.now())
    assert sink.told == ["capacity"]
    assert sink.capacity[CHAT][LARGE] == {"http://10.0.0.1:8000": 8}


def test_a_sidecar_without_pod_is_told_to_label_it_also_where_there_are_no_pods_at_all() -> None:
    world, sink = World(observed(fleet_manifest(), policy_manifest())), _Sink()
    Publishing(world, sink).publish(world.now())
    assert sink.policy_of is not None
    assert "label the pod" in str(sink.policy_of(SidecarId("ml", "assistant-0", "uid-assistant-0", "boot")))


def test_a_pod_that_is_gone_or_was_replaced_is_forgotten() -> None:
    pod = pod_object("assistant-0")
    observer = observed(fleet_manifest(), policy_manifest(), pod)
    world, sink = World(observer), _Sink()
    publishing = Publishing(world, sink)
    publishing.publish(world.now())
    assert sink.policy_of is not None
    assert sink.policy_of(SidecarId("ml", "assistant-0", "uid-assistant-0", "boot")) == (ASSISTANT, CHAT)
    sink.told.clear()
    pod["metadata"] = pod["metadata"] | {"uid": "successor"}
    observer.apply(event(pod))
    publishing.publish(world.now())
    assert sink.told == ["forget uid-assistant-0", "policy_of"]
    observer.apply(event(pod, deleted=True))
    publishing.publish(world.now())
    assert sink.told[2:] == ["forget successor", "policy_of"]


class _Market:
    def __init__(self, rate: float, left: float) -> None:
        self.rate, self.left = rate, left
        self.busy: Mapping[SidecarId, Mapping[VariantKey, float]] = {}
        self.allowances: Mapping[ObjectKey, Mapping[SidecarId, float]] = {}
        self.kept = ""
        self.lasts = timedelta(seconds=100)
        self.slots: Mapping[ObjectKey, Mapping[VariantKey, float]] = {}
        self.money: Mapping[ObjectKey, float] = {}

    def shared_demand(self) -> SharedDemand:
        offers = {
            ModelName("large"): ModelOffer(0.7, 0.0, 2.0),
            ModelName("frontier"): ModelOffer(0.9, 0.01, 1.0),
        }
        kind = DemandClass(ASSISTANT, TierName("gold"), TaskName("math"), 1.0, 0.5, self.rate, offers)
        if not self.rate:
            return SharedDemand((), (), np.zeros((0, 0)))
        return SharedDemand((kind,), (ONE, TWO), np.array([[self.rate / 4], [3 * self.rate / 4]]))

    def usage(self, policy: ObjectKey) -> Usage | None:
        limit = NanoUsd(60 * 10**9)
        spent = NanoUsd(int((60 - self.left) * 10**9))
        return Usage(PeriodId("p"), NOW, NOW + self.lasts, limit, spent, spent)

    def set_targets(self, fleet: ObjectKey, busy: Mapping[SidecarId, Mapping[VariantKey, float]]) -> None:
        self.busy = busy

    def set_allowances(self, allowances: Mapping[ObjectKey, Mapping[SidecarId, float]]) -> None:
        self.allowances = allowances

    def forecast(self, policy: ObjectKey) -> str:
        return self.kept

    def set_forecast(self, policy: ObjectKey, forecast: str) -> None:
        self.kept = forecast

    def set_prices(
        self, slots: Mapping[ObjectKey, Mapping[VariantKey, float]], money: Mapping[ObjectKey, float]
    ) -> None:
        self.slots, self.money = slots, money


async def _priced(market: _Market) -> Pricing:
    world = World(observed(fleet_manifest(), policy_manifest(), slice_object("large", "10.0.0.1")))
    health = Health(clock=lambda: 0.0, awaited=())
    pricing = Pricing(world, market, health, wall_clock=lambda: NOW)
    await pricing.price(world.now())
    return pricing


async def test_without_demand_nothing_has_a_price() -> None:
    market = _Market(0.0, 60.0)
    await _priced(market)
    assert set(market.slots[CHAT].values()) == {0.0}
    assert market.money == {ASSISTANT: 0.0}


async def test_scarce_slots_have_a_price_and_scarce_money_too() -> None:
    market = _Market(100.0, 60.0)
    pricing = await _priced(market)
    assert market.slots[CHAT][LARGE] > 0
    assert pricing.slot_prices(CHAT) == market.slots[CHAT]
    assert market.busy[TWO][LARGE] == pytest.approx(3 * market.busy[ONE][LARGE])
    market = _Market(5.0, 1.0)  # a cent a second, where each request to the better model costs one
    await _priced(market)
    assert market.money[ASSISTANT] > 0
    # A cent a second, by what each spends.
    assert market.allowances == {ASSISTANT: {ONE: pytest.approx(0.0025), TWO: pytest.approx(0.0075)}}


async def test_money_without_end_in_sight_is_spread_over_what_is_left_of_the_period() -> None:
    market = _Market(5.0, 60.0)  # 60 cents a second for requests of 5 cents a second
    await _priced(market)
    assert market.money[ASSISTANT] == pytest.approx(0.0, abs=1e-9)


async def test_a_fault_leaves_the_last_prices_in_force(monkeypatch: pytest.MonkeyPatch) -> None:
    market = _Market(100.0, 60.0)
    world = World(observed(fleet_manifest(), policy_manifest(), slice_object("large", "10.0.0.1")))
    pricing = Pricing(world, market, Health(clock=lambda: 0.0, awaited=()), wall_clock=lambda: NOW)
    await pricing.price(world.now())
    before = market.slots

    def broken(*_: Any, **__: Any) -> None:
        raise ArithmeticError("no prices")

    monkeypatch.setattr(prices, "divide", broken)
    await pricing.price(world.now())
    assert market.slots == before


@pytest.mark.parametrize("kept", ["", "no profile at all"])
async def test_a_budget_without_a_known_day_is_spread_evenly(kept: str) -> None:
    market = _Market(5.0, 60.0)
    market.kept = kept
    pricing = await _priced(market)
    assert pricing.budget_rates([ASSISTANT]) == {ASSISTANT: pytest.approx(0.6)}


async def test_the_ledger_keeps_what_the_hours_of_earlier_days_asked() -> None:
    profile = HourlyProfile()
    for minute in range(0, 3 * 24 * 60, 10):
        at = NOW - timedelta(days=3) + timedelta(minutes=minute)
        profile = profile.saw(at, 1.0 if at.hour < 11 else 9.0, 600.0)
    market = _Market(5.0, 60.0)
    market.kept = before = profile.text()
    market.lasts = timedelta(hours=10)
    pricing = await _priced(market)
    assert pricing.budget_rates([ASSISTANT])[ASSISTANT] < 0.3 * 60.0 / 36_000
    assert market.kept == before, "the hour is not over"
    pricing._wall_clock = lambda: NOW + timedelta(minutes=45)
    await pricing.price(pricing._world.now())
    assert HourlyProfile.parse(market.kept).hour == profile.hour + 1
