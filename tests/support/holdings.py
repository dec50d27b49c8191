"""A sidecar's holding with what a test grants, without a leader."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal

from modelfleet_core.leasing.accounts import BUDGET
from modelfleet_core.leasing.holding import Holding
from modelfleet_core.leasing.messages import AccountGrant, Grant, SidecarId, SlotGrant
from modelfleet_core.values import EndpointUrl, PeriodId, VariantKey, account_id, nano_usd

PERIOD = PeriodId("ml/assistant/Day/2026-11-22")


def endpoint_of(variant: VariantKey) -> EndpointUrl:
    return EndpointUrl(f"http://{variant.model}.{variant.variant}:8000")


def granted(
    slots: Mapping[VariantKey, int],
    *,
    money: float | None = None,
    allowance: float = math.inf,
    ends_in: float = 3600.0,
    ttl: float = 1e6,
    into: Holding | None = None,
    now: float = 0.0,
) -> Holding:
    """Return a holding (`into`: that one) with these slots at one endpoint each and in all `money` USD."""
    holding = into if into is not None else Holding(SidecarId("ml", "app-0", "uid-0", "boot"))
    accounts = {}
    if money is not None:
        amount = nano_usd(Decimal(repr(money)))
        accounts[account_id(PERIOD, BUDGET)] = AccountGrant(amount, amount, amount, ends_in, allowance)
    applied = holding.apply(
        Grant(
            epoch=holding.epoch,
            sequence=holding.applied + 1,
            answers=0,
            report_sent_at=now,
            ttl=ttl,
            slots={endpoint_of(variant): SlotGrant(variant, count) for variant, count in slots.items()},
            accounts=accounts,
            slot_prices={},
            money_price=0.0,
            fleet=None,
            policy=None,
            refusal="",
        ),
        now,
    )
    assert applied
    return holding
