"""A policy's status tells whether it is in force, what its money does, and tidies up behind itself."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from modelfleet_core.estimation.drift import Standing, Verdict
from modelfleet_core.leasing.estimators import NO_DOCUMENT
from modelfleet_core.leasing.holders import Follows
from modelfleet_core.leasing.ledger import budget_period
from modelfleet_core.leasing.messages import SidecarId
from modelfleet_core.policy import Period, Policy
from modelfleet_core.values import NanoUsd, ObjectKey, PeriodId
from modelfleet_operator.capacity_views import SidecarView, Usage
from modelfleet_operator.cluster import Kind
from modelfleet_operator.cluster.embedded import EmbeddedCluster
from modelfleet_operator.cluster.fields import items, mapping
from modelfleet_operator.estimators import Base
from modelfleet_operator.figures import Figures
from modelfleet_operator.health import Health
from modelfleet_operator.learning import LearningView
from modelfleet_operator.policies import Policies, policy_body, policy_conditions
from modelfleet_operator.spec import resolve
from modelfleet_operator.status import StatusWriter
from modelfleet_operator.world import World
from support.manifests import Manifest, fleet_manifest, policy_manifest
from support.scored_answers import log_of
from support.snapshots import event, observed

ASSISTANT, CHAT = ObjectKey("ml", "assistant"), ObjectKey("ml", "chat")
KNOWN = LearningView(Base(NO_DOCUMENT), "", Standing(Verdict.STEADY, 0.0, 0.0, 0.0, 0.0), (), "")
NOW = datetime(2026, 11, 22, 10, 30, tzinfo=UTC)


def _usage(spent: int, at: datetime = NOW) -> Usage:
    period = budget_period(ASSISTANT, Period.HOUR, at)
    return Usage(
        period.id, period.starts, period.ends, NanoUsd(60 * 10**9), NanoUsd(spent + 5), NanoUsd(spent)
    )


def _reasons(manifest: Manifest, *others: Manifest, usage: Usage | None) -> dict[str, tuple[str, str]]:
    resolution = resolve(observed(manifest, *others).snapshot())
    conditions = policy_conditions(resolution.policies[ASSISTANT], usage, KNOWN)
    return {c.type: (c.verdict.value, c.reason) for c in conditions}


def test_a_policy_in_force_is_ready() -> None:
    reasons = _reasons(policy_manifest(), fleet_manifest(), usage=_usage(0))
    assert set(reasons) == {
        "Accepted",
        "ResolvedRefs",
        "Programmed",
        "EstimatorReady",
        "WithinBudget",
        "Ready",
    }
    assert {verdict for verdict, _ in reasons.values()} == {"True"}


def test_a_policy_that_is_not_accepted_says_so_everywhere() -> None:
    bad = policy_manifest()
    bad["spec"]["budget"] = {"limit": "much"}
    reasons = _reasons(bad, fleet_manifest(), usage=None)
    assert reasons["Accepted"] == ("False", "Invalid")
    assert reasons["Ready"] == ("False", "Invalid")
    assert reasons["WithinBudget"][0] == "Unknown"
    assert reasons["EstimatorReady"][0] == "Unknown"


def test_a_policy_without_its_fleet_is_not_programmed() -> None:
    reasons = _reasons(policy_manifest(), usage=None)
    assert reasons["Programmed"] == ("False", "FleetNotFound")
    assert reasons["Ready"] == ("False", "FleetNotFound")


@pytest.mark.parametrize(
    ("usage", "verdict"),
    [
        (None, ("Unknown", "LedgerNotOpen")),
        (_usage(59 * 10**9), ("True", "WithinBudget")),
        (_usage(60 * 10**9), ("False", "Exhausted")),
    ],
)
def test_money_has_a_condition_of_its_own(usage: Usage | None, verdict: tuple[str, str]) -> None:
    assert _reasons(policy_manifest(), fleet_manifest(), usage=usage)["WithinBudget"] == verdict


def test_a_policy_without_a_budget_is_within_it() -> None:
    manifest = policy_manifest()
    del manifest["spec"]["budget"]
    reasons = _reasons(manifest, fleet_manifest(), usage=None)
    assert reasons["WithinBudget"] == ("True", "NoBudget")
    assert reasons["Ready"][0] == "True"


def test_a_small_budget_that_is_spent_is_told_exactly() -> None:
    usage = replace(_usage(99_000_000), limit=NanoUsd(99_500_000))
    resolution = resolve(observed(policy_manifest(), fleet_manifest()).snapshot())
    conditions = policy_conditions(resolution.policies[ASSISTANT], usage, KNOWN)
    (message,) = [c.message for c in conditions if c.type == "WithinBudget"]
    assert message.startswith("0.099 of 0.0995 USD are spent")


def test_money_is_told_exactly() -> None:
    assert policy_body(_usage(1_234_567_890), 3, None, None, ()) == {
        "sidecars": 3,
        "budget": {
            "periodStart": "2026-11-22T10:00:00Z",
            "limit": "60",
            "granted": "1.234567895",
            "spent": "1.23456789",
            "resetsAt": "2026-11-22T11:00:00Z",
        },
    }


class _Accounts:
    """Money and sidecars of one policy, and the ledgers that were deleted."""

    def __init__(self) -> None:
        self.at = NOW
        self.deleted: list[PeriodId] = []
        self.known = KNOWN

    def usage(self, policy: ObjectKey) -> Usage | None:
        return _usage(10**9, self.at) if policy == ASSISTANT else None

    def judge_usage(self, policy: ObjectKey) -> Usage | None:
        return None

    def sidecars(self) -> tuple[SidecarView, ...]:
        def view(boot: str, connected: bool) -> SidecarView:
            sidecar = SidecarId("ml", "assistant-0", "uid", boot)
            return SidecarView(sidecar, Follows(ASSISTANT, CHAT), 0.0, connected, {})

        return (view("old", False), view("new", True))

    def view(self, policy: ObjectKey) -> LearningView | None:
        return self.known

    async def delete(self, policy: ObjectKey, period: PeriodId) -> None:
        self.deleted.append(period)


async def test_the_status_is_written_and_old_ledgers_go_once_in_a_period() -> None:
    manifest = policy_manifest()
    manifest["spec"]["quotas"] = [{"models": ["large"], "requests": 5, "period": "Day"}]
    cluster = EmbeddedCluster([fleet_manifest(), manifest])
    observer = observed(
        dict(await cluster.get(Kind.FLEET, CHAT)) | {"kind": "ModelFleet"},
        dict(await cluster.get(Kind.POLICY, ASSISTANT)) | {"kind": "RoutingPolicy"},
    )
    accounts, figures = _Accounts(), Figures()
    world = World(observer)
    writer: StatusWriter[Policy] = StatusWriter(
        cluster, Kind.POLICY, clock=lambda: 0.0, wall_clock=lambda: NOW
    )
    policies = Policies(
        world=world,
        accounts=accounts,
        learning=accounts,
        archive=accounts,
        writer=writer,
        figures=figures,
        health=Health(clock=lambda: 0.0, awaited=()),
        wall_clock=lambda: accounts.at,
    )
    await policies.write(world.now())
    await policies.write(world.now())
    status = mapping(await cluster.get(Kind.POLICY, ASSISTANT), "status")
    assert status["sidecars"] == 1
    assert status["estimator"] == {
        "version": "",
        "learnedVersion": "",
        "samples": 0,
        "drift": False,
        "rolledBack": False,
        "calibrationError": "0.0000",
    }
    assert figures.policies[ASSISTANT].spent == 1.0
    assert len(accounts.deleted) == 6  # of the hours and of the days
    accounts.at = NOW + timedelta(hours=1)
    await policies.write(world.now())
    assert len(accounts.deleted) == 9
    assert "suggestions" not in status
    accounts.known = replace(KNOWN, cells=log_of("large", 0.2, answers=400).changes().cells)
    accounts.at += timedelta(minutes=1)
    await policies.write(world.now())
    (suggestion,) = items(mapping(await cluster.get(Kind.POLICY, ASSISTANT), "status"), "suggestions")
    assert (suggestion["kind"], suggestion["subject"], suggestion["samples"]) == ("WrongPrior", "/large", 400)
    assert "its quality.prior says 0.740" in str(suggestion["message"])
    observer.apply(event(policy_manifest(), deleted=True))
    await policies.write(world.now())
    assert figures.policies == {}
