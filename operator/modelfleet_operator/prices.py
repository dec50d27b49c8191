"""Stage publish: prices of slots and money, every second.

In: live capacity, smoothed demand and what is left of budgets. Out: prices to the capacity service, which
hands them to sidecars. The program runs off the event loop; a failure leaves the last prices in force.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import NoReturn, Protocol

from modelfleet_core.catalog import Fleet
from modelfleet_core.demand import DemandClass
from modelfleet_core.division.problem import DivisionProblem
from modelfleet_core.division.result import Division
from modelfleet_core.division.solver import divide
from modelfleet_core.values import ObjectKey, VariantKey, usd

from modelfleet_operator.capacity_views import Usage
from modelfleet_operator.health import Health
from modelfleet_operator.views import live_endpoints
from modelfleet_operator.world import Present, World

log = logging.getLogger(__name__)

INTERVAL = 1.0
TIME_LIMIT = 1.0
LATE = 60.0
LEAST_PERIOD = 1.0
"""Seconds that a budget is spread over at the very end of its period."""


class Market(Protocol):
    """What this module asks of the capacity service."""

    def demand(self) -> tuple[DemandClass, ...]: ...
    def usage(self, policy: ObjectKey) -> Usage | None: ...
    def set_prices(
        self, slots: Mapping[ObjectKey, Mapping[VariantKey, float]], money: Mapping[ObjectKey, float]
    ) -> None: ...


class Pricing:
    """Keeps the prices of all fleets."""

    def __init__(
        self, world: World, market: Market, health: Health, *, wall_clock: Callable[[], datetime]
    ) -> None:
        self._world = world
        self._market = market
        self._health = health
        self._wall_clock = wall_clock
        self._divisions: dict[ObjectKey, Division] = {}

    def slot_prices(self, fleet: ObjectKey) -> dict[VariantKey, float]:
        """Return the published prices of a fleet's slots."""
        division = self._divisions.get(fleet)
        return dict(division.slot_prices) if division is not None else {}

    async def run(self) -> NoReturn:
        while True:
            self._health.beat("prices", within=LATE)
            await self.price(self._world.now())
            await asyncio.sleep(INTERVAL)

    async def price(self, present: Present) -> None:
        """Publish prices for what holds now."""
        fleets = {fleet.key: fleet for fleet in present.resolution.fleets_in_force()}
        self._divisions = {key: found for key, found in self._divisions.items() if key in fleets}
        demand = self._market.demand()
        for fleet in fleets.values():
            problem = self._problem(fleet, present, demand)
            try:
                self._divisions[fleet.key] = await asyncio.to_thread(divide, problem, time_limit=TIME_LIMIT)
            except Exception:  # one fleet's prices must not stop the others'
                log.exception("fleet %s keeps its last prices", fleet.key)
        self._market.set_prices(
            slots={key: found.slot_prices for key, found in self._divisions.items()},
            money={
                policy: price
                for found in self._divisions.values()
                for policy, price in found.money_prices.items()
            },
        )

    def _problem(self, fleet: Fleet, present: Present, demand: tuple[DemandClass, ...]) -> DivisionProblem:
        policies = {policy.key for policy in present.resolution.policies_of(fleet.key)}
        endpoints = live_endpoints(fleet, present.snapshot)
        return DivisionProblem(
            fleet=fleet,
            classes=tuple(found for found in demand if found.policy in policies),
            slots={key: sum(slots.values()) for key, slots in endpoints.items()},
            budget_rate=self.budget_rates(policies),
        )

    def budget_rates(self, policies: Iterable[ObjectKey]) -> dict[ObjectKey, float]:
        """Return the USD per second that would use up what is left of each budget.

        A policy without a budget, or whose ledger was not read yet, is absent.
        """
        rates = {policy: self._budget_rate(policy) for policy in policies}
        return {policy: rate for policy, rate in rates.items() if rate is not None}

    def _budget_rate(self, policy: ObjectKey) -> float | None:
        usage = self._market.usage(policy)
        if usage is None:
            return None
        left = max(0.0, usd(usage.limit) - usd(usage.spent))
        return left / max(LEAST_PERIOD, (usage.ends - self._wall_clock()).total_seconds())
