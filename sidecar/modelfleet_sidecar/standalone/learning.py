"""Stage forward and learn, without an operator: the trained estimator's file, and what answers taught here.

In: the file that the policy names, and the `Experience` of the sidecar's reports. Out: both documents to the
leader, which hands them on with the lease; what was learned is kept in the state folder.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from modelfleet_core.catalog import Fleet
from modelfleet_core.estimation.artifact import ArtifactError, decode
from modelfleet_core.estimation.experience import Experience
from modelfleet_core.estimation.learned import encode
from modelfleet_core.estimation.memory import LearningError
from modelfleet_core.estimation.merging import Learner, Names
from modelfleet_core.estimation.profile import GUESSED
from modelfleet_core.leasing.bounds import MAX_DOCUMENT
from modelfleet_core.leasing.estimators import NO_DOCUMENT, Estimators
from modelfleet_core.leasing.messages import Document, SidecarId
from modelfleet_core.policy import Policy
from modelfleet_core.values import TaskName

from modelfleet_sidecar.standalone.leader import LocalLeader
from modelfleet_sidecar.standalone.state import StateError, StateFolder

log = logging.getLogger(__name__)

TELL_EVERY = 10.0
"""Seconds between two looks at what was learned."""
KEEP_EVERY = 60.0
"""Seconds between two writes of it."""


class Learning:
    """`wall_clock` is in seconds that starts share, for older answers count less."""

    def __init__(
        self,
        leader: LocalLeader,
        *,
        state: StateFolder | None,
        clock: Callable[[], float],
        wall_clock: Callable[[], float],
    ) -> None:
        """`state`: None: what was learned ends with the process."""
        self._leader = leader
        self._state = state
        self._clock = clock
        self._wall_clock = wall_clock
        self._base = NO_DOCUMENT
        self._tasks: frozenset[TaskName] = frozenset()
        """Those that the base tells apart."""
        self._learner = self._restored(leader.declared.policy.learning.half_life)
        self._news = True
        self._unkept = False
        self._kept_at = clock()
        leader.learn = self.hear

    def set_base(self, document: Document, tasks: frozenset[TaskName]) -> None:
        """Correct this estimator from now on; `NO_DOCUMENT`: the manifest's priors."""
        self._base, self._tasks, self._news = document, tasks, True
        self.tell()

    def changed(self) -> None:
        """The manifests are others: they may name another policy, other models or another half-life."""
        self._news = True
        self.tell()

    def hear(self, sidecar: SidecarId, experience: Experience) -> None:
        """Take over what the sidecar reports."""
        if not self._leader.declared.policy.learning.enabled or not (experience.models or experience.cells):
            return
        self._learner.hear(sidecar, experience, self._wall_clock())
        self._news = self._unkept = True

    async def run(self) -> NoReturn:
        """Tell what was learned, and keep it, until cancelled."""
        while True:
            await asyncio.sleep(TELL_EVERY)
            self.tell()
            if self._clock() >= self._kept_at + KEEP_EVERY:
                await self.keep()

    def tell(self) -> None:
        """Hand out the base, and what was learned if there may be news."""
        if not self._news:
            return
        self._news = False
        policy, fleet = self._leader.declared.policy, self._leader.declared.fleet
        learned = NO_DOCUMENT
        if policy.learning.enabled:
            self._learner.half_life = policy.learning.half_life
            self._learner.names = _names(policy, fleet, self._tasks)
            self._learner.rebase(self._base.version)
            try:
                found = self._learner.learned(self._wall_clock())
            except Exception:  # estimates go on without it
                log.exception("nothing new can be learned")
            else:
                learned = Document(found.version, encode(found)) if found.version else NO_DOCUMENT
        self._leader.set_estimators(Estimators({policy.key: self._base}, {policy.key: learned}))

    async def keep(self) -> None:
        """Write what was learned since the last time."""
        if self._state is None or not self._unkept:
            return
        self._unkept, self._kept_at = False, self._clock()
        try:
            await asyncio.to_thread(self._state.keep_learned, self._learner.state(self._wall_clock()))
        except (OSError, LearningError) as error:
            self._unkept = True
            log.warning("what was learned can not be kept in %s: %s", self._state.folder, error)

    def _restored(self, half_life: float) -> Learner:
        try:
            state = self._state.learned() if self._state is not None else None
            return Learner.restore(state, half_life) if state is not None else Learner(half_life)
        except (StateError, LearningError) as error:
            log.warning("what was learned before is lost: %s", error)
            return Learner(half_life)


def read_base(path: Path) -> tuple[Document, frozenset[TaskName]]:
    """Return a trained estimator and the tasks that it tells apart. Raises ArtifactError."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_DOCUMENT + 1)
    except OSError as error:
        raise ArtifactError(f"it can not be read ({error.strerror or error})") from error
    if len(content) > MAX_DOCUMENT:
        raise ArtifactError(f"it is over {MAX_DOCUMENT} bytes")
    trained = decode(content)
    return Document(hashlib.sha256(content).hexdigest(), content), frozenset(trained.tasks)


def _names(policy: Policy, fleet: Fleet, known: frozenset[TaskName]) -> Names:
    """Return what the sidecar can have seen."""
    tasks = {task for model in fleet.models for task in model.quality.by_task} | GUESSED | known
    tenants = {tenant.name for tenant in policy.tenants.declared} if policy.tenants is not None else set()
    return Names(
        models=frozenset(model.name for model in fleet.models),
        tasks=frozenset(tasks | {rule.task for rule in policy.rules if rule.task is not None}),
        rules=frozenset(rule.name for rule in policy.rules),
        groups=frozenset(policy.groups.values if policy.groups is not None else tenants),
    )
