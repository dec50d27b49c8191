"""Stage forward, how attempts end, as told to what places requests: breakers and limits of concurrency.

In: answers and failures of `forward`, with when they began. Out: `Health`, which the queue goes by, and its
metrics. Times are on the sidecar's clock.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from modelfleet_core.breaker import State
from modelfleet_core.health import Health
from modelfleet_core.policy import RetryOn
from modelfleet_core.values import VariantKey

from modelfleet_sidecar.assign import Lease
from modelfleet_sidecar.decision import Decision
from modelfleet_sidecar.failures import Failure
from modelfleet_sidecar.incapable import Incapable
from modelfleet_sidecar.telemetry import Telemetry
from modelfleet_sidecar.templates import Templates
from modelfleet_sidecar.upstream_errors import KEY_REFUSED

log = logging.getLogger(__name__)

BLAMED = frozenset({RetryOn.CONNECT, RetryOn.TIMEOUT, RetryOn.SERVER_ERROR})
"""Failures that open breakers; a caller's own fault, 429, or what a server never could, does not."""


SETTLED_AS_ERROR = "SettledAsError"
"""Why a routed decision failed: its caller said so."""


class Attempts:
    """What became of attempts at model servers."""

    def __init__(
        self,
        *,
        lease: Lease,
        health: Health,
        templates: Templates,
        incapable: Incapable,
        clock: Callable[[], float],
        telemetry: Telemetry,
    ) -> None:
        self._lease = lease
        self._health = health
        self._templates = templates
        self._incapable = incapable
        self._clock = clock
        self._telemetry = telemetry
        self._last: dict[VariantKey, str] = {}
        """Why the last attempt failed at variants that have not answered since. Breakers open only there."""
        self._shut: set[VariantKey] = set()
        """Variants whose breaker was open when it was looked at last."""

    def answered(self, decision: Decision, began: float) -> None:
        """The server began to answer."""
        if self._last:
            self._last.pop(decision.variant, None)
        self._health.works(decision.variant, decision.slot, decision.reservation, began, self._clock())

    def counted(self, decision: Decision, input_tokens: int) -> None:
        """The server counted so many tokens of the prompt; call it before the decision is settled."""
        self._templates.counted(decision, input_tokens)

    def failed(self, decision: Decision, began: float, failure: Failure) -> None:
        """The attempt failed; call it before the decision is settled."""
        now = self._clock()
        if failure.lacks:
            self._incapable.refused(decision.variant, failure.lacks)
        elif failure.retry_on in BLAMED:
            if (policy := self._lease.policy) is not None:
                self._health.follow(policy.fallback.breaker)
            if failure.reason == KEY_REFUSED and self._last.get(decision.variant) != KEY_REFUSED:
                log.warning("%s", failure.message)
            self._last[decision.variant] = failure.reason
            self._health.failed(decision.variant, decision.slot, decision.reservation, began, now)
            return
        self._health.works(decision.variant, decision.slot, decision.reservation, began, now)
        if failure.retry_on is RetryOn.RATE_LIMITED:
            held = self._lease.holding.lease.slots.get(decision.slot)
            in_flight = held.in_flight if held is not None else 1
            self._health.refused(decision.slot, began, now, in_flight, failure.back_off)

    def routed(self, decision: Decision, began: float, *, broken: bool) -> None:
        """A caller who asked the model itself says how that ended."""
        if not broken:
            self.answered(decision, began)
            return
        if (policy := self._lease.policy) is not None:
            self._health.follow(policy.fallback.breaker)
        self._last[decision.variant] = SETTLED_AS_ERROR
        now = self._clock()
        self._health.failed(decision.variant, decision.slot, decision.reservation, began, now)

    def whole(self, decision: Decision, seconds: float, tokens: int) -> None:
        """A whole answer of so many tokens, or to so many where it has none, came; its slot is free again."""
        held = self._lease.holding.lease.slots.get(decision.slot)
        if held is not None:
            now = self._clock()
            self._health.answered(decision.slot, now - seconds, now, tokens, held.in_flight + 1, held.slots)

    def look(self) -> None:
        """Forget what is not needed and tell metrics; call it now and then."""
        now, holding = self._clock(), self._lease.holding
        if (policy := self._lease.policy) is not None:
            self._health.follow(policy.fallback.breaker)
        self._health.tidy(holding.lease.slots, holding.holds, now)
        states = self._health.states(holding.lease.slots, now)
        self._telemetry.health(states)
        self._tell({variant: state for variant, (state, _) in states.items()})

    def _tell(self, states: Mapping[VariantKey, State]) -> None:
        """Log which breakers opened and closed since the last time."""
        for variant, state in states.items():
            if state is State.OPEN and variant not in self._shut:
                self._shut.add(variant)
                log.warning(
                    "model %s failed too often lately, with %s last: it is left alone, but for a request now "
                    "and then that finds out whether it works again",
                    variant,
                    self._last.get(variant, "an error"),
                )
            elif state is State.CLOSED and variant in self._shut:
                self._shut.remove(variant)
                log.info("model %s works again", variant)
        self._shut &= states.keys()
        self._last = {variant: why for variant, why in self._last.items() if variant in states}
