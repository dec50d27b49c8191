"""Stage forward, what chat templates turn out to add: where a server counts more, the bound is raised.

In: what servers counted of prompts, and the bound that each had. Out: tokens that each model's template is
taken to add from then on. Next: `frame`, by which the next requests are reserved.

A template that adds more than its model declares costs more than is reserved, and only an answer tells. What
it told is never lowered, and forgotten when the sidecar ends: the fleet is where it is to be declared.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from modelfleet_core.catalog import MAX_TEMPLATE_TOKENS, Fleet
from modelfleet_core.values import ModelName

from modelfleet_sidecar.assign import Lease
from modelfleet_sidecar.decision import Decision
from modelfleet_sidecar.telemetry import Telemetry

log = logging.getLogger(__name__)

SAID_AGAIN = 60.0
"""Seconds after which the log says again that a model's template is too long."""
MOST_AT_ONCE = 4
"""Times what a template surely adds: a dense text, of a token for each byte, must not pass for one."""
STEP = 1.25
"""By which a bound grows at least, so that it grows few times."""


class Templates:
    """Of one sidecar's models. `raised` is called when a bound was."""

    def __init__(
        self, *, lease: Lease, clock: Callable[[], float], telemetry: Telemetry, raised: Callable[[], None]
    ) -> None:
        self._lease = lease
        self._clock = clock
        self._telemetry = telemetry
        self._raised = raised
        self._seen: dict[ModelName, int] = {}
        self._silent_until: dict[ModelName, float] = {}

    def of(self, fleet: Fleet) -> tuple[int, ...]:
        """Return the tokens that each model's template is taken to add at most."""
        return tuple([max(model.template_tokens, self._seen.get(model.name, 0)) for model in fleet.models])

    def counted(self, decision: Decision, input_tokens: int) -> None:
        """A server counted so many tokens of a decision's prompt."""
        bound = decision.prompt_bound
        if bound is None or input_tokens <= bound + decision.template_tokens:
            return
        added = input_tokens - bound
        name, fleet = decision.variant.model, self._lease.fleet
        self._telemetry.prompt_above_bound(decision)
        model = fleet.model(name) if fleet is not None else None
        if model is None:
            return
        before = max(model.template_tokens, self._seen.get(name, 0))
        if added > before < MAX_TEMPLATE_TOKENS:
            # The bound takes a byte for a token, of which one commonly has four: so much more it may be.
            likely = min(added + 3 * decision.input_tokens, MOST_AT_ONCE * added)
            self._seen[name] = min(MAX_TEMPLATE_TOKENS, max(likely, int(STEP * before)))
            self._raised()
        self._tell(decision, input_tokens, bound, max(before, self._seen.get(name, 0)))

    def _tell(self, decision: Decision, input_tokens: int, bound: int, needed: int) -> None:
        name, now = decision.variant.model, self._clock()
        if now < self._silent_until.get(name, now):
            return
        self._silent_until[name] = now + SAID_AGAIN
        log.warning(
            "model %s counted %d tokens for a prompt that was reserved for %d at most: its chat template "
            "adds more than the fleet says, or an image has more than its imageTokens; set templateTokens of "
            "the model to %d, which this sidecar reserves from now on",
            decision.variant,
            input_tokens,
            bound + decision.template_tokens,
            needed,
        )
