"""Stage scale, who may: a leader's epoch stands on every target before its first replica is added.

In: the leader's epoch and the workloads of all fleets. Out: targets that must not be scaled, and why. Next:
`scale`, which writes the rest. A stamp moves the Deployment's resourceVersion, so that a patch which an
earlier leader still has under way fails; an earlier leader that looks again finds a higher epoch. Only the
Deployment's own metadata is touched, never its pods' template, so nothing restarts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from modelfleet_core.values import ObjectKey

from modelfleet_operator.cluster import Cluster, Conflict, Kind, NotFound, Rejected
from modelfleet_operator.observe import EPOCH_ANNOTATION, Workload, workload_of

ATTEMPTS = 5


class NotLeadingError(Exception):
    """This process may no longer write: another one leads, or soon will."""


class Fence:
    """Of the leader of `epoch`. `leads` tells whether this process still may write."""

    def __init__(self, cluster: Cluster, *, leads: Callable[[], bool], epoch: int) -> None:
        self._cluster = cluster
        self._leads = leads
        self._epoch = epoch
        self._stamped: set[ObjectKey] = set()

    @property
    def epoch(self) -> int:
        return self._epoch

    def assure(self, target: ObjectKey) -> None:
        """Raise `NotLeadingError` if nothing may be written any more."""
        if not self._leads():
            raise NotLeadingError(f"{target} is not scaled: another operator leads or soon will")

    def problem(self, workload: Workload) -> str:
        """Return why a newer leader than this has the workload; empty: it has not."""
        if workload.epoch <= self._epoch:
            return ""
        return (
            f"its annotation {EPOCH_ANNOTATION} says {workload.epoch}, but this operator leads in epoch "
            f"{self._epoch}: a newer operator scales it; if there is none, remove the annotation"
        )

    async def close(self, targets: Iterable[Workload]) -> dict[ObjectKey, str]:
        """Stamp every target once; return those that must not be scaled now, and why.

        Raises `NotLeadingError` and `Unavailable`.
        """
        kept_off: dict[ObjectKey, str] = {}
        for workload in targets:
            problem = self.problem(workload)
            if not problem and workload.key not in self._stamped:
                problem = await self._stamp(workload.key)
            if problem:
                kept_off[workload.key] = problem
        return kept_off

    async def _stamp(self, target: ObjectKey) -> str:
        """Return what went wrong; empty: nothing."""
        for _ in range(ATTEMPTS):
            self.assure(target)
            try:
                workload = workload_of(target, await self._cluster.get(Kind.DEPLOYMENT, target))
                if problem := self.problem(workload):
                    return problem
                epoch = {EPOCH_ANNOTATION: str(self._epoch)}
                await self._cluster.annotate(target, epoch, workload.resource_version)
            except Conflict:
                continue
            except NotFound as gone:
                return str(gone)
            except Rejected as refused:
                return f"its annotation {EPOCH_ANNOTATION} can not be written: {refused.message}"
            self._stamped.add(target)
            return ""
        return f"it changed {ATTEMPTS} times while its annotation {EPOCH_ANNOTATION} was written"
