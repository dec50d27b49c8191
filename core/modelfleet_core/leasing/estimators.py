"""Stage publish: which sidecars are sent estimators, and when, so that a thousand of them hold up nothing.

In: the estimators of each policy and what a sidecar says that it has. Out: the documents of its next grant.
They are large: those that would be too much at once come with a later grant, since leases never wait.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modelfleet_core.leasing.holders import Holder
from modelfleet_core.leasing.messages import Document
from modelfleet_core.values import ObjectKey

NO_DOCUMENT = Document("", b"")
"""There is none any more."""
BYTES_PER_SECOND = 32 << 20
"""Of estimators, to all sidecars together."""
BURST = 32 << 20


@dataclass(frozen=True, slots=True)
class Estimators:
    """What sidecars use, by policy. Of one that is not there nothing is said: they keep what they have."""

    bases: Mapping[ObjectKey, Document]
    learned: Mapping[ObjectKey, Document]

    def changed(self, before: Estimators) -> frozenset[ObjectKey]:
        """Return the policies that have another one than `before`."""
        return frozenset(
            policy
            for now, then in ((self.bases, before.bases), (self.learned, before.learned))
            for policy, document in now.items()
            if then.get(policy) != document
        )


NO_ESTIMATORS = Estimators({}, {})


class Courier:
    """Decides which estimators go along with a grant. `now` is the leader's monotonic clock."""

    def __init__(self, now: float) -> None:
        self.carries = NO_ESTIMATORS
        self._room = float(BURST)
        self._at = now

    def parcel(
        self, holder: Holder, policy: ObjectKey | None, now: float
    ) -> tuple[Document | None, Document | None]:
        """Return the base and what was learned, each only if the sidecar lacks it and there is room."""
        if policy is None:
            return None, None
        base = holder.lacks_estimator(self.carries.bases.get(policy))
        learned = holder.lacks_learned(self.carries.learned.get(policy))
        if base is not None and not self._take(base, now):
            return None, None  # what was learned corrects this base and no other
        if learned is not None and not self._take(learned, now):
            learned = None
        return base, learned

    def _take(self, document: Document, now: float) -> bool:
        self._room = min(float(BURST), self._room + max(0.0, now - self._at) * BYTES_PER_SECOND)
        self._at = now
        if self._room < len(document.manifest):
            return False
        self._room -= len(document.manifest)
        return True
