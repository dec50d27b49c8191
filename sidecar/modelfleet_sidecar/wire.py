"""Stage publish, the sidecar's edge: protobuf messages of the lease stream from and to the core's values.

What the leader sends is bounded and checked once here; past this module only core values travel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from modelfleet.v1 import capacity_pb2
from modelfleet_core.leasing.messages import AccountGrant, Document, Grant, Report, SlotGrant
from modelfleet_core.values import EndpointUrl, ModelName, NanoUsd, PeriodId, VariantKey

MAX_ENTRIES = 10_000
MAX_TEXT = 1_024
MAX_ENDPOINT = 4_096
MAX_MANIFEST = 1 << 20
MAX_SLOTS = 1 << 20
MAX_MONEY = (1 << 63) - 1
"""What a report can say: an absurd bill must not keep the rest of it from being said."""
NANO = 1_000_000_000

T = TypeVar("T")


class WireError(ValueError):
    """A message that breaks the protocol's bounds; `field` names the place."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}; operator and sidecar must be of compatible versions")
        self.field = field


def grant_from(message: capacity_pb2.LeaseGrant) -> Grant:
    """Return the grant as values, or raise `WireError`."""
    slots: dict[EndpointUrl, SlotGrant] = {}
    for slot in _bounded("slots", message.slots):
        endpoint = EndpointUrl(_text("slots.endpoint", slot.endpoint, MAX_ENDPOINT))
        if endpoint in slots:
            raise WireError("slots.endpoint", f"{endpoint} is listed twice")
        if slot.slots > MAX_SLOTS:
            raise WireError("slots.slots", f"{slot.slots} is above {MAX_SLOTS}")
        slots[endpoint] = SlotGrant(_variant("slots", slot.model, slot.variant), slot.slots)
    accounts: dict[PeriodId, AccountGrant] = {}
    for account in _bounded("accounts", message.accounts):
        accounts[PeriodId(_text("accounts.period", account.period))] = AccountGrant(
            granted=_money("accounts.granted", account.granted),
            keep=_money("accounts.keep", account.keep),
            limit=_money("accounts.limit", account.limit),
            ends_in=_seconds("accounts.ends_in_ns", account.ends_in_ns),
        )
    return Grant(
        epoch=message.epoch,
        sequence=message.sequence,
        answers=message.answers,
        report_sent_at=message.report_sent_at_ns / NANO,
        ttl=_seconds("ttl_ns", message.ttl_ns),
        slots=slots,
        accounts=accounts,
        slot_prices={
            _variant("prices", price.model, price.variant): _price("prices.slot_second", price.slot_second)
            for price in _bounded("prices", message.prices)
        },
        money_price=_price("money_price", message.money_price),
        fleet=_document("fleet", message.fleet) if message.HasField("fleet") else None,
        policy=_document("policy", message.policy) if message.HasField("policy") else None,
        refusal=message.refusal[:MAX_TEXT],
    )


def report_to(report: Report) -> capacity_pb2.LeaseReport:
    """Return the report as a protobuf message."""
    message = capacity_pb2.LeaseReport(
        identity=capacity_pb2.Identity(
            namespace=report.sidecar.namespace,
            pod=report.sidecar.pod,
            uid=report.sidecar.uid,
            boot=report.sidecar.boot,
        ),
        epoch=report.epoch,
        sequence=report.sequence,
        applied=report.applied,
        sent_at_ns=int(report.sent_at * NANO),
        fleet_version=report.fleet_version,
        policy_version=report.policy_version,
        leaving=report.leaving,
    )
    for endpoint, slot in report.slots.items():
        message.slots.add(endpoint=endpoint, in_flight=slot.in_flight, kept=slot.kept)
    for period, account in report.accounts.items():
        message.accounts.add(
            period=period,
            granted=account.granted,
            spent=min(account.spent, MAX_MONEY),
            reserved=min(account.reserved, MAX_MONEY),
            returned=account.returned,
            wanted=min(account.wanted, MAX_MONEY),
        )
    for variant, slots in report.wants.items():
        message.wants.add(model=variant.model, variant=variant.variant, slots=slots)
    for (tier, task), demand in report.demand.items():
        entry = message.demand.add(tier=tier, task=task, arrivals=demand.arrivals)
        for model, offer in demand.offers.items():
            entry.models.add(
                model=model,
                quality=offer.quality,
                cost_usd=offer.cost_usd,
                service_seconds=offer.service_time,
            )
    return message


def _bounded(field: str, entries: Sequence[T]) -> Sequence[T]:
    if len(entries) > MAX_ENTRIES:
        raise WireError(field, f"{len(entries)} entries are more than {MAX_ENTRIES}")
    return entries


def _text(field: str, text: str, most: int = MAX_TEXT) -> str:
    if not 0 < len(text) <= most:
        raise WireError(field, f"must have 1 to {most} characters, has {len(text)}")
    return text


def _variant(field: str, model: str, variant: str) -> VariantKey:
    return VariantKey(ModelName(_text(f"{field}.model", model)), _text(f"{field}.variant", variant))


def _money(field: str, amount: int) -> NanoUsd:
    if amount < 0:
        raise WireError(field, f"money must not be negative, is {amount}")
    return NanoUsd(amount)


def _seconds(field: str, nanoseconds: int) -> float:
    if nanoseconds < 0:
        raise WireError(field, f"a duration must not be negative, is {nanoseconds} ns")
    return nanoseconds / NANO


def _price(field: str, price: float) -> float:
    if not math.isfinite(price) or price < 0:
        raise WireError(field, f"a price must be finite and not negative, is {price}")
    return price


def _document(field: str, document: capacity_pb2.Document) -> Document:
    if len(document.manifest) > MAX_MANIFEST:
        raise WireError(f"{field}.manifest", f"{len(document.manifest)} bytes are more than {MAX_MANIFEST}")
    return Document(_text(f"{field}.version", document.version), document.manifest)
