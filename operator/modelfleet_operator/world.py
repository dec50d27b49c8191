"""Stage spec: the present snapshot and what follows from it, worked out once for all who ask.

In: the `Observer`. Out: `World.now()`. Next: `reconcile`, `publishing`, `policies`.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelfleet_core.values import ObjectKey

from modelfleet_operator.observe import Observer, Snapshot
from modelfleet_operator.spec import Resolution, resolve


@dataclass(frozen=True, slots=True)
class Present:
    version: int
    snapshot: Snapshot
    resolution: Resolution


class World:
    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._present: Present | None = None

    def now(self) -> Present:
        """Return what holds now; the same value until an event changes anything."""
        version = self._observer.version
        if self._present is None or self._present.version != version:
            snapshot = self._observer.snapshot()
            self._present = Present(version, snapshot, resolve(snapshot))
        return self._present

    def drain(self, fleet: ObjectKey, pods: frozenset[str]) -> None:
        """Let these pods of a fleet, by UID, and no others get no new request; seen by all who ask `now`."""
        self._observer.drain(fleet, pods)

    async def change(self, seen: int) -> Present:
        """Wait until something changed after version `seen` and return what holds now."""
        await self._observer.change(seen)
        return self.now()
