"""Stage status: what users see of the decisions, written only when it says something new.

In: a status body and conditions from `fleet_status` and `policy_status`. Out: one write of the whole status,
fenced by resourceVersion. The operator's own writes come back as events, so everything here is idempotent.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from modelfleet_core.catalog import Fleet
from modelfleet_core.policy import Policy
from modelfleet_core.values import ObjectKey

from modelfleet_operator.cluster import Cluster, Conflict, Kind, NotFound, Rejected
from modelfleet_operator.cluster.fields import integer, items, mapping, text
from modelfleet_operator.conditions import Condition, Verdict
from modelfleet_operator.declarations import Declared

log = logging.getLogger(__name__)

ATTEMPTS = 5
REFRESH = 10.0
"""Seconds between writes that only bring fleeting figures up to date."""
FLEETING = frozenset({"solvedAt", "seconds", "objective", "bound", "gap", "price", "hourlyValue", "leased"})
FLEETING_MONEY = frozenset({"spent", "granted", "costPerRequest"})
FLEETING_TRAFFIC = frozenset({"requests", "share", "meanQuality", "feedback", "samples", "calibrationError"})
OF_THE_SPEC = frozenset({"Accepted", "ResolvedRefs"})
PASSED_OVER = frozenset({"UnknownFields", "UnknownModels"})
"""Reasons of specs that are in force, but for what nobody knows."""

T = TypeVar("T", Fleet, Policy)

Changed = Callable[
    [Kind, Declared[Fleet] | Declared[Policy], Mapping[str, object], Mapping[str, object]], None
]
"""Hears of every status that was written: the object, its status before and after."""
Standing = Callable[[Kind, ObjectKey, Sequence[Condition]], None]
"""Hears of the conditions that an object has now; none: it is gone."""


def merged(
    body: Mapping[str, object], conditions: Sequence[Condition], declared: Declared[T], at: datetime
) -> dict[str, object]:
    """Return the whole status; a condition that keeps its verdict keeps its `lastTransitionTime`."""
    return _merged(body, conditions, declared.generation, declared.status, at)


def _merged(
    body: Mapping[str, object],
    conditions: Sequence[Condition],
    generation: int,
    present: Mapping[str, object],
    at: datetime,
) -> dict[str, object]:
    before = {text(item, "type"): item for item in items(present, "conditions")}
    written = []
    for condition in conditions:
        old = before.get(condition.type, {})
        same = text(old, "status") == condition.verdict.value
        moment = text(old, "lastTransitionTime") if same else ""
        written.append(
            {
                "type": condition.type,
                "status": condition.verdict.value,
                "reason": condition.reason,
                "message": condition.message[:32768],
                "observedGeneration": generation,
                "lastTransitionTime": moment or timestamp(at),
            }
        )
    return {"observedGeneration": generation, "conditions": written, **body}


def timestamp(at: datetime) -> str:
    """Return a moment as Kubernetes writes it."""
    return at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class StatusWriter(Generic[T]):
    """Writes the status of one kind of objects. `clock` is monotonic.

    `changed` hears of each write, `standing` of all that was asked for; both return at once and never raise.
    """

    def __init__(
        self,
        cluster: Cluster,
        kind: Kind,
        *,
        clock: Callable[[], float],
        wall_clock: Callable[[], datetime],
        changed: Changed = lambda *_: None,
        standing: Standing = lambda *_: None,
    ) -> None:
        self._cluster = cluster
        self._changed = changed
        self._standing = standing
        self._kind = kind
        self._clock = clock
        self._wall_clock = wall_clock
        self._written_at: dict[tuple[ObjectKey, str], float] = {}
        self._told: dict[ObjectKey, tuple[str, ...]] = {}

    async def write(
        self, declared: Declared[T], body: Mapping[str, object], conditions: Sequence[Condition]
    ) -> bool:
        """Write unless the object says it already; return whether it was written. Raises `Unavailable`."""
        self._tell(declared, conditions)
        self._standing(self._kind, declared.key, conditions)
        at, present, version = self._wall_clock(), declared.status, declared.resource_version
        name = (declared.key, declared.uid)
        for _ in range(ATTEMPTS):
            status = _merged(body, conditions, declared.generation, present, at)
            if status == present:
                return False
            lately = self._clock() < self._written_at.get(name, float("-inf")) + REFRESH
            if lately and _lasting(status) == _lasting(present):
                return False
            try:
                await self._cluster.write_status(self._kind, declared.key, version, status)
            except Conflict:
                try:
                    manifest = await self._cluster.get(self._kind, declared.key)
                except NotFound:
                    return False
                metadata = mapping(manifest, "metadata")
                if (
                    text(metadata, "uid") != declared.uid
                    or integer(metadata, "generation") != declared.generation
                ):
                    return False  # it speaks of an older spec: the next pass writes
                present, version = mapping(manifest, "status"), text(metadata, "resourceVersion")
            except NotFound:
                return False
            except Rejected as refused:
                log.error(
                    "the status of %s %s is refused: %s", self._kind.value, declared.key, refused.message
                )
                return False
            else:
                self._written_at[name] = self._clock()
                self._changed(self._kind, declared, present, status)
                return True
        log.warning(
            "the status of %s %s changed %d times while it was written",
            self._kind.value,
            declared.key,
            ATTEMPTS,
        )
        return False

    def forget(self, key: ObjectKey) -> None:
        """The object is gone."""
        self._written_at = {name: at for name, at in self._written_at.items() if name[0] != key}
        self._told.pop(key, None)
        self._standing(self._kind, key, ())

    def _tell(self, declared: Declared[T], conditions: Sequence[Condition]) -> None:
        """Log once what is wrong with a spec, for those who have only the log, as on an embedded cluster."""
        wrong = tuple(c.message for c in conditions if c.type in OF_THE_SPEC and _wrong(c))
        if wrong != self._told.get(declared.key, ()):
            for message in wrong:
                log.warning("%s %s: %s", self._kind.value, declared.key, message)
        self._told[declared.key] = wrong


def _wrong(condition: Condition) -> bool:
    """Return whether users should mend what the condition speaks of, also where the spec is in force."""
    return condition.verdict is Verdict.FALSE or condition.reason in PASSED_OVER


def _lasting(value: Any) -> Any:
    """Return `value` without the figures that change with every request."""
    if isinstance(value, Mapping):
        fleeting = FLEETING | FLEETING_MONEY | FLEETING_TRAFFIC
        return {name: _lasting(child) for name, child in value.items() if name not in fleeting}
    if isinstance(value, list):
        return [_lasting(child) for child in value]
    return value
