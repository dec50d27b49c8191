"""Stage publish, without an operator: the prices of slots and money, every second.

In: what the sidecar asks for and what is left of the budget. Out: prices, and the USD per second to spend, to
the leader. The program is the operator's and runs off the event loop; a failure leaves the last prices.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import datetime
from typing import NoReturn

from modelfleet_core.demand.forecast import budget_rate
from modelfleet_core.division.problem import DivisionProblem, problem_of
from modelfleet_core.division.result import Division
from modelfleet_core.division.solver import divide
from modelfleet_core.leasing.accounts import BUDGET
from modelfleet_core.values import NanoUsd, usd

from modelfleet_sidecar.standalone.leader import LocalLeader

log = logging.getLogger(__name__)

INTERVAL = 1.0


class Pricing:
    """Prices of one fleet for one sidecar."""

    def __init__(self, leader: LocalLeader, *, wall_clock: Callable[[], datetime]) -> None:
        self._leader = leader
        self._wall_clock = wall_clock
        self._last: Division | None = None
        self._priced: tuple[str, str] = ("", "")
        """Versions of the manifests that `_last` is of."""

    async def run(self) -> NoReturn:
        while True:
            await asyncio.sleep(INTERVAL)
            await self.price()

    async def price(self) -> None:
        """Publish prices for what is asked now; without any demand nothing has a price."""
        leader = self._leader
        declared = leader.declared
        versions = declared.fleet_document.version, declared.policy_document.version
        if versions != self._priced:
            self._last, self._priced = None, versions
        demand = leader.demand()
        if not demand.classes and self._last is None:
            return
        policy = declared.policy.key
        rate = self._budget_rate()
        problem = problem_of(
            declared.fleet, demand, leader.slots(), {policy: rate} if rate is not None else {}
        )
        try:
            found = await asyncio.to_thread(_divide, problem, self._last)
        except Exception:  # prices only rank requests: the lease goes on without new ones
            log.exception("the prices stay as they are")
            return
        if leader.declared is not declared:
            return  # the file was changed meanwhile
        self._last = found if demand.classes else None
        allowances = found.targets.allowances().get(policy, {}) if found.targets is not None else {}
        leader.set_prices(found.slot_prices, found.money_prices.get(policy, 0.0), allowances)

    def _budget_rate(self) -> float | None:
        """Return the USD per second that make the budget last; None: it has none, or it is not read yet."""
        accounts = self._leader.budget()
        purse = accounts.purse(BUDGET) if accounts is not None else None
        budget = self._leader.declared.policy.budget
        if accounts is None or purse is None or budget is None:
            return None
        return budget_rate(usd(NanoUsd(budget.limit - purse.spent)), self._wall_clock(), accounts.period.ends)


def _divide(problem: DivisionProblem, last: Division | None) -> Division:
    return divide(problem, warm=last)
