"""Stage status: what users see of their policies.

In: `World` and the money that the capacity service accounts for. Out: the status of every RoutingPolicy, at
every change and every few seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import NoReturn, Protocol

from modelfleet_core.leasing.accounts import accounts_of
from modelfleet_core.leasing.holders import Follows
from modelfleet_core.leasing.ledger import budget_period
from modelfleet_core.policy import Period, Policy
from modelfleet_core.values import ObjectKey, PeriodId, usd

from modelfleet_operator.capacity_views import SidecarView, Usage
from modelfleet_operator.cluster import ClusterError
from modelfleet_operator.conditions import Condition, no, unknown, yes
from modelfleet_operator.figures import Figures, PolicyFigures
from modelfleet_operator.health import Health
from modelfleet_operator.insight import (
    ESTIMATOR_READY,
    estimator_body,
    estimator_condition,
    groups_body,
    learning_figures,
    suggestions_body,
    traffic_body,
)
from modelfleet_operator.judgement import judge_body, judgement
from modelfleet_operator.learning import LearningView
from modelfleet_operator.ledger_records import long_over
from modelfleet_operator.spec import ResolvedPolicy
from modelfleet_operator.status import StatusWriter, timestamp
from modelfleet_operator.world import Present, World

log = logging.getLogger(__name__)

INTERVAL = 2.0
LATE = 60.0
SUGGEST_EVERY = timedelta(minutes=1)
NEARLY = 0.01
"""Part of the limit that is too little to serve requests in general."""


class Accounts(Protocol):
    """What this module asks of the capacity service."""

    def usage(self, policy: ObjectKey) -> Usage | None: ...
    def judge_usage(self, policy: ObjectKey) -> Usage | None: ...
    def sidecars(self) -> tuple[SidecarView, ...]: ...


class Known(Protocol):
    """What this module asks of the stage that learns."""

    def view(self, policy: ObjectKey) -> LearningView | None: ...


Suggested = Sequence[Mapping[str, object]]
"""As `status.suggestions` holds them."""


def policy_conditions(
    resolved: ResolvedPolicy, usage: Usage | None, known: LearningView | None
) -> tuple[Condition, ...]:
    accepted, refs = resolved.accepted, resolved.resolved_refs
    policy = resolved.policy
    if policy is None:
        failed = accepted
        programmed = no("Programmed", failed.reason, failed.message)
    elif not refs.holds:
        failed = refs
        programmed = no("Programmed", failed.reason, failed.message)
    else:
        failed = accepted
        programmed = yes("Programmed", "Published", "sidecars get this policy with their leases")
    money = _within_budget(policy, usage)
    first = next((c for c in (accepted, refs, programmed, money) if not c.holds), None)
    ready = (
        yes("Ready", "Ready", "the policy is in force")
        if first is None
        else no("Ready", first.reason, first.message)
    )
    estimator = (
        estimator_condition(policy, known)
        if policy is not None
        else unknown(ESTIMATOR_READY, "NotAccepted", "the policy is not accepted")
    )
    return (accepted, refs, programmed, estimator, money, ready)


def _within_budget(policy: Policy | None, usage: Usage | None) -> Condition:
    if policy is None:
        return unknown("WithinBudget", "NotAccepted", "the policy is not accepted")
    if policy.budget is None:
        return yes("WithinBudget", "NoBudget", "no budget is set: spend is counted but not limited")
    if usage is None:
        return unknown("WithinBudget", "LedgerNotOpen", "the ledger of this period is not open yet")
    left = usage.limit - usage.spent
    if left <= NEARLY * usage.limit:
        message = (
            f"{_usd(usage.spent)} of {_usd(usage.limit)} USD are spent: requests are refused until "
            f"{timestamp(usage.ends)}; raise spec.budget.limit to go on before"
        )
        return no("WithinBudget", "Exhausted", message)
    return yes("WithinBudget", "WithinBudget", "money is left in this period")


def policy_body(
    usage: Usage | None,
    sidecars: int,
    policy: Policy | None,
    known: LearningView | None,
    suggested: Suggested,
    judge_usage: Usage | None = None,
) -> dict[str, object]:
    """Return the status apart from conditions."""
    body: dict[str, object] = {"sidecars": sidecars}
    if suggested:
        body["suggestions"] = suggested
    if policy is not None and known is not None:
        body["estimator"] = estimator_body(known)
        body["traffic"] = traffic_body(known.cells)
        if groups := groups_body(policy, known.cells):
            body["groups"] = groups
        if policy.judge is not None:
            body["judge"] = judge_body(judgement(known.cells)) | _judge_money(judge_usage)
    if usage is not None:
        body["budget"] = {
            "periodStart": timestamp(usage.starts),
            "limit": _usd(usage.limit),
            "granted": _usd(usage.granted),
            "spent": _usd(usage.spent),
            "resetsAt": timestamp(usage.ends),
        }
    return body


def _judge_money(usage: Usage | None) -> dict[str, object]:
    if usage is None:
        return {}
    return {"limit": _usd(usage.limit), "spent": _usd(usage.spent), "resetsAt": timestamp(usage.ends)}


def _usd(amount: int) -> str:
    """Return nano-USD as an exact decimal text."""
    whole, rest = divmod(amount, 10**9)
    return f"{whole}.{rest:09d}".rstrip("0").rstrip(".")


class Archive(Protocol):
    """Where old ledgers are deleted. May raise `ClusterError`."""

    async def delete(self, policy: ObjectKey, period: PeriodId) -> None: ...


class Policies:
    """Writes the status of every policy, and deletes its old ledgers."""

    def __init__(
        self,
        *,
        world: World,
        accounts: Accounts,
        learning: Known,
        archive: Archive,
        writer: StatusWriter[Policy],
        figures: Figures,
        health: Health,
        wall_clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._world = world
        self._accounts = accounts
        self._learning = learning
        self._writer = writer
        self._figures = figures
        self._health = health
        self._archive = archive
        self._wall_clock = wall_clock
        self._suggested: dict[ObjectKey, tuple[datetime, Suggested]] = {}
        self._tidied: dict[tuple[ObjectKey, Period], PeriodId] = {}

    async def run(self) -> NoReturn:
        while True:
            self._health.beat("policies", within=LATE)
            present = self._world.now()
            await self.write(present)
            try:
                async with asyncio.timeout(INTERVAL):
                    await self._world.change(present.version)
            except TimeoutError:
                pass  # money is spent without any event

    async def write(self, present: Present) -> None:
        counts: dict[ObjectKey, int] = {}
        for view in self._accounts.sidecars():
            if isinstance(view.follows, Follows) and view.connected:
                counts[view.follows.policy] = counts.get(view.follows.policy, 0) + 1
        for gone in self._figures.policies.keys() - present.snapshot.policies.keys():
            del self._figures.policies[gone]
            for length in Period:
                self._tidied.pop((gone, length), None)
            self._suggested.pop(gone, None)
            self._writer.forget(gone)
        for key, declared in present.snapshot.policies.items():
            resolved = present.resolution.policies[key]
            usage = self._accounts.usage(key)
            known = self._learning.view(key)
            conditions = policy_conditions(resolved, usage, known)
            suggested = await self._suggest(key, resolved.policy, present, known)
            judge_usage = self._accounts.judge_usage(key)
            body = policy_body(usage, counts.get(key, 0), resolved.policy, known, suggested, judge_usage)
            self._figures.policies[key] = PolicyFigures(
                limit=usd(usage.limit) if usage is not None else None,
                granted=usd(usage.granted) if usage is not None else 0.0,
                spent=usd(usage.spent) if usage is not None else 0.0,
                sidecars=counts.get(key, 0),
                ready=conditions[-1].holds,
                learning=learning_figures(known) if known is not None else None,
            )
            try:
                await self._writer.write(declared, body, conditions)
                await self._tidy(key, resolved.policy)
            except ClusterError as error:
                log.warning("RoutingPolicy %s: status or ledgers not written, trying again: %s", key, error)

    async def _suggest(
        self, key: ObjectKey, policy: Policy | None, present: Present, known: LearningView | None
    ) -> Suggested:
        """Return what may be worth a change; looked for once in a while, beside the loop of the leases."""
        fleet = present.resolution.fleets.get(policy.fleet) if policy is not None else None
        if policy is None or known is None or fleet is None or fleet.fleet is None:
            self._suggested.pop(key, None)
            return ()
        at, found = self._suggested.get(key, (None, ()))
        now = self._wall_clock()
        if at is None or abs(now - at) >= SUGGEST_EVERY:
            found = await asyncio.to_thread(suggestions_body, policy, fleet.fleet, known.cells)
            self._suggested[key] = now, found
        return found

    async def _tidy(self, key: ObjectKey, policy: Policy | None) -> None:
        """Delete the ledgers of periods that are long over, once in each period."""
        at = self._wall_clock()
        for length in {account.period for account in accounts_of(policy)} if policy is not None else ():
            present = budget_period(key, length, at)
            if self._tidied.get((key, length)) != present.id:
                for period in long_over(key, length, present.starts):
                    await self._archive.delete(key, period)
                self._tidied[key, length] = present.id
