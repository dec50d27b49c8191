"""Users are told what changed, once, in words, and at a rate that no API server minds."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import pytest
from modelfleet_core.values import ObjectKey
from modelfleet_operator.cluster import Event, Kind, Rejected, Unavailable
from modelfleet_operator.cluster.embedded import EmbeddedCluster
from modelfleet_operator.events import BURST, LEFT_OUT, MOST_WAITING, POSTED, REFILL, REFUSED, About, Recorder
from modelfleet_operator.happenings import Happening, happenings

CHAT = About(Kind.FLEET, ObjectKey("ml", "chat"), "uid-1")


def _status(*conditions: tuple[str, str, str], **variants: tuple[int, str]) -> Mapping[str, object]:
    """Return a status: conditions as type, status, reason; variants of model `m` as desired and reason."""
    return {
        "conditions": [
            {"type": t, "status": s, "reason": r, "message": f"why {r}"} for t, s, r in conditions
        ],
        "plan": {
            "gpus": "4/8",
            "hourlyCost": "5.80",
            "variants": [
                {
                    "model": "m",
                    "variant": name,
                    "desired": count,
                    "reason": reason,
                    "message": f"says {reason}",
                }
                for name, (count, reason) in variants.items()
            ],
        },
    }


def _told(
    before: Mapping[str, object], after: Mapping[str, object], kind: Kind = Kind.FLEET
) -> dict[str, bool]:
    return {found.reason: found.warning for found in happenings(kind, before, after)}


def test_a_changed_plan_is_told_with_each_variants_reason() -> None:
    (found,) = happenings(
        Kind.FLEET, _status(a=(1, "DemandMet"), b=(0, "NoDemand")), _status(a=(3, "AtMax"), b=(0, "NoDemand"))
    )
    assert found == Happening(
        "PlanChanged", "replicas: m/a 1 -> 3 (AtMax); the plan uses 4/8 GPUs and costs 5.80 USD per hour"
    )


def test_the_first_plan_and_a_variant_that_is_gone_are_told() -> None:
    (first,) = happenings(Kind.FLEET, {}, _status(a=(2, "DemandMet"), b=(0, "NoDemand")))
    assert "m/a 0 -> 2 (DemandMet)" in first.message
    assert "m/b" not in first.message
    (gone,) = happenings(Kind.FLEET, _status(a=(2, "AtMin"), b=(1, "AtMin")), _status(a=(2, "AtMin")))
    assert "m/b 1 -> none" in gone.message


def test_a_limit_that_begins_to_bind_is_a_warning_and_one_that_goes_on_is_not_told_again() -> None:
    free, bound = _status(a=(1, "DemandMet")), _status(a=(1, "PoolBinds"))
    assert _told(free, bound) == {"PoolBinds": True}
    assert _told(bound, bound) == {}
    assert _told(bound, free) == {}


@pytest.mark.parametrize(
    ("kind", "before", "after", "told"),
    [
        (Kind.FLEET, None, ("Accepted", "True", "Accepted"), {"Accepted": False}),
        (Kind.FLEET, None, ("Accepted", "False", "Invalid"), {"Invalid": True}),
        (Kind.FLEET, ("Accepted", "False", "Invalid"), ("Accepted", "True", "Accepted"), {"Accepted": False}),
        (
            Kind.POLICY,
            ("Accepted", "True", "Accepted"),
            ("Accepted", "False", "Conflicted"),
            {"Conflicted": True},
        ),
        (
            Kind.POLICY,
            ("WithinBudget", "True", "WithinBudget"),
            ("WithinBudget", "False", "Exhausted"),
            {"Exhausted": True},
        ),
        (
            Kind.POLICY,
            ("WithinBudget", "False", "Exhausted"),
            ("WithinBudget", "True", "WithinBudget"),
            {"WithinBudget": False},
        ),
        (
            Kind.POLICY,
            ("WithinBudget", "Unknown", "LedgerNotOpen"),
            ("WithinBudget", "True", "WithinBudget"),
            {},
        ),
        (
            Kind.POLICY,
            ("EstimatorReady", "True", "Learned"),
            ("EstimatorReady", "True", "RolledBack"),
            {"RolledBack": True},
        ),
        (
            Kind.POLICY,
            ("EstimatorReady", "True", "RolledBack"),
            ("EstimatorReady", "True", "Learned"),
            {"Learned": False},
        ),
        (
            Kind.POLICY,
            ("EstimatorReady", "True", "Loaded"),
            ("EstimatorReady", "False", "Invalid"),
            {"Invalid": True},
        ),
        (
            Kind.POLICY,
            ("EstimatorReady", "True", "Drifting"),
            ("EstimatorReady", "Unknown", "NotRead"),
            {},
        ),
        (
            Kind.POLICY,
            ("EstimatorReady", "Unknown", "NotRead"),
            ("EstimatorReady", "True", "Learned"),
            {},
        ),
        (Kind.POLICY, ("Ready", "True", "Ready"), ("Ready", "False", "LedgerNotOpen"), {}),
        (Kind.POLICY, ("Ready", "False", "LedgerNotOpen"), ("Ready", "True", "Ready"), {}),
        (
            Kind.POLICY,
            ("Ready", "False", "LedgerNotOpen"),
            ("Ready", "False", "Exhausted"),
            {"Exhausted": True},
        ),
        (Kind.FLEET, ("Ready", "True", "Ready"), ("Ready", "False", "NoEndpoints"), {"NoEndpoints": True}),
        (
            Kind.FLEET,
            ("Ready", "True", "Ready"),
            ("Ready", "False", "StartingReplicas"),
            {"StartingReplicas": False},
        ),
        (Kind.FLEET, ("Ready", "False", "StartingReplicas"), ("Ready", "True", "Ready"), {"Ready": False}),
        (Kind.FLEET, ("Ready", "True", "Ready"), ("Ready", "False", "Draining"), {"Draining": False}),
        (Kind.FLEET, ("Solved", "True", "Optimal"), ("Solved", "True", "TimeLimit"), {}),
        (
            Kind.FLEET,
            ("Solved", "True", "Optimal"),
            ("Solved", "True", "DemandMissing"),
            {"DemandMissing": True},
        ),
        (Kind.FLEET, ("Solved", "True", "DemandMissing"), ("Solved", "True", "Optimal"), {"Optimal": False}),
        (
            Kind.FLEET,
            ("Stalled", "False", "Progressing"),
            ("Stalled", "True", "ReplicasNotReady"),
            {"ReplicasNotReady": True},
        ),
        (
            Kind.FLEET,
            ("Stalled", "True", "ReplicasNotReady"),
            ("Stalled", "False", "Progressing"),
            {"Progressing": False},
        ),
        (Kind.FLEET, ("Programmed", "True", "Programmed"), ("Programmed", "False", "Scaling"), {}),
        (
            Kind.FLEET,
            ("Programmed", "True", "Programmed"),
            ("Programmed", "False", "ScaleRefused"),
            {"ScaleRefused": True},
        ),
        (Kind.FLEET, ("Reconciling", "False", "Done"), ("Reconciling", "True", "InProgress"), {}),
    ],
)
def test_a_condition_is_told_when_it_asks_for_something_and_when_that_is_over(
    kind: Kind, before: tuple[str, str, str] | None, after: tuple[str, str, str], told: dict[str, bool]
) -> None:
    assert _told(_status(before) if before else {}, _status(after), kind) == told


def test_ready_does_not_repeat_the_condition_it_follows_from() -> None:
    before = _status(("ResolvedRefs", "True", "Resolved"), ("Ready", "True", "Ready"))
    after = _status(("ResolvedRefs", "False", "TargetNotFound"), ("Ready", "False", "TargetNotFound"))
    assert happenings(Kind.FLEET, before, after) == (
        Happening("TargetNotFound", "why TargetNotFound", warning=True),
    )


class _Desk:
    """A recorder on a cluster, with a clock that the test moves and a list of what was posted."""

    def __init__(self) -> None:
        self.now = 0.0
        self.posted: list[Event] = []
        self.outcomes: list[str] = []
        self.failures: list[Exception] = []
        self.recorder = Recorder(
            self,
            reporter="operator-0",
            clock=lambda: self.now,
            wall_clock=lambda: datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=self.now),
            counted=self.outcomes.append,
        )

    async def post(self, event: Event) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.posted.append(event)

    async def settle(self) -> None:
        """Let the recorder post what it may now."""
        running = asyncio.create_task(self.recorder.run())
        for _ in range(200):
            await asyncio.sleep(0)
        running.cancel()
        await asyncio.wait({running})


async def test_the_same_thing_said_twice_before_it_is_posted_is_one_event() -> None:
    desk = _Desk()
    for _ in range(3):
        desk.recorder.tell(CHAT, [Happening("PoolBinds", "the pool is full", warning=True)])
        desk.now += 10
    await desk.settle()
    (event,) = desk.posted
    assert (event.times, event.last - event.first) == (3, timedelta(seconds=20))
    assert (event.kind, event.key, event.uid, event.reporter) == (Kind.FLEET, CHAT.key, "uid-1", "operator-0")


async def test_the_same_thing_has_the_same_name_whoever_leads() -> None:
    names = set()
    for _ in range(2):
        desk = _Desk()
        desk.recorder.tell(CHAT, [Happening("Ready", "every replica is ready")])
        await desk.settle()
        names |= {event.name for event in desk.posted}
    assert len(names) == 1


async def test_objects_of_one_name_have_events_of_their_own() -> None:
    desk = _Desk()
    desk.recorder.tell(CHAT, [Happening("Ready", "every replica is ready")])
    desk.recorder.tell(About(Kind.FLEET, CHAT.key, "uid-2"), [Happening("Ready", "every replica is ready")])
    await desk.settle()
    assert len({event.name for event in desk.posted}) == 2


async def test_an_object_with_too_much_to_tell_is_heard_at_a_bounded_rate() -> None:
    desk = _Desk()
    desk.recorder.tell(CHAT, [Happening("PlanChanged", f"plan {n}") for n in range(MOST_WAITING)])
    await desk.settle()
    desk.recorder.tell(CHAT, [Happening("NoEndpoints", "no endpoint is ready", warning=True)])
    desk.recorder.tell(CHAT, [Happening("PlanChanged", f"later {n}") for n in range(100)])
    await desk.settle()
    assert len(desk.posted) == BURST
    assert desk.posted[MOST_WAITING].reason == "NoEndpoints"  # what there is much of makes room
    other = About(Kind.POLICY, ObjectKey("ml", "assistant"), "uid-2")
    desk.recorder.tell(other, [Happening("Exhausted", "the money is spent", warning=True)])
    await desk.settle()
    assert desk.posted[-1].uid == "uid-2"  # one object's flood holds up no other
    desk.now += REFILL * 2
    await desk.settle()
    assert len(desk.posted) == BURST + 3
    assert desk.outcomes.count(LEFT_OUT) == 101 - MOST_WAITING
    desk.now += REFILL * BURST
    await desk.settle()
    assert desk.posted[-1].message == "later 99"


async def test_what_the_api_server_refuses_is_given_up_and_the_rest_goes_on() -> None:
    desk = _Desk()
    desk.failures = [Rejected("the namespace is being deleted"), RuntimeError("a fault of ours")]
    desk.recorder.tell(CHAT, [Happening(reason, "why") for reason in ("One", "Two", "Three")])
    await desk.settle()
    assert [event.reason for event in desk.posted] == ["Three"]
    assert desk.outcomes == [REFUSED, REFUSED, POSTED]


async def test_events_wait_while_the_api_server_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("modelfleet_operator.events.RETRY", 0.0)
    desk = _Desk()
    desk.failures = [Unavailable("connection refused")] * 3
    desk.recorder.tell(CHAT, [Happening("Ready", "every replica is ready")])
    await desk.settle()
    assert [event.reason for event in desk.posted] == ["Ready"]


async def test_a_deleted_object_has_nothing_more_to_tell() -> None:
    desk = _Desk()
    desk.recorder.tell(CHAT, [Happening("Ready", "every replica is ready")])
    desk.recorder.forget(CHAT.key, Kind.FLEET)
    await desk.settle()
    assert desk.posted == []
    desk.recorder.tell(CHAT, [Happening("Ready", "every replica is ready")])
    desk.recorder.forget(CHAT.key, Kind.POLICY)  # a policy of the same name
    await desk.settle()
    assert len(desk.posted) == 1


async def test_an_embedded_cluster_keeps_the_newest_events() -> None:
    cluster = EmbeddedCluster()
    at = datetime(2026, 1, 1, tzinfo=UTC)
    for number in range(600):
        event = Event(
            f"chat.{number}", Kind.FLEET, CHAT.key, "uid-1", "Ready", "why", False, "operator-0", at, at, 1
        )
        await cluster.post(event)
    names = [manifest["metadata"]["name"] for manifest in cluster.events()]  # type: ignore[index]
    assert (len(names), names[0], names[-1]) == (500, "chat.100", "chat.599")
