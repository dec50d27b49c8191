"""Stage publish, the operator's edge: protobuf messages of the lease stream from and to the core's values.

What a sidecar sends is bounded and checked once here; past this module only core values travel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from modelfleet.v1 import capacity_pb2
from modelfleet_core.demand import ModelOffer
from modelfleet_core.leasing.messages import (
    AccountState,
    ClassDemand,
    Document,
    Grant,
    Report,
    SidecarId,
    SlotState,
)
from modelfleet_core.values import (
    EndpointUrl,
    ModelName,
    NanoUsd,
    PeriodId,
    TaskName,
    TierName,
    VariantKey,
)

MAX_ENTRIES = 10_000
MAX_TEXT = 1_024
MAX_ENDPOINT = 4_096
MAX_SLOTS = 1 << 20
NANO = 1_000_000_000

T = TypeVar("T")


class WireError(ValueError):
    """A message that breaks the protocol's bounds; `field` names the place."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}; operator and sidecar must be of compatible versions")
        self.field = field


def report_from(message: capacity_pb2.LeaseReport) -> Report:
    """Return the report as values, or raise `WireError`."""
    identity = message.identity
    demand: dict[tuple[TierName, TaskName], ClassDemand] = {}
    for entry in _bounded("demand", message.demand):
        key = TierName(_text("demand.tier", entry.tier)), TaskName(entry.task[:MAX_TEXT])
        demand[key] = ClassDemand(
            _finite("demand.arrivals", entry.arrivals),
            {
                ModelName(_text("demand.models.model", offer.model)): ModelOffer(
                    quality=_finite("demand.models.quality", offer.quality),
                    cost_usd=_finite("demand.models.cost_usd", offer.cost_usd),
                    service_time=_finite("demand.models.service_seconds", offer.service_seconds),
                )
                for offer in _bounded("demand.models", entry.models)
            },
        )
    return Report(
        sidecar=SidecarId(
            _text("identity.namespace", identity.namespace),
            _text("identity.pod", identity.pod),
            _text("identity.uid", identity.uid),
            _text("identity.boot", identity.boot),
        ),
        epoch=message.epoch,
        sequence=message.sequence,
        applied=message.applied,
        sent_at=message.sent_at_ns / NANO,
        slots={
            EndpointUrl(_text("slots.endpoint", slot.endpoint, MAX_ENDPOINT)): SlotState(
                _slots("slots.in_flight", slot.in_flight), _slots("slots.kept", slot.kept)
            )
            for slot in _bounded("slots", message.slots)
        },
        accounts={
            PeriodId(_text("accounts.period", account.period)): AccountState(
                granted=_money("accounts.granted", account.granted),
                spent=_money("accounts.spent", account.spent),
                reserved=_money("accounts.reserved", account.reserved),
                returned=_money("accounts.returned", account.returned),
                wanted=_money("accounts.wanted", account.wanted),
            )
            for account in _bounded("accounts", message.accounts)
        },
        wants={
            VariantKey(ModelName(_text("wants.model", want.model)), _text("wants.variant", want.variant)): (
                _slots("wants.slots", want.slots)
            )
            for want in _bounded("wants", message.wants)
        },
        demand=demand,
        fleet_version=message.fleet_version[:MAX_TEXT],
        policy_version=message.policy_version[:MAX_TEXT],
        leaving=message.leaving,
    )


def grant_to(grant: Grant) -> capacity_pb2.LeaseGrant:
    """Return the grant as a protobuf message."""
    message = capacity_pb2.LeaseGrant(
        epoch=grant.epoch,
        sequence=grant.sequence,
        answers=grant.answers,
        report_sent_at_ns=int(grant.report_sent_at * NANO),
        ttl_ns=int(grant.ttl * NANO),
        money_price=grant.money_price,
        refusal=grant.refusal,
        fleet=_document(grant.fleet),
        policy=_document(grant.policy),
    )
    for endpoint, slot in grant.slots.items():
        message.slots.add(
            model=slot.variant.model, variant=slot.variant.variant, endpoint=endpoint, slots=slot.slots
        )
    for period, account in grant.accounts.items():
        message.accounts.add(
            period=period,
            granted=account.granted,
            keep=account.keep,
            limit=account.limit,
            ends_in_ns=int(account.ends_in * NANO),
        )
    for variant, price in grant.slot_prices.items():
        message.prices.add(model=variant.model, variant=variant.variant, slot_second=price)
    return message


def greeting(epoch: int) -> capacity_pb2.LeaseGrant:
    """Return the first message of a stream: the epoch to adopt before reporting."""
    return capacity_pb2.LeaseGrant(epoch=epoch)


def identity_to(sidecar: SidecarId) -> capacity_pb2.Identity:
    return capacity_pb2.Identity(
        namespace=sidecar.namespace, pod=sidecar.pod, uid=sidecar.uid, boot=sidecar.boot
    )


def _document(document: Document | None) -> capacity_pb2.Document | None:
    if document is None:
        return None
    return capacity_pb2.Document(version=document.version, manifest=document.manifest)


def _bounded(field: str, entries: Sequence[T]) -> Sequence[T]:
    if len(entries) > MAX_ENTRIES:
        raise WireError(field, f"{len(entries)} entries are more than {MAX_ENTRIES}")
    return entries


def _text(field: str, text: str, most: int = MAX_TEXT) -> str:
    if not 0 < len(text) <= most:
        raise WireError(field, f"must have 1 to {most} characters, has {len(text)}")
    return text


def _slots(field: str, slots: int) -> int:
    if slots > MAX_SLOTS:
        raise WireError(field, f"{slots} slots are more than {MAX_SLOTS}")
    return slots


def _money(field: str, amount: int) -> NanoUsd:
    if amount < 0:
        raise WireError(field, f"money must not be negative, is {amount}")
    return NanoUsd(amount)


def _finite(field: str, number: float) -> float:
    if not math.isfinite(number) or number < 0:
        raise WireError(field, f"must be finite and not negative, is {number}")
    return number
