"""The leader learns from what sidecars saw, tells all of them, keeps it, and never fails because of it."""

from __future__ import annotations

from typing import Any

import pytest
from modelfleet_core.catalog import Fleet
from modelfleet_core.estimation.learned import decode
from modelfleet_core.leasing.estimators import NO_DOCUMENT
from modelfleet_core.leasing.estimators import Estimators as Published
from modelfleet_core.leasing.messages import Document, SidecarId
from modelfleet_core.policy import Policy
from modelfleet_core.values import ObjectKey
from modelfleet_operator.cluster import Unavailable
from modelfleet_operator.estimators import Base
from modelfleet_operator.health import Health
from modelfleet_operator.learned_records import Kept, NewerLeaderError
from modelfleet_operator.learning import (
    FORGET_AFTER,
    HEAR,
    KEEP,
    KEEP_EVERY,
    RESTORE,
    TELL_EVERY,
    Learning,
)
from modelfleet_operator.observe import Observer
from modelfleet_operator.world import World
from support.manifests import Manifest, fleet_manifest, policy_manifest
from support.scored_answers import log_of, saw
from support.snapshots import event, observed

POLICY = ObjectKey("ml", "assistant")
ONE, TWO = (SidecarId("ml", name, f"uid-{name}", "1") for name in ("one", "two"))


class _Records:
    """A store of one policy's record, with its failures."""

    def __init__(self) -> None:
        self.state: bytes | None = None
        self.writes = 0
        self.deleted: list[ObjectKey] = []
        self.failure: Exception | None = None

    async def read(self, policy: ObjectKey) -> Kept:
        if self.failure is not None:
            raise self.failure
        return Kept(self.state, str(self.writes) if self.state is not None else None)

    async def write(self, policy: ObjectKey, state: bytes, version: str | None) -> str | None:
        if self.failure is not None:
            raise self.failure
        self.state, self.writes = state, self.writes + 1
        return str(self.writes)

    async def delete(self, policy: ObjectKey) -> None:
        if self.failure is not None:
            raise self.failure
        self.deleted.append(policy)


class _Stage:
    """The stage with everything around it, on a clock of its own."""

    def __init__(self, records: _Records | None = None, manifest: Manifest | None = None) -> None:
        self.now = 1000.0
        self.records = records or _Records()
        self.base = Base(NO_DOCUMENT)
        self.failures: list[str] = []
        self.published = Published({}, {})
        self.followers = 1
        self.observer: Observer = observed(fleet_manifest(), manifest or policy_manifest())
        self.world = World(self.observer)
        self.learning = Learning(
            world=self.world,
            bases=self,
            sink=self,
            records=self.records,
            leads=lambda: True,
            health=Health(clock=lambda: 0.0, awaited=()),
            clock=lambda: self.now,
            wall_clock=lambda: self.now,
            failed=self.failures.append,
        )

    def of(self, policy: Policy, fleet: Fleet | None) -> Base:
        return self.base

    def set_estimators(self, estimators: Published) -> None:
        self.published = estimators

    def following(self, policy: ObjectKey) -> int:
        return self.followers

    def turn(self, after: float = 0.0) -> Document | None:
        """Return what sidecars are told that was learned, so much later."""
        self.now += after
        self.learning.turn(self.world.now())
        return self.published.learned.get(POLICY)

    async def keep(self, after: float = 0.0) -> None:
        self.now += after
        await self.learning.keep_due()

    async def started(self) -> _Stage:
        self.turn()
        await self.keep()
        self.turn()
        return self


def _without(manifest: Manifest, **learning: Any) -> Manifest:
    manifest["spec"]["learning"] = learning
    manifest["metadata"]["generation"] += 1
    return manifest


async def test_what_one_sidecar_saw_is_told_to_all() -> None:
    stage = await _Stage().started()
    assert stage.published.learned == {POLICY: NO_DOCUMENT}
    stage.learning.hear(ONE, POLICY, log_of("large", 1.0).changes())
    document = stage.turn(TELL_EVERY)
    assert document is not None
    learned = decode(document.manifest)
    assert (learned.version, learned.base_version, learned.models) == (document.version, "", ("large",))
    view = stage.learning.view(POLICY)
    assert view is not None
    assert view.learned_version == document.version
    assert [cell.key.model for cell in view.cells] == ["large"]


async def test_news_are_told_at_a_bounded_rate() -> None:
    stage = await _Stage().started()
    log = log_of("large", 1.0)
    stage.learning.hear(ONE, POLICY, log.changes())
    first = stage.turn(TELL_EVERY)
    saw(log, "large", 0.0)
    stage.learning.hear(ONE, POLICY, log.changes())
    assert stage.turn(TELL_EVERY / 2) is first
    second = stage.turn(TELL_EVERY / 2)
    assert second != first
    assert second is not None
    stage.followers = 20 * (4 << 20) // len(second.manifest)
    saw(log, "large", 1.0)
    stage.learning.hear(ONE, POLICY, log.changes())
    assert stage.turn(TELL_EVERY) is second, "so many sidecars would be sent too much"
    assert stage.turn(TELL_EVERY) is not second


async def test_what_was_learned_outlives_the_leader_and_counts_once() -> None:
    records, log = _Records(), log_of("large", 1.0)
    first = await _Stage(records).started()
    first.learning.hear(ONE, POLICY, log.changes())
    told = first.turn(TELL_EVERY)
    await first.learning.close()
    second = await _Stage(records).started()
    restored = second.published.learned[POLICY]
    assert restored != NO_DOCUMENT
    log.unheard()
    second.learning.hear(ONE, POLICY, log.changes())
    again = second.turn(TELL_EVERY)
    assert told is not None
    assert again is not None
    samples = [decode(document.manifest).samples[0] for document in (told, again)]
    assert abs(samples[0] - samples[1]) < 0.1


async def test_evidence_fades_by_the_policys_half_life_also_while_nobody_leads() -> None:
    records = _Records()
    manifest = _without(policy_manifest(), halfLife="24h")
    first = await _Stage(records, manifest).started()
    first.learning.hear(ONE, POLICY, log_of("large", 1.0, answers=100).changes())
    await first.learning.close()
    second = _Stage(records, manifest)
    second.now = first.now + 86_400.0
    second.turn()
    # Its fleet goes before the record is read, so that the policy is not in force then.
    second.observer.apply(event(fleet_manifest(), deleted=True))
    second.turn()
    second.learning.hear(TWO, POLICY, log_of("large", 1.0, answers=0).changes())
    await second.keep()
    second.observer.apply(event(fleet_manifest()))
    document = second.turn()
    assert document is not None
    assert abs(decode(document.manifest).samples[0] - 50.0) < 1.0


async def test_reports_that_come_before_the_record_is_read_are_not_lost() -> None:
    stage = _Stage()
    stage.records.failure = Unavailable("away")
    stage.turn()
    stage.learning.hear(ONE, POLICY, log_of("large", 1.0).changes())
    await stage.keep()
    assert stage.turn(TELL_EVERY) is None, "what was learned before is not known"
    assert stage.failures == [RESTORE]
    stage.records.failure = None
    await stage.keep()
    document = stage.turn()
    assert document is not None
    assert document != NO_DOCUMENT


async def test_a_record_is_written_at_most_once_a_minute_and_only_with_news() -> None:
    stage = await _Stage().started()
    await stage.keep(KEEP_EVERY)
    assert stage.records.writes == 0
    log = log_of("large", 1.0)
    stage.learning.hear(ONE, POLICY, log.changes())
    await stage.keep()
    assert stage.records.writes == 1
    stage.learning.hear(TWO, POLICY, log.changes())
    await stage.keep(KEEP_EVERY / 2)
    assert stage.records.writes == 1
    await stage.keep(KEEP_EVERY / 2)
    await stage.keep(KEEP_EVERY)
    assert stage.records.writes == 2


async def test_learning_goes_on_while_nothing_can_be_kept_and_says_so() -> None:
    stage = await _Stage().started()
    stage.records.failure = Unavailable("no space left")
    stage.learning.hear(ONE, POLICY, log_of("large", 1.0).changes())
    await stage.keep(KEEP_EVERY)
    assert stage.turn(TELL_EVERY) != NO_DOCUMENT
    view = stage.learning.view(POLICY)
    assert view is not None
    assert "no space left" in view.problem
    assert stage.failures == [KEEP]
    stage.records.failure = None
    await stage.keep(KEEP_EVERY)
    assert stage.records.writes == 1
    mended = stage.learning.view(POLICY)
    assert mended is not None
    assert mended.problem == ""


async def test_a_record_of_a_newer_leader_is_not_written_and_leases_go_on() -> None:
    stage = await _Stage().started()
    stage.records.failure = NewerLeaderError("written in epoch 9")
    stage.learning.hear(ONE, POLICY, log_of("large", 1.0).changes())
    await stage.keep(KEEP_EVERY)
    stage.records.failure = None
    stage.learning.hear(TWO, POLICY, log_of("large", 1.0).changes())
    await stage.keep(KEEP_EVERY)
    assert stage.records.writes == 0
    assert stage.turn(TELL_EVERY) != NO_DOCUMENT


async def test_a_record_that_can_not_be_read_as_one_starts_anew_and_says_so() -> None:
    records = _Records()
    records.state = b"no archive"
    stage = await _Stage(records).started()
    view = stage.learning.view(POLICY)
    assert view is not None
    assert "is lost" in view.problem
    assert stage.failures == [RESTORE]
    stage.learning.hear(ONE, POLICY, log_of("large", 1.0).changes())
    assert stage.turn(TELL_EVERY) != NO_DOCUMENT
    await stage.keep(KEEP_EVERY)
    assert records.state != b"no archive"


async def test_a_report_that_breaks_the_learner_is_counted_and_the_others_teach() -> None:
    stage = await _Stage().started()
    broken: Any = None
    stage.learning.hear(ONE, POLICY, broken)
    assert stage.failures == [HEAR]
    stage.learning.hear(TWO, POLICY, log_of("large", 1.0).changes())
    assert stage.turn(TELL_EVERY) != NO_DOCUMENT


async def test_another_base_withdraws_what_corrected_the_old_one() -> None:
    stage = await _Stage().started()
    stage.learning.hear(ONE, POLICY, log_of("large", 1.0).changes())
    stage.turn(TELL_EVERY)
    base = Document("trained", b"npz")
    stage.base = Base(base)
    assert stage.turn(0.1) == NO_DOCUMENT
    assert stage.published.bases == {POLICY: base}
    stage.learning.hear(ONE, POLICY, log_of("large", 1.0, version="trained").changes())
    document = stage.turn(TELL_EVERY)
    assert document is not None
    assert decode(document.manifest).base_version == "trained"


async def test_a_base_that_is_not_known_yet_is_not_taken_away() -> None:
    stage = await _Stage().started()
    stage.base = Base(None)
    stage.turn()
    assert stage.published.bases == {}


async def test_a_policy_that_shall_not_learn_forgets_all() -> None:
    stage = await _Stage().started()
    stage.learning.hear(ONE, POLICY, log_of("large", 1.0).changes())
    assert stage.turn(TELL_EVERY) != NO_DOCUMENT
    stage.observer.apply(event(_without(policy_manifest(), enabled=False)))
    assert stage.turn() == NO_DOCUMENT
    await stage.keep()
    await stage.keep(KEEP_EVERY)
    assert stage.records.deleted == [POLICY]
    stage.learning.hear(ONE, POLICY, log_of("large", 1.0).changes())
    assert stage.turn(TELL_EVERY) == NO_DOCUMENT


async def test_what_a_policy_learned_is_deleted_a_day_after_it_went() -> None:
    stage = await _Stage().started()
    stage.observer.apply(event(policy_manifest(), deleted=True))
    stage.turn()
    assert (stage.published.bases, stage.published.learned) == ({}, {})
    await stage.keep(FORGET_AFTER - 1)
    assert stage.records.deleted == []
    await stage.keep(1)
    assert stage.records.deleted == [POLICY]


async def test_a_policy_that_comes_back_in_time_goes_on() -> None:
    stage = await _Stage().started()
    stage.learning.hear(ONE, POLICY, log_of("large", 1.0).changes())
    await stage.keep(KEEP_EVERY)
    stage.observer.apply(event(policy_manifest(), deleted=True))
    stage.turn()
    stage.observer.apply(event(policy_manifest()))
    stage.turn()
    await stage.keep(FORGET_AFTER)
    assert stage.records.deleted == []
    assert stage.turn() != NO_DOCUMENT


async def test_reports_that_wait_for_the_record_count_once_however_often_sidecars_report() -> None:
    stage, log = _Stage(), log_of("large", 1.0)
    stage.records.failure = Unavailable("away")
    stage.turn()
    for _ in range(20):
        saw(log, "large", 1.0, answers=2)
        stage.learning.hear(ONE, POLICY, log.changes())
    stage.learning.hear(TWO, POLICY, log_of("frontier", 0.0).changes())
    await stage.keep()
    stage.records.failure = None
    await stage.keep()
    document = stage.turn(TELL_EVERY)
    assert document is not None
    learned = decode(document.manifest)
    assert learned.models == ("frontier", "large")
    assert learned.samples[:2] == pytest.approx([50.0, 90.0], rel=1e-3)


async def test_names_that_policy_and_fleet_do_not_have_are_not_told_to_anybody() -> None:
    stage = await _Stage().started()
    stage.learning.hear(ONE, POLICY, log_of("ghost", 1.0).changes())
    stage.learning.hear(ONE, POLICY, log_of("large", 1.0, group="a prompt that leaked").changes())
    document = stage.turn(TELL_EVERY)
    assert document is not None
    assert decode(document.manifest).models == ("large",)
    view = stage.learning.view(POLICY)
    assert view is not None
    assert {(cell.key.model, cell.key.group) for cell in view.cells} == {("large", "")}
