"""Stage batch, what a request can hope for by the lease of now.

In: an `Ask`, the lease's fleet and policy, where its conversation went before. Out: its `Prospect`, now and
then with a variant to explore. Next: `batch` and `offline` put it to the queue.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from modelfleet_core.catalog import Fleet
from modelfleet_core.leasing.holding import Holding
from modelfleet_core.policy import Policy
from modelfleet_core.values import VariantKey

from modelfleet_sidecar.assign import Lease
from modelfleet_sidecar.calls import AUTO
from modelfleet_sidecar.decision import Ask, Decision
from modelfleet_sidecar.exploring import explored
from modelfleet_sidecar.frame import Frame
from modelfleet_sidecar.incapable import Incapable
from modelfleet_sidecar.keys import ApiKeys
from modelfleet_sidecar.prospect import NOTHING_USED, Estimator, Prospect, Used, prospect
from modelfleet_sidecar.refusals import no_lease
from modelfleet_sidecar.sessions import Sessions
from modelfleet_sidecar.telemetry import Telemetry
from modelfleet_sidecar.templates import Templates


class Outlook:
    """What requests can hope for at one sidecar."""

    def __init__(
        self,
        *,
        lease: Lease,
        estimator: Estimator,
        keys: ApiKeys,
        templates: Templates,
        incapable: Incapable,
        clock: Callable[[], float],
        telemetry: Telemetry,
        draw: Callable[[], float],
    ) -> None:
        """`draw` returns random numbers, uniform in [0, 1), for exploration."""
        self._lease = lease
        self._estimator = estimator
        self._keys = keys
        self._templates = templates
        self._incapable = incapable
        self._clock = clock
        self._telemetry = telemetry
        self._draw = draw
        self._sessions = Sessions()
        self._frame: Frame | None = None
        """Of what was looked by last; None: it holds no more."""

    def look(self, ask: Ask) -> Prospect:
        """Return a request's prospect. Raises Failure."""
        fleet, policy = self._lease.fleet, self._lease.policy
        if fleet is None or policy is None:
            raise no_lease(self._lease.refusal)
        seen = self.prospect(ask, fleet, policy)
        if not ask.earlier and not ask.judging:
            self._estimator.saw(seen.profile)
        if seen.low_confidence:
            self._telemetry.low_confidence()
        return seen

    def prospect(self, ask: Ask, fleet: Fleet, policy: Policy) -> Prospect:
        """Return the same without counting the look. Raises Failure."""
        cached = None
        holding = self._lease.holding
        if ask.session and not ask.earlier:  # else it failed there
            cached = self._sessions.cached(ask.caller, ask.session, ask.reading.input_tokens, self._clock())
            if cached is not None and holding.variant_of(cached.endpoint) != cached.variant:
                cached = None  # it is leased no more
        return prospect(
            ask,
            fleet,
            policy,
            self._estimator,
            self._keys.lacks,
            used_of(holding),
            cached,
            self.frame(fleet, policy),
            self._incapable.lacks(),
        )

    def frame(self, fleet: Fleet, policy: Policy) -> Frame:
        """Return what all requests are looked at by now."""
        if self._frame is None or not self._frame.of(fleet, policy):
            self._frame = Frame(fleet, policy, self._templates.of(fleet))
        return self._frame

    def look_anew(self) -> None:
        """Something else holds for the same fleet and policy."""
        self._frame = None

    def went(self, seen: Prospect, decision: Decision, now: float) -> None:
        """Remember where a session went."""
        if session := seen.ask.session:
            self._sessions.went(
                seen.ask.caller,
                session,
                decision.variant,
                decision.slot,
                seen.profile.input_tokens,
                now,
            )

    def explored(self, seen: Prospect, now: float) -> Prospect:
        """Return the prospect, now and then with another variant as the best; all limits hold for it too."""
        share = seen.policy.learning.exploration if seen.policy.learning.enabled else 0.0
        if not share or seen.low_confidence or seen.ask.call.model != AUTO or seen.ask.earlier:
            return seen
        draw = self._draw()
        if draw >= share:
            return seen
        free = {
            self._lease.holding.variant_of(endpoint)
            for endpoint, slots in self._lease.holding.free(now, seen.ask.tier.name).items()
            if slots > 0
        }
        return explored(seen, self._lease.slot_prices, self._lease.money_price, free, draw, now)


def used_of(holding: Holding) -> Mapping[VariantKey, Used]:
    """Return what this sidecar uses of each leased variant."""
    used: dict[VariantKey, Used] = {}
    for slots in holding.lease.slots.values():
        before = used.get(slots.variant, NOTHING_USED)
        used[slots.variant] = Used(before.in_flight + slots.in_flight, before.endpoints + 1)
    return used
