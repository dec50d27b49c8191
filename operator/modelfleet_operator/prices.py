"""Stage publish: prices of slots and money, every second.

In: live capacity, merged demand and what is left of budgets. Out: prices, targets and allowances to
the capacity service, which hands them to sidecars. The program runs off the event loop; a failure leaves the
last ones in force.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NoReturn, Protocol

from modelfleet_core.catalog import Fleet
from modelfleet_core.demand import SharedDemand
from modelfleet_core.demand.forecast import HourlyProfile, budget_rate
from modelfleet_core.division.problem import DivisionProblem, problem_of
from modelfleet_core.division.result import Division
from modelfleet_core.division.solver import divide
from modelfleet_core.leasing.messages import SidecarId
from modelfleet_core.values import ObjectKey, VariantKey, usd

from modelfleet_operator.capacity_views import Usage
from modelfleet_operator.health import Health
from modelfleet_operator.views import live_endpoints
from modelfleet_operator.world import Present, World

log = logging.getLogger(__name__)

INTERVAL = 1.0
LATE = 60.0


class Market(Protocol):
    """What this module asks of the capacity service."""

    def shared_demand(self) -> SharedDemand: ...
    def usage(self, policy: ObjectKey) -> Usage | None: ...
    def set_prices(
        self, slots: Mapping[ObjectKey, Mapping[VariantKey, float]], money: Mapping[ObjectKey, float]
    ) -> None: ...
    def set_targets(self, fleet: ObjectKey, busy: Mapping[SidecarId, Mapping[VariantKey, float]]) -> None: ...
    def set_allowances(self, allowances: Mapping[ObjectKey, Mapping[SidecarId, float]]) -> None: ...
    def forecast(self, policy: ObjectKey) -> str: ...
    def set_forecast(self, policy: ObjectKey, forecast: str) -> None: ...


@dataclass(frozen=True, slots=True)
class _Divided:
    """One fleet's prices in force."""

    division: Division
    busy: Mapping[SidecarId, Mapping[VariantKey, float]]
    allowances: Mapping[ObjectKey, Mapping[SidecarId, float]]


class Pricing:
    """Keeps the prices of all fleets, and the profile of each budget's day."""

    def __init__(
        self, world: World, market: Market, health: Health, *, wall_clock: Callable[[], datetime]
    ) -> None:
        self._world = world
        self._market = market
        self._health = health
        self._wall_clock = wall_clock
        self._divided: dict[ObjectKey, _Divided] = {}
        self._profiles: dict[ObjectKey, HourlyProfile] = {}

    def slot_prices(self, fleet: ObjectKey) -> dict[VariantKey, float]:
        """Return the published prices of a fleet's slots."""
        found = self._divided.get(fleet)
        return dict(found.division.slot_prices) if found is not None else {}

    async def run(self) -> NoReturn:
        while True:
            self._health.beat("prices", within=LATE)
            await self.price(self._world.now())
            await asyncio.sleep(INTERVAL)

    async def price(self, present: Present) -> None:
        """Publish prices, targets and allowances for what holds now."""
        fleets = {fleet.key: fleet for fleet in present.resolution.fleets_in_force()}
        self._divided = {key: found for key, found in self._divided.items() if key in fleets}
        demand = self._market.shared_demand()
        self._see(present, demand)
        for fleet in fleets.values():
            problem = self._problem(fleet, present, demand)
            last = self._divided.get(fleet.key)
            try:
                found = await asyncio.to_thread(_divided, problem, last)
            except Exception:  # one fleet's prices must not stop the others'
                log.exception("fleet %s keeps its last prices", fleet.key)
            else:
                self._divided[fleet.key] = found
                self._market.set_targets(fleet.key, found.busy)
        self._market.set_prices(
            slots={key: found.division.slot_prices for key, found in self._divided.items()},
            money={
                policy: price
                for found in self._divided.values()
                for policy, price in found.division.money_prices.items()
            },
        )
        self._market.set_allowances(
            {
                policy: allowances
                for found in self._divided.values()
                for policy, allowances in found.allowances.items()
            }
        )

    def _problem(self, fleet: Fleet, present: Present, demand: SharedDemand) -> DivisionProblem:
        policies = {policy.key for policy in present.resolution.policies_of(fleet.key)}
        endpoints = live_endpoints(fleet, present.snapshot)
        return problem_of(
            fleet,
            demand.of(policies),
            {key: sum(slots.values()) for key, slots in endpoints.items()},
            self.budget_rates(policies),
        )

    def _see(self, present: Present, demand: SharedDemand) -> None:
        """Let the profile of each budget's day know what is asked now; the ledger keeps it, hour by hour."""
        at = self._wall_clock()
        asked: dict[ObjectKey, float] = {}
        for found in demand.classes:
            asked[found.policy] = asked.get(found.policy, 0.0) + found.rate
        profiles = {}
        for fleet in present.resolution.fleets_in_force():
            for policy in present.resolution.policies_of(fleet.key):
                if self._market.usage(policy.key) is None:
                    continue  # no budget, or its ledger, and with it the profile so far, was not read yet
                last = self._profiles.get(policy.key) or self._stored(policy.key)
                profile = last.saw(at, asked.get(policy.key, 0.0), INTERVAL)
                if profile.hour != last.hour:
                    self._market.set_forecast(policy.key, profile.text())
                profiles[policy.key] = profile
        self._profiles = profiles

    def _stored(self, policy: ObjectKey) -> HourlyProfile:
        text = self._market.forecast(policy)
        try:
            return HourlyProfile.parse(text) if text else HourlyProfile()
        except ValueError as error:
            log.warning("the forecast in the ledger of %s is not used, a new one begins: %s", policy, error)
            return HourlyProfile()

    def budget_rates(self, policies: Iterable[ObjectKey]) -> dict[ObjectKey, float]:
        """Return the USD per second that make each budget last: more in hours that ask more.

        A policy without a budget, or whose ledger was not read yet, is absent.
        """
        rates = {policy: self._budget_rate(policy) for policy in policies}
        return {policy: rate for policy, rate in rates.items() if rate is not None}

    def _budget_rate(self, policy: ObjectKey) -> float | None:
        usage = self._market.usage(policy)
        if usage is None:
            return None
        left = usd(usage.limit) - usd(usage.spent)
        return budget_rate(left, self._wall_clock(), usage.ends, self._profiles.get(policy))


def _divided(problem: DivisionProblem, last: _Divided | None) -> _Divided:
    division = divide(problem, warm=last.division if last is not None else None)
    targets = division.targets
    if targets is None:
        return _Divided(division, {}, {})
    return _Divided(division, targets.by_sidecar(), targets.allowances())
