"""Stage publish: what the leader knows of one sidecar.

In come its reports and the grants made for it; out goes what it may hold. `grants.py` keeps one for each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from modelfleet_core.demand.sketch import NO_DEMAND
from modelfleet_core.leasing.messages import Grant, Report, SidecarId
from modelfleet_core.values import EndpointUrl, ObjectKey, PeriodId, VariantKey


@dataclass(frozen=True, slots=True)
class Follows:
    """The policy and fleet that a sidecar follows."""

    policy: ObjectKey
    fleet: ObjectKey


@dataclass(slots=True)
class Holder:
    """One sidecar. Times are the leader's seconds.

    held[j] = max(kept, every grant with sequence > applied)
    """

    id: SidecarId
    report: Report
    heard_at: float
    follows: Follows | str
    """A text says why it gets nothing."""
    sequence: int
    """Of the newest grant."""
    told: dict[EndpointUrl, int]
    """Slots of the newest grant; before the first one what was reported."""
    target: dict[EndpointUrl, int] = field(default_factory=dict)
    """Slots it should have once others have given back."""
    connected: bool = True
    must_answer: bool = True
    """The newest report needs a grant whatever the grant says."""
    gone_at: float | None = None
    """When a pod known to be gone holds nothing any more."""
    retired_at: float | None = None
    """When all it held was reclaimed; it may still report again."""
    last: Grant | None = None
    fleet_sent: str = ""
    policy_sent: str = ""
    """Versions of the documents sent over the present stream."""
    _outstanding: dict[int, Mapping[EndpointUrl, int]] = field(default_factory=dict)

    def hear(self, report: Report, now: float) -> None:
        """Take over a newer report."""
        self.report = report
        self.heard_at = now
        self.connected = True
        self._outstanding = {
            sequence: slots for sequence, slots in self._outstanding.items() if sequence > report.applied
        }
        self.sequence = max(self.sequence, report.applied)
        self.must_answer = self.must_answer or report.leaving
        if self.retired_at is not None:
            self.retired_at = self.gone_at = None
            self.must_answer = True

    def tell(self, grant: Grant) -> None:
        """Count a grant as held; it may leave now."""
        self.sequence = grant.sequence
        self.last = grant
        self.must_answer = False
        self.told = {endpoint: granted.slots for endpoint, granted in grant.slots.items()}
        self._outstanding[grant.sequence] = self.told
        if grant.refusal:
            self.fleet_sent = self.policy_sent = ""
        if grant.fleet is not None:
            self.fleet_sent = grant.fleet.version
        if grant.policy is not None:
            self.policy_sent = grant.policy.version

    @property
    def unacknowledged(self) -> int:
        """Grants that the newest report does not show as applied."""
        return len(self._outstanding)

    def held(self) -> dict[EndpointUrl, int]:
        """Return the slots it may use or be using, now or once a grant under way arrives."""
        held = {endpoint: state.kept for endpoint, state in self.report.slots.items()}
        for slots in self._outstanding.values():
            for endpoint, count in slots.items():
                held[endpoint] = max(held.get(endpoint, 0), count)
        return held

    def wanted(self, variant: VariantKey) -> int:
        """Return the slots of `variant` that it could use, those in flight included."""
        want = self.report.wants.get(variant)
        return want.slots if want is not None else 0

    def free_money(self, period: PeriodId) -> int:
        """Return the money that its newest report shows as free."""
        state = self.report.accounts.get(period)
        return state.granted - state.returned - state.spent - state.reserved if state is not None else 0

    def stay_within_told(self) -> None:
        """Aim at no more than it was told, at nothing if it follows no policy or leaves."""
        if isinstance(self.follows, str) or self.report.leaving:
            self.target = {}
        else:
            self.target = {e: min(slots, self.told.get(e, 0)) for e, slots in self.target.items()}

    def reclaim(self, now: float) -> None:
        """Count nothing as held any more."""
        self.report = replace(self.report, slots={}, wants={}, demand=NO_DEMAND)
        self._outstanding = {}
        self.told = {}
        self.target = {}
        self.connected = False
        self.retired_at = now


def held_by(holders: Iterable[Holder]) -> dict[EndpointUrl, int]:
    """Return the slots that all `holders` together may hold, by endpoint."""
    held: dict[EndpointUrl, int] = {}
    for holder in holders:
        for endpoint, slots in holder.held().items():
            held[endpoint] = held.get(endpoint, 0) + slots
    return held
