"""Stage publish, the sidecar's edge: protobuf messages of the lease stream from and to the core's values.

What the leader sends is bounded and checked once here; past this module only core values travel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from modelfleet.v1 import capacity_pb2
from modelfleet_core.estimation.experience import Experience
from modelfleet_core.leasing import bounds
from modelfleet_core.leasing.bounds import WireError
from modelfleet_core.leasing.messages import AccountGrant, Ask, Document, Grant, Report, SlotGrant
from modelfleet_core.values import AccountId, EndpointUrl, VariantKey

MAX_MANIFEST = 1 << 20
MAX_MONEY = (1 << 63) - 1
"""What a report can say: an absurd bill must not keep the rest of it from being said."""
NANO = 1_000_000_000


def grant_from(message: capacity_pb2.LeaseGrant) -> Grant:
    """Return the grant as values, or raise `WireError`."""
    slots: dict[EndpointUrl, SlotGrant] = {}
    for slot in bounds.bounded("slots", message.slots):
        endpoint = EndpointUrl(bounds.text("slots.endpoint", slot.endpoint, bounds.MAX_ENDPOINT))
        if endpoint in slots:
            raise WireError("slots.endpoint", f"{endpoint} is listed twice")
        slots[endpoint] = SlotGrant(
            bounds.variant("slots", slot.model, slot.variant),
            bounds.slots("slots.slots", slot.slots),
            bounds.slots("slots.floor", slot.floor),
        )
    accounts: dict[AccountId, AccountGrant] = {}
    for account in bounds.bounded("accounts", message.accounts):
        accounts[AccountId(bounds.text("accounts.account", account.account))] = AccountGrant(
            granted=bounds.amount("accounts.granted", account.granted),
            keep=bounds.amount("accounts.keep", account.keep),
            limit=bounds.amount("accounts.limit", account.limit),
            ends_in=_seconds("accounts.ends_in_ns", account.ends_in_ns),
            allowance=_price("accounts.allowance", account.allowance)
            if account.HasField("allowance")
            else math.inf,
        )
    return Grant(
        epoch=message.epoch,
        sequence=message.sequence,
        answers=message.answers,
        report_sent_at=message.report_sent_at_ns / NANO,
        ttl=_seconds("ttl_ns", message.ttl_ns),
        slots=slots,
        accounts=accounts,
        slot_prices=_prices(message.prices),
        money_price=_price("money_price", message.money_price),
        fleet=_document("fleet", message.fleet) if message.HasField("fleet") else None,
        policy=_document("policy", message.policy) if message.HasField("policy") else None,
        estimator=_learnt("estimator", message.estimator) if message.HasField("estimator") else None,
        learned=_learnt("learned", message.learned) if message.HasField("learned") else None,
        refusal=message.refusal[: bounds.MAX_TEXT],
        asks={
            bounds.variant("asks", ask.model, ask.variant): Ask(
                weight=_price("asks.weight", ask.weight), price=_finite("asks.price", ask.price)
            )
            for ask in bounds.bounded("asks", message.asks)
        },
        linger={
            bounds.variant("lingers", linger.model, linger.variant): _seconds(
                "lingers.unused_ns", linger.unused_ns
            )
            for linger in bounds.bounded("lingers", message.lingers)
        },
        report_every=_seconds("report_every_ns", message.report_every_ns),
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
        estimator_version=report.estimator_version,
        learned_version=report.learned_version,
    )
    for endpoint, slot in report.slots.items():
        message.slots.add(endpoint=endpoint, in_flight=slot.in_flight, kept=slot.kept)
    for key, account in report.accounts.items():
        need = account.need
        message.accounts.add(
            account=key,
            granted=account.granted,
            spent=min(account.spent, MAX_MONEY),
            reserved=min(account.reserved, MAX_MONEY),
            returned=account.returned,
            need=capacity_pb2.AccountNeed(
                total=min(need.total, MAX_MONEY),
                first=min(need.first, MAX_MONEY),
                weight=need.weight,
                price=need.price,
            )
            if need is not None
            else None,
        )
    for variant, want in report.wants.items():
        told = message.wants.add(model=variant.model, variant=variant.variant, slots=want.slots)
        for bid in want.bids:
            told.bids.add(weight=bid.weight, price=bid.price, slots=bid.slots)
    if report.demand.cells:
        message.demand.models.extend(report.demand.models)
        message.demand.sums.extend(report.demand.sums.ravel())
        for (tier, cluster), arrivals in zip(report.demand.cells, report.demand.arrivals, strict=True):
            message.demand.cells.add(tier=tier, cluster=cluster, arrivals=arrivals)
    if report.experience.models or report.experience.cells:
        _tell(report.experience, message.experience)
    return message


def _tell(experience: Experience, message: capacity_pb2.Experience) -> None:
    message.estimator_version = experience.estimator_version
    for evidence in experience.models:
        message.models.add(
            model=evidence.model,
            moments=evidence.moments,
            products=evidence.products,
            scored=evidence.scored,
        )
    for cell in experience.cells:
        key = cell.key
        message.cells.add(task=key.task, rule=key.rule, model=key.model, group=key.group, sums=cell.sums)


def _seconds(field: str, nanoseconds: int) -> float:
    if nanoseconds < 0:
        raise WireError(field, f"a duration must not be negative, is {nanoseconds} ns")
    return nanoseconds / NANO


def _prices(entries: Sequence[capacity_pb2.VariantPrice]) -> dict[VariantKey, float]:
    return {
        bounds.variant("prices", entry.model, entry.variant): _price("prices.slot_second", entry.slot_second)
        for entry in bounds.bounded("prices", entries)
    }


def _finite(field: str, number: float) -> float:
    if not math.isfinite(number):
        raise WireError(field, f"must be finite, is {number}")
    return number


def _price(field: str, price: float) -> float:
    if not math.isfinite(price) or price < 0:
        raise WireError(field, f"a price must be finite and not negative, is {price}")
    return price


def _learnt(field: str, document: capacity_pb2.Document) -> Document:
    """Return an estimator's document; without a version there is none any more."""
    if not document.version and not document.manifest:
        return Document("", b"")
    return _document(field, document)


def _document(field: str, document: capacity_pb2.Document) -> Document:
    if len(document.manifest) > MAX_MANIFEST:
        raise WireError(f"{field}.manifest", f"{len(document.manifest)} bytes are more than {MAX_MANIFEST}")
    return Document(bounds.text(f"{field}.version", document.version), document.manifest)
