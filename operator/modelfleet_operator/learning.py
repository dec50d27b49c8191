"""Stage forward and learn, in the leader: what sidecars saw becomes what all of them know.

In: the `Experience` of their reports and the base estimators. Out: each policy's base and what was learned,
to the capacity service; views for the status. What was learned is kept for the next leader by
`learned_records`. Nothing here holds up or ends a lease: what goes wrong is counted, logged and told, and
learning goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

from modelfleet_core.catalog import Fleet
from modelfleet_core.estimation.drift import Standing
from modelfleet_core.estimation.experience import Experience, ExperienceCell
from modelfleet_core.estimation.learned import encode
from modelfleet_core.estimation.memory import LearningError
from modelfleet_core.estimation.merging import Learner, Names
from modelfleet_core.estimation.profile import GUESSED
from modelfleet_core.leasing.bounds import MAX_EXPERIENCE_CELLS
from modelfleet_core.leasing.estimators import NO_DOCUMENT
from modelfleet_core.leasing.estimators import Estimators as Published
from modelfleet_core.leasing.messages import Document, SidecarId
from modelfleet_core.policy import Policy
from modelfleet_core.values import ObjectKey

from modelfleet_operator.cluster import ClusterError, Rejected
from modelfleet_operator.estimators import Base
from modelfleet_operator.health import Health
from modelfleet_operator.learned_records import Kept, NewerLeaderError, StrangeRecordError, record_key
from modelfleet_operator.world import Present, World

log = logging.getLogger(__name__)

TICK = 1.0
TURN = 0.1
"""Seconds of one turn after which the other policies wait for the next one, for leases come first."""
TELL_EVERY = 10.0
"""Seconds between two documents of what one policy learned, at least."""
TELL_BYTES = 4 << 20
"""Of those documents to all sidecars of a policy, per second on average."""
FADE_EVERY = 3600.0
"""Seconds after which it is told anew without any news, since what is old counts less."""
KEEP_EVERY = 60.0
"""Seconds between two writes of what one policy learned, at least."""
FORGET_AFTER = 86_400.0
"""Seconds after a policy went until what it learned is deleted."""
MOST_WAITING = 10_000
"""Sidecars whose reports wait until it is known what was learned before; those of more are lost."""
LATE = 120.0

HEAR, LEARN, KEEP, RESTORE = "hear", "learn", "keep", "restore"


class Sink(Protocol):
    """What this module asks of the capacity service."""

    def set_estimators(self, estimators: Published) -> None: ...
    def following(self, policy: ObjectKey) -> int: ...


class Bases(Protocol):
    def of(self, policy: Policy, fleet: Fleet | None) -> Base: ...


class Records(Protocol):
    """Where what was learned is kept; see `LearnedRecords`."""

    async def read(self, policy: ObjectKey) -> Kept: ...
    async def write(self, policy: ObjectKey, state: bytes, version: str | None) -> str | None: ...
    async def delete(self, policy: ObjectKey) -> None: ...


@dataclass(frozen=True, slots=True)
class LearningView:
    """What one policy has learned, for its status."""

    base: Base
    learned_version: str
    """Empty: nothing is in use."""
    standing: Standing | None
    """None: nothing is learned, or it is not known yet."""
    cells: tuple[ExperienceCell, ...]
    problem: str
    """Why what was learned is not kept; empty: it is."""


@dataclass(slots=True)
class _Student:
    """One policy that learns."""

    half_life: float
    learner: Learner | None = None
    """None: what was learned before is not read yet."""
    names: Names | None = None
    """Of the policy and its fleet; None: the policy was not in force yet."""
    waiting: dict[SidecarId, Experience] = field(default_factory=dict)
    document: Document | None = None
    told_at: float = 0.0
    news: bool = False
    """Something was heard since `document` was made."""
    version: str | None = None
    """Of the record."""
    kept_at: float = 0.0
    unkept: bool = False
    closed: bool = False
    """A newer leader has the record."""
    problem: str = ""


class Learning:
    """All policies that learn. `clock` is monotonic, `wall_clock` in seconds that leaders share.

    `failed` hears where something went wrong: hear, learn, keep or restore.
    """

    def __init__(
        self,
        *,
        world: World,
        bases: Bases,
        sink: Sink,
        records: Records,
        leads: Callable[[], bool],
        health: Health,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
        failed: Callable[[str], None],
    ) -> None:
        self._world = world
        self._bases = bases
        self._sink = sink
        self._records = records
        self._leads = leads
        self._health = health
        self._clock = clock
        self._wall_clock = wall_clock
        self._failed = failed
        self._students: dict[ObjectKey, _Student] = {}
        self._in_force: dict[ObjectKey, tuple[Policy, Base]] = {}
        self._unlearned: set[ObjectKey] = set()
        """Policies that shall not learn."""
        self._deletions: dict[ObjectKey, float] = {}
        """When to delete the records of policies that went, or shall not learn."""

    # What sidecars saw.

    def hear(self, sidecar: SidecarId, policy: ObjectKey, experience: Experience) -> None:
        """Take over what a sidecar reports. Returns at once and never raises."""
        student = self._students.get(policy)
        if student is None:
            return
        if student.learner is not None:
            self._learn(policy, student, student.learner, sidecar, experience)
        elif sidecar in student.waiting:
            student.waiting[sidecar] = student.waiting[sidecar].and_then(experience, MAX_EXPERIENCE_CELLS)
        elif len(student.waiting) < MOST_WAITING:
            student.waiting[sidecar] = experience

    def _learn(
        self,
        policy: ObjectKey,
        student: _Student,
        learner: Learner,
        sidecar: SidecarId,
        experience: Experience,
    ) -> None:
        try:
            learner.hear(sidecar, experience, self._wall_clock())
        except Exception:
            self._failed(HEAR)
            log.exception("what %s saw for policy %s could not be taken over", sidecar, policy)
        else:
            student.news = student.unkept = True

    # What they are told.

    async def run(self) -> NoReturn:
        """Tell sidecars what was learned, until cancelled."""
        while True:
            self._health.beat("learning", within=LATE)
            self.turn(self._world.now())
            await asyncio.sleep(TICK)

    def turn(self, present: Present) -> None:
        """Bring everything up to date and publish it."""
        self._enrol(present)
        bases: dict[ObjectKey, Document] = {}
        learned: dict[ObjectKey, Document] = {}
        began = self._clock()
        for key, (policy, base) in sorted(self._in_force.items(), key=lambda entry: self._told_at(entry[0])):
            if base.document is not None:
                bases[key] = base.document
            student = self._students.get(key)
            document: Document | None = NO_DOCUMENT
            if student is not None:
                may_take = self._clock() < began + TURN
                document = self._document(policy, base, student) if may_take else student.document
            if document is not None:
                learned[key] = document
        self._sink.set_estimators(Published(bases, learned))

    def _told_at(self, policy: ObjectKey) -> float:
        student = self._students.get(policy)
        return student.told_at if student is not None else 0.0

    def _enrol(self, present: Present) -> None:
        """Find out which policies are in force, and which of them learn."""
        self._in_force = {}
        for key, resolved in present.resolution.policies.items():
            policy = resolved.policy
            if policy is None or not resolved.in_force:
                continue
            fleet = present.resolution.fleets[policy.fleet].fleet
            base = self._bases.of(policy, fleet)
            self._in_force[key] = policy, base
            if policy.learning.enabled:
                self._unlearned.discard(key)
                self._deletions.pop(key, None)
                student = self._students.setdefault(key, _Student(policy.learning.half_life))
                student.half_life = policy.learning.half_life
                if fleet is not None:
                    student.names = _names(policy, fleet, base)
            elif key not in self._unlearned:
                self._unlearned.add(key)
                self._students.pop(key, None)
                self._deletions[key] = self._clock()
        there = present.snapshot.policies.keys()
        self._unlearned &= there
        for key in self._students.keys() - there:
            del self._students[key]
            self._deletions[key] = self._clock() + FORGET_AFTER

    def _document(self, policy: Policy, base: Base, student: _Student) -> Document | None:
        """Return what was learned; None: not known yet."""
        learner = student.learner
        if learner is None:
            return None
        learner.half_life, learner.names = student.half_life, student.names
        if base.document is not None and base.document.version != learner.estimator_version:
            learner.rebase(base.document.version)
            student.document, student.unkept = None, True
        if student.document is not None and not self._may_tell(policy.key, student, student.document):
            return student.document
        student.told_at, student.news = self._clock(), False
        try:
            found = learner.learned(self._wall_clock())
            student.document = Document(found.version, encode(found)) if found.version else NO_DOCUMENT
        except Exception:
            self._failed(LEARN)
            log.exception("policy %s: nothing new can be learned", policy.key)
        return student.document

    def _may_tell(self, policy: ObjectKey, student: _Student, document: Document) -> bool:
        """Return whether there may be news, and all sidecars may be sent them already."""
        since = self._clock() - student.told_at
        every = max(TELL_EVERY, len(document.manifest) * self._sink.following(policy) / TELL_BYTES)
        return since >= (every if student.news else FADE_EVERY)

    # What is kept.

    async def keep(self) -> NoReturn:
        """Read what was learned, keep it, and delete what nobody needs, until cancelled."""
        while True:
            await self.keep_due()
            await asyncio.sleep(TICK)

    async def keep_due(self) -> None:
        """Do what of that is due."""
        for policy, student in list(self._students.items()):
            self._health.beat("learning kept", within=LATE)
            if student.learner is None:
                await self._restore(policy, student)
            elif self._clock() >= student.kept_at + KEEP_EVERY and self._leads():
                await self._keep(policy, student)
        self._health.beat("learning kept", within=LATE)
        await self._delete()

    async def close(self) -> None:
        """Keep what is learned since the last time, at a clean end."""
        for policy, student in self._students.items():
            if self._leads():
                await self._keep(policy, student)

    async def _restore(self, policy: ObjectKey, student: _Student) -> None:
        fresh = Learner(student.half_life)
        try:
            kept = await self._records.read(policy)
            student.version = kept.version
            restored = Learner.restore(kept.state, student.half_life) if kept.state is not None else fresh
            student.learner = restored
        except (NewerLeaderError, StrangeRecordError) as error:
            student.closed = True
            student.learner = fresh
            self._complain(policy, student, RESTORE, str(error))
        except LearningError as error:
            student.learner = fresh
            what = f"what was learned before is lost: ConfigMap {record_key(policy)}: {error}"
            self._complain(policy, student, RESTORE, what)
        except Rejected as error:
            student.learner = fresh
            self._complain(policy, student, RESTORE, f"what was learned before is not known: {error.message}")
        except ClusterError as error:
            self._complain(policy, student, RESTORE, f"what was learned before can not be read: {error}")
        else:
            student.problem = ""
        if (learner := student.learner) is not None:
            learner.names = student.names
            for sidecar, experience in student.waiting.items():
                self._learn(policy, student, learner, sidecar, experience)
            student.waiting.clear()

    async def _keep(self, policy: ObjectKey, student: _Student) -> None:
        if student.learner is None or student.closed or not student.unkept:
            return
        student.kept_at, student.unkept = self._clock(), False
        try:
            state = student.learner.state(self._wall_clock())
            student.version = await self._records.write(policy, state, student.version)
        except NewerLeaderError as error:
            student.closed = True
            self._complain(policy, student, KEEP, str(error))
        except (ClusterError, LearningError) as error:
            student.unkept = True
            self._complain(policy, student, KEEP, f"{type(error).__name__}: {error}")
        else:
            student.problem = ""

    def _complain(self, policy: ObjectKey, student: _Student, where: str, problem: str) -> None:
        self._failed(where)
        if problem != student.problem:
            log.warning("policy %s: what it learns is not kept: %s", policy, problem)
        student.problem = problem

    async def _delete(self) -> None:
        due = [policy for policy, at in self._deletions.items() if self._clock() >= at]
        for policy in due:
            try:
                await self._records.delete(policy)
            except ClusterError as error:
                log.warning("what policy %s learned can not be deleted, trying again: %s", policy, error)
                self._deletions[policy] = self._clock() + KEEP_EVERY
            else:
                self._deletions.pop(policy, None)

    # Views.

    def view(self, policy: ObjectKey) -> LearningView | None:
        """Return what a policy in force knows; None: it is not in force."""
        found = self._in_force.get(policy)
        if found is None:
            return None
        student = self._students.get(policy)
        learner = student.learner if student is not None else None
        return LearningView(
            base=found[1],
            learned_version=student.document.version if student is not None and student.document else "",
            standing=learner.standing() if learner is not None else None,
            cells=learner.cells(self._wall_clock()) if learner is not None else (),
            problem=student.problem if student is not None else "",
        )


def _names(policy: Policy, fleet: Fleet, base: Base) -> Names:
    """Return what sidecars of a policy can have seen."""
    tasks = {task for model in fleet.models for task in model.quality.by_task} | GUESSED | base.tasks
    tenants = {tenant.name for tenant in policy.tenants.declared} if policy.tenants is not None else set()
    return Names(
        models=frozenset(model.name for model in fleet.models),
        tasks=frozenset(tasks | {rule.task for rule in policy.rules if rule.task is not None}),
        rules=frozenset(rule.name for rule in policy.rules),
        groups=frozenset(policy.groups.values if policy.groups is not None else tenants),
    )
