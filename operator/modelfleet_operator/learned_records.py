"""Stage publish: what was learned, kept as a ConfigMap per policy, for the next leader.

In: a learner's state. Out: compare-and-swap writes in the policy's namespace, fenced by the leader's epoch.
The record is not owned by the policy, so that one that is deleted and created again need not learn anew.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

from modelfleet_core.values import ObjectKey

from modelfleet_operator.cluster import Cluster, Conflict, NotFound, Record

_LABELS = {"app.kubernetes.io/managed-by": "modelfleet", "modelfleet.io/learned": "experience"}
_LONGEST_POLICY = 150
"""Letters of a policy's name in that of its record, which must stay below 253."""
_STATE, _EPOCH, _POLICY = "state.npz", "epoch", "policy"
ATTEMPTS = 3


class NewerLeaderError(Exception):
    """The record is of a later epoch: this leader writes no more."""


class StrangeRecordError(Exception):
    """There is a ConfigMap of the record's name that is not such a record."""


@dataclass(frozen=True, slots=True)
class Kept:
    """`version` is the ConfigMap's; None: there is none."""

    state: bytes | None
    version: str | None


class LearnedRecords:
    """The records of one leader. Every method may raise `ClusterError`."""

    def __init__(self, cluster: Cluster, epoch: int) -> None:
        self._cluster = cluster
        self._epoch = epoch

    async def read(self, policy: ObjectKey) -> Kept:
        """Return what was kept. Raises `NewerLeaderError` and `StrangeRecordError`."""
        record = await self._cluster.read_record(record_key(policy))
        if record is None:
            return Kept(None, None)
        if record.data.get(_POLICY) != str(policy) or _STATE not in record.binary:
            raise StrangeRecordError(
                f"ConfigMap {record.key} is not what policy {policy} has learned; delete it"
            )
        self._check(record)
        return Kept(record.binary[_STATE], record.resource_version)

    async def write(self, policy: ObjectKey, state: bytes, version: str | None) -> str | None:
        """Replace `version` (None: create); what an older leader wrote meanwhile is replaced too.

        Returns the new version. Raises `NewerLeaderError`.
        """
        record = Record(
            record_key(policy),
            {_EPOCH: str(self._epoch), _POLICY: str(policy)},
            _LABELS,
            version,
            {_STATE: state},
        )
        for attempt in range(ATTEMPTS):
            try:
                return (await self._cluster.write_record(record)).resource_version
            except (Conflict, NotFound):
                if attempt + 1 == ATTEMPTS:
                    raise
                found = await self._cluster.read_record(record.key)
                if found is not None:
                    self._check(found)
                record = replace(record, resource_version=found.resource_version if found else None)
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def delete(self, policy: ObjectKey) -> None:
        await self._cluster.delete_record(record_key(policy))

    def _check(self, record: Record) -> None:
        epoch = record.data.get(_EPOCH, "")
        if epoch.isascii() and epoch.isdecimal() and int(epoch[:18]) > self._epoch:
            raise NewerLeaderError(
                f"ConfigMap {record.key} was written in epoch {epoch}, after this operator's {self._epoch}"
            )


def record_key(policy: ObjectKey) -> ObjectKey:
    """Return the ConfigMap of a policy; readable, and unique by a hash of its name."""
    digest = hashlib.sha256(str(policy).encode()).hexdigest()[:8]
    return ObjectKey(policy.namespace, f"modelfleet-learned-{policy.name[:_LONGEST_POLICY]}-{digest}")
