"""Stage spec, for leases: the accounts of a policy, and which of them a request charges.

In comes a policy; out go its accounts. The sidecar reserves in all that cover a request, or in none; the
operator keeps each in the ledger, fleet-wide.

    budget                    nano-USD, all requests
    share:<models>            nano-USD, requests to these models; a part of the budget's limit
    tenant:<name>             nano-USD, requests of this tenant; a part of the budget's limit
    quota:<period>:<models>   requests sent to these models in an hour, day, week or month
    judge                     nano-USD, what the policy's judge asks its model; no part of the budget

A judge's requests charge `judge` instead of budget, shares and tenants, and users' requests never do. Quotas
cap what a model is sent, whoever asks it.

Names rest on what an account is for and not on its limit or place in the manifest, so that an edited limit
keeps what was charged before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from enum import Enum

from modelfleet_core.policy import Period, Policy
from modelfleet_core.values import AccountName, ModelName, NanoUsd

BUDGET = AccountName("budget")
JUDGE = AccountName("judge")
_QUOTA = "quota:"
_LONGEST = 160
"""Letters of an account's name; longer lists of models are told apart by a hash."""


class Unit(Enum):
    MONEY = "nano-USD"
    REQUESTS = "requests"


@dataclass(frozen=True, slots=True)
class Account:
    """What may be charged in one period, over all sidecars."""

    name: AccountName
    unit: Unit
    limit: int
    period: Period
    models: frozenset[ModelName] | None = None
    """None: all."""
    tenant: str | None = None
    """None: requests of anybody."""

    def covers(self, model: ModelName, tenant: str | None, *, judging: bool = False) -> bool:
        """Return whether a request to `model` of a declared tenant (None: of nobody declared) charges it;
        `judging`: one of the judge, not of a user."""
        if self.unit is Unit.MONEY and (self.name == JUDGE) is not judging:
            return False
        return (self.models is None or model in self.models) and self.tenant in (None, tenant)


def accounts_of(policy: Policy) -> tuple[Account, ...]:
    """Return the accounts of `policy`; none if it limits nothing."""
    accounts: list[Account] = []
    budget = policy.budget
    if budget is not None:
        accounts.append(Account(BUDGET, Unit.MONEY, budget.limit, budget.period))
        for share in budget.shares:
            limit = _part(budget.limit, share.fraction)
            name = _named("share:", share.models)
            accounts.append(Account(name, Unit.MONEY, limit, budget.period, models=share.models))
        for tenant in policy.tenants.declared if policy.tenants is not None else ():
            limit = _part(budget.limit, tenant.fraction)
            name = AccountName(f"tenant:{tenant.name}")
            accounts.append(Account(name, Unit.MONEY, limit, budget.period, tenant=tenant.name))
    for quota in policy.quotas:
        name = _named(f"{_QUOTA}{quota.period.value}:", quota.models)
        accounts.append(Account(name, Unit.REQUESTS, quota.requests, quota.period, models=quota.models))
    judge = policy.judge
    if judge is not None and judge.model is not None:
        accounts.append(Account(JUDGE, Unit.MONEY, judge.limit, judge.period))
    return tuple(accounts)


def charges(
    accounts: Iterable[Account],
    model: ModelName,
    tenant: str | None,
    reserve: NanoUsd,
    *,
    judging: bool = False,
) -> dict[AccountName, int]:
    """Return what a request that may cost `reserve` reserves in each account that covers it; `judging`: one
    of the judge, not of a user."""
    return {
        account.name: reserve if account.unit is Unit.MONEY else 1
        for account in accounts
        if account.covers(model, tenant, judging=judging)
    }


def counts_requests(account: AccountName) -> bool:
    """Return whether the account is a quota: what is charged there is a request, whatever it cost."""
    return account.startswith(_QUOTA)


def _part(limit: NanoUsd, fraction: Decimal) -> int:
    return int((limit * fraction).to_integral_value(rounding=ROUND_FLOOR))


def _named(kind: str, models: frozenset[ModelName]) -> AccountName:
    listed = ",".join(sorted(models))
    if len(listed) > _LONGEST:
        listed = f"{listed[:_LONGEST]}...{hashlib.sha256(listed.encode()).hexdigest()[:16]}"
    return AccountName(kind + listed)
