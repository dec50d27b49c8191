"""Stage publish: what the leader knows of one sidecar.

In come its reports and the grants made for it; out goes what it may hold. `grants.py` keeps one for each.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from modelfleet_core.demand.sketch import NO_DEMAND
from modelfleet_core.leasing.messages import Document, Grant, Report, SidecarId, SlotGrant, SlotState
from modelfleet_core.values import EndpointUrl, ObjectKey

if TYPE_CHECKING:
    from modelfleet_core.leasing.market import Market


@dataclass(frozen=True, slots=True)
class Follows:
    """The policy and fleet that a sidecar follows."""

    policy: ObjectKey
    fleet: ObjectKey


@dataclass(slots=True)
class Holder:
    """One sidecar. Times are the leader's seconds.

    held[j] = max(kept, every grant with sequence > applied)

    A sidecar may give slots back at any time: a report that shows the newest grant applied and less kept
    lowers `told`, so that the next grant does not bring them again.
    """

    id: SidecarId
    number: int
    """Order of arrival, which decides among equals."""
    report: Report
    heard_at: float
    follows: Follows | str
    """A text says why it gets nothing."""
    sequence: int
    """Of the newest grant."""
    told: dict[EndpointUrl, int]
    """Slots of the newest grant, less those given back; before the first one what was reported."""
    target: dict[EndpointUrl, int]
    """`told`, less what is to be recalled; while a turn grants also more."""
    lease_until: float
    """When the last lease it may have ends."""
    floors: dict[EndpointUrl, int]
    """Slots that it goes on using after its lease, by the newest grant known as applied."""
    connected: bool = True
    taking: bool = False
    """Whether it may get more than it has."""
    must_answer: bool = True
    """The newest report needs a grant whatever the grant says."""
    gone_at: float | None = None
    """When a pod known to be gone has no request left at model servers."""
    lapsed_at: float = math.inf
    """When its lease was over for so long that only its floor may be in use."""
    retired_at: float | None = None
    """When all it held was reclaimed; it may still report again."""
    last: Grant | None = None
    fleet_sent: str = ""
    policy_sent: str = ""
    """Versions of the documents sent over the present stream."""
    estimator_sent: str | None = None
    learned_sent: str | None = None
    """Likewise; None: none was, which is not the same as the empty one."""
    traded: tuple[Market, ...] = ()
    """Where it has or wants slots."""
    granted: Mapping[EndpointUrl, SlotGrant] | None = None
    """Slots of the newest grant, while they may be said again."""
    counted: dict[EndpointUrl, int] = field(default_factory=dict)
    """What the leader's sums hold for it."""
    _outstanding: dict[int, Mapping[EndpointUrl, int]] = field(default_factory=dict)
    _floors_under_way: dict[int, Mapping[EndpointUrl, int]] = field(default_factory=dict)

    def hear(self, report: Report, now: float) -> None:
        """Take over a newer report."""
        self.report = report
        self.heard_at = now
        self.connected = True
        if report.applied in self._outstanding:
            self.floors = dict(self._floors_under_way.get(report.applied, {}))
        if self._outstanding:
            self._outstanding = {s: slots for s, slots in self._outstanding.items() if s > report.applied}
            self._floors_under_way = {s: f for s, f in self._floors_under_way.items() if s > report.applied}
        self.sequence = max(self.sequence, report.applied)
        if report.applied == self.sequence:
            told = _at_most(self.told, report.slots)
            if told is not self.told:
                self.told = told
                self.target = _within(self.target, told)
                self.granted = None
        if report.leaving:  # grants give it no slots any more, also those under way
            self._outstanding, self._floors_under_way, self.floors = {}, {}, {}
        elif self.floors:
            self.floors = _at_most(self.floors, report.slots)
        self.must_answer = self.must_answer or report.leaving
        self.lapsed_at = math.inf
        if self.retired_at is not None:
            self.retired_at = self.gone_at = None
            self.must_answer = True

    def tell(self, grant: Grant) -> None:
        """Count a grant as held; it may leave now."""
        if grant.slots is not self.granted:
            self.told = {endpoint: granted.slots for endpoint, granted in grant.slots.items()}
            self.granted = grant.slots
        self.sequence = grant.sequence
        self.last = grant
        self.must_answer = False
        if self.target != self.told:
            self.target = dict(self.told)
        self.lease_until = max(self.lease_until, self.heard_at + grant.ttl)
        self._outstanding[grant.sequence] = self.told
        floors = {endpoint: given.floor for endpoint, given in grant.slots.items() if given.floor}
        if floors:
            self._floors_under_way[grant.sequence] = floors
        if grant.refusal:
            self.forget_documents()
        if grant.fleet is not None:
            self.fleet_sent = grant.fleet.version
        if grant.policy is not None:
            self.policy_sent = grant.policy.version
        if grant.estimator is not None:
            self.estimator_sent = grant.estimator.version
        if grant.learned is not None:
            self.learned_sent = grant.learned.version

    def forget_documents(self) -> None:
        """What was sent may be lost, or given up: only what the sidecar reports counts."""
        self.fleet_sent = self.policy_sent = ""
        self.estimator_sent = self.learned_sent = None

    @property
    def unacknowledged(self) -> int:
        """Grants that the newest report does not show as applied."""
        return len(self._outstanding)

    def held(self) -> dict[EndpointUrl, int]:
        """Return the slots it may use or be using, now or once a grant under way arrives."""
        held = {endpoint: state.kept for endpoint, state in self.report.slots.items()}
        for slots in self._outstanding.values():
            for endpoint, count in slots.items():
                if count > held.get(endpoint, 0):
                    held[endpoint] = count
        return held

    def in_flight(self, endpoint: EndpointUrl) -> int:
        state = self.report.slots.get(endpoint)
        return state.in_flight if state is not None else 0

    def raise_target(self, by: Mapping[EndpointUrl, int]) -> None:
        for endpoint, slots in by.items():
            self.target[endpoint] = self.target.get(endpoint, 0) + slots

    def lower_target(self, by: Mapping[EndpointUrl, int]) -> None:
        for endpoint, slots in by.items():
            left = self.target.get(endpoint, 0) - slots
            if left > 0:
                self.target[endpoint] = left
            else:
                self.target.pop(endpoint, None)

    def lacks_fleet(self, document: Document | None) -> Document | None:
        """Return the fleet's document if the sidecar has neither got it nor been sent it."""
        if document is None or document.version in (self.report.fleet_version, self.fleet_sent):
            return None
        return document

    def lacks_policy(self, document: Document | None) -> Document | None:
        """Return the policy's document if the sidecar has neither got it nor been sent it."""
        if document is None or document.version in (self.report.policy_version, self.policy_sent):
            return None
        return document

    def lacks_estimator(self, document: Document | None) -> Document | None:
        """Return the estimator if the sidecar has neither got it nor been sent it; None: nothing is said."""
        if document is None or document.version in (self.report.estimator_version, self.estimator_sent):
            return None
        return document

    def lacks_learned(self, document: Document | None) -> Document | None:
        """Return what was learned, likewise."""
        if document is None or document.version in (self.report.learned_version, self.learned_sent):
            return None
        return document

    def over(self, longest: float) -> float:
        """Return when nothing but floors may be in use, not even those where its pod is known to be gone.

        `longest`: seconds of the longest request.
        """
        ends = max(self.lease_until, self.heard_at) + longest
        return ends if self.gone_at is None else min(ends, self.gone_at)

    def keep_only(self, stays: Callable[[EndpointUrl], bool], *, floors: bool) -> None:
        """Count nothing as held any more but what lies at endpoints where `stays`, and the floors."""
        self.floors = self.floors if floors else {}
        floor_of = self.floors
        kept = {
            endpoint: state.kept if stays(endpoint) else min(state.kept, floor_of.get(endpoint, 0))
            for endpoint, state in self.report.slots.items()
        }
        slots = {endpoint: SlotState(0, count) for endpoint, count in kept.items() if count}
        self.report = replace(self.report, slots=slots, wants={}, demand=NO_DEMAND)
        self._outstanding = {
            sequence: left
            for sequence, granted in self._outstanding.items()
            if (left := _left(granted, self._floors_under_way.get(sequence, {}) if floors else {}, stays))
        }
        self.told = _within(self.told, self.floors)  # a floor may have been recalled meanwhile
        self.target = dict(self.told)
        self.granted = None
        self.connected = False


def _left(
    granted: Mapping[EndpointUrl, int],
    floors: Mapping[EndpointUrl, int],
    stays: Callable[[EndpointUrl], bool],
) -> dict[EndpointUrl, int]:
    kept = {e: slots if stays(e) else min(slots, floors.get(e, 0)) for e, slots in granted.items()}
    return {endpoint: slots for endpoint, slots in kept.items() if slots}


def _within(slots: Mapping[EndpointUrl, int], most: Mapping[EndpointUrl, int]) -> dict[EndpointUrl, int]:
    return {e: min(count, most[e]) for e, count in slots.items() if e in most}


def _at_most(
    slots: dict[EndpointUrl, int], states: Mapping[EndpointUrl, SlotState]
) -> dict[EndpointUrl, int]:
    """Return `slots`, at each endpoint at most what the sidecar says that it keeps; itself if that is all."""
    for endpoint, count in slots.items():
        state = states.get(endpoint)
        if state is None or state.kept < count:
            break
    else:
        return slots
    least: dict[EndpointUrl, int] = {}
    for endpoint, count in slots.items():
        state = states.get(endpoint)
        if state is not None and state.kept > 0:
            least[endpoint] = min(count, state.kept)
    return least
