"""Stage publish, the operator's edge: protobuf messages of the lease stream from and to the core's values.

What a sidecar sends is bounded and checked once here; past this module only core values travel.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from modelfleet.v1 import capacity_pb2
from modelfleet_core.demand.sketch import FIGURES, NO_DEMAND, DemandReport
from modelfleet_core.estimation.embedding import EMBEDDING
from modelfleet_core.estimation.experience import (
    Experience,
    ExperienceCell,
    ExperienceKey,
    Figure,
    FloatArray,
    ModelEvidence,
    Scored,
)
from modelfleet_core.leasing import bounds
from modelfleet_core.leasing.bounds import WireError
from modelfleet_core.leasing.holders import Follows
from modelfleet_core.leasing.messages import (
    AccountState,
    Bid,
    Document,
    Grant,
    Need,
    Report,
    SidecarId,
    SlotState,
    Want,
)
from modelfleet_core.values import (
    AccountId,
    EndpointUrl,
    ModelName,
    ObjectKey,
    TaskName,
    TierName,
)

from modelfleet_operator.capacity_views import SidecarView, Slots, Usage

NANO = 1_000_000_000
_MOMENTS = EMBEDDING * (EMBEDDING + 1) // 2


def report_from(message: capacity_pb2.LeaseReport) -> Report:
    """Return the report as values, or raise `WireError`.

    Its experience is read by `experience_from`: what is wrong there must cost no lease.
    """
    identity = message.identity
    return Report(
        sidecar=SidecarId(
            bounds.text("identity.namespace", identity.namespace),
            bounds.text("identity.pod", identity.pod),
            bounds.text("identity.uid", identity.uid),
            bounds.text("identity.boot", identity.boot),
        ),
        epoch=message.epoch,
        sequence=message.sequence,
        applied=message.applied,
        sent_at=message.sent_at_ns / NANO,
        slots=_slots(bounds.bounded("slots", message.slots)),
        accounts={
            AccountId(bounds.text("accounts.account", account.account)): AccountState(
                granted=bounds.amount("accounts.granted", account.granted),
                spent=bounds.amount("accounts.spent", account.spent),
                reserved=bounds.amount("accounts.reserved", account.reserved),
                returned=bounds.amount("accounts.returned", account.returned),
                need=_need(account.need) if account.HasField("need") else None,
            )
            for account in bounds.bounded("accounts", message.accounts)
        },
        wants={
            bounds.variant("wants", want.model, want.variant): Want(
                bounds.slots("wants.slots", want.slots),
                tuple(
                    Bid(
                        weight=_finite("wants.bids.weight", bid.weight),
                        price=_any_finite("wants.bids.price", bid.price),
                        slots=bounds.slots("wants.bids.slots", bid.slots),
                    )
                    for bid in want.bids[: bounds.MAX_BIDS]
                ),
            )
            for want in bounds.bounded("wants", message.wants)
        },
        demand=_demand(message.demand) if message.HasField("demand") else NO_DEMAND,
        fleet_version=message.fleet_version[: bounds.MAX_TEXT],
        policy_version=message.policy_version[: bounds.MAX_TEXT],
        leaving=message.leaving,
        estimator_version=message.estimator_version[: bounds.MAX_TEXT],
        learned_version=message.learned_version[: bounds.MAX_TEXT],
    )


def experience_from(message: capacity_pb2.Experience) -> Experience:
    """Return what a sidecar saw of answers as values, or raise `WireError`."""
    found = Experience(
        message.estimator_version[: bounds.MAX_TEXT],
        tuple(
            ModelEvidence(
                ModelName(bounds.text("experience.models.model", model.model)),
                _sums("experience.models.moments", model.moments, _MOMENTS, signed=True),
                _sums("experience.models.products", model.products, EMBEDDING, signed=True),
                _sums("experience.models.scored", model.scored, len(Scored)),
            )
            for model in bounds.bounded("experience.models", message.models, bounds.MAX_LEARNED_MODELS)
        ),
        tuple(
            ExperienceCell(
                ExperienceKey(
                    TaskName(cell.task[: bounds.MAX_TEXT]),
                    cell.rule[: bounds.MAX_TEXT],
                    ModelName(bounds.text("experience.cells.model", cell.model)),
                    cell.group[: bounds.MAX_TEXT],
                ),
                _sums("experience.cells.sums", cell.sums, len(Figure)),
            )
            for cell in bounds.bounded("experience.cells", message.cells, bounds.MAX_EXPERIENCE_CELLS)
        ),
    )
    for field, names in (
        ("models", [model.model for model in found.models]),
        ("cells", [cell.key for cell in found.cells]),
    ):
        if len(set(names)) < len(names):
            raise WireError(f"experience.{field}", "one is listed twice")
    return found


def _slots(slots: Iterable[capacity_pb2.SlotState]) -> dict[EndpointUrl, SlotState]:
    """Most of a report is this: what is within the bounds is seen without a call for each of its fields."""
    states: dict[EndpointUrl, SlotState] = {}
    for slot in slots:
        endpoint, in_flight, kept = slot.endpoint, slot.in_flight, slot.kept
        if not 0 < len(endpoint) <= bounds.MAX_ENDPOINT:
            bounds.text("slots.endpoint", endpoint, bounds.MAX_ENDPOINT)
        if in_flight > bounds.MAX_SLOTS or kept > bounds.MAX_SLOTS:
            bounds.slots("slots.in_flight", in_flight)
            bounds.slots("slots.kept", kept)
        states[EndpointUrl(endpoint)] = SlotState(in_flight, kept)
    return states


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
        report_every_ns=int(grant.report_every * NANO),
        fleet=_document(grant.fleet),
        policy=_document(grant.policy),
        estimator=_document(grant.estimator),
        learned=_document(grant.learned),
    )
    for endpoint, slot in grant.slots.items():
        message.slots.add(
            model=slot.variant.model,
            variant=slot.variant.variant,
            endpoint=endpoint,
            slots=slot.slots,
            floor=slot.floor,
        )
    for key, account in grant.accounts.items():
        message.accounts.add(
            account=key,
            granted=account.granted,
            keep=account.keep,
            limit=account.limit,
            ends_in_ns=int(account.ends_in * NANO),
            allowance=account.allowance if math.isfinite(account.allowance) else None,
        )
    for variant, price in grant.slot_prices.items():
        message.prices.add(model=variant.model, variant=variant.variant, slot_second=price)
    for variant, ask in grant.asks.items():
        message.asks.add(model=variant.model, variant=variant.variant, weight=ask.weight, price=ask.price)
    for variant, unused in grant.linger.items():
        message.lingers.add(model=variant.model, variant=variant.variant, unused_ns=int(unused * NANO))
    return message


def greeting(epoch: int) -> capacity_pb2.LeaseGrant:
    """Return the first message of a stream: the epoch to adopt before reporting."""
    return capacity_pb2.LeaseGrant(epoch=epoch)


def snapshot_to(
    epoch: int,
    sidecars: Iterable[SidecarView],
    live: Slots,
    held: Slots,
    usages: Mapping[ObjectKey, Usage | None],
) -> capacity_pb2.SnapshotResponse:
    """Return the leader's view as a protobuf message; `held` has the places of `live`."""
    response = capacity_pb2.SnapshotResponse(epoch=epoch)
    for view in sidecars:
        sidecar = response.sidecars.add(
            identity=_identity(view.id),
            policy=str(view.follows.policy) if isinstance(view.follows, Follows) else "",
            report_age_seconds=view.report_age,
        )
        for endpoint, state in view.slots.items():
            sidecar.slots.add(endpoint=endpoint, in_flight=state.in_flight, kept=state.kept)
    for fleet, variants in live.items():
        for variant, endpoints in variants.items():
            for endpoint, slots in endpoints.items():
                response.endpoints.add(
                    fleet=str(fleet),
                    model=variant.model,
                    variant=variant.variant,
                    endpoint=endpoint,
                    slots=slots,
                    held=held[fleet][variant][endpoint],
                )
    for policy, usage in usages.items():
        if usage is not None:
            response.ledgers.add(
                policy=str(policy),
                period=usage.period,
                limit=usage.limit,
                granted=usage.granted,
                spent=usage.spent,
            )
    return response


def _identity(sidecar: SidecarId) -> capacity_pb2.Identity:
    return capacity_pb2.Identity(
        namespace=sidecar.namespace, pod=sidecar.pod, uid=sidecar.uid, boot=sidecar.boot
    )


def _document(document: Document | None) -> capacity_pb2.Document | None:
    if document is None:
        return None
    return capacity_pb2.Document(version=document.version, manifest=document.manifest)


def _need(message: capacity_pb2.AccountNeed) -> Need | None:
    need = Need(
        total=bounds.amount("accounts.need.total", message.total),
        first=bounds.amount("accounts.need.first", message.first),
        weight=_finite("accounts.need.weight", message.weight),
        price=_any_finite("accounts.need.price", message.price),
    )
    return need if 0 < need.first <= need.total else None


def _demand(message: capacity_pb2.Demand) -> DemandReport:
    models = tuple(
        ModelName(bounds.text("demand.models", model))
        for model in bounds.bounded("demand.models", message.models, bounds.MAX_MODELS)
    )
    cells = tuple(
        (TierName(cell.tier[: bounds.MAX_TEXT]), TaskName(cell.cluster[: bounds.MAX_TEXT]))
        for cell in bounds.bounded("demand.cells", message.cells, bounds.MAX_CELLS)
    )
    for field, names in (("models", models), ("cells", cells)):
        if len(set(names)) < len(names):
            raise WireError(f"demand.{field}", "one is listed twice")
    arrivals = np.array([cell.arrivals for cell in message.cells], dtype=np.float64)
    size = len(cells) * len(models) * FIGURES
    if len(message.sums) != size:
        raise WireError("demand.sums", f"{len(message.sums)} figures where {size} are due")
    sums = np.array(message.sums, dtype=np.float64)
    for field, figures in (("cells.arrivals", arrivals), ("sums", sums)):
        if not ((figures >= 0.0) & (figures <= bounds.MAX_SUM)).all():
            raise WireError(f"demand.{field}", f"must be from 0 to {bounds.MAX_SUM:g}")
    return DemandReport(models, cells, arrivals, sums.reshape(len(cells), len(models), FIGURES))


def _sums(field: str, figures: Sequence[float], size: int, *, signed: bool = False) -> FloatArray:
    if len(figures) != size:
        raise WireError(field, f"{len(figures)} figures where {size} are due")
    sums = np.array(figures, dtype=np.float64)
    if not ((sums >= (-bounds.MAX_SUM if signed else 0.0)) & (sums <= bounds.MAX_SUM)).all():
        least = f"-{bounds.MAX_SUM:g}" if signed else "0"
        raise WireError(field, f"must be from {least} to {bounds.MAX_SUM:g}")
    return sums


def _any_finite(field: str, number: float) -> float:
    if not math.isfinite(number):
        raise WireError(field, f"must be finite, is {number}")
    return number


def _finite(field: str, number: float) -> float:
    if not math.isfinite(number) or number < 0:
        raise WireError(field, f"must be finite and not negative, is {number}")
    return number
