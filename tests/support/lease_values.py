"""Builders of grants, reports and lease books with as few words as a test needs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

from modelfleet_core.demand.sketch import NO_DEMAND
from modelfleet_core.leasing.accounts import BUDGET
from modelfleet_core.leasing.grants import Documents, LeaseBook
from modelfleet_core.leasing.holders import Follows
from modelfleet_core.leasing.messages import (
    AccountGrant,
    AccountState,
    Ask,
    Grant,
    Report,
    SidecarId,
    SlotGrant,
    SlotState,
    Want,
)
from modelfleet_core.manifests import document, parse_policy
from modelfleet_core.values import (
    AccountId,
    EndpointUrl,
    ModelName,
    NanoUsd,
    ObjectKey,
    PeriodId,
    VariantKey,
    account_id,
)

from support.manifests import fleet_manifest, policy_manifest

FLEET = ObjectKey("ml", "chat")
POLICY = ObjectKey("ml", "assistant")
LARGE = VariantKey(ModelName("large"), "h100")
POD_A = EndpointUrl("http://10.0.0.1:8000")
POD_B = EndpointUrl("http://10.0.0.2:8000")
ONE = SidecarId("ml", "one", "uid-one", "1")
TWO = SidecarId("ml", "two", "uid-two", "1")
DAY = PeriodId("ml/assistant/Day/2026-11-25")
TODAY = account_id(DAY, BUDGET)
YESTERDAY = account_id(PeriodId("ml/assistant/Day/2026-11-24"), BUDGET)
AT = datetime(2026, 11, 25, 12, tzinfo=UTC)
TTL = 30.0
LONGEST = 120.0
LIMIT = NanoUsd(60 * 10**9)


def money(granted: int, *, keep: int = 10**12, ends_in: float = 1000.0) -> AccountGrant:
    return AccountGrant(granted, keep, LIMIT, ends_in)


def grant(
    sequence: int,
    slots: Mapping[EndpointUrl, int] | None = None,
    accounts: Mapping[AccountId, AccountGrant] | None = None,
    *,
    epoch: int = 1,
    sent_at: float = 0.0,
    floors: Mapping[EndpointUrl, int] | None = None,
    variants: Mapping[EndpointUrl, VariantKey] | None = None,
    asks: Mapping[VariantKey, Ask] | None = None,
    linger: Mapping[VariantKey, float] | None = None,
) -> Grant:
    return Grant(
        epoch=epoch,
        sequence=sequence,
        answers=1,
        report_sent_at=sent_at,
        ttl=TTL,
        slots={
            endpoint: SlotGrant((variants or {}).get(endpoint, LARGE), count, (floors or {}).get(endpoint, 0))
            for endpoint, count in (slots or {}).items()
        },
        accounts=accounts or {},
        slot_prices={},
        money_price=0.0,
        fleet=None,
        policy=None,
        refusal="",
        asks=asks or {},
        linger=linger or {},
    )


def report(
    sidecar: SidecarId,
    sequence: int,
    kept: Mapping[EndpointUrl, int] | None = None,
    *,
    epoch: int = 1,
    applied: int = 0,
    wants: int = 0,
    accounts: Mapping[AccountId, AccountState] | None = None,
    leaving: bool = False,
    versions: tuple[str, str] = ("", ""),
    estimators: tuple[str, str] = ("", ""),
) -> Report:
    return Report(
        sidecar=sidecar,
        epoch=epoch,
        sequence=sequence,
        applied=applied,
        sent_at=float(sequence),
        slots={endpoint: SlotState(0, count) for endpoint, count in (kept or {}).items()},
        accounts=accounts or {},
        wants={LARGE: Want(wants)},
        demand=NO_DEMAND,
        fleet_version=versions[0],
        policy_version=versions[1],
        leaving=leaving,
        estimator_version=estimators[0],
        learned_version=estimators[1],
    )


def lease_book(
    slots: Mapping[EndpointUrl, int],
    *,
    epoch: int = 1,
    may_hold: tuple[str, ...] | None = (),
    budget: bool = False,
) -> LeaseBook:
    book = LeaseBook(epoch=epoch, ttl=TTL, now=0.0, may_hold=may_hold)
    manifest = policy_manifest()
    manifest["spec"]["budget"] = {"limit": "60", "period": "Day", "enforcement": "Hard"}
    if not budget:
        del manifest["spec"]["budget"]
    fleet = document(fleet_manifest())
    book.set_documents(Documents({FLEET: fleet}, {POLICY: (parse_policy(manifest), document(manifest))}))
    book.set_capacity({FLEET: {LARGE: dict(slots)}})
    return book


def hear(book: LeaseBook, said: Report, now: float) -> bool:
    """Let the book hear a sidecar that follows the policy."""
    heard = book.hear(said, now)
    if heard:
        book.follow(said.sidecar, Follows(POLICY, FLEET))
    return heard


def granted(book: LeaseBook, now: float) -> dict[SidecarId, Grant]:
    """Return what a turn grants to all sidecars."""
    return dict(book.turn(now, [holder.id for holder in book.holders()]))
