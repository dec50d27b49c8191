"""Stage publish: every sidecar that the leader knows, by its own id and by its pod's.

`grants.py` keeps one; it says what each holds.
"""

from __future__ import annotations

from collections.abc import Iterator

from modelfleet_core.leasing.holders import Holder
from modelfleet_core.leasing.messages import Report, SidecarId
from modelfleet_core.values import EndpointUrl


class Register:
    """Iterates over all holders in the order of their arrival."""

    def __init__(self) -> None:
        self._holders: dict[SidecarId, Holder] = {}
        self._starts: dict[str, list[SidecarId]] = {}
        self._arrivals = 0

    def __iter__(self) -> Iterator[Holder]:
        return iter(self._holders.values())

    def __contains__(self, sidecar: SidecarId) -> bool:
        return sidecar in self._holders

    def get(self, sidecar: SidecarId) -> Holder | None:
        return self._holders.get(sidecar)

    def starts(self, uid: str) -> tuple[SidecarId, ...]:
        """Return the starts of one pod's sidecar that are known."""
        return tuple(self._starts.get(uid, ()))

    def welcome(self, report: Report, now: float, *, lease: float, floors: bool) -> Holder:
        """Enter a sidecar by its first report to this leader.

        `lease`: the most seconds for which an older leader's lease may last; `floors`: some may outlast it.
        """
        kept: dict[EndpointUrl, int] = {e: state.kept for e, state in report.slots.items() if state.kept}
        self._arrivals += 1
        self._starts.setdefault(report.sidecar.uid, []).append(report.sidecar)
        holder = self._holders[report.sidecar] = Holder(
            id=report.sidecar,
            number=self._arrivals,
            report=report,
            heard_at=now,
            follows="its pod is not looked up yet",
            sequence=report.applied,
            told=kept,
            target=dict(kept),
            lease_until=now + lease,
            floors=dict(kept) if floors else {},
        )
        return holder

    def drop(self, holder: Holder) -> None:
        """Forget a sidecar."""
        del self._holders[holder.id]
        starts = self._starts[holder.id.uid]
        starts.remove(holder.id)
        if not starts:
            del self._starts[holder.id.uid]
